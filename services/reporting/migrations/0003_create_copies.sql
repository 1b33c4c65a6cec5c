-- Copies of what the link service owns, as far as opens are found and told by it; an older revision never replaces a newer.

create table reporting.feeds (
  feed text primary key check (feed in ('visitors', 'people')),
  -- Everything up to this revision has been taken in.
  revision bigint not null default 0 check (revision >= 0)
);
insert into reporting.feeds (feed) values ('visitors'), ('people');

create table reporting.clients (
  client_id uuid primary key,
  agency_id uuid not null,
  display_name text not null,
  -- The name as searches compare it, see networks.
  search_name text not null,
  ref text not null,
  -- "users/{uuid}", or empty.
  officer text not null,
  revision bigint not null
);
create index clients_agency on reporting.clients (agency_id);
create index clients_officer on reporting.clients (agency_id, officer) where officer <> '';

create table reporting.portals (
  portal_id uuid primary key,
  agency_id uuid not null,
  display_name text not null,
  revision bigint not null
);

create table reporting.redirects (
  redirect_id uuid primary key,
  agency_id uuid not null,
  display_name text not null,
  revision bigint not null
);

create table reporting.links (
  link_id uuid primary key,
  agency_id uuid not null,
  portal_id uuid not null,
  client_id uuid,
  message_id uuid,
  expire_time timestamptz,
  revoke_time timestamptz,
  revision bigint not null
);

create table reporting.campaigns (
  campaign_id uuid primary key,
  agency_id uuid not null,
  display_name text not null,
  revision bigint not null
);

create table reporting.messages (
  message_id uuid primary key,
  agency_id uuid not null,
  client_id uuid not null,
  campaign_id uuid,
  -- Where it stands in the client's timeline: when it was sent, or made where that is not known.
  sent_at timestamptz not null,
  -- opennotice.link.v1.Message.
  record bytea not null,
  revision bigint not null
);
create index messages_client on reporting.messages (client_id, sent_at desc, message_id desc);

create table reporting.deliveries (
  message_id uuid not null,
  event_time timestamptz not null,
  -- Number of link.v1.DeliveryStatus.
  status smallint not null check (status > 0),
  agency_id uuid not null,
  client_id uuid not null,
  primary key (message_id, event_time, status)
);
create index deliveries_client on reporting.deliveries (client_id, event_time desc, message_id desc, status desc);

do $$
declare
  copy text;
begin
  foreach copy in array array['clients', 'portals', 'redirects', 'links', 'campaigns', 'messages', 'deliveries'] loop
    execute format('alter table reporting.%I enable row level security', copy);
    execute format('alter table reporting.%I force row level security', copy);
    execute format(
      'create policy %I on reporting.%I for select to reporting_serve
       using (agency_id = nullif(current_setting(''app.agency'', true), '''')::uuid)', copy || '_serve', copy);
    execute format('create policy %I on reporting.%I to reporting_ingest using (true) with check (true)',
      copy || '_ingest', copy);
    execute format('grant select on reporting.%I to reporting_serve', copy);
    execute format('grant select, insert, update on reporting.%I to reporting_ingest', copy);
  end loop;
end
$$;
grant select, update on reporting.feeds to reporting_ingest;
