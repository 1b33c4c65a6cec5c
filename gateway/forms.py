"""Forms: the fields that a handler lists, each at most once; anything else is refused."""

from typing import Any

from litestar import Request

from gateway import csrf
from services.chassis.errors import Faults


async def read_form(request: Request[Any, Any, Any], *fields: str) -> dict[str, str]:
    """Returns the listed fields as sent, without outer spaces; one that was not sent is empty.

    A field that is not listed, sent twice, or a file where text belongs, is an error naming it: a form that says
    more than its page can say was not made by its page.
    """
    faults = Faults()
    found = dict.fromkeys(fields, "")
    seen = set()
    for name, value in (await request.form()).multi_items():
        if name == csrf.FIELD:
            continue
        if name not in found:
            faults.add(name[:100], "is not a field of this form")
        elif name in seen or not isinstance(value, str):
            faults.add(name, "must be sent once, as text")
        else:
            seen.add(name)
            found[name] = value.strip()
    faults.stop()
    return found
