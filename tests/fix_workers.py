"""Shares the tests among workers so that what is dear to start is started once.

A file stays with one worker, because its fixtures are shared inside it; everything that needs the whole bundle stays
with one as well.
"""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts each test into its group, and the longest group first."""
    for item in items:
        group = "bundle" if "bundle" in getattr(item, "fixturenames", ()) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: "bundle" not in getattr(item, "fixturenames", ()))
