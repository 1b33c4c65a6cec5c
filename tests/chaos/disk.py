"""A small disk for the data of one server, so that a full one fills nothing else."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# With room for the longest trial: a cluster of PostgreSQL takes 60 MB and up to 80 of its log before anybody writes to
# it, and 30,000 visits as much again.
MEGABYTES = {"postgres": 512, "nats": 128, "tracking": 64, "home": 704}
_MNT_DETACH = 2
_BLOCK = 64 * 1024
# Set for the program that runs with mounts of its own.
_MARK = "OPENNOTICE_CHAOS_MOUNTS"
_libc = ctypes.CDLL(None, use_errno=True)


def take_own_mounts() -> None:
    """Runs this program once more where it may mount, and where its mounts go with it however it ends.

    Root needs no more than that; anybody else becomes one who may mount inside a user namespace, and nowhere else.
    Where the machine allows neither, this returns, and mounting says why it cannot be done.
    """
    if _MARK in os.environ:
        return
    unshare = ["unshare", "--mount"]
    if os.geteuid():
        unshare += ["--user", "--map-current-user", "--keep-caps"]
    with contextlib.suppress(OSError):
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
            os.environ[_MARK] = "1"
            os.execvp("unshare", [*unshare, sys.executable, "-m", "tests.chaos", *sys.argv[1:]])  # noqa: S606  (ourselves)


@contextlib.contextmanager
def small_disk(folder: Path, name: str) -> Iterator[Path]:
    """Gives a folder that is a disk of its own; raises OSError when this account may not mount."""
    folder.mkdir()
    options = f"size={MEGABYTES[name]}m,mode=0711".encode()
    if _libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options):
        reason = os.strerror(ctypes.get_errno())
        raise OSError(f"no small disk can be mounted: {reason}; be root, or allow user namespaces and install unshare")
    try:
        yield folder
    finally:
        # What still has a file open keeps it until it ends; for everybody else the disk is gone.
        _libc.umount2(bytes(folder), _MNT_DETACH)
        folder.rmdir()


class Filling:
    """A disk without room, for as long as `keep` is called; leaving the context gives the room back."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filling"
        self._file = self._path.open("wb", buffering=0)

    def __enter__(self) -> "Filling":
        """Fills it."""
        self.keep()
        return self

    def __exit__(self, *_: object) -> None:
        """Frees it."""
        self._file.close()
        self._path.unlink()

    def keep(self) -> None:
        """Takes what others have given back meanwhile."""
        with contextlib.suppress(OSError):
            while True:
                self._file.write(bytes(_BLOCK))
