"""Bring files home: in parts, over as many channels as the distance asks for, named only when proved.

The box is asked for units (a part of a large file, or a pack of small ones) by lanes. A
lane is a channel with a worker thread; near boxes have one, far ones several over several
connections, because a channel's window limits what is under way. What a lane that breaks
has not brought is asked again by the others. Beside them the box hashes the large files.

A file becomes `Fetched` when what the local disk holds, read back past the page cache, has
the hash that the box told, its identity on the box did not change from the listing to the
end, and its name is durable.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from errno import ENOSPC
from pathlib import Path
from typing import Any, TypeAlias

import asyncssh

from gpuwatch.box.errors import BoxFault, BoxUnreachable
from gpuwatch.box.frames import SMALL, FrameError, Missing, parse_hash
from gpuwatch.box.landing import Event, Landing, Large, Pack, Part, Unit
from gpuwatch.box.pipe import Pipe, Stream
from gpuwatch.box.ssh import Box
from gpuwatch.box.transfer import Fetched, NotFetched, Progress, Wanted
from gpuwatch.clean import clean_bytes
from gpuwatch.vault.batch import Batch, Landed, Outcome
from gpuwatch.vault.layout import VaultUnusable, home_of
from gpuwatch.vault.room import is_in_the_way, is_unkeepable, make_way
from gpuwatch.vault.sink import PartName, Sink, Spans

__all__ = ["Fetched", "NotFetched", "Progress", "Wanted", "fetch"]

PART = 8 << 20
PACK_FILES = 256
DEPTH = 3
"""Units that a lane has asked for at a time: the box reads ahead, so no unit waits for a round trip."""
OPEN = 8
"""Large files under way at a time."""
CREW = (2, 2, 2)
"""Lanes of a far box, per connection."""
WORTH_A_CREW = 4 << 20
"""Bytes below which one lane is enough, however far the box."""
RESERVE = 256 << 20
"""Bytes (or a hundredth of the disk, when that is less) of the vault's disk that are never filled."""

_Told: TypeAlias = list[Fetched | NotFetched]
Argv: TypeAlias = Callable[[str], list[str]]


async def fetch(
    box: Box,
    argv: Argv,
    *,
    root: str,
    wanted: Sequence[Wanted],
    partial: Path,
    boot_id: str,
    progress: Progress,
    stall: float = 120.0,
) -> AsyncGenerator[Fetched | NotFetched, None]:
    """Bring `wanted` home, yielding each file's outcome as it is known, lower ranks before higher ones.

    Raises BoxUnreachable (connection lost or silent for `stall` seconds: call again, it
    resumes), BoxFault (the box talks nonsense), VaultUnusable (disk full or gone).
    """
    download = _Download(box, argv, root, wanted, partial, boot_id, progress, stall)
    try:
        async for outcome in download.run():
            yield outcome
    finally:
        await download.close()


