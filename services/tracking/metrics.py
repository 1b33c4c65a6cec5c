"""What operators watch of the public edge."""

from prometheus_client import Counter, Gauge, Histogram

OPENS = Counter("opennotice_opens_total", "Opens answered, by state of the link", ["state"])
UNRECORDED = Counter(
    "opennotice_unrecorded_opens_total", "Opens that no durable path took; each is in the log as its last copy"
)
SPOOLED = Counter("opennotice_spooled_opens_total", "Opens that went to the local spool first")
REFUSED = Counter("opennotice_refused_opens_total", "Opens that PostgreSQL refused by content; now dead letters")
MISSES = Counter("opennotice_misses_total", "Requests that named no link of ours, by answer", ["answer"])
FAILED = Counter(
    "opennotice_failed_answers_total",
    "Visitors who were told to come back (503) though their link works, or got an error of ours (500)",
    ["status"],
)
COMMIT_SECONDS = Histogram(
    "opennotice_commit_seconds",
    "From taking a batch of opens to its commit in PostgreSQL; above 0.3 s it is given up",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 1.0),
)
BATCH_OPENS = Histogram("opennotice_batch_opens", "Opens in one commit", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500))
SPOOL_SIZE = Gauge("opennotice_spool_opens", "Opens on local disk that are not yet in PostgreSQL")
SPOOL_FAILING = Gauge("opennotice_spool_failing", "1 while the local disk would not take an open")
SPOOL_PUT_ASIDE = Gauge(
    "opennotice_spool_put_aside_files", "Damaged spools; opens may be in them that are nowhere else"
)
DISK_FREE = Gauge("opennotice_tracking_disk_free_bytes", "Room for the spool and the copy of the directory")
OUTBOX_PACKS = Gauge("opennotice_outbox_packs", "Packs of opens that are on record and not yet in NATS")
STORE_AWAY = Gauge("opennotice_postgres_away", "1 while opens go to the spool because PostgreSQL does not take them")
DIRECTORY_LINKS = Gauge("opennotice_directory_links", "Links and redirects in the local copy")
DIRECTORY_REVISION = Gauge("opennotice_directory_revision", "Everything up to this revision is in the copy")
DIRECTORY_STALE = Gauge("opennotice_directory_stale", "1 while the copy may be out of date")
DIRECTORY_AGE = Gauge("opennotice_directory_unconfirmed_seconds", "Since the copy was last known to be complete")
ASTRAY = Gauge("opennotice_opens_without_month", "Opens in the default partition; should be 0, counted up to 1,000")
RECONCILED_UNTIL = Gauge(
    "opennotice_reconciled_until_seconds", "Opens up to this time were compared with the report (seconds since 1970)"
)
HISTORY_COMPARED = Gauge(
    "opennotice_history_compared_seconds", "When all older opens had been compared once more (seconds since 1970)"
)
MISSING = Gauge("opennotice_missing_opens", "Opens on record that the last round did not find in the report")
STUCK = Gauge(
    "opennotice_stuck_opens", "Opens that are missing from the report though they were published again, thrice"
)
PUBLISHED_AGAIN = Counter("opennotice_opens_published_again_total", "Opens that the reconciler published again")
WITHOUT_RECORD = Counter(
    "opennotice_opens_without_record_total", "Opens of the report that are not on record here; should be 0"
)

# There from the start: an alarm that looks for growth does not see a figure that begins above 0.
for _answer in ("unknown", "throttled", "unavailable", "pixel"):
    MISSES.labels(_answer)
for _status in ("500", "503"):
    FAILED.labels(_status)
