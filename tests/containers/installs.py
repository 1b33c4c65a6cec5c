"""What an operator does to an install of its own: starts it, hands secrets over, is refused."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.fix_containers import Containers, docker, left_of, make_project, write_env

# Must not be shown, whatever is wrong with it: in a URL it is spelled with %40.
SECRET = "p@ss/word"


@contextmanager
def installed(folder: Path, **settings: str) -> Iterator[Containers]:
    """An install that was not started yet; nothing of it stays."""
    project = make_project(folder, **settings)
    try:
        yield project
    finally:
        write_env(folder, {**project.settings, "COMPOSE_FILE": "compose.yaml"})
        project.kill()
        project.compose("--profile", "cli", "down", "--volumes", "--remove-orphans", check=False)
        for kind, one in (line.split() for line in left_of(project.project)):
            docker(kind, "rm", one, check=False)


def hand_over(project: Containers, name: str, value: str) -> None:
    """Does what an operator does with a secret."""
    file = project.folder / "handed-over"
    file.write_text(value)
    done = project.command("secret", name, str(file))
    assert done.returncode == 0, done.stderr
    file.unlink()


def refused(project: Containers, *words: str) -> str:
    """Starts it in vain; returns the one line that says why."""
    begun = time.monotonic()
    done = project.command(*(words or ("up",)))
    assert done.returncode != 0, done.stdout
    assert time.monotonic() - begun < 75, "an operator does not wait that long for a word"
    assert len(done.stderr.splitlines()) == 1, done.stderr
    line = done.stderr.strip()
    for shown in (SECRET, quote(SECRET, safe="")):
        assert shown not in done.stdout + line
    return line


def runs(project: Containers) -> list[str]:
    """Returns which containers of a project run."""
    return project.compose("ps", "--services", "--status", "running").stdout.split()
