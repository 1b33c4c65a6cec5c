"""npm and Node: what they are given."""

from pathlib import Path

import pytest

from bundle.node import Node


def test_what_others_wrote_is_not_given_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENNOTICE_ADMIN_PASSWORD", "seven quiet herons by the mill")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.court.example:3128")
    node = tmp_path / "node"
    node.write_text('#!/bin/sh\nenv > "$1"\n')
    node.chmod(0o755)
    Node(str(node), []).build(tmp_path, "environment")
    told = (tmp_path / "environment").read_text()
    assert "HTTPS_PROXY=http://proxy.court.example:3128" in told
    assert "OPENNOTICE_" not in told
