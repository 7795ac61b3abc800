-- The audit: each view shows what is off, by id, and shows nothing when the books are right. Anyone who may read the
-- tables can select from them; `GET /internal/audit` does.

-- What each transfer did to its user's balance.
create view movements as
select id, user_id, seq, balance_credits, case when to_account = 'available' then amount_credits else -amount_credits end as delta
from transfers where seq is not null;

-- Each balance is the sum of its transfers.
create view audit_balances as
select coalesce(a.user_id, m.user_id) as id
from accounts a
full join (select user_id, sum(delta) as balance, count(*) as transfers from movements group by user_id) m
       on m.user_id = a.user_id
where a.user_id is null or a.balance_credits <> coalesce(m.balance, 0) or a.transfer_count <> coalesce(m.transfers, 0);

-- Each line of a statement follows from the line before it.
create view audit_statements as
select user_id || ' ' || seq as id
from (select user_id, seq, balance_credits, delta, lag(seq, 1, 0::bigint) over w as seq_before,
             lag(balance_credits, 1, 0::bigint) over w as balance_before
      from movements window w as (partition by user_id order by seq)) as line
where seq <> seq_before + 1 or balance_credits <> balance_before + delta;

-- Each job's transfers are what its charge says: charged = amount, and captured and refunded as recorded.
create view audit_charges as
select coalesce(c.job_id, t.job_id)::text as id
from charges c
full join (select job_id, min(user_id) as user_id, max(user_id) as last_user_id,
                  coalesce(sum(amount_credits) filter (where kind = 'charge'), 0) as charged,
                  coalesce(sum(amount_credits) filter (where kind = 'capture'), 0) as captured,
                  coalesce(sum(amount_credits) filter (where kind = 'refund'), 0) as refunded
           from transfers where job_id is not null group by job_id) t
       on t.job_id = c.job_id
where c.job_id is null or c.amount_credits <> coalesce(t.charged, 0) or c.captured_credits <> coalesce(t.captured, 0)
   or c.refunded_credits <> coalesce(t.refunded, 0) or t.user_id <> c.user_id or t.last_user_id <> c.user_id;

-- Each settled job is settled image by image: what was refunded is the refunded images' price.
create view audit_settlements as
select job_id::text as id
from charges
where status = 'settled'
  and (cardinality(image_ids) <> coalesce(cardinality(slot_refunded), 0)
       or cardinality(image_ids) <> coalesce(cardinality(slot_codes), 0)
       or refunded_credits * cardinality(image_ids)
          <> amount_credits * coalesce(cardinality(array_positions(slot_refunded, true)), 0));

-- Each account's expiring credits are what its lots have left.
create view audit_lots as
select coalesce(a.user_id, l.user_id) as id
from accounts a
full join (select user_id, sum(remaining_credits) as remaining from lots where live group by user_id) l
       on l.user_id = a.user_id
where a.user_id is null or a.expiring_credits <> coalesce(l.remaining, 0);

-- What was granted to each lot is there, expired, or was drawn and did not come back; and expiry moved what it says.
create view audit_lot_flows as
select l.user_id || ' ' || l.lot_id as id
from lots l
left join (select user_id, lot_id, sum(amount_credits - returned_credits) as drawn
           from lot_draws group by user_id, lot_id) d on d.user_id = l.user_id and d.lot_id = l.lot_id
left join (select user_id, grant_id, sum(amount_credits) as expired
           from transfers where kind = 'expiry' group by user_id, grant_id) t
       on t.user_id = l.user_id and t.grant_id = l.grant_id
where l.granted_credits <> l.remaining_credits + l.expired_credits + coalesce(d.drawn, 0)
   or l.expired_credits <> coalesce(t.expired, 0);

-- Each charge drew from lots what it says, and got back from its refund what the pool did not give.
create view audit_lot_draws as
select coalesce(c.job_id, d.job_id)::text as id
from (select job_id, status, amount_credits, lot_credits, refunded_credits from charges where lot_credits > 0) c
full join (select job_id, sum(amount_credits) as drawn, sum(returned_credits) as returned
           from lot_draws group by job_id) d on d.job_id = c.job_id
where c.job_id is null or c.lot_credits <> coalesce(d.drawn, 0)
   or coalesce(d.returned, 0) <> greatest(0, c.refunded_credits - (c.amount_credits - c.lot_credits));

