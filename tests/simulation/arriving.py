"""Files that come home from a simulated box: the product's landing, proving and naming, without its threads.

What a thread does in the product is done on the spot here, so that one seed is one sequence of
calls. Files up to `SMALL` bytes come in packs and are proved by the batch, the others in parts,
each on its own, as the product does it with other limits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from simulation import sentinel
from simulation.cloud import Box as TrueBox
from simulation.faults import Kind
from simulation.shell import NONSENSE, STREAM, Connection

from gpuwatch.box import fetch as product
from gpuwatch.box.errors import BoxFault
from gpuwatch.box.fetch import Fetched, NotFetched, Progress, Wanted
from gpuwatch.box.frames import FrameError, Missing, parse_hash
from gpuwatch.box.landing import Landing, Large, Pack, Part, Unit
from gpuwatch.box.sentinel import Sentinel
from gpuwatch.vault.batch import Batch, Landed, Outcome
from gpuwatch.vault.layout import VaultUnusable
from gpuwatch.vault.sink import PartName

SMALL = 2500
"""Bytes up to which a file comes in a pack: about half of what the jobs of this simulation write."""
_PACK = 4


class SimulatedSentinel(Sentinel):
    """The product's own, with `fetch` played step by step."""

    async def fetch(
        self,
        wanted: Sequence[Wanted],
        *,
        partial: Path,
        boot_id: str,
        progress: Progress,
        root: str | None = None,
    ) -> AsyncGenerator[Fetched | NotFetched, None]:
        connection: Any = self.box
        arriving = _Arriving(connection, root or self.work, wanted, partial, boot_id, progress)
        try:
            for unit in _units(wanted):
                for outcome in await (
                    arriving.pack(unit) if isinstance(unit, Pack) else arriving.large(unit)
                ):
                    yield outcome
        finally:
            await asyncio.shield(asyncio.to_thread(arriving.close))


def _units(wanted: Sequence[Wanted]) -> Iterator[Pack | int]:
    """Lower ranks first; small files that follow each other in packs."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i].rank)
    for (_, small), run in groupby(order, key=lambda i: (wanted[i].rank, wanted[i].identity[0] <= SMALL)):
        indices = list(run)
        if not small:
            yield from indices
            continue
        for at in range(0, len(indices), _PACK):
            pack = indices[at : at + _PACK]
            yield Pack(deque(pack), sum(wanted[i].identity[0] for i in pack))


class _Arriving:
    """One call of `fetch`."""

    def __init__(
        self, connection: Connection, root: str, wanted: Sequence[Wanted], partial: Path, boot_id: str,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._root = root
        self._wanted = wanted
        self._partial = partial
        self._boot_id = boot_id
        self._progress = progress
        self._batch: Batch | None = None
        self._told: list[Fetched | NotFetched] = []

    def close(self) -> None:
        """What was not proved is dropped."""
        if self._batch is not None:
            self._batch.close()

    async def large(self, index: int) -> list[Fetched | NotFetched]:
        """One file, in parts."""
        want, root = self._wanted[index], self._root
        file = Large(0, want, PartName.of(self._partial, want.path))
        try:
            have = await _in_vault(lambda: product.begin_large(file, self._boot_id))
            for start, end in product.gaps(have, want.identity[0], 1 << 40) or [(0, 0)]:
                task = {"i": 0, "path": want.path, "from": start, "to": end}
                await self._bring(Part(file, start, end), task, [want])
            await _hash(self._connection, root, file)
            return [await _in_vault(lambda: product.prove_large(file, self._partial.parent))]
        finally:
            if file.sink is not None:
                await asyncio.shield(asyncio.to_thread(file.sink.close))

    async def pack(self, pack: Pack) -> list[Fetched | NotFetched]:
        """Some small files, proved together."""
        self._told = []
        if self._batch is None:
            self._batch = await _in_vault(lambda: PromptBatch(self._partial, self._proved, most=SMALL))
        task = {"pack": [[i, self._wanted[i].path] for i in pack.indices]}
        await self._bring(pack, task, self._wanted)
        await _in_vault(self._batch.flush)
        return self._told

    def _proved(self, outcomes: Mapping[int, Outcome]) -> None:
        for index, outcome in outcomes.items():
            want = self._wanted[index]
            if isinstance(outcome, Landed):
                self._told.append(Fetched(want, want.identity, outcome.sha256, outcome.home))
            else:
                self._told.append(NotFetched(want, outcome.reason, refused=outcome.final))

    async def _bring(self, unit: Unit, task: dict[str, Any], wanted: Sequence[Wanted]) -> None:
        """Ask, receive, and let the product's worker write what came. Raises what went wrong."""
        received, complete = await _receive(self._connection, self._root, task)
        for problem in await asyncio.to_thread(self._land, unit, wanted, received):
            raise problem
        if not complete or (isinstance(unit, Pack) and unit.indices):
            await self._connection.break_off(0)

    def _land(self, unit: Unit, wanted: Sequence[Wanted], received: bytes) -> list[Exception]:
        """The product's worker thread, called: bytes → files of the vault. What went wrong."""
        events: list[Any] = []
        pipe: Any = _Arrived(received)
        pipe.loop = _Now()
        landing = Landing(pipe, wanted, self._the_batch, self._progress, self._refused, events.append)
        landing.ask(unit)
        landing._work()
        return [event for event in events if isinstance(event, Exception)]

    def _refused(self, _index: int, outcome: NotFetched) -> None:
        self._told.append(outcome)

    def _the_batch(self) -> Batch:
        assert self._batch is not None
        return self._batch


