"""What the operator's command asks of auth, as issuer "host"; its key is readable by the operator only."""

import uuid
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import grpc
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc

from bundle.home import Home
from bundle.processes import reached_at
from bundle.settings import BundleSettings
from services.chassis import names
from services.chassis.access import PERMISSIONS
from services.chassis.errors import from_rpc_error
from services.chassis.identity import IDENTITY_METADATA, Signer

_SECONDS = 20.0


class CallRefused(Exception):
    """Says in one line why auth did not do it."""


@dataclass(frozen=True)
class Agency:
    """An agency as the command shows it."""

    name: str
    display_name: str
    time_zone: str
    allowed_hosts: tuple[str, ...]
    staff_networks: tuple[str, ...]


@dataclass(frozen=True)
class ApiKey:
    """An API key without its secret."""

    name: str
    display_name: str
    scopes: tuple[str, ...]
    revoked: bool


@dataclass(frozen=True)
class User:
    """A user as the command shows them."""

    name: str
    email: str
    display_name: str
    role: str
    state: str


class AuthCalls:
    """Calls of auth on this machine."""

    def __init__(self, home: Home, settings: BundleSettings) -> None:
        self._signer = Signer("host", home.identity_key("host").read_text())
        # Not over a proxy of the environment: auth is on this machine.
        options = [("grpc.enable_http_proxy", 0)]
        channel = grpc.insecure_channel(reached_at(settings.auth_grpc_bind), options=options)
        self._stub: Any = auth_pb2_grpc.AuthServiceStub(channel)

    def agencies(self) -> list[Agency]:
        """Returns all agencies, the oldest first."""
        answer = self._call("ListAgencies", auth_pb2.ListAgenciesRequest())
        return [_agency(agency) for agency in answer.agencies]

    def set_agency(self, agency: str, **changes: Any) -> Agency:
        """Changes settings of an agency: display_name, time_zone, allowed_hosts, staff_networks."""
        request = auth_pb2.UpdateAgencyRequest(agency=auth_pb2.Agency(**changes))
        request.update_mask.paths.extend(sorted(changes))
        return _agency(self._call("UpdateAgency", request, agency))

    def create_agency(self, display_name: str, admin_email: str, admin_password: str = "") -> tuple[str, str]:
        """Makes an agency with its first administrator; returns its name and the password, when auth made one."""
        request = auth_pb2.CreateAgencyRequest(
            agency=auth_pb2.Agency(display_name=display_name),
            admin_email=admin_email,
            admin_password=admin_password,
            request_id=str(uuid.uuid4()),
        )
        answer = self._call("CreateAgency", request)
        return answer.agency.name, answer.admin_password

    def create_api_key(self, agency: str, display_name: str, scopes: list[str]) -> tuple[str, str]:
        """Makes an API key; returns its name and its secret, which nobody can show again."""
        request = auth_pb2.CreateApiKeyRequest(
            api_key=auth_pb2.ApiKey(display_name=display_name, scopes=scopes), request_id=str(uuid.uuid4())
        )
        answer = self._call("CreateApiKey", request, agency)
        return answer.api_key.name, answer.secret

    def api_keys(self, agency: str) -> list[ApiKey]:
        """Returns the API keys of an agency, the newest first."""
        return [
            ApiKey(key.name, key.display_name, tuple(key.scopes), key.HasField("revoke_time"))
            for page in self._pages("ListApiKeys", auth_pb2.ListApiKeysRequest, agency)
            for key in page.api_keys
        ]

    def revoke_api_key(self, agency: str, name: str) -> None:
        """Ends an API key; it is refused everywhere within 5 seconds."""
        self._call("RevokeApiKey", auth_pb2.RevokeApiKeyRequest(name=name), agency)

    def create_user(self, agency: str, email: str, display_name: str, role: str) -> tuple[User, str]:
        """Makes a user; returns them and their first password."""
        user = auth_pb2.User(email=email, display_name=display_name, role=auth_pb2.Role.Value(f"ROLE_{role.upper()}"))
        answer = self._call("CreateUser", auth_pb2.CreateUserRequest(user=user, request_id=str(uuid.uuid4())), agency)
        return _user(answer.user), answer.password

    def users(self, agency: str) -> list[User]:
        """Returns the users of an agency."""
        pages = self._pages("ListUsers", auth_pb2.ListUsersRequest, agency)
        return [_user(user) for page in pages for user in page.users]

    def user(self, agency: str, who: str) -> User:
        """Returns a user by e-mail address or name."""
        request = auth_pb2.LookUpUserRequest(user=who, agency_id=str(_agency_id(agency)))
        return _user(self._call("LookUpUser", request, agency))

    def unlock(self, agency: str, name: str) -> User:
        """Unlocks an account that failed sign-ins have locked."""
        return _user(self._call("UnlockUser", auth_pb2.UnlockUserRequest(name=name), agency))

    def reset_password(self, agency: str, name: str) -> str:
        """Gives a user a new password and returns it."""
        return str(self._call("ResetPassword", auth_pb2.ResetPasswordRequest(name=name), agency).password)

    def _pages(self, method: str, request: Any, agency: str) -> Any:
        token = ""
        while True:
            page = self._call(method, request(page_size=200, page_token=token), agency)
            yield page
            token = page.next_page_token
            if not token:
                return

    def _call(self, method: str, request: Any, agency: str | None = None) -> Any:
        token, _ = self._signer.sign(
            subject="services/host",
            display_name="the host's command",
            agency_id=None if agency is None else _agency_id(agency),
            permissions=PERMISSIONS,
        )
        try:
            return getattr(self._stub, method)(
                request, metadata=[(IDENTITY_METADATA, token)], timeout=_SECONDS, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise CallRefused(reason_of(error)) from None


def reason_of(error: grpc.RpcError) -> str:
    """Says in one line why a call of a blocking stub was refused."""
    # Its error has the same questions as the asyncio one's.
    told = from_rpc_error(cast("grpc.aio.AioRpcError", error))
    return "; ".join(f"{field}: {message}" for field, message in told.fields) or told.message


def _agency_id(agency: str) -> UUID:
    found = names.parse_name("agencies", agency)
    if found is None:
        raise CallRefused(f"{agency!r} is not the name of an agency; it looks like agencies/0192…")
    return found


def _agency(agency: auth_pb2.Agency) -> Agency:
    hosts, networks = tuple(agency.allowed_hosts), tuple(agency.staff_networks)
    return Agency(agency.name, agency.display_name, agency.time_zone, hosts, networks)


def _user(user: auth_pb2.User) -> User:
    state = "disabled" if user.disabled else "locked" if user.locked else "active"
    role = auth_pb2.Role.Name(user.role).removeprefix("ROLE_").lower()
    return User(user.name, user.email, user.display_name, role, state)
