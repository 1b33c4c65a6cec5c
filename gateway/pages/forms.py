"""Forms: read strictly, kept as typed, with each problem next to its field."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from litestar import Request
from litestar.datastructures import MultiDict

from gateway import csrf
from gateway.errors import sentence_of
from services.chassis.errors import AlreadyExists, FailedPrecondition, Faults, InvalidArgument, NotFound, ServiceError

# What a person can mend by typing something else. Everything else is an error of the whole page.
MENDABLE = (AlreadyExists, FailedPrecondition, InvalidArgument, NotFound)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and the field it is about; no field: the form as a whole."""

    field: str
    message: str


@dataclass
class Form:
    """What was typed, and what is wrong with it."""

    typed: Mapping[str, str | list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def value(self, name: str) -> str:
        """Returns what was typed into a field."""
        found = self.typed.get(name, "")
        return found if isinstance(found, str) else (found[0] if found else "")

    def values(self, name: str) -> list[str]:
        """Returns everything that was chosen for a field."""
        found = self.typed.get(name, [])
        return found if isinstance(found, list) else [found]

    def problem(self, name: str) -> str | None:
        """Returns what is wrong with a field."""
        return next((problem.message for problem in self.problems if problem.field == name), None)

    def add(self, name: str, message: str) -> None:
        """Notes one wrong field."""
        self.problems.append(Problem(name, message))

    def need(self, name: str, message: str) -> None:
        """Notes a field that was left empty."""
        if not self.value(name):
            self.add(name, message)

    def refuse(self, error: ServiceError, names: Mapping[str, str], reasons: Mapping[str, str]) -> None:
        """Shows what a service refused: `names` leads from its fields to ours, `reasons` from its reason to our field.

        What leads nowhere is shown for the form as a whole.
        """
        if error.reason in reasons:
            self.add(reasons[error.reason], _sentence(sentence_of(error)))
            return
        for name, message in error.fields:
            self.add(names.get(name) or names.get(name.rpartition(".")[2]) or "", _sentence(message))
        if not error.fields:
            self.add("", _sentence(sentence_of(error)))


async def read_form(request: Request[Any, Any, Any], *names: str) -> Form:
    """Reads a posted form that has these fields and no others, each at most once."""
    return read_values((await request.form()).multi_items(), {*names, csrf.FIELD})


def read_query(query: MultiDict[str], names: Iterable[str], repeated: Iterable[str] = ()) -> Form:
    """Reads the query of an address in the same way; `repeated` may be there several times."""
    return read_values(query.multi_items(), set(names), set(repeated))


def read_values(sent: Iterable[tuple[str, Any]], names: set[str], repeated: Set[str] = frozenset()) -> Form:
    """Takes values by name, without outer spaces; what no page of ours can have sent is refused, naming it."""
    faults, typed = Faults(), dict[str, str | list[str]]()
    for name, value in sent:
        if name not in names and name not in repeated:
            faults.add(name[:100], "is not a field of this page")
        elif not isinstance(value, str) or (name in typed and name not in repeated):
            faults.add(name, "must be sent once, as text")
        elif name in repeated:
            chosen = typed.setdefault(name, [])
            assert isinstance(chosen, list)
            chosen.append(value.strip())
        else:
            # A space at the end of a password is part of it; anywhere else it came with copying.
            typed[name] = value if "password" in name else value.strip()
    faults.stop()
    return Form(typed)


def _sentence(message: str) -> str:
    """Makes a sentence of what a service says: "must be in the future" reads "This must be in the future."."""
    text = message.strip()
    starts = ("must ", "is ", "has ", "may ", "cannot ", "was ", "needs ", "holds ", "contains ")
    text = f"This {text}" if text.startswith(starts) else text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
