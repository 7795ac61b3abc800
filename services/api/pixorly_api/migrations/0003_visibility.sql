-- Who may read an image, and the ways of images between the private and the public part of the bucket.

alter table jobs add column visibility text not null default 'private' check (visibility in ('private', 'public'));
alter table images add column visibility text not null default 'private' check (visibility in ('private', 'public'));

create table moves (
    image_id     uuid        not null,
    -- Counts the moves of one image, and is part of the new names: none is used twice.
    move         integer     not null check (move >= 1),
    user_id      text        not null,
    job_id       uuid        not null,
    index        smallint    not null,
    -- asked:   to be copied; the image lies at its source
    -- done:    it lies at its target; what lies at the source must go
    -- dropped: not wanted any more; what may lie at the target must go
    state        text        not null default 'asked' check (state in ('asked', 'done', 'dropped')),
    source       jsonb       not null,
    target       jsonb       not null,
    content_type text        not null,
    bytes        bigint      not null check (bytes >= 0),
    sends        integer     not null default 1,
    -- When to say it once more; never again where it is null.
    due_at       timestamptz,
    primary key (image_id, move)
);

create unique index moves_one_at_a_time on moves (image_id) where state = 'asked';
create index moves_due on moves (due_at) where due_at is not null;
