"""A program this machine runs for us: how it is started, under which account, and what ends it when we die."""

import ctypes
import itertools
import os
import pwd
import random
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class HostFault(Exception):
    """Something about this machine that its operator has to put right; the text is one line for them."""


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def account_for_postgres(name: str) -> Account | None:
    """Returns the account PostgreSQL runs under when we are root, which it refuses; None means our own."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise HostFault(f"OPENNOTICE_POSTGRES_ACCOUNT: there is no account {name!r} on this machine") from None
    if entry.pw_uid == 0:
        raise HostFault("OPENNOTICE_POSTGRES_ACCOUNT: PostgreSQL refuses to run as root; name another account")
    return Account(name, entry.pw_uid, entry.pw_gid)


def reachable(path: Path, account: Account | None, wanted: int = 0o5) -> bool:
    """Tells whether an account may pass every folder above a path, and do with it what is wanted (read and pass)."""
    if account is None:
        return True
    steps = [path, *path.parents]
    return all(_may(step, account, wanted if step == path else 0o1) for step in steps)


def _may(path: Path, account: Account, wanted: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        shift = 6
    elif status.st_gid == account.gid:
        shift = 3
    else:
        shift = 0
    return (status.st_mode >> shift) & wanted == wanted


@dataclass(frozen=True)
class Program:
    """What to run and how."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    # Sent by the kernel when the process that started the program dies, however it dies.
    death_signal: signal.Signals
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    inherited: Sequence[int] = field(default=())

    def arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments that subprocess.Popen and asyncio's subprocesses share."""
        arguments: dict[str, Any] = {
            "cwd": self.folder,
            "env": dict(self.environment),
            "pass_fds": tuple(self.inherited),
            # A terminal's Ctrl-C goes to its whole process group; children are stopped by us, in order.
            "start_new_session": True,
            # Runs after the change of user, which would otherwise clear the signal again.
            "preexec_fn": _die_with(self.death_signal, os.getpid()),
        }
        if self.account is not None:
            arguments |= {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        return arguments


def _die_with(death_signal: signal.Signals, parent: int) -> Callable[[], None]:
    """Makes a child that ends with its parent. It fires when the creating thread ends: start from the main one."""

    def arm() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        # The parent may have died between fork and prctl: then nobody will send the signal any more.
        if os.getppid() != parent:
            os._exit(1)

    return arm


# Below the range from which the system takes ports by itself: one of those could be gone before it is listened on.
_LOWEST_PORT, _PORTS = 20_000, 12_000
# In turn from a place of our own, so that no port comes twice: who asked a listener that has ended may still be asking.
_turns = itertools.count(random.randrange(_PORTS))  # noqa: S311  (not a secret)


def free_port() -> int:
    """Returns a loopback port that is free now, and another one each time."""
    while not is_free("127.0.0.1", port := _LOWEST_PORT + next(_turns) % _PORTS):
        continue
    return port


def is_free(host: str, port: int) -> bool:
    """Tells whether a listener could be opened on an address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
