"""Checks servers that the agency runs itself: what they acknowledge has to be on disk."""

import asyncio
import json
import logging
import re
import urllib.request
from typing import Any

import nats
import psycopg
from nats.errors import Error as NatsError

from bundle.program import HostFault
from services.chassis.bus import STREAMS, credentials

OLDEST_POSTGRES = 170000
# The first that can be told to sync every message.
OLDEST_NATS = (2, 10)
# What the limits of all streams take together, which the server sets aside when they are made.
NATS_BYTES = sum(stream.max_bytes for stream in STREAMS.values())
# Of PostgreSQL while it starts or stops.
_PASSING = ("starting up", "shutting down", "in recovery", "not yet accepting", "too many clients")
_UNTRUSTED = ("certificate", "SSL", "sslmode", "Authorization", "Authentication", "authorization", "authentication")
_SAFE = {
    "fsync": {"on"},
    "full_page_writes": {"on"},
    "synchronous_commit": {"on", "remote_apply"},
    "server_encoding": {"UTF8"},
}


def check_postgres(url: str, name: str = "OPENNOTICE_POSTGRES_URL") -> tuple[list[str], list[str]]:
    """Returns what is wrong with a server and what is only worth a warning, one line each.

    Raises HostFault when it cannot be asked. `name` is what the operator calls the URL.
    """
    try:
        with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
            version = connection.info.server_version
            wanted = [*_SAFE, "data_checksums"]
            row = connection.execute(
                "select " + ", ".join(f"current_setting('{option}')" for option in wanted)
            ).fetchone()
            right = connection.execute(
                "select rolsuper or rolcreaterole from pg_roles where rolname = current_user"
            ).fetchone()
    except psycopg.Error as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise HostFault(f"{name}: {_how_it_failed(told)}") from None
    assert row is not None
    found = dict(zip(wanted, row, strict=True))
    faults = [
        f"{name}: the server has {option} = {found[option]}; it must be {' or '.join(sorted(values))}"
        for option, values in _SAFE.items()
        if found[option] not in values
    ]
    if version < OLDEST_POSTGRES:
        faults.append(f"{name}: the server is PostgreSQL {version // 10000}; it must be 17 or newer")
    if not right or not right[0]:
        faults.append(f"{name}: the user may not create roles; give it CREATEROLE")
    warnings = []
    if found["data_checksums"] != "on":
        warnings.append("the PostgreSQL server has no data checksums: damage on its disk would go unnoticed")
    return faults, warnings


def _how_it_failed(told: str) -> str:
    """Says whether a server is away, for which there is hope, or has looked at us and refuses."""
    away = "FATAL" not in told or any(word in told for word in _PASSING)
    untrusted = any(word in told for word in _UNTRUSTED)
    return f"{'cannot use the server' if away and not untrusted else 'the server does not let us in'}: {told}"


async def check_nats(url: str, monitor_url: str, name: str = "OPENNOTICE_NATS_URL") -> list[str]:
    """Returns what is wrong with a nats-server, one line each. `name` is what the operator calls the URL."""

    async def ignore(error: Exception) -> None:
        """The error is raised by connect as well."""

    # It would remark on a TLS connection that the server closes; what matters is raised.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        client = await nats.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=ignore, **credentials(url))
    except (NatsError, OSError, TimeoutError) as error:
        return [f"{name}: {_how_it_failed((str(error) or type(error).__name__).splitlines()[0])}"]
    try:
        await client.jetstream().account_info()
    except (NatsError, TimeoutError):
        return [f"{name}: the server has no JetStream; switch it on in its configuration"]
    finally:
        await client.close()
    try:
        told = await asyncio.to_thread(_varz, monitor_url)
    except (OSError, ValueError) as error:
        return [
            f"OPENNOTICE_NATS_MONITOR_URL: cannot ask {monitor_url} whether JetStream syncs every message: "
            f"{getattr(error, 'reason', error)}"
        ]
    version = str(told.get("version", ""))
    if _number(version) < OLDEST_NATS:
        return [f"{name}: the server is nats-server {version}; it must be {'.'.join(map(str, OLDEST_NATS))} or newer"]
    config = told.get("jetstream", {}).get("config", {})
    if config.get("sync_always") is not True:
        return [f"{name}: JetStream acknowledges before it syncs; set sync_interval: always"]
    if int(config.get("max_storage", 0)) < NATS_BYTES:
        return [f"{name}: JetStream may keep {config.get('max_storage', 0)} bytes; set max_file: 24GB or more"]
    return []


def _number(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else (0, 0)


def _varz(monitor_url: str) -> dict[str, Any]:
    # Without a proxy of the environment: the server is inside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{monitor_url}/varz", timeout=5) as answer:
        return dict(json.load(answer))
