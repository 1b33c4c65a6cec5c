"""`opennotice demo`: an agency with everything an agency has, made through the interfaces that others use too.

Objects come over the JSON API with an API key, opens by asking for the links as phones do. What was made is remembered
in the home, so that a second run goes on where the first one stopped and then only says where to look.
"""

import json
import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from bundle import demo_cast as cast
from bundle.auth_calls import AuthCalls
from bundle.home import Home, read_json, write_private
from bundle.processes import reached_at
from bundle.program import HostFault
from bundle.settings import BundleSettings

AGENCY = "Demo County Court"
ADMIN_EMAIL = "admin@demo-court.example"
CLIENTS = 40
OPENS = 300
_EXPIRES_AFTER = timedelta(seconds=3)
_SELF = ip_address("127.0.0.1")
Say = Callable[[str], None]


def load_demo(home: Home, settings: BundleSettings, say: Say) -> None:
    """Loads the demo, or what is missing of it."""
    auth = AuthCalls(home, settings)
    state = _State(home)
    agency = state.agency(auth, say)
    if not state.made("opens"):
        key_name, key = auth.create_api_key(agency, "Loading the demo", ["all"])
        try:
            _Loader(settings, key, state, say).load()
        finally:
            # A key that nobody needs any more is a key that nobody can steal.
            auth.revoke_api_key(agency, key_name)
    say("")
    say(f"The demo is loaded: {AGENCY}.")
    say("")
    say(f"  Staff pages    {settings.staff_url}")
    say(f"  Sign in as     {ADMIN_EMAIL}")
    say(f"  Password       {state.made('admin_password')}")
    say("")
    # Between containers this command comes from a network that is trusted.
    if not home.probes.exists() and not any(_SELF in network for network in settings.trusted_proxies):
        say("  The visitors' addresses are those of this machine: X-Forwarded-For counts only from a trusted proxy.")
        say("  To see networks and places, start with OPENNOTICE_TRUSTED_PROXIES=127.0.0.1/32 and an empty home.")


class _State:
    """What was made so far, kept in the home."""

    def __init__(self, home: Home) -> None:
        self._path = home.demo
        self._made: dict[str, Any] = read_json(self._path)

    def made(self, key: str) -> Any:
        """Returns what was kept under a key, None when nothing was."""
        return self._made.get(key)

    def keep(self, **entries: Any) -> None:
        """Keeps entries; the file holds a password and is readable by its owner only."""
        self._made |= entries
        write_private(self._path, json.dumps(self._made))

    def agency(self, auth: AuthCalls, say: Say) -> str:
        """Returns the demo's agency, made on first use."""
        if not self.made("agency"):
            name, password = auth.create_agency(AGENCY, ADMIN_EMAIL)
            auth.set_agency(name, time_zone="America/New_York")
            self.keep(agency=name, admin_password=password, start=datetime.now(UTC).isoformat(timespec="seconds"))
            say(f"made the agency {AGENCY}")
        return str(self.made("agency"))


