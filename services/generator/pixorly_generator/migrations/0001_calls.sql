-- One row for each provider call that a job takes. Who owns an open call, until when, says the lease.
create table calls (
    job_id        uuid        not null,
    call_no       integer     not null,
    user_id       text        not null,
    -- The model that was asked for, and once the call is done the one that made the images.
    model         text        not null,
    state         text        not null default 'open' check (state in ('open', 'done', 'failed', 'closed')),
    attempts      integer     not null default 0 check (attempts >= 0),
    owner         uuid,
    leased_until  timestamptz,
    -- After a transient failure: a repeated message does not call earlier than the ladder would.
    retry_at      timestamptz,
    code          text,
    -- What the call brought: a list of index, image_id, staged_key, content_type, sha256, bytes.
    images        jsonb       not null default '[]',
    -- And by index the code of each slot that got no image.
    failures      jsonb       not null default '{}',
    created_at    timestamptz not null default now(),
    finished_at   timestamptz,
    primary key (job_id, call_no),
    check ((owner is null) = (leased_until is null)),
    check (state = 'open' or owner is null)
);

create index calls_by_owner on calls (owner) where owner is not null;

-- Every time a provider was called, with what it charged us. An attempt without an end is one whose process died.
create table attempts (
    job_id        uuid        not null,
    call_no       integer     not null,
    attempt       integer     not null,
    provider      text        not null,
    model         text        not null,
    started_at    timestamptz not null default now(),
    ended_at      timestamptz,
    code          text,
    cost_usd      numeric,
    generation_id text,
    usage         jsonb       not null default '{}',
    -- Its result came when the call was finished already, or its job settled: paid for, and of no use.
    late          boolean     not null default false,
    primary key (job_id, call_no, attempt),
    foreign key (job_id, call_no) references calls (job_id, call_no)
);

-- Jobs that need no call any more, also those whose job.created has not come yet.
create table settled_jobs (
    job_id     uuid        primary key,
    settled_at timestamptz not null default now()
);
