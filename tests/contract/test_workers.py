"""Tests that share something dear go to one worker: otherwise each worker starts it, and a run takes twice as long."""

import pytest


def test_the_group_is_told_to_those_who_share_the_work(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("the work is not shared in groups here")
    assert request.node.nodeid.endswith("tests/contract/test_workers.py")
    assert "@" in request.node.nodeid
