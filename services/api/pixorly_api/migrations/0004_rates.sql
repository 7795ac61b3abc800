-- How many requests each caller made in the current window. Not logged: a crash forgets one window, and nothing else.

create unlogged table rates (
    -- key/ and a key's id, or user/ and the user where a token stands for them.
    caller    text        primary key,
    window_at timestamptz not null,
    taken     bigint      not null check (taken >= 0)
) with (fillfactor = 50);
