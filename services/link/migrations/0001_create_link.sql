-- What an agency sends and to whom, with the two feeds through which every change leaves.

create table link.outbox (
    id bigint generated always as identity primary key,
    event_id uuid not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    create_time timestamptz not null default now(),
    publish_time timestamptz
);
create index "outbox#waiting" on link.outbox (id) where publish_time is null;
grant insert on link.outbox to link_serve;
grant select, insert, update, delete on link.outbox to link_ingest;

create table link.dead_letters (
    id bigint generated always as identity primary key,
    consumer text not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    error text not null,
    attempts int not null,
    create_time timestamptz not null default now()
);
grant select, insert, delete on link.dead_letters to link_ingest;

-- One row a feed. A transaction that changes something adds to the row's number and holds the row until it commits, so
-- revisions have no gaps and become visible in order: who has seen revision 7 will never find a new revision 6.
create table link.feeds (
    feed text primary key check (feed in ('visitors', 'people')),
    revision bigint not null default 0 check (revision >= 0)
);

insert into link.feeds (feed) values ('visitors'), ('people');

-- A copy of what the auth service says of agencies, for the rule about targets.
create table link.agencies (
    agency_id uuid primary key,
    allowed_hosts text[] not null,
    revision bigint not null
);

-- Which request ids have created what. Kept for ever: a retry may come after a restore.
create table link.requests (
    agency_id uuid not null,
    request_id uuid not null,
    digest bytea not null check (octet_length(digest) = 32),
    resource_id uuid not null,
    create_time timestamptz not null default now(),
    primary key (agency_id, request_id)
);

create table link.portals (
    portal_id uuid primary key,
    agency_id uuid not null,
    display_name text not null check (char_length(display_name) between 1 and 200),
    search_name text not null,
    kind text not null check (kind in ('external', 'hosted')),
    target_uri text not null check (char_length(target_uri) <= 2000),
    target_host text,
    -- Whether the agency's list of hosts allows the target now. A portal whose host was taken off the list stays as it is
    -- and becomes open again when the host comes back.
    target_allowed boolean not null,
    active boolean not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    revision bigint not null,
    constraint portals_agency_key unique (agency_id, portal_id),
    constraint portals_revision_key unique (revision),
    check ((kind = 'external') = (target_uri <> '')),
    check ((kind = 'external') = (target_host is not null))
);

create index portals_by_name on link.portals (agency_id, search_name collate "C", portal_id);
create index portals_by_host on link.portals (agency_id, target_host);

create table link.pages (
    portal_id uuid not null,
    agency_id uuid not null,
    position smallint not null check (position between 0 and 49),
    slug text not null check (slug ~ '^[a-z0-9-]{1,60}$'),
    title text not null check (char_length(title) between 1 and 200),
    markdown text not null check (char_length(markdown) <= 20000),
    html text not null,
    primary key (portal_id, slug),
    foreign key (agency_id, portal_id) references link.portals (agency_id, portal_id)
);

create table link.clients (
    client_id uuid primary key,
    agency_id uuid not null,
    display_name text not null check (char_length(display_name) between 1 and 200),
    search_name text not null,
    ref text not null check (char_length(ref) <= 100),
    email text not null check (char_length(email) <= 254),
    phone text not null check (char_length(phone) <= 40),
    officer_id uuid,
    create_time timestamptz not null,
    update_time timestamptz not null,
    revision bigint not null,
    constraint clients_agency_key unique (agency_id, client_id),
    constraint clients_revision_key unique (revision)
);

create unique index clients_ref_key on link.clients (agency_id, ref) where ref <> '';
create index clients_by_name on link.clients (agency_id, search_name collate "C", client_id);
create index clients_by_officer on link.clients (agency_id, officer_id);

create table link.campaigns (
    campaign_id uuid primary key,
    agency_id uuid not null,
    display_name text not null check (char_length(display_name) between 1 and 200),
    create_time timestamptz not null,
    revision bigint not null,
    constraint campaigns_agency_key unique (agency_id, campaign_id),
    constraint campaigns_revision_key unique (revision)
);

