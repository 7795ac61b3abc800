-- A lease that ran out is contested before it is taken over: its owner may live, and only have been kept from renewing it.
alter table calls add column contested boolean not null default false;
