-- What enrichment keeps: copies of the agencies' own networks, and packs that wait for IP data.

create table enrichment.dead_letters (
    id bigint generated always as identity primary key,
    consumer text not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    error text not null,
    attempts int not null,
    create_time timestamptz not null default now()
);
grant select, insert, delete on enrichment.dead_letters to enrichment_ingest;

-- A copy, so that opens from the agency's own networks are known while auth is away.
create table enrichment.agencies (
    agency_id uuid primary key,
    staff_networks text[] not null check (cardinality(staff_networks) <= 200),
    revision bigint not null
);
alter table enrichment.agencies enable row level security;
alter table enrichment.agencies force row level security;
create policy serve on enrichment.agencies for select to enrichment_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy ingest on enrichment.agencies to enrichment_ingest using (true) with check (true);
grant select on enrichment.agencies to enrichment_serve;
grant select, insert, update on enrichment.agencies to enrichment_ingest;

-- Packs of opens that were explained while IP data were missing; they are explained again when the data come.
-- A pack holds opens of several agencies, so no call may read here.
create table enrichment.waiting_packs (
    batch_id uuid primary key,
    receive_time timestamptz not null,
    pack bytea not null
);
create index "waiting_packs#receive_time" on enrichment.waiting_packs (receive_time, batch_id);
-- "update" is what locking a row asks for; nothing is changed.
grant select, insert, update, delete on enrichment.waiting_packs to enrichment_ingest;
