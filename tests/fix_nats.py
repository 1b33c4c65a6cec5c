"""A real nats-server with JetStream, as safe as in production: synced before it acknowledges."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundle.embedded import Nats, wait_until
from bundle.program import free_port


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option to use a server that runs already."""
    parser.addoption(
        "--test-nats",
        default=None,
        help="URL of a nats-server of your own with JetStream; the tests share it and make the product's streams there",
    )


@pytest.fixture
def nats_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Gives the URL of a server: the one of --test-nats, or a fresh and empty one for this test (0.1 s)."""
    given = request.config.getoption("--test-nats")
    if given is not None:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="opennotice-tests-nats-"))
    with running(Nats(folder, free_port(), free_port(), "only-for-tests")) as server:
        yield server.url
    shutil.rmtree(folder)


@contextmanager
def running(server: Nats) -> Iterator[Nats]:
    """Runs a server for the time of a block; the same one can be run again on what it kept."""
    server.prepare()
    program = server.program()
    with (server.folder / "log").open("a") as log:
        process = subprocess.Popen(program.argv, **program.arguments(), stdout=log, stderr=log)
    try:
        assert wait_until(server.is_ready, seconds=20), (server.folder / "log").read_text()
        yield server
    finally:
        process.send_signal(program.stop_signal)
        process.wait(20)
