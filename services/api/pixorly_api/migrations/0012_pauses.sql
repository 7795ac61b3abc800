-- Models and providers that nothing new is made with for the time being; the generator has the same list.
create table pauses (
    -- The id of a model, or the name of a provider.
    name   text        primary key,
    reason text        not null default '',
    since  timestamptz not null default now()
);
