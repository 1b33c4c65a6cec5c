"""A process starts before what it needs is there, says so, and goes on by itself when it comes."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg

from bundle.embedded import Nats
from services.chassis.serve import Process, answers
from services.chassis.settings import Address
from tests.fix_bundle import ROOT
from tests.fix_nats import running
from tests.fix_postgres import Database, as_url
from tests.fix_rpc import Keyring, free_address


@asynccontextmanager
async def forwarded(port: int, target: int) -> AsyncIterator[None]:
    """Lets a server that runs be reached at a port where nobody listened before."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    yield
    server.close()


async def until_ready(client: httpx.AsyncClient, status: int) -> str:
    """Waits until /ready answers with a status and returns what it says."""
    async with asyncio.timeout(30):
        while True:
            try:
                answer = await client.get("/ready")
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == status:
                return answer.text
            await asyncio.sleep(0.05)


async def test_e10_a_process_waits_for_database_and_nats(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    probe, postgres, nats, monitor = (free_address() for _ in range(4))
    late_url = as_url(database.url("link", "serve"), host="127.0.0.1", port=str(postgres.port))
    server = Nats(tmp_path, nats.port, monitor.port, "only-for-tests")
    process = Process("link", replace(keyring.settings("link"), probe_bind=Address("127.0.0.1", probe.port)))

    async def wire(process: Process) -> None:
        pool = await process.database(late_url)
        process.add_check("postgres", answers(pool))
        process.bus(server.url, streams=["LINK"])
        await process.schema(pool, "link")

    run = asyncio.create_task(process.run(wire))
    real_port = int(database.admin_url.rsplit(":", 1)[1].split("/")[0])
    async with httpx.AsyncClient(base_url=f"http://{probe}") as client:
        assert await until_ready(client, 503) == "starting\n"
        assert (await client.get("/live")).status_code == 200
        async with forwarded(postgres.port, real_port):
            async with asyncio.timeout(30):
                while (await client.get("/ready")).text == "starting\n":
                    await asyncio.sleep(0.05)
            assert "nats: NATS does not answer" in (await client.get("/ready")).text
            told = (await client.get("/metrics")).text
            assert "\nopennotice_ready 0.0\n" in told
            assert "\nopennotice_nats_away 1.0\n" in told
            with running(server):
                assert await until_ready(client, 200) == "ready\n"
                told = (await client.get("/metrics")).text
                assert "python_info" in told
                assert "\nopennotice_ready 1.0\n" in told
                assert "\nopennotice_nats_away 0.0\n" in told
                process.stop()
                async with asyncio.timeout(20):
                    assert await run == 0


async def test_a_schema_newer_than_the_program_ends_the_process(database: Database, keyring: Keyring) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute("insert into link.schema_migrations (name, sha256) values ('9999_from_the_future', 'x')")
    process = Process("link", keyring.settings("link"))

    async def wire(process: Process) -> None:
        await process.schema(await process.database(database.url("link", "serve")), "link")

    async with asyncio.timeout(20):
        assert await process.run(wire) == 1


def test_a_process_that_hangs_ends_and_says_where(keyring: Keyring) -> None:
    settings = keyring.settings("link")
    given = {"port": settings.probe_bind.port, "key": settings.identity_key, "trust": settings.identity_trust}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.chassis.hanging"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        check=False,
    )
    # It had worked for twice as long as it may hang, and nobody minded.
    assert done.stdout == "hangs now\n"
    assert done.returncode == 1
    assert time.monotonic() - began < 40, "sooner than it would have gone on by itself"
    assert "Timeout" in done.stderr
    assert "hanging.py" in done.stderr, "the place is told"
