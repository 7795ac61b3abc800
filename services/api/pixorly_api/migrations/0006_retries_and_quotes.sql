-- Which failed job a job is another try of.
alter table jobs add column retry_of uuid;

-- Prices that were told, and are kept to for a while.
create table quotes (
    quote_id          uuid        primary key,
    user_id           text        not null,
    -- Tells one order from another, whatever it is called and noted on it.
    order_hash        bytea       not null,
    credits_per_image bigint      not null check (credits_per_image >= 0),
    expires_at        timestamptz not null
);

create index quotes_by_age on quotes (expires_at);
