"""What the bundle says: one readable line for a person on the terminal, every line in full in a file."""

import json
import logging
import re
import sys
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

_COLORS = {"warning": "33", "error": "31", "critical": "31"}
_QUIET = {"debug", "info"}
# Told anyway or of use to a program only.
_HIDDEN = {"time", "level", "logger", "event", "process", "exception", "request"}
_POSTGRES_LINE = re.compile(r"^(?:\S+ )*?(WARNING|ERROR|FATAL|PANIC):\s+(.*)$")
_NATS_LINE = re.compile(r"^\[\d+\] \S+ \S+ \[(WRN|ERR|FTL)\] (.*)$")
_LEVELS = {"WRN": "warning", "WARNING": "warning"}
# No news: the configuration's password is in a file that only its owner can read and travels over loopback; and whoever
# asks a database that starts or stops is told so.
_EXPECTED = ("Plaintext passwords detected", "the database system is ", "terminating connection due to administrator")
_LONGEST_TEXT = 300
# What a terminal would obey, or show in another place than it stands: somebody outside may have chosen the text.
_COMMANDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LOG_BYTES = 10 * 1024 * 1024


class Terminal:
    """The terminal of the one who started us."""

    def __init__(self, *, every_line: bool = False) -> None:
        self._colors = sys.stdout.isatty()
        self._every_line = every_line
        # While processes wait for each other their complaints about it are no news; the log files have them.
        self.starting = True

    def say(self, text: str, source: str = "opennotice", level: str = "info") -> None:
        """Prints one line with the time and who says it."""
        line = f"{datetime.now().astimezone():%H:%M:%S} {source:<10} {text}"
        if self._colors and level in _COLORS:
            line = f"\033[{_COLORS[level]}m{line}\033[0m"
        self.show(line)

    def show(self, text: str) -> None:
        """Prints text as it is; a terminal that went away is no reason to stop."""
        try:
            print(text, flush=True)
        except OSError:
            self.show = lambda text: None  # type: ignore[method-assign]

    def relay(self, source: str, line: str) -> None:
        """Prints what a process wrote, when a person should read it."""
        told = _told(source, line)
        if told is None:
            return
        level, text = told
        hidden = level in _QUIET or (self.starting and level == "warning")
        if self._every_line or not hidden:
            self.say(_shortened(text), source, level)


def _told(source: str, line: str) -> tuple[str, str] | None:
    """Returns level and text of a line, or None where there is nothing to tell."""
    if source in ("postgres", "nats"):
        found = (_POSTGRES_LINE if source == "postgres" else _NATS_LINE).match(line)
        if not found or found[2].startswith(_EXPECTED):
            return None
        return _LEVELS.get(found[1], "error"), found[2]
    try:
        entry = json.loads(line)
        level, event = str(entry.get("level", "info")), str(entry["event"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return ("warning", line) if line.strip() else None
    more = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _HIDDEN and value not in ("", None))
    if entry.get("exception"):
        more += " " + str(entry["exception"]).strip().splitlines()[-1]
    return level, f"{event} {more}".rstrip()


def _shortened(text: str) -> str:
    first, _, rest = text.partition("\n")
    return _COMMANDS.sub("�", first[:_LONGEST_TEXT]) + ("…" if rest or len(first) > _LONGEST_TEXT else "")


class _Rotating(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Lets the caller know: the standard handler would print a traceback for every line."""
        raise


class LogFile:
    """The full log of one process, kept to a size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handler = _Rotating(path, maxBytes=_LOG_BYTES, backupCount=4, encoding="utf-8", delay=True)

    def write(self, line: str) -> None:
        """Appends a line; the oldest go when there are too many."""
        self._handler.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Closes the file."""
        self._handler.close()
