-- Tables split by the month that stands in a UUIDv7. Each has a partition `_history` for what was there before it was
-- split, one for each month since, made ahead of time, and `_default`: the net that takes what fits nowhere else, so that
-- an insert never fails for want of a partition. The default partition is also the pattern for new ones: its indexes,
-- triggers and storage parameters are theirs.

create function id_floor(at timestamptz) returns uuid language sql immutable strict parallel safe
return (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

create function id_time(id uuid) returns timestamptz language sql immutable strict parallel safe
return to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0);

create function month_floor(at timestamptz) returns timestamptz language sql immutable strict parallel safe
return date_trunc('month', at at time zone 'UTC') at time zone 'UTC';

-- The ranges of ids that a table's partitions take, but for the default one.
create function id_ranges(parent regclass) returns table (partition regclass, lower_id uuid, upper_id uuid)
language sql stable strict set search_path from current
begin atomic
    select i.inhrelid::regclass,
           coalesce(substring(bound from 'FROM \(''([0-9a-f-]+)''\)'), '00000000-0000-0000-0000-000000000000')::uuid,
           coalesce(substring(bound from 'TO \(''([0-9a-f-]+)''\)'), 'ffffffff-ffff-ffff-ffff-ffffffffffff')::uuid
    from pg_inherits i join pg_class c on c.oid = i.inhrelid, pg_get_expr(c.relpartbound, c.oid) as bound
    where i.inhparent = parent and bound <> 'DEFAULT';
end;

-- Give a table the statement triggers of another: they are not passed on to partitions by themselves.
create function copy_triggers(source regclass, target regclass) returns void
language plpgsql set search_path from current as $$
declare
    found record;
begin
    for found in select tgname, tgenabled, pg_get_triggerdef(oid) as def from pg_trigger
                 where tgrelid = source and not tgisinternal and tgparentid = 0 and (tgtype & 1) = 0 loop
        execute regexp_replace(found.def, ' ON \S+ ', format(' ON %s ', target));
        if found.tgenabled = 'A' then
            execute format('alter table %s enable always trigger %I', target, found.tgname);
        end if;
    end loop;
end
$$;

create function storage_of(source regclass) returns text language sql stable strict set search_path from current
begin atomic
    select coalesce(' with (' || array_to_string(reloptions, ', ') || ')', '') from pg_class where oid = source;
end;

-- Make one partition. What the default partition holds of its range moves over, as one change.
create function make_partition(parent regclass, name text, lower_id uuid, upper_id uuid) returns void
language plpgsql set search_path from current as $$
declare
    pattern regclass;
    key     text;
    home    text;
    held    boolean;
    mine    text;
begin
    select partdefid::regclass, attname, nspname into strict pattern, key, home
    from pg_partitioned_table p
    join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
    join pg_class c on c.oid = p.partrelid join pg_namespace n on n.oid = c.relnamespace
    where p.partrelid = parent;
    mine := format('%I.%I', home, name);
    execute format('create table %s (like %s including all)%s', mine, pattern, storage_of(pattern));
    execute format('select exists (select from %s where %I >= $1 and %2$I < $2)', pattern, key)
        into held using lower_id, upper_id;
    if held then
        execute format('lock table %s in access exclusive mode', pattern);
        execute format('insert into %s select * from %s where %I >= $1 and %3$I < $2', mine, pattern, key)
            using lower_id, upper_id;
        execute format('alter table %s disable trigger user', pattern);
        execute format('delete from %s where %I >= $1 and %2$I < $2', pattern, key) using lower_id, upper_id;
        execute (select format('alter table %s ', pattern) || coalesce(string_agg(
                     format(case tgenabled when 'A' then 'enable always trigger %I' else 'enable trigger %I' end, tgname),
                     ', '), 'enable trigger user')
                 from pg_trigger where tgrelid = pattern and not tgisinternal);
    end if;
    perform copy_triggers(pattern, mine::regclass);
    execute format('alter table %s attach partition %s for values from (%L) to (%L)', parent, mine, lower_id, upper_id);
end
$$;

-- Have a partition for this month, for some months to come, and for each month of which the default one holds rows.
-- Returns how many were made. It does nothing that was done before, and where it cannot have its locks at once, nothing
-- at all: then it is for the next time. It runs with its owner's rights, for a service need not own its tables.
create function keep_partitions(parent regclass, months_ahead integer default 3, at timestamptz default now())
returns integer
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
    months timestamptz[];
    month timestamptz;
    pattern regclass;
    key text;
    made integer := 0;
    since timestamptz := least(at, now()) - interval '20 years';
