"""The dead-man switch: when it acts, when it never does, and with which key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.sentinel.guard import gpus_idle, stop_self, verdict

TERM = 3600.0
LONG = 2 * TERM


@pytest.mark.parametrize(
    ("silent", "ended", "gpus", "cpu", "people", "acts"),
    [
        (LONG, LONG, None, LONG, False, True), (LONG, None, LONG, LONG, False, True), (LONG, LONG, LONG, LONG, True, False),
        (60.0, LONG, LONG, LONG, False, False), (LONG, None, None, LONG, False, False), (LONG, 60.0, 60.0, LONG, False, False),
        (LONG, LONG, LONG, None, False, False), (LONG, LONG, LONG, 60.0, False, False), (LONG, None, 60.0, LONG, False, False),
    ],
    ids=["job over", "no GPU works", "somebody is logged in", "daemon heard", "job runs, GPUs unknown", "only just over", "CPU unknown",
         "CPU busy", "GPUs worked lately"],
)  # fmt: skip
def test_two_signals_and_silence_for_the_whole_term(
    silent: float, ended: float | None, gpus: float | None, cpu: float | None, people: bool, acts: bool
) -> None:
    assert (verdict(TERM, silent, ended, gpus, cpu, people) is not None) is acts


AGE = st.one_of(st.none(), st.floats(0, 1e5))


@given(st.floats(0, 1e5), AGE, AGE, AGE, st.booleans())
def test_it_never_acts_on_less(
    silent: float, ended: float | None, gpus: float | None, cpu: float | None, people: bool
) -> None:
    if verdict(TERM, silent, ended, gpus, cpu, people) is not None:
        assert not people
        assert silent >= TERM
        assert cpu is not None
        assert cpu >= TERM
        assert max(ended or 0, gpus or 0) >= TERM


FIELDS = ["index", "utilization.gpu", "count"]


@pytest.mark.parametrize(
    ("smi", "idle"),
    [
        ({"fields": FIELDS, "rows": [[1, ["0", "0", "2"]], [1, ["1", "3", "2"]]]}, True),
        ({"fields": FIELDS, "rows": [[1, ["0", "0", "2"]], [1, ["1", "97", "2"]]]}, False),
        ({"fields": FIELDS, "rows": [[1, ["0", "0", "2"]]]}, False), ({"fields": FIELDS, "rows": []}, False),
        ({"fields": FIELDS, "rows": [[1, ["0", "[N/A]", "1"]]]}, False), ({"fields": FIELDS, "rows": [[99, ["0", "0", "1"]]]}, False),
        ({"fields": FIELDS, "rows": [[1, ["0", "0", "1"]]], "problem": "hangs"}, False), ({}, False),
    ],
    ids=["idle", "one works", "one missing", "none", "not told", "stale", "problem", "nothing"],
)  # fmt: skip
def test_gpus_are_idle_only_when_each_says_so(smi: dict[str, Any], idle: bool) -> None:
    assert gpus_idle(smi) is idle


class Vendor(BaseHTTPRequestHandler):
    """Answers one way, remembers what it was asked."""

    answer: tuple[int, bytes] = (200, b'{"success": true}')
    asked: list[tuple[str, str, str, bytes]] = []  # noqa: RUF012 - per test, see `vendor`

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.command, self.path, self.headers["Authorization"], body))
        self.send_response(self.answer[0])
        self.end_headers()
        self.wfile.write(self.answer[1])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def vendor() -> Iterator[tuple[str, type[Vendor]]]:
    class Mine(Vendor):
        asked: list[tuple[str, str, str, bytes]] = []  # noqa: RUF012

    server = HTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Mine
    server.shutdown()
    thread.join()
    server.server_close()


ENV = {"CONTAINER_ID": "4711", "CONTAINER_API_KEY": "scoped", "VAST_API_KEY": "the account's"}


def test_it_stops_only_itself_and_only_with_the_instances_own_key(vendor: tuple[str, type[Vendor]]) -> None:
    url, mine = vendor
    assert stop_self({"provider": "vast", "url": url}, ENV) == "accepted"
    assert mine.asked == [("PUT", "/api/v0/instances/4711/", "Bearer scoped", b'{"state": "stopped"}')]


@pytest.mark.parametrize(
    "answer", [(200, b'{"success": false, "error": "no"}'), (200, b"<html>"), (404, b"{}"), (500, b"")]
)
def test_a_refusal_is_no_success(vendor: tuple[str, type[Vendor]], answer: tuple[int, bytes]) -> None:
    url, mine = vendor
    mine.answer = answer
    with pytest.raises((OSError, ValueError)):
        stop_self({"provider": "vast", "url": url}, ENV)


@pytest.mark.parametrize(
    "env", [{}, {"CONTAINER_ID": "4711"}, {"CONTAINER_ID": "../../x", "CONTAINER_API_KEY": "k"}]
)
def test_without_its_own_id_and_key_it_asks_nobody(
    vendor: tuple[str, type[Vendor]], env: dict[str, str]
) -> None:
    url, mine = vendor
    with pytest.raises((KeyError, ValueError)):
        stop_self({"provider": "vast", "url": url}, env)
    assert mine.asked == []


def test_where_stopping_loses_the_disk_it_does_not_stop(vendor: tuple[str, type[Vendor]]) -> None:
    url, mine = vendor
    with pytest.raises(ValueError, match="lose their disk"):
        stop_self({"provider": "runpod", "url": url}, ENV | {"RUNPOD_API_KEY": "pod"})
    assert mine.asked == []
