"""Restart and upgrade: what waits unread, and two that bring one database up to date."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
from opennotice.enrichment.v1 import events_pb2 as enrichment_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2
from psycopg.conninfo import make_conninfo

from services.chassis.bus import Outgoing
from services.chassis.migrate import migrations_of, services_with_tables
from tests.chaos import by_hand
from tests.chaos.rig import OWN, Rig, wait_for
from tests.chaos.trial import Outcome, Run, Trial
from tests.fix_bundle import ROOT

_KEPT_EVENTS = ROOT / "tests" / "data" / "events"
_LOAD_SECONDS = 60.0


def two_migrators(run: Run) -> Outcome:
    """Two that bring a new database up to date at the same time: everything is applied once, and both end well."""
    rig, outcome = run.rig, run.outcome
    known = sum(len(migrations_of(service)) for service in services_with_tables())
    program = (
        "import sys; from pathlib import Path; from bundle.first_steps import bring_up_to_date;"
        "from bundle.home import Home; print('ready', flush=True); sys.stdin.readline();"
        "print(len(bring_up_to_date(sys.argv[1], Home(Path(sys.argv[2])))))"
    )
    for turn in range(run.scale.kills):
        database = f"chaos_{uuid4().hex[:8]}"
        _outside_a_transaction(rig, f"create database {database}")
        url = make_conninfo(by_hand.superuser_url(rig), dbname=database)
        try:
            pair = [
                subprocess.Popen(
                    [sys.executable, "-c", program, url, str(rig.bundle.home)],
                    cwd=ROOT,
                    env=rig.bundle.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for _ in range(2)
            ]
            for one in pair:
                assert one.stdout is not None
                one.stdout.readline()
            with ThreadPoolExecutor(2) as both:
                said = list(both.map(lambda one: one.communicate("\n", timeout=180), pair))
            outcome.must(
                [one.returncode for one in pair] == [0, 0], f"turn {turn}: {[text[1][-300:] for text in said]}"
            )
            applied = [int(text[0] or -1) for text in said]
            outcome.must(sorted(applied) == [0, known], f"turn {turn}: they applied {applied} of {known}")
        finally:
            _outside_a_transaction(rig, f"drop database if exists {database} with (force)")
    outcome.figures |= {"turns": run.scale.kills, "migrations": known}
    return outcome


def _outside_a_transaction(rig: Rig, statement: str) -> None:
    with psycopg.connect(by_hand.superuser_url(rig), autocommit=True, connect_timeout=10) as conn:
        conn.execute(statement.encode())


def events_of_the_release_before(opens: by_hand.Opens, count: int) -> list[tuple[Outgoing, tracking_pb2.OpenRecorded]]:
    """Returns events as the last release wrote them, each with an open of its own, and that open.

    Everything else in them is what was written down of that release, known to this program or not.
    """
    latest = max(_KEPT_EVENTS.glob("*.json"), key=lambda path: [int(part) for part in path.stem.split(".")])
    kept = {one["type"]: base64.b64decode(one["wire"]) for one in json.loads(latest.read_text())}
    found: list[tuple[Outgoing, tracking_pb2.OpenRecorded]] = []
    for number in range(count):
        explained = bool(number % 2)
        message = enrichment_pb2.OpensEnriched() if explained else tracking_pb2.OpensRecorded()
        message.ParseFromString(kept[message.DESCRIPTOR.full_name])
        message.batch_id = str(uuid4())
        message.ClearField("canary_time")
        was, ours = message.opens[0], opens.recorded()
        inner = was.open if isinstance(was, enrichment_pb2.OpenEnriched) else was
        for name in ("open_id", "agency_id", "link_id"):
            setattr(inner, name, getattr(ours, name))
        inner.open_time.CopyFrom(ours.open_time)
        if isinstance(was, enrichment_pb2.OpenEnriched):
            was.enrich_time.GetCurrentTime()
        found.append((by_hand.event(message), inner))
    return found


def upgraded_with_a_full_queue(run: Run) -> Outcome:
    """10,000 events of the release before wait unread while every process is stopped and started again."""
    rig, outcome, took = run.rig, run.outcome, dict[str, float]()
    count = min(run.scale.backlog, 10_000)
    opens = by_hand.opens_of_nobody(rig)
    old = events_of_the_release_before(opens, count)
    by_hand.put_on_record(rig, [one for _, one in old])

    def damage() -> None:
        with rig.frozen("enrichment"), rig.frozen("reporting"):
            by_hand.publish(rig, [one for one, _ in old])
            waiting = [by_hand.reader(rig, *by_hand.ENRICHMENT), by_hand.reader(rig, *by_hand.REPORTING)]
            unread = sum(one.num_pending or 0 for one in waiting if one)
            # Sent while they stand still: the first thing they do is to end, with everything before them unread.
            pids = {name: rig.pid(name) for name in ("enrichment", "reporting")}
            for pid in pids.values():
                os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        outcome.figures["unread"] = unread
        outcome.must(unread >= count * 0.9, f"only {unread} events waited")
        for name, pid in pids.items():
            wait_for(lambda pid=pid: not rig.is_alive(pid), 60, f"{name} to end")  # type: ignore[misc]
            took[f"{name} with all unread"] = time.monotonic() - began
        for name in OWN:
            took[name] = rig.stop_and_start(name)

    _, verdict = run.load(run.scale.usual, damage, seconds=_LOAD_SECONDS)
    run.nearly_all_served(verdict, took)
    wanted = Counter(one.open_id for _, one in old)
    until = time.monotonic() + run.scale.patience
    while len(there := opens.in_report(rig)) < count and time.monotonic() < until:
        time.sleep(1)
    outcome.must(there == wanted, f"of {count} old opens {len(there & wanted)} are in the report, {there.total()} rows")
    return outcome


TRIALS = [
    Trial("P10", "two migrators at once", two_migrators, own=("nats",)),
    Trial("P10", "stopped with a full queue of the release before", upgraded_with_a_full_queue, own=("nats",)),
]
