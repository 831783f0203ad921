"""What an account may answer when it is asked for our machines, through the real adapter, the vendor's SDK and a socket.

Every such answer is a typed failure: the last good listing stays, nothing is written, nothing is decided,
and once it lasts it is an alarm (I3).
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpuproviders.vast import VastProvider
from gpuwatch.config import Config
from gpuwatch.daemon import alarms
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.main import fleet_of
from gpuwatch.daemon.reconciling import Reconciler
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import State

LABEL = "gputui-r1-1-aa"
ACCOUNT = "/api/v0/users/current"
LIST = "/api/v1/instances/"
SHOW = "/api/v0/instances/77/"


def row(number: int, label: str | None) -> dict[str, Any]:
    """One instance as Vast lists it."""
    return {"id": number, "label": label, "actual_status": "running", "intended_status": "running"}


def listing(*rows: dict[str, Any], total: int | None = None, token: str | None = None) -> bytes:
    """One page."""
    count = len(rows) if total is None else total
    page = {"success": True, "instances_found": len(rows), "total_instances": count, "next_token": token}
    return json.dumps(page | {"instances": list(rows)}).encode()


@dataclass
class Server:
    """Answers each path with (status, bytes, bytes withheld from the end); the first page and later ones differ."""

    answers: dict[str, tuple[int, bytes, int]] = field(default_factory=dict)
    pages: dict[str, tuple[int, bytes, int]] = field(default_factory=dict)
    url: str = ""

    def answer(self, target: str) -> tuple[int, bytes, int]:
        path, _, query = target.partition("?")
        for token, page in self.pages.items():
            if f"after_token={token}" in query:
                return page
        return self.answers.get(path, (404, b'{"success": false, "error": "not_found"}', 0))


@pytest.fixture
def server() -> Iterator[Server]:
    script = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, withheld = script.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - withheld])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{http.server_address[1]}"
    good(script)
    yield script
    http.shutdown()
    http.server_close()
    thread.join(10)


def good(server: Server) -> None:
    """A healthy account with our machine and one that is not ours."""
    server.answers = {
        ACCOUNT: (200, b'{"id": 4711, "credit": 12.5}', 0),
        LIST: (200, listing(row(77, LABEL), row(5, "somebody")), 0),
        SHOW: (200, json.dumps({"instances": row(77, LABEL)}).encode(), 0),
    }
    server.pages = {}


@dataclass
class Daemon:
    """Ledger, account watcher and reconciler, as the daemon puts them together."""

    ctx: Context
    reconciler: Reconciler

    @property
    def fleet(self) -> Any:
        return self.ctx.fleets["vast"]

    async def look(self) -> Any:
        """One more attempt, taken in by the reconciler if it counts."""
        listed = await self.fleet.next_listing()
        if listed is not None:
            await self.reconciler.take_in(listed, self.fleet.listed_at)
        return listed

    def alarms(self) -> list[str]:
        return alarms.standing(self.ctx, {"vast": self.reconciler}, {}, {})


@asynccontextmanager
async def daemon(path: Path, url: str) -> AsyncIterator[Daemon]:
    ledger = await Ledger.open(path)
    writer = asyncio.create_task(ledger.write())
    provider = VastProvider(key=lambda: "k", url=url, paced=False, seconds=5)
    fleet = fleet_of(provider, ledger, Config())
    nothing: Any = None  # no box is reached here
    ctx = Context(
        config=Config(), ledger=ledger, vault=nothing, boxes=nothing, hostkeys=nothing, key=path, public_key="",
        fleets={"vast": fleet}, trainer=None, now=lambda: 0.0,
    )  # fmt: skip
    made = Daemon(ctx, Reconciler(ctx, fleet, lambda _: None))
    fleet.need()
    watch = asyncio.create_task(fleet.watch())
    try:
        yield made
    finally:
        watch.cancel()
        await asyncio.wait({watch})
        await provider.close()
        ledger.stop()
        await writer
        await ledger.close()


async def rented(ledger: Ledger) -> None:
    """A run whose machine is 77, of account 4711."""
    await ledger.know_account(e.AccountSeen(provider="vast", user="4711"))
    await ledger.create("r1", e.Requested(name="r1", spec="", file="", base="", key="k"))
    chosen = e.OfferChosen(
        label=LABEL, provider="vast", offer_id="9", machine_id=None, gpu="x", gpu_count=1, gpu_memory=1, price=1, disk_price=0,
    )  # fmt: skip
    for event in (chosen, e.CreateSent(label=LABEL), e.Rented(label=LABEL, instance_id="77")):
        await ledger.append("r1", event)


HTML = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
OURS, OTHER = row(77, LABEL), row(5, "somebody")
BAD: dict[str, dict[str, Any]] = {
    "HTML with 200": {LIST: (200, HTML, 0)},
    "HTML with 502": {LIST: (502, HTML, 0)},
    "HTML for the account": {ACCOUNT: (200, HTML, 0)},
    "an empty object": {LIST: (200, b"{}", 0)},
    "an empty array": {LIST: (200, b"[]", 0)},
    "an empty object for the account": {ACCOUNT: (200, b"{}", 0)},
    "an empty array for the account": {ACCOUNT: (200, b"[]", 0)},
    "null": {LIST: (200, b"null", 0)},
    "nothing": {LIST: (200, b"", 0)},
    "cut in the middle": {LIST: (200, listing(OURS, OTHER), 40)},
    "JSON that breaks off": {LIST: (200, listing(OURS, OTHER)[:-9], 0)},
    "no instances, and no success": {LIST: (200, b'{"success": false, "error": "x", "msg": "y"}', 0)},
    "no list of instances": {LIST: (200, b'{"success": true, "next_token": null, "total_instances": 0}', 0)},
    "instances that are null": {LIST: (200, b'{"success": true, "next_token": null, "total_instances": 0, "instances": null}', 0)},
    "an object for a list": {LIST: (200, b'{"success": true, "next_token": null, "total_instances": 1, "instances": {"77": {}}}', 0)},
    "rows without a number": {LIST: (200, listing({"label": LABEL}), 0)},
    "rows that are text": {LIST: (200, listing("77"), 0)},  # type: ignore[arg-type]
    "no next_token": {LIST: (200, b'{"success": true, "total_instances": 0, "instances": []}', 0)},
    "empty, and says there are two": {LIST: (200, listing(total=2), 0)},
    "page 1 of 3, then HTML": {LIST: (200, listing(OTHER, total=3, token="p2"), 0), "p2": (200, HTML, 0)},
    "page 1 of 3, then an empty one": {LIST: (200, listing(OTHER, total=3, token="p2"), 0), "p2": (200, listing(total=3), 0)},
    "page 1 of 3, again and again": {LIST: (200, listing(OTHER, total=3, token="p2"), 0), "p2": (200, listing(OTHER, total=3, token="p2"), 0)},
    "page 1 of 3, then cut": {LIST: (200, listing(OTHER, total=3, token="p2"), 0), "p2": (200, listing(OURS, total=3), 30)},
    "the wrong key": {ACCOUNT: (404, b'{"success": false, "error": "auth_error", "msg": "Invalid user key"}', 0)},
    "the list is retired": {LIST: (410, b'{"success": false, "error": "deprecated_endpoint", "msg": "gone"}', 0)},
    "too many requests": {LIST: (429, b"API requests too frequent", 0)},
    "somebody else's account": {ACCOUNT: (200, b'{"id": 9, "credit": 1}', 0), LIST: (200, listing(OTHER), 0)},
    "somebody else's account, empty": {ACCOUNT: (200, b'{"id": 9, "credit": 1}', 0), LIST: (200, listing(), 0)},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_an_answer_that_is_none_advances_nothing_and_becomes_an_alarm(
    name: str, server: Server, tmp_path: Path
) -> None:
    async with daemon(tmp_path / "ledger.db", server.url) as here:
        ledger = here.ctx.ledger
        await rented(ledger)
        assert await here.look() is not None
        kept, events = here.fleet.listing, ledger.last_seq
        before = (dict(ledger.runs), dict(ledger.register), dict(ledger.accounts))
        for path, answer in BAD[name].items():
            (server.answers if path.startswith("/") else server.pages)[path] = answer
        for _ in range(2):
            assert await here.look() is None
        assert here.fleet.problem, "it says what is wrong"
        assert here.fleet.listing is kept, "the last good listing stays"
        assert ledger.last_seq == events, "nothing was written"
        assert (ledger.runs, ledger.register, ledger.accounts) == before
        assert ledger.runs["r1"].state is State.BOOTING
        here.fleet.listed_at -= 61
        (alarm,) = here.alarms()
        assert "another account" in alarm or "cannot be listed" in alarm
        good(server)
        assert await here.look() is not None, "a good answer is taken at once"
        assert here.alarms() == []


async def test_machines_of_others_in_our_account_are_counted_and_nothing_else(
    server: Server, tmp_path: Path
) -> None:
    async with daemon(tmp_path / "ledger.db", server.url) as here:
        await rented(here.ctx.ledger)
        server.answers[LIST] = (200, listing(OURS, OTHER, row(6, None), row(7, "prod")), 0)
        assert await here.look() is not None
        events = here.ctx.ledger.last_seq
        assert await here.look() is not None
        assert len(here.reconciler.foreign) == 3
        assert (here.reconciler.orphans, here.alarms(), here.ctx.ledger.last_seq) == ((), [], events)


async def test_three_whole_pages_are_one_listing(server: Server, tmp_path: Path) -> None:
    async with daemon(tmp_path / "ledger.db", server.url) as here:
        await rented(here.ctx.ledger)
        server.answers[LIST] = (200, listing(OTHER, total=3, token="p2"), 0)
        server.pages["p2"] = (200, listing(row(6, None), total=3, token="p3"), 0)
        server.pages["p3"] = (200, listing(OURS, total=3), 0)
        listed = await here.look()
        assert [i.instance_id for i in listed.instances] == ["5", "6", "77"]
        kinds = [e.kind_of(s.event) for s in await here.ctx.ledger.events(run="r1")]
        assert kinds[-1] == "machine-listed"


async def test_our_label_without_a_run_is_an_alarm_that_names_the_machine(
    server: Server, tmp_path: Path
) -> None:
    async with daemon(tmp_path / "ledger.db", server.url) as here:
        server.answers[LIST] = (200, listing(row(88, "gputui-old-abcd-1-ff")), 0)
        assert await here.look() is not None
        (alarm,) = here.alarms()
        assert "instance 88" in alarm
        assert "destroy it at the provider" in alarm
