-- What the operator lets single users do, other than their plan and the settings say: null is as these say, 0 any number.

create table limits (
    user_id             text primary key,
    jobs_at_once        int check (jobs_at_once >= 0),
    requests_per_minute int check (requests_per_minute >= 0)
);
