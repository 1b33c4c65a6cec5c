-- Everything auth owns: who may do what, who did what, and the events it publishes.

create table auth.outbox (
    id bigint generated always as identity primary key,
    event_id uuid not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    create_time timestamptz not null default now(),
    publish_time timestamptz
);
create index "outbox#waiting" on auth.outbox (id) where publish_time is null;
grant insert on auth.outbox to auth_serve;
grant select, insert, update, delete on auth.outbox to auth_ingest;

create table auth.dead_letters (
    id bigint generated always as identity primary key,
    consumer text not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    error text not null,
    attempts int not null,
    create_time timestamptz not null default now()
);
grant select, insert, delete on auth.dead_letters to auth_ingest;

create table auth.agencies (
    agency_id uuid primary key,
    display_name text not null check (length(display_name) between 1 and 200),
    time_zone text not null,
    allowed_hosts text[] not null default '{}' check (cardinality(allowed_hosts) <= 200),
    staff_networks text[] not null default '{}' check (cardinality(staff_networks) <= 200),
    create_time timestamptz not null,
    revision bigint not null default 1 check (revision > 0)
);
grant select, insert, update on auth.agencies to auth_serve;
grant select on auth.agencies to auth_directory;

create table auth.users (
    user_id uuid primary key,
    agency_id uuid not null references auth.agencies,
    email text not null check (length(email) between 3 and 254),
    -- The address in the one form in which two spellings are equal.
    email_key text not null constraint "users#email_key" unique,
    display_name text not null check (length(display_name) between 1 and 200),
    role text not null check (role in ('admin', 'manager', 'supervisor', 'clerk', 'auditor')),
    disabled boolean not null default false,
    password_hash text not null,
    lock_time timestamptz,
    sign_in_time timestamptz,
    create_time timestamptz not null,
    revision bigint not null default 1 check (revision > 0),
    -- Lets what belongs to a user be tied to the user's own agency.
    unique (agency_id, user_id)
);
create index "users#display_name" on auth.users (agency_id, lower(display_name), user_id);
grant select, insert, update on auth.users to auth_serve;
grant select (user_id, agency_id, email_key) on auth.users to auth_directory;

-- One row for each password given for an account in the last minutes, also while it is still being checked.
create table auth.tries (
    try_id uuid primary key,
    agency_id uuid not null,
    user_id uuid not null,
    try_time timestamptz not null,
    failed boolean not null default false,
    foreign key (agency_id, user_id) references auth.users (agency_id, user_id)
);
create index "tries#user" on auth.tries (user_id);
grant select, insert, update, delete on auth.tries to auth_serve;

create table auth.sessions (
    -- SHA-256 of the secret that the browser keeps.
    session_hash bytea primary key check (length(session_hash) = 32),
    agency_id uuid not null,
    user_id uuid not null,
    create_time timestamptz not null,
    use_time timestamptz not null,
    expire_time timestamptz not null,
    foreign key (agency_id, user_id) references auth.users (agency_id, user_id)
);
create index "sessions#user" on auth.sessions (user_id);
create index "sessions#expire_time" on auth.sessions (expire_time);
grant select, insert, update, delete on auth.sessions to auth_serve;
grant select, delete on auth.sessions to auth_ingest;
grant select (session_hash, agency_id) on auth.sessions to auth_directory;

create table auth.api_keys (
    api_key_id uuid primary key,
    agency_id uuid not null references auth.agencies,
    -- SHA-256 of the secret that the other system keeps.
    key_hash bytea not null unique check (length(key_hash) = 32),
    display_name text not null check (length(display_name) between 1 and 200),
    scopes text[] not null check (cardinality(scopes) between 1 and 50),
    expire_time timestamptz,
    revoke_time timestamptz,
    use_time timestamptz,
    create_time timestamptz not null
);
create index "api_keys#create_time" on auth.api_keys (agency_id, create_time, api_key_id);
grant select, insert, update on auth.api_keys to auth_serve;
grant select (key_hash, agency_id) on auth.api_keys to auth_directory;

-- What a request_id has made, so that a repeated request makes nothing more.
create table auth.requests (
    agency_id uuid not null,
    request_id uuid not null,
    content_hash bytea not null,
    target_id uuid not null,
    create_time timestamptz not null,
    primary key (agency_id, request_id)
);
create index "requests#create_time" on auth.requests (create_time);
grant select, insert on auth.requests to auth_serve;
grant select, delete on auth.requests to auth_ingest;

-- The audit log. No role that answers calls or reads events may change or remove a line; agency_id is missing in acts
-- that belong to no agency, such as a sign-in with an unknown address, and tied to no table because lines outlive things.
create table auth.actions (
    action_id uuid primary key,
    agency_id uuid,
    act_time timestamptz not null,
    actor text not null,
    actor_display_name text not null,
    verb text not null check (verb ~ '^[a-z-]+\.[a-z-]+$'),
    target text not null,
    outcome text not null check (outcome in ('done', 'refused')),
    source_address text not null,
    details jsonb not null check (jsonb_typeof(details) = 'object'),
    record_time timestamptz not null default now()
);
create index "actions#act_time" on auth.actions (agency_id, act_time, action_id);
create index "actions#actor" on auth.actions (agency_id, actor, act_time, action_id);
grant select, insert on auth.actions to auth_serve;
grant insert on auth.actions to auth_ingest;

alter table auth.agencies enable row level security, force row level security;
alter table auth.users enable row level security, force row level security;
alter table auth.tries enable row level security, force row level security;
alter table auth.sessions enable row level security, force row level security;
alter table auth.api_keys enable row level security, force row level security;
alter table auth.requests enable row level security, force row level security;
alter table auth.actions enable row level security, force row level security;

create policy serve on auth.agencies to auth_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid)
    with check (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy serve on auth.users to auth_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid)
    with check (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy serve on auth.tries to auth_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid)
    with check (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy serve on auth.sessions to auth_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid)
    with check (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy serve on auth.api_keys to auth_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid)
    with check (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy serve on auth.requests to auth_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid)
    with check (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
create policy read on auth.actions for select to auth_serve
    using (agency_id = nullif(current_setting('app.agency', true), '')::uuid);
-- A transaction of no agency may write lines of no agency, which no call can read back.
create policy write on auth.actions for insert to auth_serve
    with check (agency_id is not distinct from nullif(current_setting('app.agency', true), '')::uuid);

create policy ingest on auth.sessions to auth_ingest using (true) with check (true);
create policy ingest on auth.requests to auth_ingest using (true) with check (true);
create policy ingest on auth.actions for insert to auth_ingest with check (true);

create policy directory on auth.agencies for select to auth_directory using (true);
create policy directory on auth.users for select to auth_directory using (true);
create policy directory on auth.sessions for select to auth_directory using (true);
create policy directory on auth.api_keys for select to auth_directory using (true);
