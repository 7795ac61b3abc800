-- What a browser opens a stream with, since it can send no header with that: short-lived, known here by its hash.
create table stream_tokens (
    hash       bytea       primary key check (length(hash) = 32),
    user_id    text        not null,
    expires_at timestamptz not null
);

create index stream_tokens_by_age on stream_tokens (expires_at);
