-- The ledger's tables. Credits are whole numbers. Ids are UUIDv7, so that rows lie in the order of their time and a
-- table can be split by range of id later; nearly every key starts with or carries `user_id`, so that accounts can be
-- spread over several databases. There are no foreign keys: each would lock a row of the account once more per job,
-- and the audit checks what they would.

create type account_kind as enum ('issued', 'available', 'escrow', 'revenue');
create type transfer_kind as enum ('grant', 'purchase', 'allowance', 'expiry', 'charge', 'capture', 'refund');

-- One row per user: the only stored balance. Every change of anything of a user's locks this row first.
create table accounts (
    user_id           text        primary key check (length(user_id) between 1 and 128),
    plan              text        not null,
    status            text        not null default 'active' check (status in ('active', 'suspended')),
    balance_credits   bigint      not null default 0,
    -- How much of the balance lies in lots, which expire; the rest is one pool that does not.
    expiring_credits  bigint      not null default 0,
    -- How many transfers changed the balance: the number of the newest one on the statement.
    transfer_count    bigint      not null default 0,
    used_bytes        bigint      not null default 0,
    reserved_bytes    bigint      not null default 0,
    takes_allowance   boolean     not null default true,
    -- The calendar month (its first day, UTC) that an allowance was last given for, and how much of it.
    allowance_month   date        not null default '2000-01-01',
    allowance_credits bigint      not null default 0,
    created_at        timestamptz not null default now(),
    constraint accounts_not_overdrawn check (balance_credits >= 0),
    constraint accounts_lots_within_balance check (expiring_credits between 0 and greatest(balance_credits, 0)),
    constraint accounts_storage_not_negative check (used_bytes >= 0 and reserved_bytes >= 0)
) with (fillfactor = 50);

create index accounts_by_allowance_month on accounts (allowance_month, user_id)
    where takes_allowance and status = 'active';

-- Double entry: each row moves an amount from one account to another. Rows are added and never changed.
create table transfers (
    id              uuid          primary key,
    user_id         text          not null,
    -- The place on the user's statement; a capture moves what had left the user's balance already and has none.
    seq             bigint,
    kind            transfer_kind not null,
    from_account    account_kind  not null,
    to_account      account_kind  not null,
    amount_credits  bigint        not null check (amount_credits > 0),
    -- The user's balance after this transfer.
    balance_credits bigint        check (balance_credits >= 0),
    job_id          uuid,
    grant_id        text,
    reason          text,
    created_at      timestamptz   not null,
    constraint transfers_kind_says_where check (
        case kind
            when 'grant'     then from_account = 'issued'    and to_account = 'available'
            when 'purchase'  then from_account = 'issued'    and to_account = 'available'
            when 'allowance' then from_account = 'issued'    and to_account = 'available'
            when 'expiry'    then from_account = 'available' and to_account = 'issued'
            when 'charge'    then from_account = 'available' and to_account = 'escrow'
            when 'capture'   then from_account = 'escrow'    and to_account = 'revenue'
            when 'refund'    then from_account = 'escrow'    and to_account = 'available'
        end),
    constraint transfers_names_its_cause check (
        case when kind in ('charge', 'capture', 'refund') then job_id is not null else grant_id is not null end),
    constraint transfers_on_statement check ((seq is null) = (kind = 'capture') and (seq is null) = (balance_credits is null))
);

create unique index transfers_statement on transfers (user_id, seq) where seq is not null;
-- A job is charged once, captured once and refunded once.
create unique index transfers_once_per_job on transfers (job_id, kind) where job_id is not null;

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % is refused', tg_table_name, tg_op using errcode = 'insufficient_privilege';
end
$$;

create trigger transfers_are_append_only before update or delete or truncate on transfers
    for each statement execute function refuse_change();
alter table transfers enable always trigger transfers_are_append_only;

-- What was given to a user, by the giver's own id.
create table grants (
    user_id         text          not null,
    grant_id        text          not null check (length(grant_id) between 1 and 128),
    kind            transfer_kind not null check (kind in ('grant', 'purchase', 'allowance')),
    amount_credits  bigint        not null check (amount_credits > 0),
    balance_credits bigint        not null,
    reason          text,
    expires_at      timestamptz,
    created_at      timestamptz   not null,
    primary key (user_id, grant_id)
);

-- What is left of a grant that expires. Burned soonest-expiring first, before the pool.
create table lots (
    user_id           text        not null,
    lot_id            uuid        not null,
    grant_id          text        not null,
    granted_credits   bigint      not null check (granted_credits > 0),
    remaining_credits bigint      not null check (remaining_credits between 0 and granted_credits),
    -- What expired of it; more than one time if a refund came back later.
    expired_credits   bigint      not null default 0 check (expired_credits >= 0),
    expires_at        timestamptz not null,
    -- For the indexes, which would otherwise change with every charge.
    live              boolean     not null generated always as (remaining_credits > 0) stored,
    primary key (user_id, lot_id)
) with (fillfactor = 50);