class PromptBatch(Batch):
    """The product's own, but what its thread does is done by whoever hands over."""

    def _hand_over(self) -> None:
        tray, self._tray = self._tray, None
        if tray is not None:
            try:
                self._seal(tray)
            finally:
                tray.close()

    def _start_proving(self) -> None:
        """There is nothing left for the thread."""

    def _stop_proving(self) -> None:
        """It was never started."""


async def _in_vault(work: Callable[[], Any]) -> Any:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise VaultUnusable(error.errno, f"cannot write to the vault: {error.strerror}") from error


async def _hash(connection: Connection, root: str, file: Large) -> None:
    """Ask the box for the hash of the whole file."""
    kind = await connection.exchange("hash", STREAM, 0.05)
    answer = sentinel.hash_of(connection.machine.box, root, {"i": 0, "path": file.want.path})
    await connection.faults.done(kind)
    if kind in (Kind.PARTIAL, Kind.DUPLICATE):
        await connection.break_off(0)
    if kind is Kind.WRONG:
        answer = connection.cloud.draw.choice(NONSENSE[3:])
    try:
        told = parse_hash(answer.rstrip(b"\n"), 1)
    except FrameError as error:
        raise BoxFault(f"the box sent nonsense: {error}") from error
    if isinstance(told, Missing):
        file.failure = file.failure or NotFetched(file.want, told.error, gone=told.gone)
    elif not isinstance(told, int):
        file.hashed = told[1:]


async def _receive(connection: Connection, root: str, task: dict[str, Any]) -> tuple[bytes, bool]:
    """The bytes as they arrive, and whether all did. The box goes on living meanwhile."""
    kind = await connection.exchange("send", STREAM, 0.05)
    box: TrueBox = connection.machine.box
    received, draw = bytearray(), connection.cloud.draw
    for piece in sentinel.send_pack(box, root, task) if "pack" in task else sentinel.send(box, root, task):
        received += piece
        if len(piece) > 512:
            await asyncio.sleep(draw.uniform(0, 4))
            if connection.closed or connection.cut_off() or connection.faults.lasts(Kind.OFFLINE):
                return bytes(received), False
            box.run_to(connection.cloud.time.now)
    await connection.faults.done(kind)
    match kind:
        case Kind.PARTIAL:
            return bytes(received)[: draw.randrange(len(received))], False
        case Kind.WRONG if len(received) > 400:
            received[draw.randrange(200, len(received) - 180)] ^= 0x40  # a bit that flips on the way
        case Kind.WRONG:
            return draw.choice(NONSENSE[3:]), False
        case Kind.DUPLICATE:
            return bytes(received) * 2, True
    return bytes(received), True


class _Arrived:
    """The pipe between loop and thread, with everything in it already."""

    def __init__(self, data: bytes) -> None:
        self._parts: list[list[bytes] | None] = [[data], None] if data else [None]
        self.queue = self

    def get(self) -> list[bytes] | None:
        return self._parts.pop(0)

    def taken(self, size: int) -> None:
        """Nobody waits for room."""


class _Now:
    """The event loop as a worker thread sees it, without waiting."""

    def call_soon_threadsafe(self, call: Callable[..., object], *args: object) -> None:
        call(*args)
