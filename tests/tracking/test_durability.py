"""What visitors and their opens live through: dead or frozen PostgreSQL, NATS and link, full disks, kills."""

import asyncio
import base64
import concurrent.futures
import contextlib
import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import nats
import psycopg
import pytest
from opennotice.link.v1 import events_pb2 as link_events_pb2
from opennotice.link.v1 import link_pb2
from opennotice.tracking.v1 import events_pb2

from tests.tracking.court import ROOT, Answer, Court, log_lines, wait_for

PAGE = link_pb2.Page(slug="hearing", title="Your hearing", markdown="On **3 March**")


def stored(court: Court, opens: list[UUID]) -> Counter[UUID]:
    """Returns how often each open is in PostgreSQL."""
    rows = court.rows("select open_id from tracking.raw_opens where open_id = any(%s)", opens)
    return Counter(row[0] for row in rows)


def announced(court: Court) -> int:
    """Returns how many packs wait for NATS."""
    return int(court.rows("select count(*) from tracking.outbox")[0][0])


def ask_many(court: Court, path: str, count: int, at_once: int = 16) -> list[Answer]:
    """Sends many requests, some at the same time."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(lambda _: court.ask(path), range(count)))


def spooled(court: Court) -> int:
    """Returns how many opens lie in the spool."""
    with sqlite3.connect(f"file:{court.folder}/data/spool.sqlite?mode=ro", uri=True) as conn:
        return int(conn.execute("select count(*) from opens").fetchone()[0])


def ids(answers: list[Answer]) -> list[UUID]:
    """Returns the opens of answers, each of which must have one."""
    found = [answer.open_id for answer in answers]
    assert all(found)
    assert len(set(found)) == len(found)
    return [each for each in found if each]


def test_opens_at_the_same_time_share_commits_and_each_is_stored_once(court: Court) -> None:
    token, _ = court.known_link()
    before = court.tracking.metric("opennotice_batch_opens_count")
    opens = ids(ask_many(court, f"/{token}", 400, at_once=32))
    assert stored(court, opens) == dict.fromkeys(opens, 1)
    assert court.tracking.metric("opennotice_batch_opens_count") - before < 400
    wait_for(lambda: announced(court) == 0)


@pytest.mark.parametrize("how", ["shut", "hold"])
def test_opens_without_postgresql_are_spooled_and_moved_later_each_once(court: Court, how: str) -> None:
    token, _ = court.known_link()
    opens = ids(ask_many(court, f"/{token}", 20))
    getattr(court.gates["postgres"], how)()
    began = time.monotonic()
    first = court.ask(f"/{token}")
    assert time.monotonic() - began < 2.5
    # The time-out is paid once, not by everybody.
    began = time.monotonic()
    away = ids([first, *ask_many(court, f"/{token}", 60)])
    assert time.monotonic() - began < 3
    assert spooled(court) >= 61
    assert court.tracking.asked("/ready") == (200, "ready\n")
    court.gates["postgres"].open()
    wait_for(lambda: stored(court, away) == dict.fromkeys(away, 1), 30)
    wait_for(lambda: spooled(court) == 0)
    assert stored(court, opens) == dict.fromkeys(opens, 1)
    wait_for(lambda: court.tracking.metric("opennotice_postgres_away") == 0)
    direct = ids([court.ask(f"/{token}")])
    assert stored(court, direct) == {direct[0]: 1}


def test_an_open_whose_commit_was_never_confirmed_is_stored_once(court: Court) -> None:
    token, _ = court.known_link()
    assert court.ask(f"/{token}").status == 302
    court.gates["postgres"].hold_answers()
    opens = ids([court.ask(f"/{token}")])
    # PostgreSQL has it, but nobody was told: so it is in the spool as well.
    wait_for(lambda: stored(court, opens) == {opens[0]: 1})
    assert spooled(court) == 1
    court.gates["postgres"].open()
    wait_for(lambda: spooled(court) == 0, 20)
    assert stored(court, opens) == {opens[0]: 1}


def test_a_known_link_is_served_with_everything_else_down_even_after_kill_9(court: Court) -> None:
    external, _ = court.known_link()
    hosted, _ = court.known_link(pages=[PAGE])
    for gate in court.gates.values():
        gate.shut()
    court.tracking.end(signal.SIGKILL)
    court.tracking.start()
    answers = [court.ask(f"/{external}"), court.ask(f"/{hosted}"), court.ask(f"/{hosted}/hearing")]
    assert [answer.status for answer in answers] == [302, 200, 200]
    assert b"<strong>3 March</strong>" in answers[1].body
    unknown = court.ask("/" + "C" * 22)
    assert (unknown.status, unknown.header("retry-after")) == (503, "2")
    for gate in court.gates.values():
        gate.open()
    opens = ids(answers)
    wait_for(lambda: stored(court, opens) == dict.fromkeys(opens, 1), 40)
    assert court.record(opens[0]).directory_stale


def test_no_answered_open_is_lost_when_tracking_is_killed_under_load(court: Court) -> None:
    token, _ = court.known_link()
    assert court.ask(f"/{token}").status == 302
    ended = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        work = [threads.submit(_ask_until, court, token, ended) for _ in range(8)]
        for _ in range(3):
            time.sleep(0.4)
            court.tracking.end(signal.SIGKILL)
            court.tracking.start()
        ended.set()
        answered = [each for done in work for each in done.result()]
    assert len(answered) > 100
    wait_for(lambda: stored(court, answered) == dict.fromkeys(answered, 1), 20)


def _ask_until(court: Court, token: str, ended: threading.Event) -> list[UUID]:
    answered: list[UUID] = []
    while not ended.is_set():
        # What the killed process had in its hands is cut.
        with contextlib.suppress(OSError, AssertionError):
            if open_id := court.ask(f"/{token}").open_id:
                answered.append(open_id)
    return answered


def test_a_restart_refuses_nobody(court: Court) -> None:
    token, _ = court.known_link()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        work = [threads.submit(_ask_for, court, token, 4.0) for _ in range(4)]
        time.sleep(0.5)
        assert court.tracking.end() == 0
        court.tracking.start()
        answers = [answer for done in work for answer in done.result()]
    assert {answer.status for answer in answers} == {302}
    opens = ids(answers)
    wait_for(lambda: stored(court, opens) == dict.fromkeys(opens, 1))


def _ask_for(court: Court, token: str, seconds: float) -> list[Answer]:
    answers = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answers.append(court.ask(f"/{token}"))
    return answers


def test_a_link_works_with_the_request_right_after_its_creation(court: Court) -> None:
    portal = court.portal()
    for _ in range(20):
        token, _ = court.new_link(portal)
        assert court.ask(f"/{token}").status == 302


def test_a_link_made_while_nats_is_away_works_and_its_end_arrives_too(court: Court) -> None:
    portal = court.portal()
    court.gates["nats"].shut()
    token, link = court.new_link(portal)
    answer = court.ask(f"/{token}")
    assert answer.status == 302
    court.call("RevokeLink", link_pb2.RevokeLinkRequest(name=link.name))
    wait_for(lambda: court.ask(f"/{token}").status == 410, 3)
    opens = ids([answer])
    assert stored(court, opens) == {opens[0]: 1}
    assert announced(court) > 0
    court.gates["nats"].open()
    wait_for(lambda: announced(court) == 0, 30)


@pytest.mark.parametrize("how", ["shut", "hold"])
def test_an_unknown_token_is_503_while_link_is_silent_and_known_ones_work(court: Court, how: str) -> None:
    token, _ = court.known_link()
    assert court.ask(f"/{token}").status == 302
    getattr(court.gates["link"], how)()
    began = time.monotonic()
    unknown = court.ask("/" + "D" * 22)
    assert time.monotonic() - began < 1.5
    assert (unknown.status, unknown.header("retry-after"), unknown.open_id) == (503, "2", None)
    assert b"Please try again" in unknown.body
    # What cannot be a token is unknown without anybody being asked.
    assert court.ask("/D").status == 404
    assert court.ask(f"/{token}").status == 302
    court.gates["link"].open()
    wait_for(lambda: court.ask("/" + "D" * 22).status == 404)


def test_changes_missed_while_everything_was_cut_are_made_up_for(court: Court) -> None:
    token, link = court.known_link()
    assert court.ask(f"/{token}").status == 302
    court.gates["nats"].shut()
    court.gates["link"].shut()
    court.call("RevokeLink", link_pb2.RevokeLinkRequest(name=link.name))
    time.sleep(0.3)
    stale = wait_for(lambda: court.tracking.metric("opennotice_directory_stale") == 1 and court.ask(f"/{token}"), 10)
    assert stale.status == 302
    opens = ids([stale])
    assert court.record(opens[0]).directory_stale
    court.gates["link"].open()
    court.gates["nats"].open()
    wait_for(lambda: court.ask(f"/{token}").status == 410, 10)


def test_nonsense_among_the_changes_is_left_out_and_changes_nothing(court: Court) -> None:
    token, link = court.known_link()
    token_hash = hashlib.sha256(token.encode()).digest()
    known = link_pb2.Link(name=link.name, portal=link.portal)
    agency = str(court.agency_id)
    nonsense = [
        link_pb2.DirectoryEntry(revision=1, agency_id="no agency", token_hash=token_hash),
        link_pb2.DirectoryEntry(revision=1, agency_id=agency, token_hash=b"short", link=known),
        link_pb2.DirectoryEntry(revision=1, agency_id=agency, token_hash=token_hash),
    ]
    events = [b"", b"\xff\xff\xff", b"{}", b"x" * 1_000_000]
    events += [link_events_pb2.DirectoryChanged(entries=[one]).SerializeToString() for one in nonsense]
    asyncio.run(_tell(court, events))
    wait_for(lambda: [line for line in log_lines(court.tracking) if line["event"] == "directory event cannot be read"])
    wait_for(lambda: [line for line in log_lines(court.tracking) if line["event"] == "directory entry cannot be read"])
    wait_for(lambda: court.tracking.metric("opennotice_directory_stale") == 0)
    assert court.ask(f"/{token}").status == 302
    court.call("RevokeLink", link_pb2.RevokeLinkRequest(name=link.name))
    wait_for(lambda: court.ask(f"/{token}").status == 410, 5)


async def _tell(court: Court, events: list[bytes]) -> None:
    client = await nats.connect(court.link.environment["OPENNOTICE_NATS_URL"])
    for event in events:
        await client.publish("opennotice.link.v1.directory.changed", event)
    await client.drain()


def test_when_the_spool_fails_too_the_visitor_is_served_and_the_log_has_the_open(court: Court) -> None:
    token, link = court.known_link()
    assert court.ask(f"/{token}").status == 302
    data = court.folder / "data"
    court.gates["postgres"].shut()
    court.tracking.end()
    (data / "spool.sqlite").rename(data / "spool.kept")
    for rest in data.glob("spool.sqlite-*"):
        rest.unlink()
    # A folder stands where the file should be: nobody, not even root, can open it as one.
    (data / "spool.sqlite").mkdir()
    logged = len(court.tracking.log.read_text())
    court.tracking.start(until="/live")
    answer = court.ask(f"/{token}", headers=[("User-Agent", "Mozilla/5.0 (last copy)")])
    assert (answer.status, answer.open_id) == (302, None)
    assert court.tracking.metric("opennotice_unrecorded_opens_total") == 1
    status, told = wait_for(lambda: (found := court.tracking.asked("/ready"))[0] == 503 and found, 5)
    assert (status, "spool" in told) == (503, True)
    lines = [line for line in log_lines(court.tracking) if line["event"] == "open could not be recorded"]
    record = events_pb2.OpenRecorded.FromString(base64.b64decode(lines[-1]["record"]))
    assert record.link_id == link.name.partition("/")[2]
    assert record.user_agent == "Mozilla/5.0 (last copy)"
    assert token not in court.tracking.log.read_text()
    # The disk is back, without a restart; then PostgreSQL.
    (data / "spool.sqlite").rmdir()
    (data / "spool.kept").rename(data / "spool.sqlite")
    wait_for(lambda: court.tracking.asked("/ready")[0] == 200, 10)
    opens = ids([court.ask(f"/{token}")])
    court.gates["postgres"].open()
    wait_for(lambda: stored(court, opens) == {opens[0]: 1}, 30)
    # An operator brings the last copy back, with the prefix that compose writes; twice does no harm.
    log = "".join(f"tracking-1  | {line}\n" for line in court.tracking.log.read_text()[logged:].splitlines())
    for _ in range(2):
        assert recovered(court, log) == (0, "1 opens of this log are on record\n", "")
    assert court.record(UUID(record.open_id)) == record
    cut = log.replace(lines[-1]["record"], lines[-1]["record"][:-9])
    code, told, fault = recovered(court, cut)
    assert (code, told) == (1, "0 opens of this log are on record\n")
    assert "cannot be read" in fault


def test_a_spool_damaged_while_postgresql_is_away_gives_back_what_can_be_read_of_it(court: Court) -> None:
    token, _ = court.known_link()
    court.gates["postgres"].shut()
    before = ids(ask_many(court, f"/{token}", 100))
    court.tracking.end()
    spool = court.folder / "data" / "spool.sqlite"
    with spool.open("r+b") as file:
        # One page of about fifteen, behind those that are read when it is opened.
        file.seek(6 * 4096)
        file.write(bytes(4096))
    court.tracking.start()
    after = ids(ask_many(court, f"/{token}", 20))
    try:
        wait_for(lambda: court.tracking.metric("opennotice_spool_put_aside_files") == 1)
        # Killed half way or not, the rest comes.
        court.tracking.end(signal.SIGKILL)
        court.tracking.start()
        court.gates["postgres"].open()
        wait_for(lambda: stored(court, after) == dict.fromkeys(after, 1), 30)
        event = "a part of a damaged spool cannot be read"
        told = wait_for(lambda: [line for line in log_lines(court.tracking) if line["event"] == event], 30)
        wait_for(lambda: len(stored(court, before)) == told[-1]["opens_brought_back"], 30)
        assert 80 <= len(stored(court, before)) < 100
        assert set(stored(court, before).values()) == {1}
        assert court.tracking.metric("opennotice_spool_put_aside_files") == 1
    finally:
        for path in spool.parent.glob("spool.sqlite.broken-*"):
            path.unlink()


def recovered(court: Court, log: str) -> tuple[int, str, str]:
    """Has the opens of a log put on record; returns exit code and what was said."""
    done = subprocess.run(
        [sys.executable, "-m", "services.tracking.recover"],
        cwd=ROOT,
        env={**os.environ, **court.tracking.environment},
        input=log,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_damaged_copy_of_the_directory_is_put_aside_and_loaded_again(court: Court) -> None:
    token, _ = court.known_link()
    assert court.ask(f"/{token}").status == 302
    court.tracking.end()
    path = Path(court.folder / "data" / "directory.sqlite")
    # Its log too: what was not yet moved out of that would mend the file.
    for each in path.parent.glob(f"{path.name}*"):
        each.write_bytes(os.urandom(each.stat().st_size))
    court.tracking.start()
    wait_for(lambda: court.ask(f"/{token}").status == 302)
    wait_for(lambda: court.is_known(token))
    assert list(path.parent.glob("directory.sqlite.broken-*"))


def test_a_refused_open_takes_no_other_along_and_becomes_a_dead_letter(court: Court) -> None:
    token, link = court.known_link()
    assert court.ask(f"/{token}").status == 302
    refuse = "alter table tracking.raw_opens add constraint for_this_test check (link_id <> '{}') not valid"
    other, _ = court.known_link()
    _as_owner(court, refuse.format(link.name.partition("/")[2]))
    try:
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda path: court.ask(path), [f"/{token}", *[f"/{other}"] * 60]))
    finally:
        _as_owner(court, "alter table tracking.raw_opens drop constraint for_this_test")
    bad, *good = ids(answers)
    assert stored(court, good) == dict.fromkeys(good, 1)
    assert stored(court, [bad]) == {}
    letters = wait_for(lambda: court.rows("select payload, error from tracking.dead_letters"), 20)
    pack = events_pb2.OpensRecorded.FromString(letters[0][0])
    assert [each.open_id for each in pack.opens] == [str(bad)]
    assert re.search("for_this_test", letters[0][1])


def _as_owner(court: Court, statement: str) -> None:
    with psycopg.connect(court.database.admin_url, autocommit=True) as conn:
        conn.execute(statement.encode())


def test_packs_arrive_on_the_bus_with_every_open_inside(court: Court) -> None:
    token, _ = court.known_link()
    opens = ids(ask_many(court, f"/{token}", 50))
    wait_for(lambda: announced(court) == 0)
    found = Counter(UUID(each.open_id) for pack in court.packs() for each in pack.opens)
    assert {each: found[each] for each in opens} == dict.fromkeys(opens, 1)
