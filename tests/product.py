"""A running product, however it was started: what the end-to-end tests ask of it."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import httpx

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.5 Mobile/15E148 Safari/604.1"
)
T_MOBILE = "172.56.21.89"


@dataclass(frozen=True)
class Channel:
    """How another court system reaches a service over gRPC."""

    target: str
    # Empty for a channel without TLS.
    authority: str = ""
    certificate: str = ""


class Product:
    """Everything that runs, seen from outside: its addresses and the operator's command."""

    public_url: str
    staff_url: str
    # Region and city of T_MOBILE in the IP data that come along.
    place: tuple[str, str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the `opennotice` command against it."""
        raise NotImplementedError

    def channel(self, service: str) -> Channel:
        """Returns how a service is called from outside."""
        raise NotImplementedError

    def transport(self) -> httpx.BaseTransport:
        """Returns what carries requests to it."""
        return httpx.HTTPTransport()

    def json(self, *arguments: str) -> Any:
        """Runs the command with --json and returns what it says."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def api(self, key: str) -> httpx.Client:
        """Returns a client of the JSON API."""
        return httpx.Client(
            base_url=f"{self.staff_url}/api/v1/",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=30,
            transport=self.transport(),
        )

    def new_key(self, *options: str, scopes: str = "all") -> str:
        """Makes an API key."""
        key: str = self.json("api-key", "create", "--name", "tests", "--scopes", scopes, *options)["key"]
        return key

    def visit(
        self, url: str, *, method: str = "GET", agent: str = IPHONE, address: str | None = None, **options: Any
    ) -> httpx.Response:
        """Opens a link as a client's browser does: on a connection of its own."""
        headers = {"user-agent": agent, **options.pop("headers", {})}
        if address:
            headers["x-forwarded-for"] = address
        with httpx.Client(transport=self.transport(), timeout=10) as browser:
            return browser.request(method, url, headers=headers, **options)
