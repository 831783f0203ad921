"""Messages: every alarm once, its end once, never a flood; and a real HTTP endpoint that gets them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.daemon.telling import ENVIRONMENT, MOST_PER_HOUR, REMIND, SETTLE, Teller, send, urls

DISK = "r1: the disk is full in {} min at this rate (1.20 GB a minute, {} GB free)"


def test_an_alarm_is_told_once_although_its_numbers_change() -> None:
    teller = Teller()
    told = [m for n in range(60) for m in teller.tell([DISK.format(60 - n, 90 - n)], 60.0 * n)]
    assert told == [DISK.format(59, 89)]


def test_what_mends_itself_at_once_wakes_nobody() -> None:
    teller = Teller()
    assert teller.tell(["r1: lost"], 0.0) == []
    assert teller.tell(["r1: lost"], SETTLE - 1) == []
    assert teller.tell([], SETTLE) == []
    assert teller.tell(["r1: lost"], SETTLE + 1) == []


def test_its_end_is_told_and_a_new_one_again() -> None:
    teller = Teller()
    teller.tell(["a"], 0.0)
    assert teller.tell(["a"], 100.0) == ["a"]
    assert teller.tell([], 200.0) == ["over: a"]
    assert teller.tell([], 300.0) == []
    teller.tell(["a"], 400.0)
    assert teller.tell(["a"], 500.0) == ["a"]


def test_one_that_stands_for_hours_is_said_again() -> None:
    teller = Teller()
    teller.tell(["a"], 0.0)
    teller.tell(["a"], 100.0)
    assert teller.tell(["a"], REMIND) == []
    assert teller.tell(["a"], 100.0 + REMIND) == ["still: a"]


def test_a_flood_becomes_a_few_and_a_count() -> None:
    teller = Teller()
    many = [f"run-{chr(97 + n // 26)}{chr(97 + n % 26)}: gone" for n in range(100)]
    teller.tell(many, 0.0)
    assert len(teller.tell(many, 100.0)) == MOST_PER_HOUR
    assert teller.tell(many, 200.0) == []
    assert teller.tell(many, 4000.0) == [
        "88 more messages were held back; `gpuwatch status` shows what stands"
    ]


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcdefghijklmnopqrstuvwxyz")), st.floats(0, 600)), max_size=60
    )
)
def test_never_more_than_so_many_an_hour(script: list[tuple[set[str], float]]) -> None:
    teller, now, sent = Teller(), 0.0, []
    for standing, pause in script:
        now += pause
        sent += [now] * len(teller.tell(sorted(standing), now))
        assert sum(1 for at in sent if at > now - 3600) <= MOST_PER_HOUR


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[dict[str, str]]]]:
    got: list[dict[str, str]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if len(got) > 1 or "ok" in self.path else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"json://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_real_endpoint_gets_the_words(endpoint: tuple[str, list[dict[str, str]]]) -> None:
    url, got = endpoint
    assert send([f"{url}/ok"], "gpuwatch", "r1: the disk is full")
    assert (got[0]["title"], got[0]["message"]) == ("gpuwatch", "r1: the disk is full")


def test_an_endpoint_that_fails_and_a_url_that_is_none_are_no_success(
    endpoint: tuple[str, list[dict[str, str]]],
) -> None:
    url, _ = endpoint
    assert not send([url], "t", "b")
    assert not send(["nonsense"], "t", "b")
    assert not send([], "t", "b")


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "ntfy://topic  json://h/x")
    assert urls(["mailto://me", "json://h/x"]) == ("mailto://me", "json://h/x", "ntfy://topic")
