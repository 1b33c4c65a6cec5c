"""All SQL of tracking: raw opens in PostgreSQL; the copy of the directory and the spool in SQLite."""
