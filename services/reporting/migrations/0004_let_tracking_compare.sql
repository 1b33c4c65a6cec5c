-- The keys of all opens, for the reconciler of tracking: it asks which of those on record the report does not have.
create policy opens_directory on reporting.opens for select to reporting_directory using (true);
grant select (opened_at, open_id) on reporting.opens to reporting_directory;
