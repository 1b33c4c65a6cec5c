"""Everything may come again: events, whole streams, outboxes, calls. The report stays as it is."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from services.tracking.recorder import OPENS_IN_A_PACK, PACK_SUBJECT
from tests.chaos import by_hand
from tests.chaos.checker import check, exported
from tests.chaos.ledger import read
from tests.chaos.rig import Rig, wait_for
from tests.chaos.trial import Outcome, Run, Trial

_TIMES_AGAIN = 5
_BEFORE_SECONDS = 20.0
_LOAD_SECONDS = 45.0
_COPIED = ("links", "redirects")


def checksum(opens: Sequence[reporting_pb2.Open]) -> tuple[int, str]:
    """Returns how many opens there are, and a sum over all that the report says of them."""
    rows = sorted(one.SerializeToString(deterministic=True) for one in opens)
    return len(rows), hashlib.sha256(b"".join(rows)).hexdigest()[:16]


def everything_again(run: Run) -> Outcome:
    """Streams are read anew, events given back, outboxes sent again, calls repeated: the report stays the same."""
    rig, outcome = run.rig, run.outcome
    load = rig.visitors(run.scale.usual, _BEFORE_SECONDS, run.seed)
    load.wait()
    requests = read(load.ledger)
    verdict, _ = check(rig, requests, load.began, patience=run.scale.patience)
    outcome.must(verdict.is_true, f"the report was not whole before: {verdict.figures()}")
    # The visitors who come from now on are another ledger's.
    time.sleep(3)
    window = load.began, time.time()
    writes = Writes(rig)
    before = checksum(exported(rig, *window)), writes.state()
    turns = 2 if run.scale.name == "brief" else _TIMES_AGAIN

    def damage() -> None:
        with rig.frozen("reporting"):
            outcome.figures["given_back"] = by_hand.give_back(rig, *by_hand.REPORTING, _TIMES_AGAIN)
        for turn in range(turns):
            lasts = by_hand.remove_readers(rig)
            if turn == 0:
                outcome.figures["opens_sent_again"] = publish_raw_opens_again(rig)
                outcome.figures["outbox_sent_again"] = send_outboxes_again(rig)
            by_hand.are_through(rig, lasts, run.scale.patience)
        writes.repeat()

    run.load(run.scale.usual, damage, seconds=_LOAD_SECONDS)
    outcome.figures["read_again"] = turns
    after = checksum(exported(rig, *window)), writes.state()
    outcome.figures["rows"], outcome.figures["checksum"] = after[0]
    outcome.must(before[0] == after[0], f"the report was {before[0]} and is {after[0]}")
    for what, was in before[1].items():
        outcome.must(after[1][what] == was, f"{what}: {was} before, {after[1][what]} after")
    outcome.must(int(str(outcome.figures["given_back"])) > 0, "no event was given back")
    set_aside = rig.bundle.json("dead-letters", "list")["dead_letters"]
    outcome.must(not set_aside, f"{len(set_aside)} events were set aside, e.g. {set_aside[:1]}")
    return outcome


def publish_raw_opens_again(rig: Rig) -> int:
    """Has tracking announce every open on record once more, in packs under new ids, as its reconciler would."""
    records = [bytes(row[0]) for row in by_hand.sql(rig, "select record from tracking.raw_opens order by open_id")]
    for at in range(0, len(records), OPENS_IN_A_PACK):
        batch = tracking_pb2.OpensRecorded(batch_id=str(uuid4()))
        for record in records[at : at + OPENS_IN_A_PACK]:
            batch.opens.add().MergeFromString(record)
        by_hand.sql(
            rig,
            "insert into tracking.outbox (event_id, subject, message_type, payload) values (%s, %s, %s, %s)",
            batch.batch_id,
            PACK_SUBJECT,
            batch.DESCRIPTOR.full_name,
            batch.SerializeToString(),
        )
    return len(records)


def send_outboxes_again(rig: Rig) -> int:
    """Has link and auth publish everything they ever published, under ids that NATS does not remember."""
    again = "update {}.outbox set publish_time = null, event_id = gen_random_uuid() returning 1"
    return sum(len(by_hand.sql(rig, again.format(schema))) for schema in ("link", "auth"))


class Writes:
    """Every call that makes something, and how to make it again."""

    def __init__(self, rig: Rig) -> None:
        """Makes one of each, and a portal with 200 links."""
        self._rig = rig
        self._made: list[tuple[str, Any, str]] = []
        target = "https://court.example.gov/again"
        portal = self._make(
            "CreatePortal",
            link_pb2.CreatePortalRequest(
                portal=link_pb2.Portal(display_name="Again", kind=link_pb2.PORTAL_KIND_EXTERNAL, target_uri=target)
            ),
        )
        self._portal = portal
        client = self._make(
            "CreateClient", link_pb2.CreateClientRequest(client=link_pb2.Client(display_name="Ana Again"))
        )
        self._make("CreateCampaign", link_pb2.CreateCampaignRequest(campaign=link_pb2.Campaign(display_name="Again")))
        message = self._make(
            "CreateMessage",
            link_pb2.CreateMessageRequest(message=link_pb2.Message(client=client, channel=link_pb2.CHANNEL_SMS)),
        )
        self._make(
            "CreateRedirect",
            link_pb2.CreateRedirectRequest(redirect=link_pb2.Redirect(display_name="Again", target_uri=target)),
        )
        revoked = self._make("CreateLink", link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal)))
        self._call("RevokeLink", link_pb2.RevokeLinkRequest(name=revoked))
        delivered = link_pb2.ReportDeliveryRequest(name=message, status=link_pb2.DELIVERY_STATUS_DELIVERED)
        delivered.event_time.GetCurrentTime()
        self._call("ReportDelivery", delivered)
        self._later = [("RevokeLink", link_pb2.RevokeLinkRequest(name=revoked)), ("ReportDelivery", delivered)]
        self._links = [
            link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal, client=client), request_id=str(uuid4()))
            for _ in range(200)
        ]
        self._names = self._make_links()
        self._message = message

    def _make(self, method: str, request: Any) -> str:
        request.request_id = str(uuid4())
        name = str(self._call(method, request).name)
        self._made.append((method, request, name))
        return name

    def _call(self, method: str, request: Any) -> Any:
        with self._rig.channel("link") as channel:
            stub = link_pb2_grpc.LinkServiceStub(channel)
            return getattr(stub, method)(request, metadata=self._rig.credential, timeout=30)

    def _make_links(self) -> list[str]:
        with self._rig.channel("link") as channel:
            stub = link_pb2_grpc.LinkServiceStub(channel)
            answers = stub.CreateLinks(iter(self._links), metadata=self._rig.credential, timeout=60)
            made = {result.index: result.link.name for part in answers for result in part.results}
        return [made[at] for at in range(len(self._links))]

    def repeat(self) -> None:
        """Makes every call five times more, several at once; raises AssertionError when one makes something new."""
        with ThreadPoolExecutor(_TIMES_AGAIN) as callers:
            for method, request, name in self._made:
                found = callers.map(lambda _, m=method, r=request: self._call(m, r).name, range(_TIMES_AGAIN))
                assert set(found) == {name}, f"{method} made something new"
            for method, request in self._later:
                list(callers.map(lambda _, m=method, r=request: self._call(m, r), range(_TIMES_AGAIN)))
            for names in callers.map(lambda _: self._make_links(), range(_TIMES_AGAIN)):
                assert names == self._names, "CreateLinks made something new"

    def state(self) -> dict[str, object]:
        """Returns what must stay as it is whatever comes again."""
        message = self._call("GetMessage", link_pb2.GetMessageRequest(name=self._message))
        # Both copies follow in a moment; the figure of tracking's is told now and then.
        made, redirects = (by_hand.sql(self._rig, f"select count(*) from link.{kind}")[0][0] for kind in _COPIED)
        wait_for(lambda: self._reported_links() == made, 30, "reporting to know every link")
        wait_for(lambda: self._known_links() == made + redirects, 30, "tracking to know every link")
        return {
            "links": len(self._pages("ListLinks", link_pb2.ListLinksRequest(portal=self._portal), "links")),
            "portals": len(self._pages("ListPortals", link_pb2.ListPortalsRequest(), "portals")),
            "clients": len(self._pages("ListClients", link_pb2.ListClientsRequest(), "clients")),
            "redirects": len(self._pages("ListRedirects", link_pb2.ListRedirectsRequest(), "redirects")),
            "deliveries": len(message.deliveries),
            "lines of the audit log about links": self._lines(),
            "links that tracking knows": self._known_links(),
            "links that reporting knows": self._reported_links(),
            "explanations that were replaced": by_hand.sql(self._rig, "select count(*) from reporting.verdicts")[0][0],
        }

    def _known_links(self) -> float:
        return self._rig.metric("tracking", "opennotice_directory_links")

    def _reported_links(self) -> int:
        return int(by_hand.sql(self._rig, "select count(*) from reporting.links")[0][0])

    def _pages(self, method: str, request: Any, field: str) -> list[Any]:
        found: list[Any] = []
        request.page_size = 200
        while True:
            answer = self._call(method, request)
            found += getattr(answer, field)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def _lines(self) -> int:
        request = auth_pb2.ListActionsRequest(page_size=200, verb_prefix="link.create")
        found: list[str] = []
        with self._rig.channel("auth") as channel:
            stub = auth_pb2_grpc.AuthServiceStub(channel)
            while True:
                answer = stub.ListActions(request, metadata=self._rig.credential, timeout=30)
                found += [one.action_id for one in answer.actions]
                if not answer.next_page_token:
                    return len(found)
                request.page_token = answer.next_page_token


# With a nats-server and so a product of their own: what is read again from the start is theirs alone.
TRIALS = [Trial("P7", "everything delivered again", everything_again, own=("nats",))]
