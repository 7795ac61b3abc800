-- no-transaction
create index concurrently if not exists jobs_open_of_user on jobs (user_id)
    where status in ('intent', 'pending', 'processing', 'uploading');
