"""The API document describes what is there, and its page loads nothing from elsewhere."""

import re
from typing import Any

import httpx
import pytest

from gateway.words import DEVICE, OPEN_COLUMNS, VERDICT
from tests.gateway.conftest import House
from tests.gateway.test_access import ROUTES


@pytest.fixture
def document(house: House) -> Any:
    with house.stranger() as http:
        answer = http.get("/api/docs/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def test_every_route_is_described_with_its_permission_and_errors(document: Any) -> None:
    described = {
        (method.upper(), path, re.search(r"permission `([^`]+)`", operation["description"])[1])  # type: ignore[index]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert described == set(ROUTES)
    for methods in document["paths"].values():
        for operation in methods.values():
            assert {"401", "403", "422", "503"} <= set(operation["responses"])
            assert operation["summary"].endswith(".")


def test_every_reference_leads_somewhere(document: Any) -> None:
    found: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            found.extend([part["$ref"]] if "$ref" in part else [])
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(document)
    assert found
    for reference in found:
        kind, name = re.fullmatch(r"#/components/(\w+)/(\w+)", reference).groups()  # type: ignore[union-attr]
        assert name in document["components"][kind], reference


def test_the_words_of_the_document_are_the_words_of_the_product(document: Any) -> None:
    schema = document["components"]["schemas"]["Open"]["properties"]
    assert list(schema)[: len(OPEN_COLUMNS)] == list(OPEN_COLUMNS)
    assert schema["device"]["enum"] == list(DEVICE.all) == ["mobile", "tablet", "desktop", "other"]
    assert schema["verdict"]["enum"] == list(VERDICT.all)
    parameters = {part["name"]: part for part in document["paths"]["/api/v1/opens"]["get"]["parameters"]}
    assert parameters["device"]["schema"] == {"type": "array", "items": {"type": "string", "enum": list(DEVICE.all)}}


def test_its_page_loads_nothing_from_elsewhere(house: House) -> None:
    with house.stranger() as http:
        page: httpx.Response = http.get("/api/docs")
    assert page.status_code == 200
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)
    assert "<code>POST /api/v1/links/{link_id}:revoke</code>" in page.text.replace("<wbr>", "")
    assert "`" not in page.text
