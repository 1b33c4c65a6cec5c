"""Headless Chromium, where there is one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

# Chromium asks its maker's servers at every start unless it is told not to; nothing of ours leaves the machine.
ARGUMENTS = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
]


# Not for the whole run: while Playwright is open its loop counts as the running one, and asyncio tests after it fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Gives a browser; its tests carry the marker `browser`."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: the pages were not tried in a browser")
    arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Gives the folder that screenshots go to: test-results, or what OPENNOTICE_TEST_PICTURES names."""
    folder = Path(os.environ.get("OPENNOTICE_TEST_PICTURES", "test-results"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
