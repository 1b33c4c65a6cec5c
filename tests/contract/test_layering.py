"""The house keeps its shape: who may import whom, where SQL may stand, which names are not used."""

import re
from pathlib import Path

import pytest

from tests.contract.source import ROOT, SERVICES, imports_of, modules, strings_of

SQL = re.compile(
    r"^\s*(select\s.+\sfrom\s|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|create\s+(table|schema|role)\s|with\s+\S+\s+as\s*\()",
    re.IGNORECASE | re.DOTALL,
)
# The frame's own tables, and the host's work on the server as a whole.
SQL_ROOM = "store"
SQL_FILES = {
    f"services/chassis/{name}.py" for name in ("outbox", "dead_letters", "migrate", "postgres")
} | {"bundle/preflight.py", "bundle/first_steps.py", "bundle/restore_point.py"}  # fmt: skip
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core"}


def in_room(path: str, *rooms: str) -> bool:
    """Whether a file is a room ("store.py") or stands in one that has several files ("store/links.py")."""
    return bool(set(rooms) & set(Path(path).with_suffix("").parts))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_never_imports_another_service(service: str) -> None:
    for path, tree in modules(f"services/{service}"):
        for name in imports_of(tree):
            parts = name.split(".")
            if parts[0] == "services" and len(parts) > 1:
                assert parts[1] in {service, "chassis"}, f"{path} imports {name}: talk to it through proto/ instead"
            assert parts[0] not in {"gateway", "bundle", "tests"}, f"{path} imports {name}"


def test_the_frame_knows_no_service() -> None:
    allowed = {"options", "identity", "operations"}
    for path, tree in modules("services/chassis"):
        for name in imports_of(tree):
            parts = name.split(".")
            assert parts[0] not in {"gateway", "bundle", "tests"}, f"{path} imports {name}"
            if parts[0] == "services" and len(parts) > 1:
                assert parts[1] == "chassis", f"{path} imports {name}: the frame serves all and knows none"
            if parts[0] == "opennotice" and len(parts) > 1:
                assert parts[1] in allowed, f"{path} imports the stubs of {parts[1]}"


def test_the_gateway_uses_the_frame_and_no_service() -> None:
    for path, tree in modules("gateway"):
        for name in imports_of(tree):
            parts = name.split(".")
            if parts[0] == "services" and len(parts) > 1:
                assert parts[1] == "chassis", f"{path} imports {name}: talk to it through proto/ instead"
            assert parts[0] not in {"bundle", "tests", "psycopg"}, f"{path} imports {name}"


def test_the_command_reaches_services_only_from_outside() -> None:
    for path, tree in modules("bundle"):
        for name in imports_of(tree):
            parts = name.split(".")
            if parts[0] == "services" and len(parts) > 1:
                assert parts[1] == "chassis", f"{path} imports {name}"


def test_sql_stands_only_in_stores() -> None:
    for path, tree in modules("services", "gateway", "bundle"):
        if in_room(path, SQL_ROOM) or path in SQL_FILES:
            continue
        for text in strings_of(tree):
            assert not SQL.match(text), f"{path} contains SQL: {text[:80]!r}"


@pytest.mark.parametrize("service", SERVICES)
def test_sql_names_only_its_own_schema(service: str) -> None:
    others = "|".join(sorted(set(SERVICES) - {service}))
    foreign = re.compile(rf"\b(?:from|join|into|update|table|on)\s+({others})\.\w+", re.IGNORECASE)
    texts = [(path, text) for path, tree in modules(f"services/{service}") for text in strings_of(tree)]
    texts += [(str(path), path.read_text()) for path in (ROOT / "services" / service).rglob("*.sql")]
    for path, text in texts:
        assert not foreign.search(text), f"{path} reaches into {foreign.search(text)}"


def test_protobuf_stays_at_the_edges() -> None:
    # These build or read an event as a whole; each says why in its first lines.
    whole = {
        "services/tracking/recorder.py",
        "services/tracking/directory.py",
        "services/enrichment/explain.py",
    }
    for path, tree in modules("services"):
        if path.startswith("services/chassis/") or in_room(path, "rpc", "events", "__main__") or path in whole:
            continue
        stubs = {name for name in imports_of(tree) if "_pb2" in name}
        assert not stubs, f"{path} imports {stubs}: turn messages into dataclasses in rpc.py or events.py"


def test_the_frame_holds_no_business_words() -> None:
    words = re.compile(r"\b(portal|redirect_uri|campaign|officer|clerk|court)\b", re.IGNORECASE)
    for path, tree in modules("services/chassis"):
        if path.endswith("access.py"):
            continue  # permissions are named for what they open
        for text in strings_of(tree):
            assert not words.search(text), f"{path} says {text[:60]!r}"


def test_names_say_what_is_inside() -> None:
    for path, tree in modules("services", "gateway", "bundle", "tests"):
        assert not FORBIDDEN_NAMES & set(Path(path).with_suffix("").parts), f"{path}: name it for its subject"
        for name in imports_of(tree):
            assert not name.startswith("."), f"{path} imports {name}: imports are absolute"


def test_only_settings_read_the_environment() -> None:
    for path, tree in modules("services", "gateway"):
        if Path(path).name == "settings.py":
            continue
        assert not {"os.environ", "os.getenv"} & imports_of(tree), path
        text = (ROOT / path).read_text()
        assert "os.environ" not in text, f"{path} reads the environment: declare a setting instead"
        assert "getenv" not in text, f"{path} reads the environment: declare a setting instead"


def test_only_the_owner_of_a_stream_declares_what_is_published_on_it() -> None:
    publishes = re.compile(r"opennotice\.(\w+)\.v1 import events_pb2")
    for service in SERVICES:
        for path, tree in modules(f"services/{service}"):
            text = (ROOT / path).read_text()
            for owner in publishes.findall(text):
                if owner != service:
                    sends = re.findall(r"outbox\.add\([^)]*" + owner, text)
                    assert not sends, f"{path} publishes an event of {owner}"
            assert tree is not None
