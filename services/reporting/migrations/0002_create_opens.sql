-- The searchable opens, a partition a month: what is filtered by stands in columns, what is only shown in two encoded ones.

create table reporting.networks (
  network_id integer generated always as identity primary key,
  asn bigint not null check (asn between 0 and 4294967295),
  name text not null check (length(name) <= 500),
  -- The name as searches compare it; folded by the service, because PostgreSQL's own folding differs from Python's.
  search_name text not null,
  unique (asn, name)
);

create table reporting.opens (
  opened_at timestamptz not null,
  open_id uuid not null,
  agency_id uuid not null,
  client_id uuid,
  portal_id uuid,
  -- The link, or the redirect where the kind says so.
  link_id uuid not null,
  message_id uuid,
  -- Numbers of the contract's enums; zero means "not known" there and is never stored.
  kind smallint not null check (kind > 0),
  device smallint not null check (device > 0),
  link_state smallint not null check (link_state > 0),
  verdict smallint not null check (verdict > 0),
  -- Of reporting.networks; no foreign key, whose check of every row would cost more than it can find: networks stay.
  network_id integer,
  ip_address inet,
  -- opennotice.reporting.v1.Open without detail and names, encoded once on arrival: an export only copies it out.
  listed bytea not null,
  -- opennotice.enrichment.v1.OpenEnriched as it arrived: everything else that is known, and what a copy is compared with.
  record bytea not null,
  enrich_time timestamptz not null,
  arrive_time timestamptz not null default clock_timestamp(),
  primary key (opened_at, open_id)
) partition by range (opened_at);

-- Newest first, for the whole agency and for each of the filters that can be rare. Ids are unique across agencies, so
-- only networks and addresses, which agencies share, need the agency in front.
create index opens_agency on reporting.opens (agency_id, opened_at desc, open_id desc);
create index opens_client on reporting.opens (client_id, opened_at desc, open_id desc) where client_id is not null;
create index opens_portal on reporting.opens (portal_id, opened_at desc, open_id desc) where portal_id is not null;
create index opens_link on reporting.opens (link_id, opened_at desc, open_id desc);
create index opens_message on reporting.opens (message_id, opened_at desc, open_id desc) where message_id is not null;
create index opens_network on reporting.opens (agency_id, network_id, opened_at desc, open_id desc);
create index opens_address on reporting.opens (agency_id, ip_address, opened_at desc);

-- What was thought of an open before it was explained again.
create table reporting.verdicts (
  opened_at timestamptz not null,
  open_id uuid not null,
  enrich_time timestamptz not null,
  agency_id uuid not null,
  verdict smallint not null,
  record bytea not null,
  replace_time timestamptz not null default clock_timestamp(),
  primary key (opened_at, open_id, enrich_time)
);

-- Rows of a month that nobody prepared land here rather than nowhere; the service alarms when it is not empty.
create table reporting.opens_default partition of reporting.opens default;

alter table reporting.opens enable row level security;
alter table reporting.opens force row level security;
create policy opens_serve on reporting.opens for select to reporting_serve
  using (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy opens_ingest on reporting.opens to reporting_ingest using (true) with check (true);
grant select on reporting.opens to reporting_serve;
grant select, insert, update on reporting.opens to reporting_ingest;

alter table reporting.opens_default enable row level security;
alter table reporting.opens_default force row level security;
create policy opens_default_ingest on reporting.opens_default for select to reporting_ingest using (true);
-- make_partition() below moves rows out as the owner.
create policy opens_default_owner on reporting.opens_default to reporting_owner using (true) with check (true);
grant select on reporting.opens_default to reporting_ingest;

alter table reporting.verdicts enable row level security;
alter table reporting.verdicts force row level security;
create policy verdicts_serve on reporting.verdicts for select to reporting_serve
  using (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy verdicts_ingest on reporting.verdicts to reporting_ingest using (true) with check (true);
grant select on reporting.verdicts to reporting_serve;
grant select, insert on reporting.verdicts to reporting_ingest;

-- Names of networks come from public data sets and belong to no agency.
grant select on reporting.networks to reporting_serve;
grant select, insert on reporting.networks to reporting_ingest;

-- Makes the partition of the month that a day lies in, with the rows that waited for it in the default one. True when it
-- made one. Runs as the owner, because the ingest role must not be able to change a table in any other way.
create function reporting.make_partition(day date) returns boolean
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
revoke all on function reporting.make_partition(date) from public;
grant execute on function reporting.make_partition(date) to reporting_ingest;

-- A year back for opens that come late, three months ahead; the service goes on from there.
select reporting.make_partition((date_trunc('month', now()) + make_interval(months => month))::date)
from generate_series(-12, 3) as month;
