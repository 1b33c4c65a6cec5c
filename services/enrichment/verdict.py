"""Who made an open: the rule pack, and what it says about one request. Always with reasons."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import crawleruseragents
import re2

PACK_FILE = Path(__file__).with_name("rules") / "pack.toml"
VERDICTS = frozenset({"unconfirmed", "machine_likely", "machine_certain", "staff"})
KINDS = frozenset({"portal", "redirect", "email"})
_TRIGGERS = frozenset({"methods", "headers", "agent", "agent_tags", "network_kinds", "staff"})
_KEYS = frozenset({"code", "verdict", "sentence", "kinds"}) | _TRIGGERS
# Larger than RE2's default, which is too small for 1,500 patterns at once: a set that does not fit finds nothing.
_SET_MEMORY = 256 << 20
# One entry is at most 10 KB, and that only when somebody sends long headers on purpose.
CACHE_SIZE = 8_192


class PackFault(Exception):
    """The rule pack cannot be used; the service must not start with it."""


@dataclass(frozen=True)
class Reason:
    """One reason of a verdict."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Judgement:
    """A verdict and why, the strongest reason first."""

    verdict: str
    reasons: tuple[Reason, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the reasons."""
        return tuple(reason.code for reason in self.reasons)


@dataclass(frozen=True)
class Request:
    """What a verdict is made from. `agent` has been through device.cut; header names are lower case."""

    kind: str
    method: str
    agent: str
    headers: Mapping[str, str] = field(default_factory=dict)
    network_kind: str = ""
    from_staff_network: bool = False


@dataclass(frozen=True)
class Rule:
    """One rule of the pack."""

    reason: Reason
    verdict: str
    kinds: frozenset[str]
    methods: frozenset[str]
    headers: Mapping[str, Any]
    network_kinds: frozenset[str]
    staff: bool
    about_agent: bool
    always: bool

    def matches(self, request: Request) -> bool:
        """Whether this rule, which is not about the agent, applies."""
        return (
            self.always
            or request.method in self.methods
            or (self.staff and request.from_staff_network)
            or request.network_kind in self.network_kinds
            or any(
                name in request.headers and value.search(request.headers[name]) for name, value in self.headers.items()
            )
        )


class Pack:
    """The rules in force."""

    def __init__(self, version: str, rules: Sequence[Rule], agents: "AgentPatterns") -> None:
        self.version = version
        self.rules = rules
        self._agents = agents
        self._header_names = frozenset(name for rule in rules for name in rule.headers)
        # Few combinations come again and again: the agents of the day, without a telling header.
        self._judged = lru_cache(maxsize=CACHE_SIZE)(self._judge)

    def judge(self, request: Request) -> Judgement:
        """Returns the verdict of the first rule that matches and the reasons of all that do."""
        telling = tuple((name, value) for name, value in request.headers.items() if name in self._header_names)
        return self._judged(
            request.kind, request.method, request.agent, telling, request.network_kind, request.from_staff_network
        )

    def _judge(
        self, kind: str, method: str, agent: str, headers: tuple[tuple[str, str], ...], network_kind: str, staff: bool
    ) -> Judgement:
        request = Request(kind, method, agent, dict(headers), network_kind, staff)
        of_agent = self._agents.rules_of(request.agent)
        found: list[Rule] = []
        agent_is_told = False
        for number, rule in enumerate(self.rules):
            if request.kind not in rule.kinds or (rule.always and found):
                continue
            if rule.about_agent:
                if not agent_is_told and number in of_agent:
                    agent_is_told = True
                    found.append(rule)
            elif rule.matches(request):
                found.append(rule)
        return Judgement(found[0].verdict, tuple(rule.reason for rule in found))


class AgentPatterns:
    """All patterns about user agents in one automaton, which finds every match in one pass in linear time."""

    def __init__(self, patterns: Iterable[tuple[str, int]]) -> None:
        self._rule_of: list[int] = []
        options = re2.Options()
        options.max_mem = _SET_MEMORY
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        for pattern, rule in patterns:
            try:
                self._set.Add(pattern)
            except re2.error as error:
                raise PackFault(f"the pattern {pattern!r} cannot be used: {error}") from error
            self._rule_of.append(rule)
        self._set.Compile()

    def rules_of(self, agent: str) -> frozenset[int]:
        """Returns the numbers of the rules that a user agent matches."""
        return frozenset(self._rule_of[index] for index in self._set.Match(agent) or ())


def load(path: Path = PACK_FILE) -> Pack:
    """Reads a rule pack strictly; raises PackFault for anything that is not understood."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = set(document) - {"version", "rule", "distrusted"}
    if unknown or not document.get("version") or not document.get("rule"):
        raise PackFault("a rule pack has version, rule and distrusted")
    entries: list[dict[str, Any]] = document["rule"]
    rules = tuple(_rule(entry) for entry in entries)
    codes = [rule.reason.code for rule in rules]
    if len(set(codes)) != len(codes):
        raise PackFault("a code stands twice in the rule pack")
    if [rule.always for rule in rules] != [False] * (len(rules) - 1) + [True] or rules[-1].kinds != KINDS:
        raise PackFault("exactly the last rule must be one that always matches")
    distrusted = frozenset(document.get("distrusted", {}).get("patterns", []))
    return Pack(str(document["version"]), rules, AgentPatterns(_agent_patterns(entries, distrusted)))


def _rule(entry: dict[str, Any]) -> Rule:
    code = str(entry.get("code", ""))
    if set(entry) - _KEYS or not code or not entry.get("sentence"):
        raise PackFault(f"the rule {code!r} has unknown or missing keys")
    kinds = frozenset(entry.get("kinds", KINDS))
    if entry.get("verdict") not in VERDICTS or not kinds or kinds - KINDS:
        raise PackFault(f"the rule {code!r} has an unknown verdict or kind")
    about_agent = "agent" in entry or "agent_tags" in entry
    if about_agent and len(_TRIGGERS & set(entry)) != len({"agent", "agent_tags"} & set(entry)):
        raise PackFault(f"the rule {code!r} mixes the agent with other triggers")
    try:
        headers = {name: re2.compile("(?i)" + pattern) for name, pattern in entry.get("headers", {}).items()}
    except re2.error as error:
        raise PackFault(f"the rule {code!r} has a pattern that cannot be used: {error}") from error
    return Rule(
        reason=Reason(code, str(entry["sentence"])),
        verdict=str(entry["verdict"]),
        kinds=kinds,
        methods=frozenset(entry.get("methods", ())),
        headers=headers,
        network_kinds=frozenset(entry.get("network_kinds", ())),
        staff=bool(entry.get("staff", False)),
        about_agent=about_agent,
        always=not _TRIGGERS & set(entry),
    )


def _agent_patterns(entries: Sequence[dict[str, Any]], distrusted: frozenset[str]) -> Iterable[tuple[str, int]]:
    """Yields every pattern with the number of its rule, our own and those of the published list."""
    published = crawleruseragents.CRAWLER_USER_AGENTS_DATA
    missing = distrusted - {item["pattern"] for item in published}
    if missing:
        raise PackFault(f"crawler-user-agents has no such pattern any more: {sorted(missing)}")
    for number, entry in enumerate(entries):
        for pattern in entry.get("agent", ()):
            yield pattern, number
        tags = set(entry.get("agent_tags", ()))
        for item in published:
            if item["pattern"] not in distrusted and ("*" in tags or tags & set(item.get("tags", ()))):
                yield item["pattern"], number


def preferred_language(accept_language: str) -> str:
    """Returns the first language of an Accept-Language header, "es-MX"; empty when it names none."""
    first = accept_language.split(",", 1)[0].split(";", 1)[0].strip()
    parts = first.split("-")
    well_formed = all(part.isascii() and part.isalnum() and len(part) <= 8 for part in parts)
    return first if well_formed and parts[0].isalpha() and len(first) <= 35 else ""
