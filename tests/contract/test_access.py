"""Every rpc says who may call it, in words that exist."""

import importlib
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import MethodDescriptor

from services.chassis.access import PERMISSIONS, rule_of
from tests import cast
from tests.contract.source import SERVICES

PROCESSES = {"auth", "enrichment", "gateway", "host", "link", "reporting", "tracking"}


def methods() -> Iterator[MethodDescriptor]:
    """Yields every rpc of the product."""
    for package in (*SERVICES, "identity", "operations"):
        module = importlib.import_module(f"opennotice.{package}.v1.{package}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


@pytest.mark.parametrize("method", list(methods()), ids=lambda method: method.full_name)
def test_an_rpc_says_who_may_call_it(method: MethodDescriptor) -> None:
    rule = rule_of(method)
    assert rule.processes <= PROCESSES, f"{method.full_name} names a process that does not exist"


def test_no_rpc_is_open_to_everybody() -> None:
    assert [method.full_name for method in methods() if rule_of(method).public] == []


def test_every_permission_opens_something() -> None:
    used = {rule_of(method).text for method in methods()}
    assert PERMISSIONS - used == set(), "a permission that no rpc asks for misleads whoever grants it"


def test_the_people_of_the_tests_hold_what_the_product_gives_their_role() -> None:
    permission = importlib.import_module("services.auth.permission")
    for person in cast.EVERYBODY:
        given = permission.permissions_of(permission.Role(person.role))
        assert set(given) == set(person.permissions), person.role
