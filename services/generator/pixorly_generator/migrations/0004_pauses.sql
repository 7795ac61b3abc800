-- Models and providers that are not to be asked for the time being.
create table pauses (
    -- The id of a model, or the name of a provider.
    name  text        primary key,
    since timestamptz not null default now()
);
