"""EnrichmentService: how opens are explained, for operators and for trying a rule."""

from typing import Any

from opennotice.enrichment.v1 import enrichment_pb2, enrichment_pb2_grpc, events_pb2

from services.chassis import clock
from services.chassis.errors import Faults
from services.chassis.identity import caller
from services.chassis.postgres import Database
from services.enrichment import network, store
from services.enrichment.data_files import DataFolder
from services.enrichment.explain import KIND_WORDS, NO_NETWORKS, explain
from services.enrichment.network import NetworkList
from services.enrichment.verdict import Pack

_AGENT_LIMIT = 2_048
_METHOD_LIMIT = 32


class EnrichmentService(enrichment_pb2_grpc.EnrichmentServiceServicer):
    """Answers calls; changes nothing."""

    def __init__(self, serve: Database, pack: Pack, folder: DataFolder) -> None:
        self._serve = serve
        self._pack = pack
        self._folder = folder

    async def ExplainOpen(self, request: enrichment_pb2.ExplainOpenRequest, context: Any) -> events_pb2.OpenEnriched:
        """Explains one open as it would be explained now."""
        agency_id = caller().agency
        opened = request.open
        _check(request)
        opened.agency_id = str(agency_id)
        opened.method = opened.method or "GET"
        async with self._serve.transaction(agency_id) as conn:
            agency = await store.get_agency(conn, agency_id)
        staff = NetworkList(agency.staff_networks) if agency else NO_NETWORKS
        now = clock.to_proto(clock.now())
        assert now is not None
        return explain(opened, pack=self._pack, lookup=self._folder.current, staff=staff, now=now)

    async def GetStatus(self, request: enrichment_pb2.GetStatusRequest, context: Any) -> enrichment_pb2.Status:
        """Returns the rule pack and the data sets in use."""
        return enrichment_pb2.Status(
            rule_pack=self._pack.version,
            data_sets=[
                enrichment_pb2.DataSet(
                    purpose=state.purpose,
                    title=state.title,
                    build_time=clock.to_proto(state.build_time),
                    credit=state.credit,
                    problem=state.problem,
                )
                for state in self._folder.states
            ],
        )


def _check(request: enrichment_pb2.ExplainOpenRequest) -> None:
    faults = Faults()
    opened = request.open
    if not request.HasField("open"):
        faults.add("open", "must be given")
    elif opened.kind not in KIND_WORDS:
        faults.add("open.kind", "must be portal, redirect or email")
    if opened.ip_address and network.parse(opened.ip_address) is None:
        faults.add("open.ip_address", "must be an IPv4 or IPv6 address")
    if len(opened.user_agent) > _AGENT_LIMIT:
        faults.add("open.user_agent", f"must be at most {_AGENT_LIMIT} characters")
    if len(opened.method) > _METHOD_LIMIT:
        faults.add("open.method", f"must be at most {_METHOD_LIMIT} characters")
    faults.stop()