create table link.messages (
    message_id uuid primary key,
    agency_id uuid not null,
    client_id uuid not null,
    campaign_id uuid,
    channel text not null check (channel in ('sms', 'email')),
    send_time timestamptz,
    delivery_status text not null check (delivery_status in ('queued', 'sent', 'delivered', 'bounced', 'failed')),
    deadline_time timestamptz,
    create_time timestamptz not null,
    revision bigint not null,
    constraint messages_agency_key unique (agency_id, message_id),
    constraint messages_revision_key unique (revision),
    foreign key (agency_id, client_id) references link.clients (agency_id, client_id),
    foreign key (agency_id, campaign_id) references link.campaigns (agency_id, campaign_id)
);

create index messages_by_client on link.messages (client_id, message_id);

create table link.deliveries (
    message_id uuid not null,
    agency_id uuid not null,
    event_time timestamptz not null,
    status text not null check (status in ('queued', 'sent', 'delivered', 'bounced', 'failed')),
    primary key (message_id, event_time, status),
    foreign key (agency_id, message_id) references link.messages (agency_id, message_id)
);

create table link.links (
    link_id uuid primary key,
    agency_id uuid not null,
    portal_id uuid not null,
    page text not null check (page ~ '^[a-z0-9-]{0,60}$'),
    client_id uuid,
    message_id uuid,
    expire_time timestamptz,
    revoke_time timestamptz,
    token_hash bytea not null check (octet_length(token_hash) = 32),
    key_version smallint not null,
    create_time timestamptz not null,
    revision bigint not null,
    constraint links_agency_key unique (agency_id, link_id),
    constraint links_revision_key unique (revision),
    constraint links_token_key unique (token_hash),
    foreign key (agency_id, portal_id) references link.portals (agency_id, portal_id),
    foreign key (agency_id, client_id) references link.clients (agency_id, client_id),
    foreign key (agency_id, message_id) references link.messages (agency_id, message_id),
    check (message_id is null or client_id is not null)
);

create index links_by_portal on link.links (portal_id, link_id);
create index links_by_client on link.links (client_id, link_id) where client_id is not null;
create index links_by_message on link.links (message_id, link_id) where message_id is not null;

create table link.redirects (
    redirect_id uuid primary key,
    agency_id uuid not null,
    display_name text not null check (char_length(display_name) between 1 and 200),
    target_uri text not null check (char_length(target_uri) between 1 and 2000),
    target_host text not null,
    target_allowed boolean not null,
    active boolean not null,
    token_hash bytea not null check (octet_length(token_hash) = 32),
    key_version smallint not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    revision bigint not null,
    constraint redirects_agency_key unique (agency_id, redirect_id),
    constraint redirects_revision_key unique (revision),
    constraint redirects_token_key unique (token_hash)
);

create index redirects_by_host on link.redirects (agency_id, target_host);

grant select, update on link.feeds to link_serve, link_ingest;
grant select on link.feeds to link_directory;
grant select on link.agencies to link_serve;
grant select, insert, update on link.agencies to link_ingest;
grant select, insert on link.requests to link_serve;
grant select, insert, update on link.portals, link.redirects, link.links, link.clients, link.messages to link_serve;
grant select, insert on link.campaigns, link.deliveries to link_serve;
grant select, insert, delete on link.pages to link_serve;
grant select, update on link.portals, link.redirects to link_ingest;
grant select on link.pages to link_ingest;
grant select on link.portals, link.pages, link.redirects, link.links, link.clients, link.campaigns, link.messages,
    link.deliveries to link_directory;

do $$
declare
    name text;
begin
    foreach name in array array[
        'agencies', 'requests', 'portals', 'pages', 'clients', 'campaigns', 'messages', 'deliveries', 'links', 'redirects'
    ]
    loop
        execute format('alter table link.%I enable row level security', name);
        execute format('alter table link.%I force row level security', name);
        execute format(
            'create policy serve on link.%I to link_serve'
            ' using (agency_id = nullif(current_setting(''app.agency'', true), '''')::uuid)'
            ' with check (agency_id = nullif(current_setting(''app.agency'', true), '''')::uuid)',
            name
        );
        execute format('create policy ingest on link.%I to link_ingest using (true) with check (true)', name);
        execute format('create policy directory on link.%I for select to link_directory using (true)', name);
    end loop;
end
$$;
