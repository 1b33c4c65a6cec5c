"""How many opens a second enrichment explains on one core: `python -m tests.bench.enrichment [opens]`.

Packs as tracking sends them (200 opens) are parsed, explained, serialized. Agents are those of a published corpus, one
in twenty of a machine, one in ten never seen before; every address is another one. PostgreSQL and NATS are left out.
"""

import asyncio
import datetime
import itertools
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
from opennotice.enrichment.v1 import events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_events_pb2

from services.chassis import clock
from services.chassis.names import new_id
from services.enrichment import network, verdict
from services.enrichment.data_files import DataFolder
from services.enrichment.explain import explain
from services.enrichment.network import NetworkList
from tests.enrichment import ip_data
from tests.enrichment.test_device import corpus, machines

PACK_SIZE = 200
FLOOR, TARGET = 5_000, 15_000


def opens(numbers: random.Random) -> Iterator[tracking_events_pb2.OpenRecorded]:
    """Yields opens as they arrive."""
    browsers, robots = list(corpus()), machines()
    networks = [text.split("/")[0].rsplit(".", 2)[0] for text in ip_data.ASNS if ":" not in text]
    headers = [
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-user", "?1"),
        ("sec-ch-ua-mobile", "?1"),
        ("accept", "text/html"),
    ]
    for number in itertools.count():
        agent = numbers.choice(robots if number % 20 == 0 else browsers)
        yield tracking_events_pb2.OpenRecorded(
            open_id=str(new_id()),
            open_time=clock.to_proto(clock.now()),
            agency_id="01890000-0000-7000-8000-00000000000a",
            kind=tracking_events_pb2.OPEN_KIND_PORTAL,
            link_id=str(new_id()),
            client_id=str(new_id()),
            method="GET",
            status=200,
            ip_address=f"{numbers.choice(networks)}.{numbers.randrange(256)}.{numbers.randrange(256)}",
            user_agent=f"{agent} Build/{number}" if number % 10 == 0 else agent,
            accept_language="es-MX,es;q=0.9,en;q=0.8",
            headers=[tracking_events_pb2.Header(name=name, value=value) for name, value in headers],
        )


def main(count: int) -> None:
    """Measures and prints."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    source = opens(random.Random(1))
    packs = [
        tracking_events_pb2.OpensRecorded(
            batch_id=str(new_id()), opens=itertools.islice(source, PACK_SIZE)
        ).SerializeToString()
        for _ in range(count // PACK_SIZE)
    ]
    pack = verdict.load()
    staff = NetworkList([f"198.51.100.{number}/32" for number in range(200)])
    with tempfile.TemporaryDirectory() as folder:
        watched = DataFolder(ip_data.write_all(Path(folder)), 64 << 20, network.load_table())
        asyncio.run(watched.refresh(datetime.datetime.now(datetime.UTC)))
        began = time.process_time()
        for payload in packs:
            received = tracking_events_pb2.OpensRecorded.FromString(payload)
            now = clock.to_proto(clock.now())
            assert now is not None
            explained = [
                explain(opened, pack=pack, lookup=watched.current, staff=staff, now=now) for opened in received.opens
            ]
            events_pb2.OpensEnriched(batch_id=received.batch_id, opens=explained).SerializeToString()
        seconds = time.process_time() - began
    done = len(packs) * PACK_SIZE
    print(f"{done / seconds:,.0f} opens/s on one core ({done:,} opens; target {TARGET:,}, floor {FLOOR:,})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40_000)
