"""Events of earlier releases, as they may still lie in a queue after an upgrade, are read as they were meant."""

import base64
import json
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from google.protobuf.json_format import MessageToDict

from tests.contract.golden_events import FOLDER, events

KEPT = [(path.stem, one) for path in sorted(FOLDER.glob("*.json")) for one in json.loads(path.read_text())]


@pytest.mark.parametrize(("release", "kept"), KEPT, ids=[f"{release} {one['type']}" for release, one in KEPT])
def test_an_event_of_an_earlier_release_keeps_its_meaning(release: str, kept: dict[str, Any]) -> None:
    list(events())  # loads every contract
    cls = message_factory.GetMessageClass(Default().FindMessageTypeByName(kept["type"]))
    message = cls.FromString(base64.b64decode(kept["wire"]))
    # Later releases may add fields; none that was there may go, move or change its type.
    assert MessageToDict(message, preserving_proto_field_name=True) == kept["meaning"]


def test_every_event_was_written_down() -> None:
    written = {one["type"] for _, one in KEPT}
    assert {event.DESCRIPTOR.full_name for event in events()} <= written
