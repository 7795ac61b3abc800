-- The table is now the first partition of a new one with its name. The unique keys that do not hold the id hold within
-- each partition: a job's transfers lie together, since their ids carry the job's time.
select split_by_month('transfers', 'id');
