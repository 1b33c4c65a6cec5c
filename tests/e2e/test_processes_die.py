"""Any one process may be killed: it comes back, nothing answered is lost, visitors of known links are served."""

import os
import signal
import threading
import time
from typing import Any

import httpx
import pytest

from tests.e2e.test_main_job import eventually, new_client, new_link, opens_of
from tests.fix_bundle import Bundle
from tests.product import IPHONE

pytestmark = pytest.mark.e2e
PROCESSES = ["gateway", "enrichment", "reporting", "link", "auth", "nats", "postgres", "tracking"]


class Visitor:
    """Opens one link again and again and keeps what was answered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered: list[str] = []
        self.wrong: list[str] = []
        self.unrecorded = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Visitor":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                # A connection of its own each time, as a visitor has.
                answer = httpx.get(self.url, headers={"user-agent": IPHONE}, timeout=20)
            except httpx.HTTPError as error:
                # The request that a killed process was working on ends with its connection.
                self.wrong.append(type(error).__name__)
                continue
            if answer.status_code != 200:
                self.wrong.append(str(answer.status_code))
            elif "x-open-id" in answer.headers:
                self.answered.append(answer.headers["x-open-id"])
            else:
                self.unrecorded += 1
            time.sleep(0.02)


@pytest.fixture(scope="module")
def key(bundle: Bundle) -> str:
    return bundle.new_key()


@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_comes_back_and_nothing_answered_is_lost(bundle: Bundle, key: str, name: str) -> None:
    with bundle.api(key) as api:
        page = {"slug": "a", "title": "A", "markdown": "a"}
        portal = api.post("portals", json={"display_name": "P", "kind": "hosted", "pages": [page]}).json()
        client = new_client(api)
        link = new_link(api, portal, client)
        bundle.visit(link["url"])
    before = bundle.status()[name]
    with Visitor(link["url"]) as visitor:
        time.sleep(0.5)
        os.kill(before["pid"], signal.SIGKILL)
        eventually(lambda: bundle.status()[name]["restarts"] > before["restarts"], 20)
        eventually(bundle.is_ready, 30)
        time.sleep(0.5)
    # At most the one request under way may have been cut, and only where its own process died.
    assert len(visitor.wrong) <= (1 if name == "tracking" else 0), visitor.wrong
    assert visitor.unrecorded == 0
    assert len(visitor.answered) > 10
    with bundle.api(key) as api:

        def all_rows() -> list[str]:
            found: list[str] = []
            token = ""
            while True:
                answer = api.get(
                    "opens", params={"client": client["name"], "page_size": 200, "page_token": token or None}
                )
                if answer.status_code != 200:
                    return []
                found += [row["open_id"] for row in answer.json()["opens"]]
                token = answer.json()["next_page_token"]
                if not token:
                    return found

        rows = eventually(lambda: set(visitor.answered) <= set(found := all_rows()) and found, 30)
        assert len(rows) == len(set(rows)), "nothing twice"
        assert len(rows) <= len(visitor.answered) + 1 + len(visitor.wrong), "nothing invented"
        assert opens_of(api, client=client["name"])
