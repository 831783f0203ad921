"""The daemon's socket and a client that means ill, is broken, or is of another version: typed answers, nothing falls over."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpuwatch.box.hostkeys import HostKeys
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import CallFailed, DaemonUnreachable
from gpuwatch.client.stream import AsyncClient
from gpuwatch.config import Config
from gpuwatch.daemon import server
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.server import serve
from gpuwatch.daemon.service import Service
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.paths import Paths
from gpuwatch.vault.layout import Vault


@contextmanager
def folder() -> Iterator[Path]:
    """A short path: a Unix socket's name has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gpt-") as name:
        yield Path(name)


@asynccontextmanager
async def daemon(home: Path) -> AsyncIterator[Path]:
    """The real server and service over a real ledger with one run; yields the socket."""
    paths = Paths(config=home, state=home, runtime=home, vault=home / "vault")
    vault = Vault(paths.vault)
    vault.create()
    ledger = await Ledger.open(home / "ledger.db")
    writer = asyncio.create_task(ledger.write())
    ctx = Context(
        config=Config(), ledger=ledger, vault=vault, boxes=None, hostkeys=HostKeys(home), key=home / "key",  # type: ignore[arg-type]
        public_key="ssh-ed25519 AAAA", fleets={}, trainer=None,
    )  # fmt: skip
    service = Service(ctx, paths, start_run=lambda _: None, stop=lambda: None)
    await ledger.create("r-abcd", e.Requested(name="r", spec="name = 'r'", file="r.toml", base="/", key="k"))
    try:
        async with serve(service, home / "s"):
            yield home / "s"
    finally:
        ledger.stop()
        await writer
        await ledger.close()


def watched(body: Callable[[Path], Awaitable[None]]) -> None:
    """Run `body` beside a daemon; nothing may go wrong that nobody expected, in the loop or in the log."""
    accidents: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: accidents.append(context))
        with folder() as home:
            async with asyncio.timeout(60), daemon(home) as socket:
                await body(socket)
                async with connected(socket) as client:
                    assert (await client.call("runs", wire.Empty(), wire.Runs)).runs, (
                        "the daemon does not answer any more"
                    )

    with structlog.testing.capture_logs() as log:
        asyncio.run(main())
    assert not accidents, accidents
    assert not [entry for entry in log if entry["log_level"] in ("error", "critical")], log


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(path)
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


