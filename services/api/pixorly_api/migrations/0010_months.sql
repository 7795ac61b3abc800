-- Each table is now the first partition of a new one with its name. All is a matter of the catalogue, and takes a moment.
select split_by_month('jobs', 'job_id'), split_by_month('slots', 'job_id'), split_by_month('attempts', 'job_id'),
       split_by_month('images', 'image_id');
