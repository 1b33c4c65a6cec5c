"""Measures reporting on many opens: arrival, the first page, the filters, the export over gRPC.

    python -m tests.bench.reporting --rows 1000000

Real processes of reporting and auth on an embedded PostgreSQL; reading needs no NATS. It prints and never gates.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
from cryptography.fernet import Fernet
from joserfc.jwk import KeySet, OKPKey
from opennotice.enrichment.v1 import events_pb2
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc
from psycopg import AsyncConnection

from bundle.embedded import Postgres, wait_until
from bundle.program import account_for_postgres, free_port
from services.chassis.migrate import migrate, role_names
from services.chassis.postgres import Database
from services.chassis.serve import CLIENT_OPTIONS
from services.reporting.arrivals import store as arrivals
from services.reporting.arrivals.events import read_open
from services.reporting.copies import store as copies
from services.reporting.opens import fold
from tests.bench.machine import cpu_seconds
from tests.cast import DANA, FIRST_COURT, OTHER_COURT
from tests.fix_postgres import as_url
from tests.fix_rpc import ISSUERS, Keyring
from tests.reporting.sample import an_open

CLIENTS = 20_000
PORTALS = 12
NETWORKS = 400
PACK = 4_000
MONTHS = 6
BLOCKS = [first << 24 for first in (23, 73, 98, 172)]
FIRST_NAMES = ("Maria", "José", "Ana", "Wei", "Amara", "Ola", "Mohammed", "Lena", "Tariq", "Noor", "Ivan", "Chloé")
LAST_NAMES = ("Nguyen", "García", "Okafor", "Smith", "Lindqvist", "Novak", "Haddad", "Kowalski", "O'Neill", "Zhang")


def keyring() -> Keyring:
    """Makes keys for every issuer."""
    keys = {issuer: OKPKey.generate_key("Ed25519", parameters={"kid": issuer}) for issuer in ISSUERS}
    return Keyring(
        private_pem={issuer: key.as_pem(private=True).decode() for issuer, key in keys.items()},
        trust=json.dumps(KeySet(list(keys.values())).as_dict(private=False)),
        paging_key=Fernet.generate_key().decode(),
    )


def opens(rows: int, chance: random.Random) -> Iterator[events_pb2.OpenEnriched]:
    """Yields opens of the last months: one big agency, one small; a few busy networks, many rare ones."""
    now = datetime.now(UTC)
    clients = [UUID(int=(1 << 80) + number) for number in range(CLIENTS)]
    portals = [UUID(int=(2 << 80) + number) for number in range(PORTALS)]
    # In the order they would have come: where they lie in the tables decides how fast they are read again.
    ages = sorted((int(chance.random() ** 1.5 * MONTHS * 30 * 86_400_000) for _ in range(rows)), reverse=True)
    for age in ages:
        moment = now - timedelta(milliseconds=age)
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        network = int(chance.random() ** 4 * NETWORKS)
        rare = chance.random()
        yield an_open(
            moment,
            number=chance.getrandbits(61),
            agency_id=FIRST_COURT if chance.random() < 0.85 else OTHER_COURT,
            client_id=clients[int(chance.random() ** 2 * CLIENTS)] if chance.random() < 0.9 else None,
            portal_id=portals[int(chance.random() ** 2 * PORTALS)],
            link_id=UUID(int=(3 << 80) + chance.randrange(CLIENTS * 3)),
            asn=1000 + network,
            network=f"Network {network} of {chance.choice(LAST_NAMES) if network > 300 else 'America'}",
            verdict=6 if rare < 0.00002 else chance.choice((1, 2, 3, 3, 3, 4, 5)),
            device=chance.choice((1, 1, 1, 2, 3, 3, 4)),
            open_ip_address=str(IPv4Address(chance.choice(BLOCKS) + (network % 256 << 16) + chance.randrange(65_536))),
        )


async def fill(database: Database, rows: int) -> None:
    """Stores clients, portals and opens by the statements that the service uses, and prints the rate."""
    chance = random.Random(7)
    names = [f"{chance.choice(FIRST_NAMES)} {chance.choice(LAST_NAMES)} {number}" for number in range(CLIENTS)]
    async with database.transaction() as conn:
        await copies.put(
            conn,
            [
                copies.ClientCopy(UUID(int=(1 << 80) + n), FIRST_COURT, name, fold(name), f"CASE-{n:06}", "", n + 1)
                for n, name in enumerate(names)
            ],
        )
        portals = [
            copies.PortalCopy(UUID(int=(2 << 80) + n), FIRST_COURT, f"Portal {n}", n + 1) for n in range(PORTALS)
        ]
        await copies.put(conn, portals)
    stored, spent = 0, 0.0
    source = opens(rows, chance)
    while pack := [read_open(item) for item in islice(source, PACK)]:
        began = time.perf_counter()
        async with database.transaction() as conn:
            await arrivals.insert_opens(conn, pack)
        spent += time.perf_counter() - began
        stored += len(pack)
    print(f"stored {stored:,} opens, {stored / spent:,.0f} rows/s in transactions of {PACK:,}")


def environment(ring: Keyring, admin_url: str, name: str, ports: dict[str, int]) -> dict[str, str]:
    """Returns the settings of one process."""
    found = {
        "OPENNOTICE_PROBE_BIND": f"127.0.0.1:{free_port()}",
        "OPENNOTICE_IDENTITY_KEY": ring.private_pem[name],
        "OPENNOTICE_IDENTITY_TRUST": ring.trust,
        "OPENNOTICE_PAGING_KEY": ring.paging_key,
        "OPENNOTICE_NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "OPENNOTICE_LOG_LEVEL": "error",
        "OPENNOTICE_AUTH_GRPC_BIND": f"127.0.0.1:{ports['auth']}",
        "OPENNOTICE_REPORTING_GRPC_BIND": f"127.0.0.1:{ports['reporting']}",
        "OPENNOTICE_AUTH_GRPC_ADDRESS": f"127.0.0.1:{ports['auth']}",
    }
    for use in ("serve", "ingest", "directory"):
        url = as_url(admin_url, user=f"{name}_{use}", password="only-for-tests")
        found[f"OPENNOTICE_{use.upper()}_DATABASE_URL"] = url
    unknown = {
        "auth": {"OPENNOTICE_REPORTING_GRPC_BIND", "OPENNOTICE_AUTH_GRPC_ADDRESS"},
        "reporting": {"OPENNOTICE_AUTH_GRPC_BIND"},
    }
    return {key: value for key, value in found.items() if key not in unknown[name]}


def used(processes: dict[str, int]) -> dict[str, float]:
    """Returns CPU seconds so far, ours too; on a shared machine they say more than the clock."""
    return {name: cpu_seconds(pid) for name, pid in processes.items()} | {"client": time.process_time()}


async def measure(ring: Keyring, port: int, processes: dict[str, int]) -> None:
    """Prints the time of each kind of search and the rate of the export."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CLIENT_OPTIONS)
    stub = reporting_pb2_grpc.ReportingServiceStub(channel)
    now = datetime.now(UTC)
    last_month = reporting_pb2.OpenFilter()
    last_month.start_time.FromDatetime(now - timedelta(days=30))
    last_month.end_time.FromDatetime(now - timedelta(days=29))
    filters: dict[str, dict[str, Any]] = {
        "first page": {},
        "one client": {"client": f"clients/{UUID(int=(1 << 80) + 19_000)}"},
        "one busy client": {"client": f"clients/{UUID(int=1 << 80)}"},
        "name of one": {"client": "novak 1999"},
        "name of many": {"client": "garcía"},
        "one letter": {"client": "a"},
        "name of nobody": {"client": "qqqq"},
        "ref": {"client": "CASE-000007"},
        "portal": {"portal": f"portals/{UUID(int=(2 << 80) + 11)}"},
        "link": {"link": f"links/{UUID(int=(3 << 80) + 5)}"},
        "network of many": {"network": "america"},
        "rare network": {"network": "network 399"},
        "network of nobody": {"network": "qqqq"},
        "AS number": {"network": "AS1390"},
        "address": {"ip": "73.1.2.3"},
        "range /24": {"ip": "73.1.2.0/24"},
        "range /8": {"ip": "73.0.0.0/8"},
        "range of all": {"ip": "0.0.0.0/0"},
        "range of nobody": {"ip": "10.0.0.0/8"},
        "device": {"devices": [2]},
        "rare verdict": {"verdicts": [6]},
        "no such kind": {"kinds": [3]},
        "one day": {"start_time": last_month.start_time, "end_time": last_month.end_time},
        "rare verdict, one letter": {"verdicts": [6], "client": "a"},
        "many networks, nobody's kind": {"network": "america", "kinds": [3]},
    }
    for name, values in filters.items():
        request = reporting_pb2.ListOpensRequest(filter=reporting_pb2.OpenFilter(**values))
        spent = []
        for _ in range(7):
            began = time.perf_counter()
            answer = await stub.ListOpens(request, metadata=ring.as_person(DANA))
            spent.append((time.perf_counter() - began) * 1000)
        print(f"{name:32} {statistics.median(spent):8.1f} ms  (slowest {max(spent):7.1f})  {len(answer.opens)} rows")
    token, spent = "", []
    for _ in range(200):
        began = time.perf_counter()
        answer = await stub.ListOpens(
            reporting_pb2.ListOpensRequest(page_size=200, page_token=token), metadata=ring.as_person(DANA)
        )
        spent.append((time.perf_counter() - began) * 1000)
        token = answer.next_page_token
    print(f"{'200 pages of 200':32} {statistics.median(spent):8.1f} ms  (slowest {max(spent):7.1f})")
    for name, key in reporting_pb2.SummaryKey.items()[1:]:
        began = time.perf_counter()
        counting = reporting_pb2.SummarizeOpensRequest(key=key, time_zone="America/New_York")
        summary = await stub.SummarizeOpens(counting, metadata=ring.as_person(DANA))
        print(f"{name:32} {(time.perf_counter() - began) * 1000:8.1f} ms  {summary.total:,} opens")
    for name, words in (("export of all", ""), ("export of a client's name", "garcía")):
        before = used(processes)
        began, rows, first = time.perf_counter(), 0, 0.0
        export = reporting_pb2.ExportOpensRequest(filter=reporting_pb2.OpenFilter(client=words))
        async for part in stub.ExportOpens(export, metadata=ring.as_person(DANA)):
            first = first or time.perf_counter() - began
            rows += len(part.opens)
        spent_all = time.perf_counter() - began
        rate = f"{rows:,} rows in {spent_all:.2f} s: {rows / spent_all:,.0f} rows/s"
        print(f"{name:32} {rate}, first after {first:.3f} s")
        # The server's side of the connection ends a moment after ours, and only then its time is counted.
        await asyncio.sleep(0.5)
        micros = [f"{name} {(spent - before[name]) / rows * 1e6:.1f}" for name, spent in used(processes).items()]
        print(f"{'':32} CPU time a row in µs: {', '.join(micros)}")
    await channel.close()


