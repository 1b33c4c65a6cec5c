"""Which permission each rpc asks for, read from its contract; and the one check."""

from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from opennotice.options.v1 import access_pb2

from services.chassis.errors import PermissionDenied, Unauthenticated
from services.chassis.identity import Caller

# Every permission there is, alphabetical. "read" never changes anything; "write" includes creating and ending.
PERMISSIONS = frozenset(
    {
        "agency:write",
        "api-keys:read",
        "api-keys:write",
        "audit:read",
        "clients:read",
        "clients:write",
        "delivery:write",
        "links:read",
        "links:reveal",
        "links:write",
        "messages:read",
        "messages:write",
        "opens:export",
        "opens:read",
        "portals:read",
        "portals:write",
        "redirects:read",
        "redirects:write",
        "users:read",
        "users:write",
    }
)
PUBLIC = "public"
SIGNED_IN = "signed-in"
SERVICE_PREFIX = "service:"


class RuleMissing(Exception):
    """An rpc says nothing, or nonsense, about who may call it; its process must not start."""


@dataclass(frozen=True)
class Rule:
    """Who may call one rpc."""

    text: str

    @property
    def public(self) -> bool:
        """Whether no identity is needed."""
        return self.text == PUBLIC

    @property
    def processes(self) -> frozenset[str]:
        """The processes it is reserved for; none when it is for people and API keys."""
        if not self.text.startswith(SERVICE_PREFIX):
            return frozenset()
        return frozenset(self.text.removeprefix(SERVICE_PREFIX).split(","))

    def check(self, caller: Caller | None) -> None:
        """Raises unless the caller may."""
        if self.public:
            return
        if caller is None:
            raise Unauthenticated("CREDENTIAL_MISSING", "this call needs an API key: authorization: Bearer <key>")
        if self.processes:
            if caller.process not in self.processes:
                raise PermissionDenied("PERMISSION_MISSING", "this call is for processes of OpenNotice itself")
        elif self.text == SIGNED_IN:
            _ = caller.agency
        elif self.text not in caller.permissions:
            raise PermissionDenied("PERMISSION_MISSING", f"this call needs the permission {self.text}", needs=self.text)


def rule_of(method: MethodDescriptor) -> Rule:
    """Returns the rule that an rpc declares; raises RuleMissing when it declares none that we know."""
    text = method.GetOptions().Extensions[access_pb2.permission]
    rule = Rule(text)
    if rule.public or text == SIGNED_IN or text in PERMISSIONS or (rule.processes and all(rule.processes)):
        return rule
    raise RuleMissing(
        f"{method.full_name} declares no known permission ({text!r}); see opennotice/options/v1/access.proto"
    )


def rules_of(service: ServiceDescriptor) -> dict[str, Rule]:
    """Returns the rule of every rpc of a service by its path on the wire."""
    return {f"/{service.full_name}/{method.name}": rule_of(method) for method in service.methods}
