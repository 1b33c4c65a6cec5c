"""Opens as CSV: exactly the filtered rows, streamed pack by pack, with no cell that a spreadsheet would run."""

import asyncio
import csv
import io
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from litestar import Request
from litestar.response import Stream
from opennotice.reporting.v1 import reporting_pb2

from gateway.access import Visitor, gate_of
from gateway.clients import Connections
from gateway.words import OPEN_COLUMNS, open_row, rfc3339
from services.chassis.clock import now
from services.chassis.errors import DeadlineExceeded, Unauthenticated, Unavailable

# Excel reads a file without it in the code page of the machine; programs would find it in the first column's name.
BYTE_ORDER_MARK = "\ufeff"
# Times in a row that a stream may break without bringing anything.
MOST_FAILURES = 5
PAUSE_SECONDS = 0.4
# With the three seconds that an exchange is remembered, the export of a session that was ended stops within five.
SESSION_CHECK_SECONDS = 2.0
# What is written in one go: a few milliseconds.
ROWS_AT_ONCE = 50

# What a spreadsheet takes for the start of a formula, also in full width, and behind what it skips: spaces, controls,
# invisible characters, quotes and separators (which another locale splits at).
_RUNNABLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u2069\ufeff'\"`;,|]*[=+\-@＝＋－＠﹦﹢﹣﹫]"
)
_CONTROL = re.compile(r"[\t\r\n]")


def safe_cell(text: str) -> str:
    """Puts a single quote before text that a spreadsheet could run; all other text stays as it is.

    Text that begins with quotes and would then run gets one more, so that taking one away always gives the original.
    """
    if text[:1].isalnum():  # most cells; a full-width sign is no letter
        return text
    return f"'{text}" if _RUNNABLE.match(text) or _CONTROL.match(text) else text


def cells_of(row: dict[str, Any]) -> list[str]:
    """Returns the cells of one open in the order of the columns; missing is empty, reasons are joined by a space."""
    cells = []
    for column in OPEN_COLUMNS:
        value = row[column]
        if value is None:
            cells.append("")
        elif isinstance(value, list):
            cells.append(safe_cell(" ".join(value)))
        elif isinstance(value, float):
            cells.append(f"{value:.3f}".rstrip("0").rstrip("."))
        else:
            cells.append(safe_cell(str(value)))
    return cells


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Writes rows by RFC 4180: CRLF, quotes where needed and doubled inside."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


async def opens_csv(request: Request[Any, Any, Any], visitor: Visitor, chosen: reporting_pb2.OpenFilter) -> Stream:
    """Answers with the CSV of a filter; a refusal is an error and not a broken file."""
    packs = _packs(request, visitor, chosen)
    # Until the first pack is there nothing has been answered, so a refusal can still have its own status.
    first = await anext(packs, None)

    async def text() -> AsyncIterator[str]:
        try:
            mark = BYTE_ORDER_MARK if visitor.kind == "session" else ""
            yield mark + csv_text([OPEN_COLUMNS])
            pack = first
            while pack is not None:
                for start in range(0, len(pack), ROWS_AT_ONCE):
                    yield csv_text([cells_of(open_row(found)) for found in pack[start : start + ROWS_AT_ONCE]])
                    # Other people's pages are answered by the same loop.
                    await asyncio.sleep(0)
                pack = await anext(packs, None)
        finally:
            await packs.aclose()

    day = (rfc3339(now()) or "")[:10]
    return Stream(
        text(),
        media_type="text/csv",
        headers={"content-disposition": f'attachment; filename="opens-{day}.csv"', "cache-control": "no-store"},
    )


async def _packs(
    request: Request[Any, Any, Any], visitor: Visitor, chosen: reporting_pb2.OpenFilter
) -> AsyncGenerator[Sequence[reporting_pb2.Open], None]:
    """Yields the opens of one export; goes on after the last pack when the stream breaks or the identity runs out."""
    connections: Connections = request.app.state.connections
    gate, token, failures = gate_of(request), "", 0
    address, checked = gate.address_of(request), time.monotonic()
    while True:
        calls = connections.calls(visitor.identity_token)
        asked = reporting_pb2.ExportOpensRequest(filter=chosen, resume_token=token)
        try:
            async for part in calls.stream(calls.reporting.ExportOpens, asked):
                if time.monotonic() - checked >= SESSION_CHECK_SECONDS:
                    fresh = await gate.still_there(visitor, address)
                    if fresh.caller.permissions != visitor.caller.permissions:
                        # Reporting is asked again as who they are now.
                        raise Unauthenticated("CREDENTIAL_UNKNOWN", "the role was changed")
                    checked = time.monotonic()
                token, failures = part.resume_token, 0
                yield part.opens
            return
        except (DeadlineExceeded, Unauthenticated, Unavailable):
            failures += 1
            if not token or failures > MOST_FAILURES:
                raise
            # The channel needs a moment to find a service that was restarted.
            await asyncio.sleep(PAUSE_SECONDS * failures)
            visitor = await gate.identify(visitor.credential, visitor.kind, address)
