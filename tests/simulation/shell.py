"""The way into a simulated box: an SSH connection that breaks, hangs, lies and comes back.

The daemon's own `Sentinel` runs above it, with its parsers of hostile answers; only SSH itself
is replaced. How files come home over it is in `arriving`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from simulation import sentinel
from simulation.cloud import Cloud, Machine
from simulation.faults import Faults, Kind
from simulation.vast import run_of

from gpuproviders.model import Endpoint
from gpuwatch.box.errors import BoxUnreachable
from gpuwatch.box.pace import Pace
from gpuwatch.box.ssh import Output

_ASK = (
    Kind.HANG, Kind.ERROR_BEFORE, Kind.ERROR_AFTER, Kind.WRONG, Kind.PARTIAL, Kind.DUPLICATE, Kind.DELAY,
)  # fmt: skip
STREAM = (Kind.HANG, Kind.ERROR_BEFORE, Kind.WRONG, Kind.PARTIAL, Kind.DUPLICATE, Kind.DELAY)
NONSENSE = (
    b"",
    b"{}\n",
    b"[]\n",
    b"<html>busy</html>\n",
    b"null\n",
    b"\xff\xfe\n",
    b'{"phase":3}\n',
    b"[" * 5000 + b"\n",
)
HOSTILE = (
    ["../../../etc/evil", 3, 1, 1, 1, False, None],
    ["/etc/evil", 3, 1, 1, 1, False, None],
    ["ckpt/a\u0000b", 3, 1, 1, 1, False, None],
    ["model.bin", -1, 1, 1, 1, False, None],
    ["ckpt/x", 1 << 70, 1, 1, 1, False, None],
    ["ckpt/x"],
    {"path": "ckpt/x"},
)
"""Rows that no honest listing has; each must be refused, whole listing and all."""


class Connection:
    """One SSH connection, as `gpuwatch.box.ssh.Box` looks. It ends with its machine, its network, or a fault."""

    def __init__(self, cloud: Cloud, faults: Faults, machine: Machine, endpoint: Endpoint) -> None:
        self.cloud = cloud
        self.faults = faults
        self.machine = machine
        self.endpoint = endpoint
        self.fingerprint = "SHA256:sim"
        self.pace = Pace()
        self._closed = False
        self._boot = machine.box.boot
        self._slept = cloud.time.slept

    @property
    def closed(self) -> bool:
        gone = not self.machine.alive or self.machine.box.boot != self._boot
        # TCP does not survive a laptop's sleep
        return self._closed or gone or self.cloud.time.slept != self._slept

    @property
    def run_id(self) -> str:
        """The run whose machine this is."""
        return run_of(self.machine.label)

    async def close(self) -> None:
        self._closed = True

    async def exchange(self, name: str, kinds: tuple[Kind, ...], seconds: float = 0.1) -> Kind | None:
        """Reach the box with one question. Raises BoxUnreachable; returns how the answer goes wrong."""
        faults, draw = self.faults, self.cloud.draw
        kind = await faults.call(f"box {name}", kinds, self.run_id)
        await asyncio.sleep(seconds * draw.uniform(0.5, 2.0) + (30 if kind is Kind.DELAY else 0))
        if faults.lasts(Kind.OFFLINE) or self.cut_off():
            faults.note(Kind.OFFLINE if faults.lasts(Kind.OFFLINE) else Kind.BOX_OFFLINE, self.run_id)
            await self.break_off(20)
        if self.closed or kind is Kind.ERROR_BEFORE:
            await self.break_off(0)
        if kind is Kind.HANG:
            await self.break_off(60)
        self.machine.box.run_to(self.cloud.time.now)
        return kind

    def cut_off(self) -> bool:
        gone = self.machine.halted or self.cloud.time.now < self.machine.boots_at
        return gone or any(start <= self.cloud.time.now < end for start, end in self.machine.cut_off)

    async def break_off(self, after: float) -> None:
        """The connection is lost; the daemon notices after some seconds."""
        await asyncio.sleep(after)
        self._closed = True
        raise BoxUnreachable("the SSH connection broke")

    async def run(
        self, argv: list[str], *, stdin: bytes = b"", seconds: float = 60, limit: int = 1 << 20
    ) -> Output:
        """One command to its end, as `ssh.Box.run`."""
        name = _name(argv)
        kind = await self.exchange(name, _ASK, 0.5 if name in ("install", "receive") else 0.1)
        answer = self._answer(name, stdin)
        await self.faults.done(kind)
        match kind:
            case Kind.ERROR_AFTER:
                await self.break_off(0)
            case Kind.WRONG if name == "list" and self.cloud.draw.random() < 0.5:
                answer = sentinel.line(self.cloud.draw.choice(HOSTILE)) + answer
            case Kind.WRONG:
                answer = self.cloud.draw.choice(NONSENSE)
            case Kind.PARTIAL:
                answer = (
                    answer[: len(answer) // 2] if name != "list" else b"".join(answer.splitlines(True)[1:])
                )
            case Kind.DUPLICATE:
                answer += answer
        return Output(0, answer, b"")

    def _answer(self, name: str, stdin: bytes) -> bytes:
        now, machine, box = self.cloud.time.now, self.machine, self.machine.box
        first = stdin.split(b"\n", 1)[0]
        match name:
            case "install":
                return b""
            case "probe":
                return sentinel.probe(machine)
            case "receive":
                return sentinel.line({"received": sentinel.receive(box, stdin, now)})
        order = json.loads(first)
        match name:
            case "start":
                return sentinel.start(box, sentinel.stage_of(order["folder"]), now)
            case "state":
                return sentinel.line(sentinel.state(box, sentinel.stage_of(order["folder"])))
            case "stop":
                return sentinel.stop(box, sentinel.stage_of(order["folder"]), now)
            case "list":
                return sentinel.listing(machine, order, now)
            case "forget":
                return sentinel.forget(machine, order, now, lambda p: self.cloud.judge_forget(machine, p))
        raise AssertionError(f"the sentinel has no command {name} in this simulation")

    @asynccontextmanager
    async def process(self, argv: list[str]) -> AsyncIterator[Stream]:
        """A command with streams, as `ssh.Box.process`."""
        yield Stream(self, _name(argv))


class Stream:
    """A running `watch`, `tail` or `receive`: it is its own stdin, stdout and stderr."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._input = bytearray()
        self._listed = -1
        self._first = True
        self._offset = 0
        self._uploads = 0
        self.exit_status = 0
        self.stdin = self.stdout = self
        self.stderr = _Silence()

    def write(self, data: bytes) -> None:
        self._input += data

    def write_eof(self) -> None:
        """Nothing more comes."""

    async def drain(self) -> None:
        """There is room."""

    async def wait(self) -> None:
        """It has ended."""

    async def read(self, _size: int) -> bytes:
        """The next output; empty at the end."""
        connection, name = self._connection, self._name
        if name == "receive":
            kind = await connection.exchange(name, _ASK, 1.0)
            box, now = connection.machine.box, connection.cloud.time.now
            half = kind in (Kind.PARTIAL, Kind.WRONG)
            cut = bytes(self._input[: len(self._input) // 2]) if half else bytes(self._input)
            files = sentinel.receive(box, cut, now)
            await connection.faults.done(kind)
            return sentinel.line({"received": files if kind in (None, Kind.DELAY) else -1})
        return await (self._report() if name == "watch" else self._log())

    async def _report(self) -> bytes:
        connection = self._connection
        order = json.loads(bytes(self._input).split(b"\n", 1)[0])
        if not self._first:
            await asyncio.sleep(order["interval"])
        self._first = False
        kind = await connection.exchange("watch", STREAM, 0.02)
        await connection.faults.done(kind)
        box = connection.machine.box
        now = connection.cloud.time.now
        if kind is Kind.WRONG:
            return connection.cloud.draw.choice(NONSENSE)
        writers = any(f.writer_until > now for f in box.files.values())
        fresh = box.changes != self._listed or writers
        self._listed = -1 if writers else box.changes
        data = sentinel.report(connection.machine, order, now, files=fresh)
        if kind is Kind.PARTIAL:
            await connection.break_off(0)
        return data + data if kind is Kind.DUPLICATE else data

    async def _log(self) -> bytes:
        connection = self._connection
        box = connection.machine.box
        if self._first:
            self._first = False
            self._offset = json.loads(bytes(self._input).split(b"\n", 1)[0])["offset"]
            if self._offset > len(box.log):
                self._offset = 0
        while True:
            kind = await connection.exchange("tail", (Kind.HANG, Kind.ERROR_BEFORE, Kind.DELAY), 0.02)
            await connection.faults.done(kind)
            data = bytes(box.log[self._offset :])
            self._offset += len(data)
            if data or box.job.ended is not None:
                return data
            await asyncio.sleep(20)


class _Silence:
    async def read(self, _size: int) -> bytes:
        return b""


def _name(argv: list[str]) -> str:
    if argv[0] == "sh":
        return "probe" if "probe" in argv[2] else "install"
    return argv[2]
