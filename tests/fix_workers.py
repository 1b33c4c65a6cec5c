"""Shares the tests among workers so that what is dear to start is started once.

A file stays with one worker, because its fixtures are shared inside it; everything that needs the whole bundle stays
with one as well, and so does everything that needs the containers.
"""

from typing import Any

import pytest
from _pytest.nodeid import NodeId

# The longest first.
_DEAR = ("containers", "bundle")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keeps our order: by itself xdist would begin with the file that has most tests, not with the longest."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts each test into its group, and the longest group first."""
    in_groups = getattr(config.option, "loadgroup", False)
    for item in items:
        group = _dear(item) or item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
        if in_groups:
            _name_group(item, group)
        if item.get_closest_marker("engine") and not item.get_closest_marker("timeout"):
            # The first of them waits until all containers are up, on a machine that does other things besides.
            item.add_marker(pytest.mark.timeout(300))
    items.sort(key=_turn)


def _dear(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    needed = {*getattr(item, "fixturenames", ()), callspec.params.get("product") if callspec else None}
    return next((name for name in _DEAR if name in needed), "")


def _turn(item: pytest.Item) -> int:
    if dear := _dear(item):
        return _DEAR.index(dear)
    # Those that start containers of their own take minutes as well.
    return len(_DEAR) if item.get_closest_marker("engine") else len(_DEAR) + 1


def _name_group(item: Any, group: str) -> None:
    # The worker tells the group behind the test's name. xdist 3.8 writes it where pytest 9.2 does not look any more,
    # and then every test goes to any worker, without a word (pytest-xdist issue 1386). Twice does no harm.
    item._id = NodeId.parse(f"{item.nodeid}@{group}")