def start(argv: Sequence[str], **arguments: Any) -> "subprocess.Popen[bytes]":
    """Starts a process."""
    return subprocess.Popen(argv, **arguments)


async def main(rows: int, keep: str) -> None:
    """Runs everything and tidies up."""
    folder = Path(keep or tempfile.mkdtemp(prefix="opennotice-bench-"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)
    server = Postgres(folder / "postgres", free_port(), "only-for-tests", account_for_postgres("nobody"))
    fresh = not server.data.exists()
    server.prepare()
    program = server.program()
    running: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "log").open("a") as log:
            running.append(start(program.argv, **program.arguments(), stdout=log, stderr=log))
        assert wait_until(server.is_ready, seconds=20), (folder / "log").read_text()
        migrate(server.admin_url, dict.fromkeys(role_names(), "only-for-tests"))
        ingest = Database(as_url(server.admin_url, user="reporting_ingest", password="only-for-tests"), name="bench")
        await ingest.open()
        if fresh:
            await fill(ingest, rows)
            async with await AsyncConnection.connect(server.admin_url, autocommit=True) as conn:
                await conn.execute("vacuum analyze")
        await ingest.close()
        ring, ports = keyring(), {"auth": free_port(), "reporting": free_port()}
        for name in ports:
            env = {**os.environ, **environment(ring, server.admin_url, name, ports)}
            running.append(start([sys.executable, "-m", f"services.{name}"], env=env))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['reporting']}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
        pids = {"postgres": running[0].pid, "reporting": running[-1].pid}
        await measure(ring, ports["reporting"], pids)
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGINT if process is running[0] else signal.SIGTERM)
            process.wait(30)
        if not keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--keep", default="", help="a folder for the database, to be used again by the next run")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rows, arguments.keep))
