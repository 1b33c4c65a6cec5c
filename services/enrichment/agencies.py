"""The agencies' own networks, in memory for every open, kept up to date from the copy in PostgreSQL."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from services.chassis import log
from services.chassis.postgres import Database
from services.enrichment import store
from services.enrichment.explain import NO_NETWORKS
from services.enrichment.network import NetworkList
from services.enrichment.store import Agency

_LOG = log.get(__name__)
Fetch = Callable[[], Awaitable[list[Agency]]]

# A change is promised everywhere within 5 seconds, also in a replica that did not get the event.
_RELOAD_SECONDS = 2.0
# An agency that auth does not know either must not make a call for every pack, nor may a frozen auth hold packs up.
_FETCH_PAUSE_SECONDS = 10.0
_FETCH_SECONDS = 1.0


class Agencies:
    """What is known of the agencies."""

    def __init__(self, ingest: Database, fetch: Fetch) -> None:
        """`fetch` asks auth for the state of all of them."""
        self._ingest = ingest
        self._fetch = fetch
        self._known: dict[UUID, Agency] = {}
        self._networks: dict[UUID, NetworkList] = {}
        self._next_fetch = 0.0

    def staff_networks(self, agency_id: UUID) -> NetworkList:
        """Returns the networks of an agency; none for one that has not been heard of."""
        return self._networks.get(agency_id, NO_NETWORKS)

    async def make_known(self, agency_ids: Iterable[UUID]) -> None:
        """Asks auth when an agency has not been heard of. When auth is away, opens go on without its networks."""
        if all(agency_id in self._known for agency_id in agency_ids) or time.monotonic() < self._next_fetch:
            return
        await self._fetched()

    async def _fetched(self) -> bool:
        self._next_fetch = time.monotonic() + _FETCH_PAUSE_SECONDS
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                agencies = await self._fetch()
        except Exception as error:
            _LOG.warning("agencies could not be fetched from auth", error=type(error).__name__)
            return False
        await self.save(agencies)
        return True

    async def save(self, agencies: list[Agency]) -> None:
        """Keeps new states, older ones change nothing."""
        async with self._ingest.transaction() as conn:
            await store.save_agencies(conn, agencies)
        self._remember(agencies)

    async def load(self) -> None:
        """Takes over what is in PostgreSQL."""
        async with self._ingest.transaction() as conn:
            agencies = await store.list_agencies(conn)
        self._remember(agencies)

    async def run(self) -> None:
        """Asks auth until it has told what was missed, and looks again and again at what other replicas kept."""
        complete = False
        while True:
            complete = complete or await self._fetched()
            await self.load()
            await asyncio.sleep(_RELOAD_SECONDS)

    def _remember(self, agencies: list[Agency]) -> None:
        for agency in agencies:
            known = self._known.get(agency.agency_id)
            if known is None or known.revision < agency.revision:
                self._known[agency.agency_id] = agency
                self._networks[agency.agency_id] = NetworkList(agency.staff_networks)
