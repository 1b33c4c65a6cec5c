"""The user's cache folder, shared by all copies of OpenNotice, and how only one of them works on a thing at a time."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bundle.program import HostFault

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Returns where this user's copies of OpenNotice keep what they share."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path is to be ignored.
    base = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return base / "opennotice"


@contextmanager
def alone(name: str, say: Say) -> Iterator[None]:
    """Lets one copy work at a time."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f"{name}.lock").open("w")
    except OSError as error:
        raise HostFault(f"cannot write to the cache folder {cache}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another copy of OpenNotice that prepares the same")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
