-- Reads the table, while others write it.
alter table transfers validate constraint transfers_before;
