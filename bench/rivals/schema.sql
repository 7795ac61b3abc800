create table accounts (
    user_id  text   primary key,
    key_hash bytea  not null unique,
    credits  bigint not null check (credits >= 0)
);
create table orders (
    id         uuid        primary key,
    user_id    text        not null references accounts,
    prompt     text        not null,
    side       integer     not null,
    status     text        not null default 'queued',
    created_at timestamptz not null default now(),
    started_at timestamptz,
    done_at    timestamptz,
    keys       text[],
    bytes      bigint,
    thumbhash  text
);
create index orders_of_user on orders (user_id, created_at desc);