async def say(socket: Path, data: bytes, *, end: bool = True) -> list[dict[str, Any]]:
    """Everything that is answered to these bytes (until the daemon or, with `end`, we have nothing more to say)."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=1 << 26)
    heard = []
    try:
        writer.write(data)
        await writer.drain()
        if end:
            writer.write_eof()
        while line := await reader.readline():
            heard.append(json.loads(line))
    except ConnectionError:
        pass  # cut off: that is an answer, too
    finally:
        writer.close()
    return heard


def request(method: str, params: object, ident: object = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode() + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\0\0\0\0\n",
        b"\xff\xfe\xfd\n",
        b'{"id": 1, "method": "\xff"}\n',
        b'{"id": "1", "method": "runs"}\n',
        b'{"id": 1e400, "method": "runs"}\n',
        b'{"id": 1, "method": "subscribe", "params": \n',
        b'{"id": 1, "method": "runs", "params": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n",
        b"[" * 2_000_000 + b"\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda line: line[:30].decode("latin-1").strip() or "empty",
)
def test_a_line_that_is_no_call_is_refused_in_so_many_words(line: bytes) -> None:
    async def body(socket: Path) -> None:
        answers = await say(socket, line)
        assert answers
        assert all(a["error"]["code"] == wire.Code.USAGE for a in answers), answers

    watched(body)


WRONG: list[tuple[str, object]] = [
    ("no.such.verb", {}),
    ("", {}),
    ("x" * 100_000, {}),
    ("__class__", {}),
    ("run", None),
    ("run", []),
    ("run", {"run": 5}),
    ("run", {"run": ["r"] * 5}),
    ("destroy", {"run": "r-abcd", "waive": "everything"}),
    ("destroy", {"run": "r-abcd", "preview": "yes"}),
    ("log.read", {"run": "r-abcd", "offset": "0"}),
    ("subscribe", None),
    ("subscribe", {}),
    ("subscribe", {"topic": 5}),
    ("subscribe", "runs"),
    ("unsubscribe", {"subscription": "1"}),
    ("unsubscribe", None),
    ("launch", {"spec": {"text": "x"}}),
]


@pytest.mark.parametrize(("method", "params"), WRONG, ids=[f"{m[:12]} {str(p)[:24]}" for m, p in WRONG])
def test_a_call_with_a_wrong_verb_or_wrong_words_is_refused_under_its_number(
    method: str, params: object
) -> None:
    async def body(socket: Path) -> None:
        (answer,) = await say(socket, request(method, params, 7))
        assert (answer["id"], answer["error"]["code"]) == (7, wire.Code.USAGE)

    watched(body)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("run", {"run": "../../etc/passwd"}, wire.Code.NOT_FOUND),
        ("run", {"run": "\0"}, wire.Code.NOT_FOUND),
        ("subscribe", {"topic": "log", "run": "nobody"}, wire.Code.NOT_FOUND),
        ("log.read", {"run": "r-abcd", "offset": -(10**18), "limit": 10**18}, None),
        ("events", {"since": 2**63 - 1, "limit": -5}, None),
        ("events", {"since": 2**64 - 1}, None),
        ("events", {"since": -(2**63)}, None),
        ("launch", {"spec": {"text": "\0", "file": "", "base": "/"}, "key": "k2"}, wire.Code.SPEC),
        ("launch", {"spec": {"text": "x = " + "[" * 5000, "file": "f", "base": "\0"}, "key": "k2"}, wire.Code.SPEC),
        ("destroy", {"run": "r-abcd", "waive": ["*"], "confirm": "", "reason": ""}, wire.Code.REFUSED),
        ("destroy", {"run": "r-abcd", "waive": ["*"], "confirm": "r", "reason": "   "}, wire.Code.REFUSED),
    ],
)  # fmt: skip
def test_words_of_the_right_kind_and_without_sense_get_a_typed_answer(
    method: str, params: object, code: str | None
) -> None:
    async def body(socket: Path) -> None:
        (answer,) = await say(socket, request(method, params))
        assert (answer["error"]["code"] if answer.get("error") else None) == code, answer

    watched(body)


@pytest.mark.parametrize("topic", ["events", "log", "telemetry", "nothing"])
@pytest.mark.parametrize("since", [2**64 - 1, -(2**63), 0])
def test_a_stream_from_nowhere_does_not_end_the_connection(topic: str, since: int) -> None:
    async def body(socket: Path) -> None:
        async with connected(socket) as client:
            order = wire.Subscribe(topic=topic, run="r-abcd", since=since)
            await client.call("subscribe", order, wire.Subscribed)
            for _ in range(3):  # whatever the stream does, it does in the turns that these calls take
                assert await client.call("runs", wire.Empty(), wire.Runs)

    watched(body)


def test_a_line_of_ten_megabytes_is_cut_off_in_bounded_memory() -> None:
    async def body(socket: Path) -> None:
        process = psutil.Process()
        before = process.memory_info().rss
        await say(socket, b'{"id": 1, "method": "' + b"x" * (10 << 20) + b'"}\n')
        assert process.memory_info().rss - before < 100 << 20

    watched(body)


def test_half_a_line_and_then_silence_holds_up_nobody() -> None:
    async def body(socket: Path) -> None:
        silent = [await asyncio.open_unix_connection(str(socket)) for _ in range(20)]
        for _, writer in silent:
            writer.write(b'{"id": 1, "meth')
            await writer.drain()
        async with connected(socket) as client:
            assert await client.call("status", wire.Empty(), wire.DaemonStatus)
        for _, writer in silent:
            writer.close()

    watched(body)


def test_a_flood_of_calls_is_answered_or_cut_off_and_waits_for_its_turn() -> None:
    most = 0

    async def body(socket: Path) -> None:
        nonlocal most
        flood = asyncio.create_task(say(socket, request("hello", {"client": "x"}) * 5_000))
        while not flood.done():
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0)
        await flood

    watched(body)
    assert most < server.MAX_CALLS + 50, "every line of a flood became a task of its own at once"


def test_one_client_gets_so_many_streams_and_no_more() -> None:
    async def body(socket: Path) -> None:
        lines = b"".join(
            request("subscribe", {"topic": "telemetry", "run": "r-abcd"}, n) for n in range(1000)
        )
        answers = await say(socket, lines)
        refused = [a for a in answers if a.get("error")]
        assert len(refused) == 1000 - server.MAX_STREAMS
        assert {a["error"]["code"] for a in refused} == {wire.Code.USAGE}

    watched(body)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.just("r-abcd"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({f.name for params, _ in wire.METHODS.values() for f in msgspec.structs.fields(params)})
CALLS = st.builds(
    request,
    st.sampled_from([m for m in wire.METHODS if m != "shutdown"]),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4) | VALUES,
    st.integers(-(2**70), 2**70),
)
LINES = st.lists(st.one_of(CALLS, st.binary(max_size=40).map(lambda b: b + b"\n")), min_size=1, max_size=6)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(LINES)
@example([request("offers", {"disk": 2**64 - 1, "gpu_count": 2**63})])
@example([request("events", {"since": 2**70})])
def test_no_bytes_whatever_make_the_daemon_trip(lines: list[bytes]) -> None:
    async def body(socket: Path) -> None:
        for answer in await say(socket, b"".join(lines)):
            error = answer.get("error")
            assert error is None or error["code"] != wire.Code.INTERNAL, answer

    watched(body)


# --- the other way round: a daemon that is broken, or of another version --------------------------

ODD_ANSWERS = [
    b"\n",
    b"\xff\xff\n",
    b'{"id": 1}\n',
    b'{"id": 1, "result": 5}\n',
    b'{"id": 1, "result": {"protocol": "x"}}\n',
    b'{"id": 1, "error": 5}\n',
    b"[" * 100_000 + b"\n",
    b'{"id": 1, "result": ' + b"[" * 100_000 + b"}\n",
    b"x" * (wire.MAX_LINE * 2 + 10),
    b"",
]


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=lambda a: a[:20].decode("latin-1").strip() or "silence")
async def test_a_daemon_that_answers_nonsense_is_unreachable_and_no_traceback(answer: bytes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def ask(path: Path) -> None:
        with Client(path, timeout=10):
            pass

    with folder() as home:
        listening = await asyncio.start_unix_server(nonsense, home / "s")
        async with listening:
            with pytest.raises(DaemonUnreachable):
                await asyncio.to_thread(ask, home / "s")
            client = AsyncClient(home / "s")
            with pytest.raises(CallFailed):
                await client.connect(timeout=10)
            await client.close()


def test_the_socket_is_for_its_owner_alone() -> None:
    async def body(socket: Path) -> None:
        assert socket.stat().st_mode & 0o777 == 0o600
        assert socket.stat().st_uid == os.getuid()

    watched(body)
