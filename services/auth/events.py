"""What auth publishes (agencies) and consumes (lines for the audit log from link)."""

from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2, events_pb2
from opennotice.link.v1 import events_pb2 as link_events_pb2

from services.auth import store
from services.auth.action import Action, is_verb, storable
from services.auth.agency import Agency
from services.chassis import clock, outbox
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.errors import Faults
from services.chassis.names import format_name, new_id, parse_uuid
from services.chassis.postgres import Connection, Database

SCHEMA = "auth"
OUTCOMES = {"done": audit_pb2.OUTCOME_DONE, "refused": audit_pb2.OUTCOME_REFUSED}
_OUTCOME_WORDS = {number: word for word, number in OUTCOMES.items()}


async def publish_agency(conn: Connection, agency: Agency) -> None:
    """Puts the new state of an agency into the outbox, inside the transaction that changed it."""
    event_id = new_id()
    changed = events_pb2.AgencyChanged(event_id=str(event_id), agency=agency_to_proto(agency))
    await outbox.add(conn, SCHEMA, changed, event_id)


def agency_to_proto(agency: Agency) -> auth_pb2.Agency:
    """Returns an agency as the contract shows it."""
    return auth_pb2.Agency(
        name=format_name("agencies", agency.agency_id),
        display_name=agency.display_name,
        time_zone=agency.time_zone,
        allowed_hosts=agency.allowed_hosts,
        staff_networks=agency.staff_networks,
        create_time=clock.to_proto(agency.create_time),
        revision=agency.revision,
    )


def action_from_proto(line: audit_pb2.Action) -> Action:
    """Reads a line of the audit log; raises InvalidArgument naming what it lacks."""
    faults = Faults()
    action_id, agency_id = parse_uuid(line.action_id), parse_uuid(line.agency_id)
    if action_id is None:
        faults.add("action.action_id", "must be a UUID")
    if line.agency_id and agency_id is None:
        faults.add("action.agency_id", "must be a UUID or empty")
    if not line.HasField("act_time"):
        faults.add("action.act_time", "must be given")
    act_time = clock.checked(line.act_time, "action.act_time", faults)
    if not line.actor:
        faults.add("action.actor", "must be given")
    if not is_verb(line.verb):
        faults.add("action.verb", "must be two words like link.revoke")
    if line.outcome not in _OUTCOME_WORDS:
        faults.add("action.outcome", "must be done or refused")
    faults.stop()
    assert action_id is not None
    assert act_time is not None
    return storable(
        Action(
            action_id=action_id,
            agency_id=agency_id,
            act_time=act_time,
            actor=line.actor,
            actor_display_name=line.actor_display_name,
            verb=line.verb,
            target=line.target,
            outcome=_OUTCOME_WORDS[line.outcome],
            source_address=line.source_address,
            details=dict(line.details),
        )
    )


class LinkActions:
    """Keeps in the audit log what link says that people did."""

    def __init__(self, ingest: Database, bus: Bus, dead_letters: DeadLetters) -> None:
        self._ingest = ingest
        self._consumer: Consumer[link_events_pb2.ActionTaken] = Consumer(
            bus,
            stream="LINK",
            durable="auth-action-taken-v1",
            message=link_events_pb2.ActionTaken,
            handle=self.handle,
            dead_letters=dead_letters,
        )

    async def run(self) -> None:
        """Reads for ever."""
        await self._consumer.run()

    async def handle(self, events: list[Received[link_events_pb2.ActionTaken]]) -> None:
        """Keeps the lines of some events, each once."""
        lines = [action_from_proto(event.message.action) for event in events]
        async with self._ingest.transaction() as conn:
            for line in lines:
                await store.add_action(conn, line)
