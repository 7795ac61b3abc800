-- Transfers are split by month in three steps, without copying a row; see pixorly.partitions.
select announce_split('transfers', 'id');
