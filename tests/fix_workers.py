"""Shares the tests among workers so that what is dear to start is started once.

A file stays with one worker, because its fixtures are shared inside it; everything that needs the whole bundle stays
with one as well, and so does everything that needs the containers.
"""

import pytest

# The longest first.
_DEAR = ("containers", "bundle")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts each test into its group, and the longest group first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_dear(item) or str(item.path)))
        if item.get_closest_marker("engine") and not item.get_closest_marker("timeout"):
            # The first of them waits until all containers are up, on a machine that does other things besides.
            item.add_marker(pytest.mark.timeout(300))
    items.sort(key=lambda item: _DEAR.index(found) if (found := _dear(item)) else len(_DEAR))


def _dear(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    needed = {*getattr(item, "fixturenames", ()), callspec.params.get("product") if callspec else None}
    return next((name for name in _DEAR if name in needed), "")
