-- Reads the tables, while others write them.
alter table jobs validate constraint jobs_before;
alter table slots validate constraint slots_before;
alter table attempts validate constraint attempts_before;
alter table images validate constraint images_before;