class _Download:
    """One call of `fetch`. Everything but the threads' own work happens in the event loop."""

    def __init__(
        self, box: Box, argv: Argv, root: str, wanted: Sequence[Wanted], partial: Path, boot_id: str,
        progress: Progress, stall: float,
    ) -> None:  # fmt: skip
        self._box = box
        self._argv = argv
        self._root = json.dumps({"root": root}).encode() + b"\n"
        self._wanted = wanted
        self._partial = partial
        self._boot_id = boot_id
        self._progress = progress
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[_Told | Exception] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes = 0
        self._siblings: list[Box] = []
        self._batch: Batch | None = None
        # what is to be asked for, of the current rank
        self._again: deque[Unit] = deque()
        self._parts: deque[Part] = deque()
        self._files: deque[Large | Pack] = deque()
        self._opening = False
        self._packs = 0
        self._left = 0
        self._large: dict[int, Large] = {}
        """Open large files by index."""
        self._to_hash: asyncio.Queue[Large] = asyncio.Queue()
        self._unhashed: set[int] = set()

    async def run(self) -> AsyncGenerator[Fetched | NotFetched, None]:
        """All ranks, one after the other."""
        self._progress.started = self._loop.time()
        if any(w.identity[0] <= SMALL for w in self._wanted):
            self._batch = await self._in_vault(lambda: Batch(self._partial, self._proved, most=SMALL))
        if any(w.identity[0] > SMALL for w in self._wanted):
            self._start(self._hashes())
        self._hire()
        for rank in sorted({w.rank for w in self._wanted}):
            self._plan([i for i, w in enumerate(self._wanted) if w.rank == rank])
            while self._left:
                told = await self._told.get()
                if isinstance(told, Exception):
                    raise told
                for outcome in told:
                    self._left -= 1
                    self._progress.files_done += 1
                    yield outcome

    async def close(self) -> None:
        """End whatever still runs, and let go of files and connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._close_files)
        for box in self._siblings:
            await box.close()

    def _close_files(self) -> None:
        for file in self._large.values():
            if file.sink is not None:
                file.sink.close()
        if self._batch is not None:
            self._batch.close()

    # --- what to ask for -----------------------------------------------------------------------------

    def _plan(self, indices: Sequence[int]) -> None:
        """Queue one rank: large files alone, small ones in packs."""
        self._left, self._packs = len(indices), 0
        most = self._box.pace.share(SMALL)
        pack = Pack(deque(), 0)
        for index in indices:
            size = self._wanted[index].identity[0]
            if size > SMALL:
                want = self._wanted[index]
                self._files.append(Large(index, want, PartName.of(self._partial, want.path)))
                continue
            if pack.indices and (len(pack.indices) == PACK_FILES or pack.size + size > most):
                self._files.append(pack)
                pack = Pack(deque(), 0)
            pack.indices.append(index)
            pack.size += size
        if pack.indices:
            self._files.append(pack)
        self._packs = sum(isinstance(f, Pack) for f in self._files)
        self._pulse()

    def _pulse(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _next(self) -> Unit:
        """The next unit to ask for, as soon as there is one."""
        while True:
            changed = self._changed
            if self._again:
                return self._again.popleft()
            if self._parts:
                return self._parts.popleft()
            first = self._files[0] if self._files else None
            if isinstance(first, Pack):
                self._files.popleft()
                return first
            if first is None or self._opening or len(self._large) >= OPEN:
                await changed.wait()
                continue
            self._files.popleft()
            self._opening = True
            try:
                await self._open(first)
            finally:
                self._opening = False
                self._pulse()

    async def _open(self, file: Large) -> None:
        """Begin a large file: what is here already is kept, the rest becomes parts."""
        self._large[file.index] = file
        size = file.want.identity[0]
        have = await self._in_vault(lambda: begin_large(file, self._boot_id))
        most = self._box.pace.share(PART)
        missing = gaps(have, size, most)
        self._parts += [Part(file, start, end) for start, end in missing]
        self._progress.bytes_done += size - sum(end - start for start, end in missing)
        file.waiting = len(missing)
        if file.failure is None:
            self._unhashed.add(file.index)
            self._to_hash.put_nowait(file)
        self._finish_when_whole(file)

    # --- lanes ---------------------------------------------------------------------------------------

    def _hire(self) -> None:
        total = sum(w.identity[0] for w in self._wanted)
        if not self._box.far or total < WORTH_A_CREW:
            self._start_lane(self._box)
            return
        for _ in range(CREW[0]):
            self._start_lane(self._box)
        for lanes in CREW[1:]:
            self._start(self._more(lanes))

    async def _more(self, lanes: int) -> None:
        """One more connection with its lanes. A machine that does not take it is served by the others."""
        try:
            box = await self._box.sibling()
        except BoxUnreachable:
            return
        self._siblings.append(box)
        for _ in range(lanes):
            self._start_lane(box)

    def _start_lane(self, box: Box) -> None:
        self._lanes += 1
        self._start(self._run_lane(box))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._told.put_nowait(error)

    async def _run_lane(self, box: Box) -> None:
        try:
            await self._lane(box)
        except BoxUnreachable:
            self._lanes -= 1
            if not self._lanes:
                raise
            self._pulse()  # the others take what is left

    async def _lane(self, box: Box) -> None:
        """Ask and take until cancelled. What was asked and has not come is given back at the end."""
        pipe = Pipe(self._loop)
        events: asyncio.Queue[Event] = asyncio.Queue()
        landing = Landing(
            pipe, self._wanted, self._the_batch, self._progress, self._refused, events.put_nowait
        )
        async with box.session(lambda: Stream(pipe), self._argv("send")) as (channel, stream):
            pipe.channel = channel
            landing.thread.start()
            channel.write(self._root)
            asking = asyncio.create_task(
                self._ask(landing, channel, slots := asyncio.Semaphore(DEPTH), events)
            )
            try:
                while True:
                    event = await self._event(events, landing)
                    if event is None:
                        why = (
                            stream.lost or clean_bytes(bytes(stream.errors), 200) or "the stream ended early"
                        )
                        raise BoxUnreachable(f"the download broke off: {why}")
                    if isinstance(event, Exception):
                        raise event
                    slots.release()
                    self._arrived(event)
            finally:
                asking.cancel()
                pipe.end()
                if pipe.paused:
                    channel.resume_reading()
                await asyncio.shield(self._loop.run_in_executor(None, landing.thread.join))
                self._again.extend(landing.units)

    async def _event(self, events: asyncio.Queue[Event], landing: Landing) -> Event:
        """What the lane's thread tells next. Raises BoxUnreachable when the box has gone silent."""
        while True:
            moved = self._progress.moved
            try:
                async with asyncio.timeout(self._stall):
                    return await events.get()
            except TimeoutError as error:
                if landing.units and self._progress.moved == moved:
                    raise BoxUnreachable(f"no byte arrived for {self._stall:.0f} s") from error

    async def _ask(
        self,
        landing: Landing,
        channel: asyncssh.SSHClientChannel[bytes],
        slots: asyncio.Semaphore,
        events: asyncio.Queue[Event],
    ) -> None:
        try:
            while True:
                await slots.acquire()
                unit = await self._next()
                if isinstance(unit, Part) and unit.file.failure is not None:
                    slots.release()
                    self._arrived(unit)
                    continue
                landing.ask(unit)
                await self._in_vault(self._see_room)
                await self._box.pace.take(unit.size)
                channel.write(json.dumps(self._request(unit)).encode() + b"\n")
        except OSError as error:  # the channel is closed
            events.put_nowait(error if isinstance(error, VaultUnusable) else None)

    def _request(self, unit: Unit) -> dict[str, object]:
        if isinstance(unit, Pack):
            return {"pack": [[i, self._wanted[i].path] for i in unit.indices]}
        return {"i": unit.file.index, "path": unit.file.want.path, "from": unit.start, "to": unit.end}

    def _see_room(self) -> None:
        """Raises OSError before the disk is filled to the brim: the ledger may be on it too."""
        disk = os.statvfs(self._partial.parent)
        reserve = min(RESERVE, disk.f_blocks * disk.f_frsize // 100)
        if disk.f_bavail * disk.f_frsize < reserve:
            raise OSError(ENOSPC, f"{os.strerror(ENOSPC)}: {reserve >> 10} KiB are kept free")

    # --- hashes --------------------------------------------------------------------------------------

    async def _hashes(self) -> None:
        """Have the box hash the large files, each from when its first part is asked for."""
        async with self._box.process(self._argv("hash")) as process:
            process.stdin.write(self._root)
            asking = asyncio.create_task(self._ask_hashes(process))
            try:
                rest = b""
                while True:
                    try:
                        async with asyncio.timeout(self._stall):
                            data = await process.stdout.read(1 << 16)
                    except TimeoutError as error:
                        if self._unhashed:
                            raise BoxUnreachable(f"the box hashed nothing for {self._stall:.0f} s") from error
                        continue
                    if not data:
                        problem = clean_bytes((await process.stderr.read(2000))[-200:])
                        raise BoxUnreachable(f"the box stopped hashing: {problem or 'no reason given'}")
                    *lines, rest = (rest + data).split(b"\n")
                    if len(rest) > 1 << 16:
                        raise BoxFault("the box sent nonsense: a line without end")
                    for line in lines:
                        self._hashed(line)
            finally:
                asking.cancel()

    async def _ask_hashes(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        while True:
            file = await self._to_hash.get()
            process.stdin.write(json.dumps({"i": file.index, "path": file.want.path}).encode() + b"\n")

    def _hashed(self, line: bytes) -> None:
        try:
            answer = parse_hash(line, len(self._wanted))
        except FrameError as error:
            raise BoxFault(f"the box sent nonsense: {error}") from error
        if isinstance(answer, int):
            return
        index = answer.index if isinstance(answer, Missing) else answer[0]
        if index not in self._unhashed:
            raise BoxFault("the box sent nonsense: a hash that was not asked for")
        self._unhashed.discard(index)
        file = self._large[index]
        if isinstance(answer, Missing):
            file.failure = file.failure or NotFetched(file.want, answer.error, gone=answer.gone)
        else:
            file.hashed = answer[1:]
        self._finish_when_whole(file)

    # --- outcomes ------------------------------------------------------------------------------------

    def _arrived(self, unit: Unit) -> None:
        if isinstance(unit, Part):
            unit.file.waiting -= 1
            self._finish_when_whole(unit.file)
            return
        self._packs -= 1
        if not self._packs and self._batch is not None:
            self._start(self._in_vault(self._batch.flush))

    def _refused(self, _index: int, outcome: NotFetched) -> None:
        self._told.put_nowait([outcome])

    def _proved(self, outcomes: Mapping[int, Outcome]) -> None:
        """In the batch's thread."""
        told: _Told = []
        for index, outcome in outcomes.items():
            want = self._wanted[index]
            if isinstance(outcome, Landed):
                told.append(Fetched(want, want.identity, outcome.sha256, outcome.home))
            else:
                told.append(NotFetched(want, outcome.reason, refused=outcome.final))
        self._loop.call_soon_threadsafe(self._told.put_nowait, told)

    def _finish_when_whole(self, file: Large) -> None:
        if file.waiting or file.index in self._unhashed or (file.hashed is None and file.failure is None):
            return
        self._start(self._finish(file))

    async def _finish(self, file: Large) -> None:
        outcome = await self._in_vault(lambda: prove_large(file, self._partial.parent))
        self._large.pop(file.index, None)
        self._pulse()
        self._told.put_nowait([outcome])

    def _the_batch(self) -> Batch:
        if self._batch is None:
            raise TypeError("a small file where there is none")
        return self._batch

    async def _in_vault(self, work: Callable[[], Any]) -> Any:
        """Blocking work on the vault's disk, in a thread; its failure is the vault's."""
        try:
            return await asyncio.to_thread(work)
        except VaultUnusable:
            raise
        except OSError as error:
            raise VaultUnusable(
                error.errno, f"cannot write to the vault: {error.strerror or error}"
            ) from error


def begin_large(file: Large, boot_id: str) -> Spans:
    """In a thread: open the partial file. What is here already; everything when the disk can never keep it."""
    identity, part = file.want.identity, file.part
    have = part.resumable(identity, boot_id)
    part.remember(identity, boot_id, have)
    try:
        file.sink = Sink(
            part.content, identity[0], have, lambda spans: part.remember(identity, boot_id, spans)
        )
    except OSError as error:
        if not is_unkeepable(error):
            raise
        file.failure = _refusal(file.want, error)
        return ((0, identity[0]),)
    return have


def gaps(have: Spans, size: int, most: int) -> list[tuple[int, int]]:
    """What is not here, in pieces of at most `most` bytes. Pure."""
    found: list[tuple[int, int]] = []
    begin = 0
    for start, end in (*have, (size, size)):
        found += [(at, min(at + most, start)) for at in range(begin, start, most)]
        begin = end
    return found


def prove_large(file: Large, run: Path) -> Fetched | NotFetched:
    """In a thread: the last word on a large file of which everything is here. Raises OSError."""
    sink, want = file.sink, file.want
    outcome: Fetched | NotFetched | None = file.failure
    if sink is None:
        return outcome or NotFetched(want, "it was never begun")
    published = None
    try:
        if outcome is None and file.hashed is not None:
            identity, sha256 = file.hashed
            if identity != want.identity:
                outcome = NotFetched(want, "the file changed since it was listed")
            elif sink.finish() != sha256:
                outcome = NotFetched(want, "the copy differs from what the box hashed")
            else:
                published = _publish(sink, want, run)
                outcome = Fetched(want, identity, sha256, home_of(published))
    except OSError as error:
        if not is_unkeepable(error):
            raise
        outcome = _refusal(want, error)
    finally:
        sink.close()
        file.sink = None
    file.part.discard()
    return outcome or NotFetched(want, "the box did not hash it")


def _publish(sink: Sink, want: Wanted, run: Path) -> os.stat_result:
    try:
        return sink.publish(want.target, want.identity[1])
    except OSError as error:
        if not is_in_the_way(error):
            raise
        make_way(run, want.target)
        return sink.publish(want.target, want.identity[1])


def _refusal(want: Wanted, error: OSError) -> NotFetched:
    return NotFetched(want, f"this disk cannot keep it: {error.strerror}", refused=True)
