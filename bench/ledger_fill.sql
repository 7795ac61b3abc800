-- Settled jobs as the ledger would have left them: of two images, one delivered and one refunded, three transfers each.
-- $1 is the first number of the jobs, $2 the last; every other job is the user `hot`'s, the rest go round `user-1` …
-- `user-$3`, all of whom have an account with credits.
with jobs as materialized (
    select n, case when n % 2 = 0 then 'hot' else 'user-' || (n / 2 % $3::bigint) + 1 end as user_id,
           row_number() over (partition by n % 2 = 0, case when n % 2 = 1 then n / 2 % $3::bigint end order by n) as k,
           timestamptz '2026-01-01' + n * interval '1 second' as at,
           ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid as job_id,
           ('00000000-0000-7001-8000-' || lpad(to_hex(n), 12, '0'))::uuid as delivered,
           ('00000000-0000-7002-8000-' || lpad(to_hex(n), 12, '0'))::uuid as failed
    from generate_series($1::bigint, $2::bigint) as n
), before as materialized (
    select user_id, balance_credits, transfer_count from accounts
), moves as (
    insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits, balance_credits, job_id,
                           reason, created_at)
    select ('00000000-0000-700' || part + 3 || '-8000-' || lpad(to_hex(n), 12, '0'))::uuid, user_id,
           case part when 0 then b.transfer_count + 2 * k - 1 when 1 then b.transfer_count + 2 * k end,
           (array['charge', 'refund', 'capture']::transfer_kind[])[part + 1],
           (array['available', 'escrow', 'escrow']::account_kind[])[part + 1],
           (array['escrow', 'available', 'revenue']::account_kind[])[part + 1],
           case part when 0 then 2 else 1 end,
           case part when 0 then b.balance_credits - k - 1 when 1 then b.balance_credits - k end,
           job_id, case part when 1 then 'no_image' end, at
    from jobs join before b using (user_id) cross join generate_series(0, 2) as part
    order by n, part
), charged as (
    insert into charges (job_id, status, user_id, plan, amount_credits, balance_credits, image_ids, slot_codes,
                         slot_refunded, captured_credits, refunded_credits, outcome, model, created_at, closed_at)
    select job_id, 'settled', user_id, 'enterprise', 2, b.balance_credits - k - 1, array[delivered, failed],
           array[null, 'no_image'], array[false, true], 1, 1, 'completed', 'bench', at, at
    from jobs join before b using (user_id) order by n
), kept as (
    insert into images (image_id, user_id, job_id, state, bytes)
    select unnest(array[delivered, failed]), user_id, job_id, unnest(array['stored', 'released']), 1000 from jobs
), sums as materialized (
    select user_id, count(*) as jobs from jobs group by user_id
), counted as (
    insert into usage_days as u
    select user_id, date '2026-01-01', 'bench', jobs, jobs, 0, 0, 2 * jobs, jobs, 2 * jobs, jobs, jobs, 0, jobs, 1000 * jobs
    from sums
    on conflict (user_id, day, model) do update
        set jobs = u.jobs + excluded.jobs, completed = u.completed + excluded.completed,
            images = u.images + excluded.images, images_uploaded = u.images_uploaded + excluded.images_uploaded,
            credits_charged = u.credits_charged + excluded.credits_charged,
            credits_captured = u.credits_captured + excluded.credits_captured,
            credits_refunded = u.credits_refunded + excluded.credits_refunded,
            processed = u.processed + excluded.processed,
            processing_time_ms = u.processing_time_ms + excluded.processing_time_ms
), failures as (
    insert into usage_failures as u select user_id, date '2026-01-01', 'bench', 'no_image', jobs from sums
    on conflict (user_id, day, model, code) do update set images = u.images + excluded.images
), times as (
    insert into usage_times as u select user_id, date '2026-01-01', 'bench', 73, jobs from sums
    on conflict (user_id, day, model, bucket) do update set jobs = u.jobs + excluded.jobs
), stored as (
    insert into storage_days as d select user_id, date '2026-01-01', 1000 * jobs, 0 from sums
    on conflict (user_id, day) do update set stored_bytes = d.stored_bytes + excluded.stored_bytes
)
update accounts a
set balance_credits = a.balance_credits - s.jobs, transfer_count = a.transfer_count + 2 * s.jobs,
    used_bytes = a.used_bytes + 1000 * s.jobs
from sums s where a.user_id = s.user_id
