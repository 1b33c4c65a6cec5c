-- Whoever read while opens moved from the default partition into that of their month missed them, once: the list of
-- partitions is read before the wait for the lock. Now they wait for the whole table before they look.
create or replace function reporting.make_partition(day date) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  first timestamptz := date_trunc('month', day::timestamp) at time zone 'UTC';
  following timestamptz := (date_trunc('month', day::timestamp) + interval '1 month') at time zone 'UTC';
  partition text := 'opens_' || to_char(date_trunc('month', day::timestamp), 'YYYY_MM');
begin
  if day < date '2000-01-01' or day >= date '2200-01-01' then
    raise exception 'no partition is made for %', day;
  end if;
  -- Two processes that come at once make it once.
  perform pg_advisory_xact_lock(hashtext('reporting.make_partition'));
  if to_regclass('reporting.' || partition) is not null then
    return false;
  end if;
  if exists (select from reporting.opens_default where opened_at >= first and opened_at < following) then
    -- Everybody waits behind this: while an export runs it is given up soon, and tried again.
    perform set_config('lock_timeout', '500ms', true);
    lock table only reporting.opens in access exclusive mode;
  end if;
  execute format('create table reporting.%I (like reporting.opens including defaults including constraints)', partition);
  execute format(
    'with moved as (delete from reporting.opens_default where opened_at >= %L and opened_at < %L returning *)
     insert into reporting.%I select * from moved', first, following, partition);
  execute format('alter table reporting.opens attach partition reporting.%I for values from (%L) to (%L)',
    partition, first, following);
  -- Nobody is granted anything here; rows are reached through the parent, whose policies count then.
  execute format('alter table reporting.%I enable row level security', partition);
  execute format('alter table reporting.%I force row level security', partition);
  return true;
end
$$;