class _Loader:
    """Fills the agency."""

    def __init__(self, settings: BundleSettings, key: str, state: _State, say: Say) -> None:
        self._say = say
        self._state = state
        # Always the same people and visits: what one person tells about the demo another one finds.
        self._dice = random.Random(20261123)  # noqa: S311
        self._start = datetime.fromisoformat(state.made("start"))
        # Straight to the listeners of this machine, under the names that people type.
        self._api = httpx.Client(
            base_url=f"http://{reached_at(settings.staff_bind)}/api/v1/",
            headers={"authorization": f"Bearer {key}", "host": urlsplit(settings.staff_url).netloc},
            timeout=30,
            trust_env=False,
        )
        self._public = httpx.Client(
            base_url=f"http://{reached_at(settings.public_bind)}",
            headers={"host": urlsplit(settings.public_url).netloc},
            timeout=30,
            trust_env=False,
        )

    def load(self) -> None:
        """Makes everything, then opens it."""
        portals = [self._make("portals", f"portal-{number}", body) for number, body in enumerate(cast.PORTALS)]
        closed = self._make("portals", "portal-closed", {**cast.PORTALS[1], "display_name": "Jury duty 2025"})
        campaigns = [
            self._make("campaigns", f"campaign-{number}", {"display_name": title})
            for number, title in enumerate(("December hearings", "Unpaid fines"))
        ]
        self._say(f"made {len(portals) + 1} portals and {len(campaigns)} campaigns")
        personal = [link for number in range(CLIENTS) for link in self._client(number, portals, campaigns)]
        self._say(f"made {CLIENTS} clients with messages and {len(personal)} links")
        shared = [
            self._make("links", f"shared-{number}", {"portal": portal["name"]})
            for number, portal in enumerate([portals[0], portals[0], closed])
        ]
        redirects = [
            self._make("redirects", f"redirect-{number}", {"display_name": title, "target_uri": target})
            for number, (title, target) in enumerate(cast.REDIRECTS)
        ]
        self._call("PATCH", closed["name"], {"active": False})
        late = self._late_links(portals[0])
        self._visit(personal, shared, redirects, late)
        self._state.keep(opens=OPENS)

    def _client(self, number: int, portals: list[Any], campaigns: list[Any]) -> list[Any]:
        """Makes a client with one or two messages, each with a link."""
        first = cast.FIRST_NAMES[number % len(cast.FIRST_NAMES)]
        last = cast.LAST_NAMES[(number * 3 + number // len(cast.FIRST_NAMES)) % len(cast.LAST_NAMES)]
        person = {
            "display_name": f"{first} {last}",
            "ref": f"2026-CR-{1000 + number}",
            "phone": f"+1 555 01{number:02}",
            "email": f"client{number}@example.org",
        }
        client = self._make("clients", f"client-{number}", person)
        links = []
        for turn in range(1 + number % 2):
            sent = self._start - timedelta(days=3 * turn + number % 5, hours=number % 9)
            message = {
                "client": client["name"],
                "campaign": campaigns[turn]["name"],
                "channel": "email" if number % 3 == 0 else "sms",
                "send_time": sent.isoformat(),
                "delivery_status": "bounced" if number % 13 == 12 else "delivered" if number % 7 else "sent",
                "deadline_time": (self._start + timedelta(days=2 + number % 20)).isoformat(),
            }
            made = self._make("messages", f"message-{number}-{turn}", message)
            # The second message is about money; a few clients belong to probation.
            portal = portals[2] if turn else portals[1] if number % 8 == 5 else portals[0]
            link = {"portal": portal["name"], "client": client["name"], "message": made["name"]}
            links.append(self._make("links", f"link-{number}-{turn}", link))
        return links

    def _late_links(self, portal: Any) -> list[Any]:
        """Makes links that end while the demo runs, and one that is revoked."""
        found = []
        for number in range(4):
            client = self._state.made(f"client-{number}")["name"]
            link: dict[str, Any] = {"portal": portal["name"], "client": client}
            if number:
                link["expire_time"] = (datetime.now(UTC) + _EXPIRES_AFTER).isoformat()
            found.append(self._make("links", f"late-{number}", link))
        self._call("POST", f"{found[0]['name']}:revoke", {})
        return found

    def _visit(self, personal: list[Any], shared: list[Any], redirects: list[Any], late: list[Any]) -> None:
        # One in five clients never comes; some come often.
        eager = [link for number, link in enumerate(personal) if number % 5]
        weights = [1 + 4 * (number % 6 == 0) for number in range(len(eager))]
        before = OPENS - 12
        for number in range(before):
            draw = self._dice.random()
            if draw < 0.8:
                link = self._dice.choices(eager, weights)[0]
            elif draw < 0.92:
                link = self._dice.choice(shared)
            else:
                link = self._dice.choice(redirects)
            self._open(link["url"], person=self._dice.random() < 0.82)
            if number % 50 == 49:
                self._say(f"opened {number + 1} of {OPENS} links")
        self._say("waiting for a few links to expire")
        time.sleep(_EXPIRES_AFTER.total_seconds())
        for _ in range(3):
            for link in late:
                self._open(link["url"], person=True)
        self._say(f"opened {OPENS} of {OPENS} links")

    def _open(self, url: str, *, person: bool) -> None:
        """Asks for a link as a phone, a desktop or a machine does."""
        dice = self._dice
        method, path = "GET", urlsplit(url).path
        headers = {"x-forwarded-for": dice.choice(cast.PEOPLE_ADDRESSES if person else cast.MACHINE_ADDRESSES)}
        if person:
            weights = [weight for weight, _ in cast.PEOPLE_AGENTS]
            headers["user-agent"] = dice.choices([agent for _, agent in cast.PEOPLE_AGENTS], weights)[0]
            headers["accept-language"] = dice.choice(cast.LANGUAGES)
            headers["sec-fetch-mode"] = "navigate"
            headers["sec-fetch-user"] = "?1"
        else:
            headers["user-agent"] = dice.choice(cast.MACHINE_AGENTS)
            method = "HEAD" if dice.random() < 0.3 else "GET"
        answer = self._public.request(method, path, headers=headers)
        if answer.status_code >= 500:
            raise HostFault(f"a link answered {answer.status_code}; is everything ready? `opennotice status` tells")

    def _make(self, collection: str, key: str, body: dict[str, Any]) -> Any:
        """Makes an object once: what was kept is returned, and a repeated request makes nothing new."""
        kept = self._state.made(key)
        if kept is None:
            request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._state.made('agency')}/{key}"))
            kept = self._call("POST", collection, {**body, "request_id": request_id})
            self._state.keep(**{key: {part: kept[part] for part in ("name", "url") if part in kept}})
        return kept

    def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        answer = self._api.request(method, path, json=body)
        if answer.is_error:
            raise HostFault(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json() if answer.content else None
