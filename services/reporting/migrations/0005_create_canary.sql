-- The newest canary that came the whole way: tracking sends one every minute, so that somebody notices when opens would
-- not arrive.
create table reporting.canary (
    only_one boolean primary key default true check (only_one),
    sent_at timestamptz not null,
    arrive_time timestamptz not null default clock_timestamp()
);
grant select, insert, update on reporting.canary to reporting_ingest;
