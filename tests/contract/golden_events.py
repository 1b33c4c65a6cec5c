"""Writes down every event of a release as it lies in a queue, so that later releases are held to reading it.

`python -m tests.contract.golden_events 0.1.0` once a release, before its events change; what is written stays for ever.
"""

import base64
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from tests.contract.source import ROOT, SERVICES

FOLDER = ROOT / "tests" / "data" / "events"
_TEXTS = {
    "batch_id": "01920000-0000-7000-8000-0000000000b1",
    "ip_address": "198.51.100.7",
    "method": "GET",
    "name": "links/01920000-0000-7000-8000-0000000000a1",
}


def events() -> Iterator[type[Message]]:
    """Yields the class of every event: what a service publishes by itself, not what is inside another event."""
    for service in SERVICES:
        if not (ROOT / "proto" / "opennotice" / service / "v1" / "events.proto").exists():
            continue
        module = importlib.import_module(f"opennotice.{service}.v1.events_pb2")
        found = module.DESCRIPTOR.message_types_by_name
        inside = {
            field.message_type.full_name
            for descriptor in found.values()
            for field in descriptor.fields
            if field.message_type is not None
        }
        for name, descriptor in found.items():
            if descriptor.full_name not in inside:
                yield getattr(module, name)


def filled(message: Any, choice: int = 0, depth: int = 0) -> Any:
    """Fills every field; of a oneof the chosen one. Lists of messages with a oneof get an element for each choice."""
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1 and oneof.fields[choice] is not field:
            continue
        if field.message_type is None:
            if field.is_repeated:
                getattr(message, field.name).append(_value(field))
            else:
                setattr(message, field.name, _value(field))
        elif field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["key"] = "value"
        elif field.is_repeated and depth < 6:
            most = max((len(one.fields) for one in field.message_type.oneofs), default=1)
            for which in range(most):
                filled(getattr(message, field.name).add(), which, depth + 1)
        elif depth < 6:
            target = getattr(message, field.name)
            target.SetInParent()
            filled(target, 0, depth + 1)
    return message


def _value(field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values[1].number
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return bytes(range(32))
        if field.name.endswith("_id"):
            return _TEXTS.get(field.name, "01920000-0000-7000-8000-0000000000a1")
        return _TEXTS.get(field.name, field.name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return 0.5
    return 7


def write(release: str) -> Path:
    """Writes the events of a release."""
    found = []
    for event in events():
        message = filled(event())
        found.append(
            {
                "type": message.DESCRIPTOR.full_name,
                "wire": base64.b64encode(message.SerializeToString(deterministic=True)).decode(),
                "meaning": MessageToDict(message, preserving_proto_field_name=True),
            }
        )
    path = FOLDER / f"{release}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


if __name__ == "__main__":
    print(write(sys.argv[1]))
