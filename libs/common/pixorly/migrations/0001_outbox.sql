-- Events that were decided on but perhaps not published yet. A row goes when RabbitMQ has confirmed its event.
create table outbox (
    event_id   uuid        primary key,
    type       text        not null,
    job_id     uuid        not null,
    body       bytea       not null,
    headers    jsonb       not null default '{}',
    created_at timestamptz not null default now(),
    -- The process that wrote it publishes it at once; from then on it is anyone's.
    due_at     timestamptz not null default now() + interval '2 seconds'
);

create index outbox_by_due on outbox (due_at);
