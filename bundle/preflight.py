"""Checks servers that the agency runs itself: what they acknowledge has to be on disk."""

import asyncio
import json
import urllib.request
from typing import Any

import nats
import psycopg
from nats.errors import Error as NatsError

from bundle.program import HostFault

OLDEST_POSTGRES = 170000
_SAFE = {
    "fsync": {"on"},
    "full_page_writes": {"on"},
    "synchronous_commit": {"on", "remote_apply"},
    "server_encoding": {"UTF8"},
}


def check_postgres(url: str) -> tuple[list[str], list[str]]:
    """Returns what is wrong with a server and what is only worth a warning, one line each."""
    try:
        with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
            version = connection.info.server_version
            wanted = [*_SAFE, "data_checksums"]
            row = connection.execute("select " + ", ".join(f"current_setting('{name}')" for name in wanted)).fetchone()
            right = connection.execute(
                "select rolsuper or rolcreaterole from pg_roles where rolname = current_user"
            ).fetchone()
    except psycopg.Error as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise HostFault(f"OPENNOTICE_POSTGRES_URL: cannot use the server: {told}") from None
    assert row is not None
    found = dict(zip(wanted, row, strict=True))
    faults = [
        f"OPENNOTICE_POSTGRES_URL: the server has {name} = {found[name]}; it must be {' or '.join(sorted(values))}"
        for name, values in _SAFE.items()
        if found[name] not in values
    ]
    if version < OLDEST_POSTGRES:
        faults.append(f"OPENNOTICE_POSTGRES_URL: the server is PostgreSQL {version // 10000}; it must be 17 or newer")
    if not right or not right[0]:
        faults.append("OPENNOTICE_POSTGRES_URL: the user may not create roles; give it CREATEROLE")
    warnings = []
    if found["data_checksums"] != "on":
        warnings.append("the PostgreSQL server has no data checksums: damage on its disk would go unnoticed")
    return faults, warnings


async def check_nats(url: str, monitor_url: str) -> list[str]:
    """Returns what is wrong with a nats-server, one line each."""

    async def ignore(error: Exception) -> None:
        """The error is raised by connect as well."""

    try:
        client = await nats.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=ignore)
    except (NatsError, OSError, TimeoutError) as error:
        return [f"OPENNOTICE_NATS_URL: cannot use the server: {str(error) or type(error).__name__}"]
    try:
        await client.jetstream().account_info()
    except (NatsError, TimeoutError):
        return ["OPENNOTICE_NATS_URL: the server has no JetStream; switch it on in its configuration"]
    finally:
        await client.close()
    try:
        told = await asyncio.to_thread(_varz, monitor_url)
    except (OSError, ValueError) as error:
        return [
            f"OPENNOTICE_NATS_MONITOR_URL: cannot ask {monitor_url} whether JetStream syncs every message: "
            f"{getattr(error, 'reason', error)}"
        ]
    if told.get("jetstream", {}).get("config", {}).get("sync_always") is not True:
        return ["OPENNOTICE_NATS_URL: JetStream acknowledges before it syncs; set sync_interval: always"]
    return []


def _varz(monitor_url: str) -> dict[str, Any]:
    # Without a proxy of the environment: the server is inside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{monitor_url}/varz", timeout=5) as answer:
        return dict(json.load(answer))
