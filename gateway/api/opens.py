"""Opens over the JSON API: search, one, CSV, counts; and who is asking."""

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream
from opennotice.auth.v1 import auth_pb2
from opennotice.reporting.v1 import reporting_pb2

from gateway import exports
from gateway.access import Visitor
from gateway.api.describe import Describe
from gateway.api.query import OPEN_FILTER, PAGING, Param, no_query, open_filter, read_query
from gateway.api.shown import CallerShown, caller_shown, page_of
from gateway.clients import Calls
from gateway.words import SUMMARY_KEY, open_json
from services.chassis.errors import NotFound
from services.chassis.names import parse_uuid

TAG = "Opens"
# Counting may look at every open of the agency, where a list stops after a page.
SUMMARY_SECONDS = 20.0
LISTED = (*OPEN_FILTER, *PAGING)
COUNTED = (
    *OPEN_FILTER,
    Param("by", "By what to count.", words=SUMMARY_KEY.all, required=True),
    Param("time_zone", "IANA name of the zone that days are cut in. Default: UTC.", "America/New_York"),
)


@get(
    "/opens",
    permission="opens:read",
    describe=Describe(
        TAG, "Lists opens, newest first.", "Open", params=LISTED, many="opens", reasons=("PAGE_TOKEN_INVALID",)
    ),
)
async def list_opens(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Lists opens."""
    query = read_query(request, LISTED)
    asked = reporting_pb2.ListOpensRequest(
        filter=open_filter(query), page_size=query.page_size(), page_token=query.text("page_token")
    )
    query.stop()
    answer = await calls.ask(calls.reporting.ListOpens, asked)
    return page_of("opens", [open_json(found) for found in answer.opens], answer)


@get(
    "/opens/{open_id:str}",
    permission="opens:read",
    describe=Describe(TAG, "Returns one open with its `detail`.", "Open", reasons=("OPEN_UNKNOWN",)),
)
async def get_open(
    request: Request[Any, Any, Any], open_id: FromPath[str], calls: NamedDependency[Calls]
) -> dict[str, Any]:
    """Returns one open."""
    no_query(request)
    if parse_uuid(open_id) is None:
        raise NotFound("OPEN_UNKNOWN", "there is no such open")
    asked = reporting_pb2.GetOpenRequest(name=f"opens/{open_id}")
    return open_json(await calls.ask(calls.reporting.GetOpen, asked))


@get(
    "/opens.csv",
    permission="opens:export",
    describe=Describe(
        TAG,
        "Streams every matching open as CSV (RFC 4180, UTF-8), newest first; written to the audit log. A cell that a "
        "spreadsheet could run begins with a single quote. A signed-in browser gets a byte order mark, which Excel "
        "needs; an API key gets none.",
        "CSV",
        params=OPEN_FILTER,
        media_type="text/csv",
    ),
)
async def export_opens(request: Request[Any, Any, Any], visitor: NamedDependency[Visitor]) -> Stream:
    """Streams opens as CSV."""
    query = read_query(request, OPEN_FILTER)
    chosen = open_filter(query)
    query.stop()
    return await exports.opens_csv(request, visitor, chosen)


@get(
    "/opens:summary",
    permission="opens:read",
    describe=Describe(TAG, "Counts matching opens by day, portal, device or verdict.", "Summary", params=COUNTED),
)
async def summarize_opens(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Counts opens."""
    query = read_query(request, COUNTED)
    keys = query.numbers("by", SUMMARY_KEY)
    asked = reporting_pb2.SummarizeOpensRequest(
        filter=open_filter(query),
        key=keys[0] if keys else reporting_pb2.SUMMARY_KEY_UNSPECIFIED,
        time_zone=query.text("time_zone"),
    )
    query.stop()
    answer = await calls.ask(calls.reporting.SummarizeOpens, asked, seconds=SUMMARY_SECONDS)
    groups = [
        {"value": group.value, "display_name": group.display_name or None, "count": group.count}
        for group in answer.groups
    ]
    return {"by": query.text("by"), "groups": groups, "total": answer.total}


@get(
    "/caller",
    permission="signed-in",
    describe=Describe("Caller", "Returns who is asking and what they may do.", CallerShown),
)
async def get_caller(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> CallerShown:
    """Returns who is asking."""
    no_query(request)
    return caller_shown(await calls.ask(calls.auth.GetCaller, auth_pb2.GetCallerRequest()))


HANDLERS = [list_opens, get_open, export_opens, summarize_opens, get_caller]
