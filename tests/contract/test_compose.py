"""What compose.yaml tells every process is what it declares, and deploy/settings.env is what an operator may say."""

import dataclasses
import re
from typing import Any

import pytest
import yaml

from bundle.containers import ContainerSettings, file_name, load_container_settings
from bundle.processes import OWN, settings_class
from tests.contract.source import ROOT

TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
# What a process finds out for itself in a container, or is told by another way.
NOT_TOLD = {"OPENNOTICE_PUBLIC_SOCKET_FD"}


def declared(process: str) -> dict[str, Any]:
    """Returns the settings of a process by the name under which a container is told them."""
    return {
        f"{field.metadata['name']}_FILE" if field.metadata["secret"] else field.metadata["name"]: field
        for field in dataclasses.fields(settings_class(process))
    }


@pytest.mark.parametrize("process", OWN)
def test_a_process_is_told_what_it_declares_and_nothing_else(process: str) -> None:
    told = set(COMPOSE["services"][process]["environment"])
    known = declared(process)
    assert told <= set(known), "it would refuse to start"
    required = {name for name, field in known.items() if field.default is dataclasses.MISSING}
    assert required <= told, "it would refuse to start"
    # On one machine the others answer on the loopback address; between containers that default is always wrong.
    reached = {name for name in known if name.endswith(("_ADDRESS", "_BIND", "_URL", "_URL_FILE"))} - NOT_TOLD
    assert reached <= told


@pytest.mark.parametrize("process", OWN)
def test_a_secret_is_read_where_it_is_dealt_out(process: str) -> None:
    for name, value in COMPOSE["services"][process]["environment"].items():
        if name.endswith("_FILE"):
            assert value == f"/run/opennotice/{file_name(name.removesuffix('_FILE'))}"


def test_the_settings_file_shows_every_setting_with_its_default() -> None:
    text = (ROOT / "deploy" / "settings.env").read_text()
    shown = set(re.findall(r"^#?(OPENNOTICE_\w+)=", text, re.MULTILINE))
    # Not shown: the version, which `up` writes down, and what the compose files in deploy/ say of themselves.
    said = "".join(path.read_text() for path in (ROOT / "deploy").glob("*.yaml"))
    not_shown = {"OPENNOTICE_VERSION", *re.findall(r"OPENNOTICE_OWN_\w+(?=:)", said)}
    assert shown == {field.metadata["name"] for field in dataclasses.fields(ContainerSettings)} - not_shown
    active: dict[str, str] = dict(re.findall(r"^(OPENNOTICE_\w+)=(.*)$", text, re.MULTILINE))
    assert load_container_settings(active) == load_container_settings({})


def test_compose_asks_for_settings_that_exist_with_the_defaults_they_have() -> None:
    fields = {field.metadata["name"]: field for field in dataclasses.fields(ContainerSettings)}
    asked = set(re.findall(r"\$\{(\w+)(?::([-+])([^}]*))?\}", TEXT))
    assert {name for name, _, _ in asked} <= set(fields)
    for name, kind, default in asked:
        if kind == "-" and default:
            assert fields[name].metadata["parse"](default) == fields[name].default, name


def test_no_image_comes_from_elsewhere() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()}
    tag = "${OPENNOTICE_VERSION:-latest}"
    assert images == {f"opennotice/{name}:{tag}" for name in ("app", "nats", "postgres", "proxy")}
