-- Jobs and what belongs to them are split by month in three steps, without copying a row; see pixorly.partitions.
select announce_split('jobs', 'job_id'), announce_split('slots', 'job_id'), announce_split('attempts', 'job_id'),
       announce_split('images', 'image_id');
