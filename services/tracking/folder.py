"""The folder of tracking's own files: there, writable, and no other process's.

Two processes on one folder would each hand over the other's spool and overwrite the other's copy of the directory.
"""

import asyncio
import fcntl
import os
import time
from pathlib import Path

from services.chassis import log
from services.chassis.serve import StartFault

_LOG = log.get(__name__)
SETTING = "OPENNOTICE_DATA_DIR"
# A predecessor that was killed may still be ending; whoever lives longer than this is a second one.
_WAIT_SECONDS = 0.5
_OUR_FILES = (".sqlite", ".sqlite-wal", ".sqlite-shm")


async def take(folder: Path) -> None:
    """Makes the folder this process's own until it ends; raises StartFault when it cannot be."""
    try:
        descriptor = await asyncio.to_thread(_open, folder)
    except OSError as error:
        raise StartFault(f"{SETTING} cannot be used: {error.strerror}") from None
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            # The folder itself and no file in it: a full disk has no room for one, and visitors are served all the
            # same. The kernel gives it back however the process ends, so nothing has to be cleaned up.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(descriptor)
                raise StartFault(f"{SETTING} is in use by another tracking process; each needs its own") from None
            await asyncio.sleep(0.1)
        except OSError as error:
            # Some network file systems cannot; a second process there is the operator's to prevent.
            _LOG.warning("the folder cannot be locked", setting=SETTING, error=error.strerror)
            return
        else:
            return


def _open(folder: Path) -> int:
    """Returns an open descriptor of the folder, which has to stay open for as long as it is ours."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise StartFault(f"{SETTING} is no folder") from None
    _require(folder, os.R_OK | os.W_OK | os.X_OK, "it")
    for path in folder.iterdir():
        if path.name.endswith(_OUR_FILES):
            _require(path, os.R_OK | os.W_OK, path.name)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _require(path: Path, rights: int, called: str) -> None:
    if os.access(path, rights, effective_ids=True):
        return
    owner, us = path.stat().st_uid, os.geteuid()
    whose = f"belongs to user {owner}, and this process runs as user {us}" if owner != us else "may not be written"
    raise StartFault(f"{SETTING} cannot be used: {called} {whose}")
