"""The public edge: what a visitor's request is answered with.

The visitor always gets the page. Whether the open could be recorded decides over one header, X-Open-Id, and nothing
else.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import UUID

from services.chassis import log
from services.chassis.names import millisecond_of, new_id
from services.tracking import metrics, pages
from services.tracking.directory import Directory
from services.tracking.events import LinkSilent, Resolver
from services.tracking.link import Link, Portal, Redirect, State, location_of, state_of
from services.tracking.protocol import ALLOW, Answer, Request, lines
from services.tracking.recorder import Recorder, Subject, Visit, record_of
from services.tracking.request import (
    AddressRule,
    Headers,
    HostRule,
    MissThrottle,
    Target,
    Wanted,
    read_target,
    throttle_key,
)

_LOG = log.get(__name__)

_EVERY_ANSWER = lines(
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-robots-tag", b"noindex, nofollow"),
    (b"x-content-type-options", b"nosniff"),
)
_HTML = _EVERY_ANSWER + lines(
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", pages.CONTENT_SECURITY_POLICY.encode()),
)
_TEXT = _EVERY_ANSWER + lines((b"content-type", b"text/plain; charset=utf-8"))
_IMAGE = _EVERY_ANSWER + lines((b"content-type", b"image/gif"))
_ALLOW = lines((b"allow", ALLOW))
# A transparent GIF of one pixel.
_PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c000000000100010000020144003b")
_ROBOTS = b"User-agent: *\nDisallow: /\n"
# While an address is over its limit, link is asked for it only as long as few questions are under way: a link that was
# made this instant still works, and guessing cannot keep link busy.
_ASKED_FOR_THROTTLED = 16
_RENDERED_AT_MOST = 512
_MISS_LOG_SECONDS = 10.0

Found = Redirect | tuple[Link, Portal]


class Edge:
    """The application."""

    def __init__(
        self,
        *,
        directory: Directory,
        resolver: Resolver,
        recorder: Recorder,
        is_stale: Callable[[], bool],
        hosts: HostRule,
        addresses: AddressRule,
    ) -> None:
        self._directory = directory
        self._resolver = resolver
        self._recorder = recorder
        self._is_stale = is_stale
        self._hosts = hosts
        self._addresses = addresses
        self._throttle = MissThrottle()
        self._rendered: OrderedDict[tuple[UUID, str], tuple[int, pages.Rendered]] = OrderedDict()
        self._misses_untold = 0
        self._misses_told_at = 0.0

    async def answer(self, request: Request) -> Answer:
        """Answers one request."""
        # Before anything else: this is the instant that the open is said to have happened at.
        open_id = new_id()
        raw_target, headers = request.target, request.headers
        absolute_host: bytes | None = None
        if not raw_target.startswith(b"/") and raw_target != b"*":
            absolute_host, raw_target = _split_absolute(raw_target)
        if refusal := self._hosts.refuse([value for name, value in headers if name == b"host"], absolute_host):
            return refusal, _TEXT, b"this host is not served here\n"
        method = request.method
        if method == "OPTIONS":
            return 204, _EVERY_ANSWER + _ALLOW, b""
        if method not in ("GET", "HEAD"):
            return 405, _TEXT + _ALLOW, b"method not allowed\n"
        target = read_target(raw_target)
        if target.wanted is Wanted.LINK or target.wanted is Wanted.REDIRECT:
            return await self._visit(open_id, target, method, self._addresses.visitor(request.peer, headers), headers)
        if target.wanted is Wanted.PIXEL:
            metrics.MISSES.labels("pixel").inc()
            return 200, _IMAGE, _PIXEL
        if target.wanted is Wanted.ROBOTS:
            return 200, _TEXT, _ROBOTS
        if target.wanted is Wanted.ICON:
            return 204, _EVERY_ANSWER, b""
        return self._miss(self._addresses.visitor(request.peer, headers))

    async def _visit(self, open_id: UUID, target: Target, method: str, address: str, headers: Headers) -> Answer:
        try:
            found = await self._look_up(target, address)
        except LinkSilent:
            metrics.MISSES.labels("unavailable").inc()
            return _LATER
        if found is None:
            return self._miss(address)
        opened_ms = millisecond_of(open_id)
        if isinstance(found, Redirect):
            state, slug = State.ACTIVE if found.active else State.PORTAL_INACTIVE, ""
            answer = self._to(found.target_uri) if found.active else _GONE[state]
        else:
            state, slug, answer = await self._answer_link(*found, target, opened_ms)
        visit = Visit(
            open_id=open_id,
            opened_ms=opened_ms,
            subject=_subject(found),
            page=slug,
            state=state,
            directory_stale=self._is_stale(),
            method=method,
            status=answer[0],
            ip_address=address,
            headers=headers,
            query=target.query,
            repaired=target.repaired,
            token=target.token,
        )
        _COUNTED[state].inc()
        if answer is _LATER:
            metrics.FAILED.labels("503").inc()
        if await self._is_recorded(visit):
            return answer[0], answer[1] + lines((b"x-open-id", str(open_id).encode())), answer[2]
        return answer

    async def _look_up(self, target: Target, address: str) -> Found | None:
        """Returns what was asked for, asking link when the copy has not heard of it; raises LinkSilent."""
        found = self._usable(target, self._directory.known(target.token_hash))
        if found is None:
            found = self._usable(target, await self._directory.find(target.token_hash))
        if found is None and not self._may_not_ask(address) and await self._resolver.resolve(target.token_hash):
            found = self._usable(target, self._directory.known(target.token_hash))
        return found

    def _usable(self, target: Target, thing: Link | Redirect | None) -> Found | None:
        """Links and redirects each work in their own place only; a link without its portal is not known well enough."""
        if isinstance(thing, Redirect):
            return thing if target.wanted is Wanted.REDIRECT else None
        if thing is None or target.wanted is not Wanted.LINK:
            return None
        portal = self._directory.portal(thing.portal_id)
        return (thing, portal) if portal is not None else None

    async def _answer_link(
        self, link: Link, portal: Portal, target: Target, opened_ms: int
    ) -> tuple[State, str, Answer]:
        state = state_of(link, portal, opened_ms)
        slug = portal.slug_of(link, target.page)
        asked = slug if slug is not None else target.page or ""
        if state is not State.ACTIVE:
            return state, asked, _GONE[state]
        if slug is None:
            return state, asked, (404, _HTML, pages.NO_SUCH_PAGE.for_token(target.token))
        if not portal.hosted:
            return state, asked, self._to(portal.target_uri)
        return state, asked, await self._show(portal, slug, target.token)

    async def _is_recorded(self, visit: Visit) -> bool:
        try:
            return await self._recorder.record(record_of(visit))
        except Exception as error:
            # A fault of ours. It must not cost the visitor the page, and it must be seen.
            self._recorder.unrecorded += 1
            metrics.UNRECORDED.inc()
            _LOG.error("open could not be built", link_id=str(visit.subject.link_id), exc_info=error)
            return False

    async def _show(self, portal: Portal, slug: str, token: str) -> Answer:
        key = (portal.portal_id, slug)
        kept = self._rendered.get(key)
        if kept is None or kept[0] != portal.revision:
            page = await self._directory.page(portal, slug)
            if page is None:
                return _LATER
            kept = (portal.revision, pages.hosted(portal, page))
            self._rendered[key] = kept
            if len(self._rendered) > _RENDERED_AT_MOST:
                self._rendered.popitem(last=False)
        return 200, _HTML, kept[1].for_token(token)

    def _to(self, target_uri: str) -> Answer:
        location = location_of(target_uri)
        if location is None:
            return _LATER
        # 302 and never 301: a browser that remembers the way would not come by again.
        return 302, _EVERY_ANSWER + lines((b"location", location)), b""

    def _may_not_ask(self, address: str) -> bool:
        if not self._resolver.is_busy(_ASKED_FOR_THROTTLED) or self._addresses.exempt_from_throttle(address):
            return False
        return self._throttle.is_over(throttle_key(address), time.monotonic())

    def _miss(self, address: str) -> Answer:
        self._tell_miss()
        if not self._addresses.exempt_from_throttle(address) and self._throttle.count(
            throttle_key(address), time.monotonic()
        ):
            metrics.MISSES.labels("throttled").inc()
            return 429, _HTML + lines((b"retry-after", b"60")), pages.TOO_MANY
        metrics.MISSES.labels("unknown").inc()
        return 404, _HTML, pages.UNKNOWN

    def _tell_miss(self) -> None:
        """Writes one line for many misses, so that guessing can be seen and cannot fill the log."""
        self._misses_untold += 1
        now = time.monotonic()
        if now - self._misses_told_at > _MISS_LOG_SECONDS:
            _LOG.info("unknown links were asked for", count=self._misses_untold)
            self._misses_untold, self._misses_told_at = 0, now


# Looked up once: finding a metric by label costs more than counting.
_COUNTED = {state: metrics.OPENS.labels(state.value) for state in State}
_LATER: Answer = (503, _HTML + lines((b"retry-after", b"2")), pages.UNAVAILABLE)
_GONE: dict[State, Answer] = {
    State.EXPIRED: (410, _HTML, pages.EXPIRED),
    State.REVOKED: (410, _HTML, pages.ENDED),
    State.PORTAL_INACTIVE: (410, _HTML, pages.ENDED),
}


def _subject(found: Found) -> Subject:
    if isinstance(found, Redirect):
        return Subject(found.agency_id, found.redirect_id, None, None, None, is_redirect=True)
    link, portal = found
    return Subject(portal.agency_id, link.link_id, link.portal_id, link.client_id, link.message_id, is_redirect=False)


def _split_absolute(target: bytes) -> tuple[bytes, bytes]:
    """Splits a target in absolute form ("http://host/path") into host and rest."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return b"?", b"/"
    if parts.scheme not in (b"http", b"https"):
        return b"?", b"/"
    return parts.netloc, (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
