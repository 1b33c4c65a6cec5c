-- Whoever read while opens moved from the default partition into that of their month missed them, once: the list of
-- partitions is read before the wait for the lock. Now they wait for the whole table before they look.
create or replace function tracking.make_partitions(today date) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    first_day date;
    first_instant timestamptz;
    following timestamptz;
    partition_name text;
    made int := 0;
begin
    if today not between date '2020-01-01' and date '2200-01-01' then
        raise exception 'the date % is not plausible', today;
    end if;
    -- Two processes that come at once make each once.
    perform pg_advisory_xact_lock(hashtext('tracking.make_partitions'));
    for ahead in 0..3 loop
        first_day := (date_trunc('month', today::timestamp) + ahead * interval '1 month')::date;
        first_instant := first_day::timestamp at time zone 'UTC';
        following := (first_day + interval '1 month') at time zone 'UTC';
        partition_name := 'raw_opens_' || to_char(first_day, 'YYYY_MM');
        if to_regclass('tracking.' || partition_name) is null then
            if exists (
                select from tracking.raw_opens_default where opened_at >= first_instant and opened_at < following
            ) then
                -- Everybody waits behind this, visitors' opens too: given up soon, and tried again.
                perform set_config('lock_timeout', '200ms', true);
                lock table only tracking.raw_opens in access exclusive mode;
            end if;
            -- Nothing may come into the default partition between the moving and the attaching.
            lock table tracking.raw_opens_default in access exclusive mode;
            execute format(
                'create table tracking.%I (like tracking.raw_opens including defaults including constraints)',
                partition_name
            );
            execute format(
                'with moved as ('
                '    delete from tracking.raw_opens_default where opened_at >= %L and opened_at < %L returning *'
                ') insert into tracking.%I select * from moved',
                first_instant, following, partition_name
            );
            execute format(
                'alter table tracking.raw_opens attach partition tracking.%I for values from (%L) to (%L)',
                partition_name, first_instant, following
            );
            execute format('alter table tracking.%I enable row level security', partition_name);
            execute format('alter table tracking.%I force row level security', partition_name);
            made := made + 1;
        end if;
    end loop;
    return made;
end
$$;
