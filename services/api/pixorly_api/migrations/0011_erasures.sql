-- Users whose images, prompts and keys are to go, until they are gone.

create table erasures (
    user_id      text        primary key,
    requested_at timestamptz not null default now(),
    -- When nothing was left of it.
    finished_at  timestamptz,
    images       bigint      not null default 0,
    jobs         bigint      not null default 0
);

create index erasures_open on erasures (requested_at) where finished_at is null;

-- How far those have come that go through the jobs in the order of their ids.
create table progress (
    task     text primary key,
    after_id uuid not null
);
