-- What could not be taken in, for an operator to look at; nothing is published, so there is no outbox.

create table reporting.dead_letters (
    id bigint generated always as identity primary key,
    consumer text not null,
    subject text not null,
    message_type text not null,
    payload bytea not null,
    error text not null,
    attempts int not null,
    create_time timestamptz not null default now()
);
grant select, insert, delete on reporting.dead_letters to reporting_ingest;