create index lots_live on lots (user_id, expires_at) where live;
create index lots_due on lots (expires_at) where live;

-- What a job took from its user, and what became of it: also the receipt.
create table charges (
    job_id           uuid        primary key,
    -- open:    taken, the job is under way
    -- settled: every image captured or refunded
    -- voided:  given back whole, or given up before it was made (then nothing was ever taken)
    status           text        not null check (status in ('open', 'settled', 'voided')),
    user_id          text,
    plan             text,
    amount_credits   bigint      not null check (amount_credits >= 0),
    -- How much of it came out of lots (lot_draws says which).
    lot_credits      bigint      not null default 0 check (lot_credits between 0 and amount_credits),
    -- What the charge answered, for repeats.
    balance_credits  bigint      not null default 0,
    -- In the order of the job's slots.
    image_ids        uuid[]      not null default '{}',
    -- The code of each slot that failed, null for an uploaded one; and whether its credits went back.
    slot_codes       text[],
    slot_refunded    boolean[],
    captured_credits bigint      not null default 0 check (captured_credits >= 0),
    refunded_credits bigint      not null default 0 check (refunded_credits >= 0),
    outcome          text        check (outcome in ('completed', 'failed', 'canceled')),
    model            text,
    created_at       timestamptz not null,
    closed_at        timestamptz,
    constraint charges_add_up check (
        captured_credits + refunded_credits = case status when 'open' then 0 else amount_credits end),
    constraint charges_belong_to_someone check (user_id is not null or (status = 'voided' and amount_credits = 0))
);

create index charges_open on charges (job_id) where status = 'open';

-- Which lots a charge drew from, in the order of drawing, and what went back.
create table lot_draws (
    job_id           uuid     not null,
    ordinal          smallint not null,
    user_id          text     not null,
    lot_id           uuid     not null,
    amount_credits   bigint   not null check (amount_credits > 0),
    returned_credits bigint   not null default 0 check (returned_credits between 0 and amount_credits),
    primary key (job_id, ordinal)
);

-- The storage of each image. The state only moves forward: reserved → stored → released.
create table images (
    image_id uuid   primary key,
    user_id  text   not null,
    job_id   uuid   not null,
    -- reserved: room is kept for it, `bytes` is an estimate
    -- stored:   `bytes` is what lies in the bucket: original and thumbnails
    -- released: it takes no room any more
    state    text   not null default 'reserved' check (state in ('reserved', 'stored', 'released')),
    bytes    bigint not null check (bytes >= 0)
) with (fillfactor = 70);

create function refuse_backward() returns trigger language plpgsql as $$
begin
    raise exception 'an image''s storage moves forward only: % to % is refused', old.state, new.state
        using errcode = 'check_violation';
end
$$;

create trigger images_move_forward before update of state on images
    for each row when (old.state = 'released' and new.state <> 'released' or old.state = 'stored' and new.state = 'reserved')
    execute function refuse_backward();

-- What a user's jobs came to, by the day (UTC) and model of their settlement.
create table usage_days (
    user_id            text   not null,
    day                date   not null,
    model              text   not null,
    jobs               bigint not null,
    completed          bigint not null,
    failed             bigint not null,
    canceled           bigint not null,
    images             bigint not null,
    images_uploaded    bigint not null,
    credits_charged    bigint not null,
    credits_captured   bigint not null,
    credits_refunded   bigint not null,
    retries            bigint not null,
    processed          bigint not null,
    processing_time_ms bigint not null,
    primary key (user_id, day, model)
) with (fillfactor = 50);

create index usage_days_by_day on usage_days (day);

-- How many images failed with which code.
create table usage_failures (
    user_id text   not null,
    day     date   not null,
    model   text   not null,
    code    text   not null,
    images  bigint not null,
    primary key (user_id, day, model, code)
) with (fillfactor = 50);

-- Processing times as a histogram that can be added up: bucket b counts the jobs that took more than 1.1^(b-1) ms and
-- at most 1.1^b ms.
create table usage_times (
    user_id text     not null,
    day     date     not null,
    model   text     not null,
    bucket  smallint not null,
    jobs    bigint   not null,
    primary key (user_id, day, model, bucket)
) with (fillfactor = 50);

-- Bytes that came to the bucket and went, by day (UTC): the growth of storage.
create table storage_days (
    user_id        text   not null,
    day            date   not null,
    stored_bytes   bigint not null default 0,
    released_bytes bigint not null default 0,
    primary key (user_id, day)
) with (fillfactor = 50);
