"""The page that asks before something is done that somebody might regret; it needs no script."""

from dataclasses import dataclass, field

from litestar.response import Template

from gateway.pages.desk import Desk


@dataclass(frozen=True)
class Ask:
    """A question with one verb; `back` is where Cancel leads."""

    title: str
    sentences: list[str]
    verb: str
    action: str
    back: str
    hidden: list[tuple[str, str]] = field(default_factory=list)
    dangerous: bool = False

    def page(self, desk: Desk) -> Template:
        """Shows the question."""
        return desk.page("confirm.html", ask=self)
