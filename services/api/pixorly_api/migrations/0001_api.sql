-- The api's tables. Ids are UUIDv7, so rows lie in the order of their time. Every table carries `user_id`, so that users
-- could be spread over several databases; there are no foreign keys, since each would lock the job's row once more.

create table jobs (
    job_id            uuid        primary key,
    user_id           text        not null check (length(user_id) between 1 and 128),
    -- intent:     asked for, perhaps charged, not promised
    -- pending:    promised: charged, and job.created is in the outbox
    -- processing: a worker has begun
    -- uploading:  an image was made
    -- completed:  settled with at least one image
    -- failed:     settled without an image
    -- canceled:   settled because its user took it back before it was begun
    -- abandoned:  an intent that was given up; its charge is voided
    status            text        not null check (status in
        ('intent', 'pending', 'processing', 'uploading', 'completed', 'failed', 'canceled', 'abandoned')),
    model             text        not null,
    -- What may make it where the model is gone or away.
    fallback_models   text[]      not null default '{}' check (cardinality(fallback_models) <= 3),
    prompt            text        not null,
    params            jsonb       not null,
    n                 smallint    not null check (n between 1 and 10),
    image_ids         uuid[]      not null,
    -- Which provider calls make it, and which slots each serves: fixed here, since the catalogue may change.
    calls             jsonb       not null,
    credits_per_image bigint      not null check (credits_per_image >= 0),
    metadata          jsonb       not null default '{}',
    plan              text,
    -- What the charge left, for the answer to a repeated request.
    balance_credits   bigint,
    body_hash         bytea       not null,
    trace_id          text,
    created_at        timestamptz not null default now(),
    deadline          timestamptz not null,
    started_at        timestamptz,
    settled_at        timestamptz,
    retry_count       integer     not null default 0 check (retry_count >= 0),
    -- Moves with every change, for those who watch.
    version           integer     not null default 1,
    -- Until when a request is at work on an intent.
    claimed_until     timestamptz not null default now(),
    voided_at         timestamptz,
    -- When something last happened, how often we asked again since, and when to look next.
    news_at           timestamptz not null default now(),
    nudges            smallint    not null default 0,
    nudge_at          timestamptz not null default now(),
    constraint jobs_has_its_images check (cardinality(image_ids) = n),
    constraint jobs_promised_when_charged check (
        (plan is null or balance_credits is null) = (status in ('intent', 'abandoned'))),
    constraint jobs_settled_at_the_end check (
        (settled_at is not null) = (status in ('completed', 'failed', 'canceled')))
) with (fillfactor = 70);

create index jobs_of_user on jobs (user_id, job_id desc) where status not in ('intent', 'abandoned');
create index jobs_by_body on jobs (user_id, body_hash, job_id desc);
create index jobs_open_by_deadline on jobs (deadline) where status in ('pending', 'processing', 'uploading');
create index jobs_open_by_nudge on jobs (nudge_at) where status in ('pending', 'processing', 'uploading');
create index jobs_intents on jobs (created_at) where status = 'intent';
create index jobs_abandoned on jobs (created_at) where status = 'abandoned';

create table slots (
    job_id       uuid        not null,
    index        smallint    not null check (index between 0 and 9),
    user_id      text        not null,
    image_id     uuid        not null,
    -- pending:   to be made
    -- generated: its bytes are staged
    -- uploaded:  stored (terminal)
    -- failed:    can't be delivered (terminal); `code` says why
    state        text        not null default 'pending' check (state in ('pending', 'generated', 'uploaded', 'failed')),
    code         text,
    message      text,
    fault        text        check (fault in ('server', 'user')),
    stage        text        check (stage in ('generate', 'upload', 'settle')),
    -- The body of image.generated, so that it can be said again.
    generated    jsonb,
    generated_at timestamptz,
    ended_at     timestamptz,
    primary key (job_id, index),
    constraint slots_failed_for_a_reason check (
        (state = 'failed') = (code is not null) and (state = 'failed') = (fault is not null)),
    constraint slots_ended_when_terminal check ((ended_at is not null) = (state in ('uploaded', 'failed')))
) with (fillfactor = 70);

create table images (
    image_id        uuid        primary key,
    user_id         text        not null,
    job_id          uuid        not null,
    index           smallint    not null,
    model           text        not null,
    original_key    text        not null,
    -- From the long side in pixels to the key.
    thumbnail_keys  jsonb       not null default '{}',
    bytes           bigint      not null check (bytes >= 0),
    thumbnail_bytes bigint      not null default 0 check (thumbnail_bytes >= 0),
    width           integer     not null check (width > 0),
    height          integer     not null check (height > 0),
    content_type    text        not null,
    sha256          text        not null,
    thumbhash       text        not null,
    created_at      timestamptz not null default now(),
    -- The row of a deleted image stays, so that a late upload is known to be unwanted.
    deleted_at      timestamptz
);

create index images_of_user on images (user_id, image_id desc) where deleted_at is null;
create index images_of_job on images (job_id);

-- Images that must not exist, until we know that they do not.
create table deletions (
    image_id     uuid        primary key,
    user_id      text        not null,
    job_id       uuid        not null,
    index        smallint    not null,
    prefix       text        not null,
    keys         text[]      not null default '{}',
    reason       text        not null,
    requested_at timestamptz not null default now(),
    sends        integer     not null default 1,
    due_at       timestamptz not null,
    confirmed_at timestamptz
);

create index deletions_due on deletions (due_at) where confirmed_at is null;

-- What workers tried, as they told it: the timeline of a job, and what makes a repeated job.retrying count once.
create table attempts (
    job_id   uuid        not null,
    kind     text        not null check (kind in ('started', 'retrying')),
    stage    text        not null check (stage in ('generate', 'upload', 'settle')),
    -- The call's number for the stage `generate`, the slot's index for `upload`.
    index    smallint    not null,
    attempt  integer     not null check (attempt >= 1),
    user_id  text        not null,
    provider text,
    model    text,
    code     text,
    message  text,
    delay_s  real,
    at       timestamptz not null,
    primary key (job_id, kind, stage, index, attempt)
);

create table api_keys (
    key_id       uuid        primary key,
    user_id      text        not null,
    name         text        not null,
    -- What is shown of it; the rest is known to its holder only.
    prefix       text        not null,
    hash         bytea       not null unique check (length(hash) = 32),
    scopes       text[]      not null check (scopes <@ array['generate', 'read', 'admin'] and cardinality(scopes) > 0),
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

create index api_keys_of_user on api_keys (user_id, key_id desc);

create table idempotency_keys (
    user_id    text        not null,
    key        text        not null check (length(key) between 1 and 255),
    body_hash  bytea       not null,
    job_id     uuid        not null,
    created_at timestamptz not null default now(),
    primary key (user_id, key)
);

create index idempotency_keys_by_age on idempotency_keys (created_at);