begin
    if not pg_try_advisory_xact_lock(hashtextextended('keep_partitions', parent::oid::bigint)) then
        return 0;
    end if;
    select partdefid::regclass, attname into strict pattern, key
    from pg_partitioned_table p join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
    where p.partrelid = parent;
    execute format(
        'select array_agg(month order by month) from (
             select (date_trunc(''month'', $1 at time zone ''UTC'') + make_interval(months => n)) at time zone ''UTC''
                    as month
             from generate_series(0, $2) as n
             union select month_floor(id_time(%1$I)) from %2$s where %1$I >= id_floor($3) and %1$I < id_floor($1)) as m',
        key, pattern) into months using at, months_ahead, since;
    foreach month in array months loop
        if not exists (select from id_ranges(parent)
                       where lower_id < id_floor(month_floor(month + interval '40 days')) and upper_id > id_floor(month)) then
            perform make_partition(
                parent,
                (select relname from pg_class where oid = parent) || to_char(month at time zone 'UTC', '_YYYY_MM'),
                id_floor(month),
                id_floor(month_floor(month + interval '40 days')));
            made := made + 1;
        end if;
    end loop;
    return made;
exception
    when lock_not_available then
        return 0;
end
$$;

-- How a table is split that holds rows already: without copying any, and with locks that last a moment.
--
-- 1. `announce_split` says where the history will end: not before a month from now, and after all ids that there are.
-- 2. `validate constraint … _before`, in a transaction of its own, reads the table while others write.
-- 3. `split_by_month` makes the table that was there the first partition of a new one with its name.

create function announce_split(old regclass, key text) returns void
language plpgsql set search_path from current as $$
declare
    last uuid;
    cut  timestamptz;
begin
    -- There is no max() of uuids in older versions.
    execute format('select %I from %s order by 1 desc limit 1', key, old) into last;
    cut := month_floor(greatest(now() + interval '1 month', id_time(last)) + interval '1 month');
    execute format('alter table %s add constraint %I check (%I < %L) not valid',
                   old, (select relname from pg_class where oid = old) || '_before', key, id_floor(cut));
end
$$;

create function split_by_month(old regclass, key text) returns void
language plpgsql set search_path from current as $$
declare
    name  text := (select relname from pg_class where oid = old);
    home  text := (select nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = old);
    whole text := format('%I.%I', home, name);
    net   text := format('%I.%I', home, name || '_default');
    cut   text;
    found record;
    views text[];
    view  text;
begin
    execute format('lock table %s in access exclusive mode', old);
    select (regexp_match(pg_get_constraintdef(oid), '''([0-9a-f-]+)''::uuid'))[1] into strict cut
    from pg_constraint where conrelid = old and conname = name || '_before' and convalidated;
    -- A view holds on to the table that it was made with, whatever that is called later.
    select array_agg(format('create or replace view %s as %s', view_id::regclass, pg_get_viewdef(view_id))) into views
    from (select distinct r.ev_class as view_id from pg_depend d join pg_rewrite r on r.oid = d.objid
          where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = old) as those;
    for found in select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = old loop
        execute format('alter index %I.%I rename to %I', home, found.relname,
                       name || '_history' || regexp_replace(found.relname, '^' || name, ''));
    end loop;
    execute format('alter table %s rename to %I', old, name || '_history');
    execute format('create table %s (like %s including all excluding indexes) partition by range (%I)', whole, old, key);
    execute format('create table %s (like %s including all)%s', net, old, storage_of(old));
    execute format('alter table %s drop constraint %I', whole, name || '_before');
    execute format('alter table %s drop constraint %I', net, name || '_before');
    -- An index that is unique without the key stays one of each partition: the table as a whole can have none.
    for found in select c.relname, i.indisprimary, pg_get_indexdef(i.indexrelid) as def
                 from pg_index i join pg_class c on c.oid = i.indexrelid
                 where i.indrelid = old and (not i.indisunique or exists (
                     select from pg_attribute a
                     where a.attrelid = old and a.attname = key and a.attnum = any(i.indkey))) loop
        if found.indisprimary then
            execute format('alter table %s add constraint %I primary key %s', whole, name || '_pkey',
                           substring(found.def from '\(.*\)'));
        else
            execute regexp_replace(found.def, 'INDEX \S+ ON \S+ ',
                format('INDEX %I ON %s ', name || substr(found.relname, length(name || '_history') + 1), whole));
        end if;
    end loop;
    perform copy_triggers(old, whole::regclass), copy_triggers(old, net::regclass);
    for found in select privilege_type, case grantee when 0 then 'public' else quote_ident(grantee::regrole::text) end as who
                 from pg_class c, aclexplode(c.relacl) as acl where c.oid = old and grantee <> c.relowner loop
        execute format('grant %s on %s to %s', found.privilege_type, whole, found.who);
    end loop;
    execute format('alter table %s attach partition %s for values from (minvalue) to (%L)', whole, old, cut);
    execute format('alter table %s drop constraint %I', old, name || '_before');
    execute format('alter table %s attach partition %s default', whole, net);
    foreach view in array coalesce(views, '{}') loop
        execute view;
    end loop;
end
$$;