-- Each grant is one transfer, and each transfer that gives is a grant.
create view audit_grants as
select coalesce(g.user_id, t.user_id) || ' ' || coalesce(g.grant_id, t.grant_id) as id
from grants g
full join (select user_id, grant_id, count(*) as transfers, sum(amount_credits) as amount
           from transfers where from_account = 'issued' group by user_id, grant_id) t
       on t.user_id = g.user_id and t.grant_id = g.grant_id
where g.user_id is null or coalesce(t.transfers, 0) <> 1 or t.amount <> g.amount_credits;

-- Each account's storage is the sum of its images.
create view audit_storage as
select coalesce(a.user_id, i.user_id) as id
from accounts a
full join (select user_id, coalesce(sum(bytes) filter (where state = 'stored'), 0) as used,
                  coalesce(sum(bytes) filter (where state = 'reserved'), 0) as reserved
           from images group by user_id) i
       on i.user_id = a.user_id
where a.user_id is null or a.used_bytes <> coalesce(i.used, 0) or a.reserved_bytes <> coalesce(i.reserved, 0);

-- Room is kept for the images of open charges, delivered ones were stored, and nothing else takes room.
create view audit_images as
select coalesce(s.image_id, i.image_id)::text as id
from (select job_id, user_id, status, image_id, code
      from charges, unnest(image_ids, slot_codes) as slot(image_id, code)) s
full join images i on i.image_id = s.image_id
where i.image_id is null or s.image_id is null or i.job_id <> s.job_id or i.user_id <> s.user_id
   or s.status = 'voided' and i.state <> 'released'
   or s.status = 'settled' and s.code is not null and i.state <> 'released'
   or s.status = 'settled' and s.code is null and i.state = 'reserved';

-- The storage that came and went by day adds up to what is there.
create view audit_storage_days as
select coalesce(a.user_id, d.user_id) as id
from accounts a
full join (select user_id, sum(stored_bytes - released_bytes) as used from storage_days group by user_id) d
       on d.user_id = a.user_id
where a.user_id is null or a.used_bytes <> coalesce(d.used, 0);

-- Usage counts each settled job once.
create view audit_usage as
select coalesce(c.user_id, u.user_id) || ' ' || coalesce(c.model, u.model) as id
from (select user_id, model, count(*) as jobs, sum(cardinality(image_ids)) as images, sum(amount_credits) as charged,
             sum(captured_credits) as captured, sum(refunded_credits) as refunded
      from charges where status = 'settled' group by user_id, model) c
full join (select user_id, model, sum(jobs) as jobs, sum(images) as images, sum(credits_charged) as charged,
                  sum(credits_captured) as captured, sum(credits_refunded) as refunded,
                  sum(completed + failed + canceled) as ended
           from usage_days group by user_id, model) u
       on u.user_id = c.user_id and u.model = c.model
where c.user_id is null or u.user_id is null or c.jobs <> u.jobs or c.images <> u.images or c.charged <> u.charged
   or c.captured <> u.captured or c.refunded <> u.refunded or u.ended <> u.jobs;

-- Usage has a code for each image that failed, and a time for each job that was processed.
create view audit_usage_details as
select u.user_id || ' ' || u.day || ' ' || u.model as id
from usage_days u
left join (select user_id, day, model, sum(images) as failed from usage_failures group by user_id, day, model) f
       on f.user_id = u.user_id and f.day = u.day and f.model = u.model
left join (select user_id, day, model, sum(jobs) as jobs from usage_times group by user_id, day, model) t
       on t.user_id = u.user_id and t.day = u.day and t.model = u.model
where u.images - u.images_uploaded <> coalesce(f.failed, 0) or u.processed <> coalesce(t.jobs, 0);

-- What each account has by its transfers, beside what the other tables say that it must have.
create view audit_totals as
select place,
       (coalesce((select sum(amount_credits) from transfers where to_account = place), 0)
        - coalesce((select sum(amount_credits) from transfers where from_account = place), 0))::bigint as credits,
       (case place
            when 'issued' then coalesce((select sum(expired_credits) from lots), 0)
                               - coalesce((select sum(amount_credits) from grants), 0)
            when 'available' then coalesce((select sum(balance_credits) from accounts), 0)
            when 'escrow' then coalesce((select sum(amount_credits) from charges where status = 'open'), 0)
            when 'revenue' then coalesce((select sum(captured_credits) from charges), 0)
        end)::bigint as expected_credits
from unnest(enum_range(null::account_kind)) as place;

-- Only when the system is quiet: every charge is settled or voided, and no room is kept for images to come.
create view audit_open_charges as select job_id::text as id from charges where status = 'open';
create view audit_reserved_images as select image_id::text as id from images where state = 'reserved';
