"""What both SQLite files have in common."""

import sqlite3
from pathlib import Path


def connect(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """Opens a file in WAL mode, with transactions only where the code says so."""
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
    conn.execute("pragma journal_mode = wal")
    conn.execute(f"pragma synchronous = {synchronous}")
    return conn


def roll_back(conn: sqlite3.Connection) -> None:
    """Ends a transaction that failed."""
    # A full disk or a failing one may have ended the transaction already.
    if conn.in_transaction:
        conn.execute("rollback")
