-- Raw opens as they were received, and the outbox that announces them.

create table tracking.outbox (
    id bigint generated always as identity primary key,
    event_id uuid not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    create_time timestamptz not null default now(),
    publish_time timestamptz
);
create index "outbox#waiting" on tracking.outbox (id) where publish_time is null;
grant insert on tracking.outbox to tracking_serve;
grant select, insert, update, delete on tracking.outbox to tracking_ingest;

create table tracking.dead_letters (
    id bigint generated always as identity primary key,
    consumer text not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    error text not null,
    attempts int not null,
    create_time timestamptz not null default now()
);
grant select, insert, delete on tracking.dead_letters to tracking_ingest;

-- Append-only: nobody but the owner may change or remove a row, and the owner cannot sign in.
-- `record` is the serialized opennotice.tracking.v1.OpenRecorded; the columns beside it are what the key, the agencies'
-- walls and the reconciler need.
create table tracking.raw_opens (
    opened_at timestamptz not null,
    open_id uuid not null,
    agency_id uuid not null,
    link_id uuid not null,
    record bytea not null check (octet_length(record) between 1 and 131072),
    commit_time timestamptz not null default now(),
    primary key (opened_at, open_id),
    -- The instant is inside a UUIDv7; a row where the two differ was not made by us.
    check (
        opened_at = timestamptz 'epoch'
            + ('x' || translate(left(open_id::text, 13), '-', ''))::bit(48)::bigint * interval '1 millisecond'
    )
) partition by range (opened_at);
alter table tracking.raw_opens enable row level security;
alter table tracking.raw_opens force row level security;
create policy agency on tracking.raw_opens for all to tracking_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid)
    with check (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy every_agency on tracking.raw_opens for all to tracking_ingest using (true) with check (true);
grant select on tracking.raw_opens to tracking_serve;
grant select, insert on tracking.raw_opens to tracking_ingest;
-- For the reconciler, which asks for what was committed in a stretch of time; rows arrive in that order, so a small
-- index is enough.
create index "raw_opens#commit_time" on tracking.raw_opens using brin (commit_time);

-- Takes what no month fits, so that a wrong clock or a forgotten partition loses nothing. Should stay empty.
create table tracking.raw_opens_default partition of tracking.raw_opens default;
alter table tracking.raw_opens_default enable row level security;
alter table tracking.raw_opens_default force row level security;

-- Makes the partitions from this month to three months ahead that are missing; returns how many it made. Runs as the
-- owner, because only the owner of a table may add partitions to it, and tracking itself owns nothing.
create function tracking.make_partitions(today date) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    first_day date;
    partition_name text;
    made int := 0;
begin
    if today not between date '2020-01-01' and date '2200-01-01' then
        raise exception 'the date % is not plausible', today;
    end if;
    for ahead in 0..3 loop
        first_day := (date_trunc('month', today::timestamp) + ahead * interval '1 month')::date;
        partition_name := 'raw_opens_' || to_char(first_day, 'YYYY_MM');
        if to_regclass('tracking.' || partition_name) is null then
            execute format(
                'create table tracking.%I partition of tracking.raw_opens for values from (%L) to (%L)',
                partition_name,
                first_day::text || ' 00:00:00+00',
                (first_day + interval '1 month')::date::text || ' 00:00:00+00'
            );
            execute format('alter table tracking.%I enable row level security', partition_name);
            execute format('alter table tracking.%I force row level security', partition_name);
            made := made + 1;
        end if;
    end loop;
    return made;
end
$$;
revoke all on function tracking.make_partitions(date) from public;
grant execute on function tracking.make_partitions(date) to tracking_ingest;
select tracking.make_partitions((now() at time zone 'utc')::date);
