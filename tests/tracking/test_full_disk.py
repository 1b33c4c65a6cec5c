"""A full disk under tracking's own files: visitors are served, nobody is told a lie, all recovers by itself."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from opennotice.link.v1 import link_pb2

from tests.tracking.court import Court, wait_for

PAGE = link_pb2.Page(slug="hearing", title="Your hearing", markdown="On **3 March**")


@pytest.fixture
def small_disk(court: Court, tmp_path: Path) -> Iterator[Path]:
    """Gives a disk of 2 MiB with tracking's files on it."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    usual = court.tracking.environment["OPENNOTICE_DATA_DIR"]
    try:
        court.tracking.end()
        court.tracking.environment["OPENNOTICE_DATA_DIR"] = str(tmp_path / "data")
        court.tracking.start()
        yield tmp_path
    finally:
        court.tracking.end()
        court.tracking.environment["OPENNOTICE_DATA_DIR"] = usual
        subprocess.run(["umount", str(tmp_path)], check=True)
        for gate in court.gates.values():
            gate.open()
        court.tracking.start()


def fill(disk: Path) -> Path:
    """Uses up every byte of a disk; returns the file that does."""
    path = disk / "fill"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            return path


def test_visitors_are_served_on_a_full_disk_through_kills_and_restarts(court: Court, small_disk: Path) -> None:
    token, _ = court.new_link(court.portal())
    hosted, _ = court.new_link(court.portal(pages=[PAGE]))
    assert [court.ask(f"/{each}").status for each in (token, hosted)] == [302, 200]
    wait_for(lambda: court.tracking.metric("opennotice_directory_links") == court.rows(_COUNT)[0][0])
    full = fill(small_disk)

    # With PostgreSQL nothing is missing: opens are recorded, links begin and end.
    assert court.ask(f"/{token}").open_id
    new, link = court.new_link(court.portal())
    assert court.ask(f"/{new}").status == 302
    court.call("RevokeLink", link_pb2.RevokeLinkRequest(name=link.name))
    wait_for(lambda: court.ask(f"/{new}").status == 410, 3)

    # Without it: served, not recorded, and that is said.
    for gate in court.gates.values():
        gate.shut()
    answers = [court.ask(f"/{token}", headers=[("User-Agent", "x" * 2000)]) for _ in range(200)]
    assert {answer.status for answer in answers} == {302}
    recorded = [answer.open_id for answer in answers if answer.open_id]
    assert court.tracking.metric("opennotice_unrecorded_opens_total") == 200 - len(recorded)
    wait_for(lambda: court.tracking.asked("/ready")[0] == 503, 5)
    wait_for(lambda: court.tracking.metric("opennotice_spool_failing") == 1, 5)
    assert court.tracking.metric("opennotice_tracking_disk_free_bytes") < 2 * 1024 * 1024

    for how in (signal.SIGKILL, signal.SIGTERM):
        court.tracking.end(how)
        court.tracking.start(until="/live")
        wait_for(lambda: court.ask(f"/{token}").status == 302, 5)
        assert court.ask(f"/{hosted}").status == 200

    os.unlink(full)
    for gate in court.gates.values():
        gate.open()
    wait_for(lambda: court.tracking.asked("/ready")[0] == 200, 60)
    wait_for(lambda: court.ask(f"/{new}").status == 410, 60)
    last = wait_for(lambda: court.ask(f"/{token}").open_id, 10)
    for each in [*recorded, last]:
        wait_for(lambda each=each: _is_stored(court, each), 30)  # type: ignore[misc]
    wait_for(lambda: court.tracking.metric("opennotice_spool_failing") == 0, 30)


_COUNT = "select (select count(*) from link.links) + (select count(*) from link.redirects)"


def _is_stored(court: Court, open_id: UUID) -> bool:
    return bool(court.rows("select 1 from tracking.raw_opens where open_id = %s", open_id))
