"""Bring files home: one channel, many files, resumed, hashed on both sides, named only when proved.

The event loop only moves bytes from the channel to a queue; a worker thread parses,
writes and syncs, and the channel is paused while the thread is behind. The box hashes
while it sends, the sink hashes what it reads back from the disk: a file becomes a Copy
when both agree, its identity did not change while it was sent, and it is durable.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from gpuwatch.box.errors import BoxFault, BoxUnreachable
from gpuwatch.box.frames import Content, FrameError, FrameParser, Header, Missing, Trailer
from gpuwatch.box.ssh import Box
from gpuwatch.clean import clean_bytes
from gpuwatch.vault.layout import VaultUnusable
from gpuwatch.vault.sink import PartName, Sink

_HIGH = 48 << 20
_LOW = 16 << 20
_BATCH = 512 << 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to bring: its path on the box below `root`, what it was when listed, where it goes."""

    path: str
    identity: tuple[int, int, int, int]
    target: Path


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is home and proved."""

    wanted: Wanted
    identity: tuple[int, int, int, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class NotFetched:
    """A file that is not home; `gone` when it vanished, else it is worth another try."""

    wanted: Wanted
    reason: str
    gone: bool = False


@dataclass(slots=True)
class Progress:
    """Counters of one fetch, read by whoever shows them."""

    files_total: int = 0
    bytes_total: int = 0
    files_done: int = 0
    bytes_done: int = 0
    path: str = ""
    started: float = 0.0
    moved: int = 0
    """Bytes that really came over the wire."""

    def rate(self, now: float) -> float:
        """Bytes per second since the start."""
        return self.moved / max(1e-6, now - self.started)


_END = object()


@dataclass(slots=True)
class _Pipe:
    """Bytes from the loop to the worker thread, bounded by pausing the channel."""

    loop: asyncio.AbstractEventLoop
    queue: queue.SimpleQueue[object] = field(default_factory=queue.SimpleQueue)
    size: int = 0
    paused: bool = False
    channel: asyncssh.SSHClientChannel[bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, parts: list[bytes], size: int) -> None:
        with self.lock:
            self.size += size
            full = self.size > _HIGH and not self.paused
            self.paused = self.paused or full
        self.queue.put(parts)
        if full and self.channel is not None:
            self.channel.pause_reading()

    def taken(self, size: int) -> None:
        with self.lock:
            self.size -= size
            resume = self.paused and self.size < _LOW
            if resume:
                self.paused = False
        if resume and self.channel is not None:
            self.loop.call_soon_threadsafe(self.channel.resume_reading)


class _Stream(asyncssh.SSHClientSession[bytes]):
    """Collects the channel's bytes into pieces worth a thread switch."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._parts: list[bytes] = []
        self._size = 0
        self._scheduled = False
        self.errors = bytearray()
        self.lost: Exception | None = None

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is not None:
            self.errors += data[: 4096 - len(self.errors)]
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._pipe.loop.call_soon(self._later)

    def _later(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._parts:
            self._pipe.put(self._parts, self._size)
            self._parts, self._size = [], 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._flush()
        self.lost = exc
        self._pipe.queue.put(_END)


async def fetch(
    box: Box,
    argv: list[str],
    *,
    root: str,
    wanted: Sequence[Wanted],
    partial: Path,
    boot_id: str,
    progress: Progress,
    stall: float = 120.0,
) -> AsyncGenerator[Fetched | NotFetched, None]:
    """Bring `wanted` home, yielding each file's outcome as it is known, in order.

    Raises BoxUnreachable (connection lost or silent for `stall` seconds: call again, it
    resumes), BoxFault (the box talks nonsense), VaultUnusable (disk full or gone).
    """
    loop = asyncio.get_running_loop()
    pipe = _Pipe(loop)
    outcomes: asyncio.Queue[Fetched | NotFetched | BaseException | None] = asyncio.Queue()

    def tell(item: Fetched | NotFetched | BaseException | None) -> None:
        loop.call_soon_threadsafe(outcomes.put_nowait, item)

    requests = [json.dumps({"root": root})]
    parts = [PartName.of(partial, w.path) for w in wanted]
    for index, (want, part) in enumerate(zip(wanted, parts, strict=True)):
        offset = part.resumable(want.identity, boot_id)
        requests.append(
            json.dumps({"i": index, "path": want.path, "offset": offset, "id": list(want.identity)})
        )
    progress.started = loop.time()
    worker = threading.Thread(
        target=_work, args=(pipe, wanted, parts, boot_id, progress, tell), name="fetch", daemon=True
    )
    async with box.session(lambda: _Stream(pipe), argv) as (channel, session):
        pipe.channel = channel
        worker.start()
        try:
            channel.write("\n".join(requests).encode() + b"\n")
            channel.write_eof()
            done = 0
            while done < len(wanted):
                moved = progress.moved
                try:
                    async with asyncio.timeout(stall):
                        outcome = await outcomes.get()
                except TimeoutError as error:
                    if progress.moved != moved:
                        continue
                    raise BoxUnreachable(f"no byte arrived for {stall:.0f} s") from error
                if outcome is None:
                    why = session.lost or clean_bytes(bytes(session.errors), 200) or "the stream ended early"
                    raise BoxUnreachable(f"the download broke off: {why}")
                if isinstance(outcome, BaseException):
                    raise outcome
                done += 1
                yield outcome
        finally:
            pipe.queue.put(_END)
            if pipe.paused:
                channel.resume_reading()
            await loop.run_in_executor(None, worker.join)


def _work(
    pipe: _Pipe,
    wanted: Sequence[Wanted],
    parts: Sequence[PartName],
    boot_id: str,
    progress: Progress,
    tell: Callable[[Fetched | NotFetched | BaseException | None], None],
) -> None:
    """In the worker thread: bytes → files. Ends at the end of the stream or at the first failure."""
    parser = FrameParser(len(wanted))
    sink: Sink | None = None
    opened: Header | None = None
    try:
        while True:
            parts_in = pipe.queue.get()
            if not isinstance(parts_in, list):
                tell(None)
                return
            pieces: list[memoryview] = []
            for data in parts_in:
                for item in parser.feed(data):
                    if isinstance(item, Content):
                        pieces.append(item.data)
                        continue
                    _write(sink, pieces, progress)
                    pieces = []
                    match item:
                        case Header():
                            opened = item
                            sink = _open(item, wanted[item.index], parts[item.index], boot_id, progress)
                        case Trailer():
                            assert sink is not None and opened is not None  # noqa: S101, PT018
                            tell(_close(sink, opened, item, wanted[item.index], parts[item.index]))
                            progress.files_done += 1
                            sink = None
                        case Missing():
                            tell(NotFetched(wanted[item.index], item.error, gone=item.gone))
                            progress.files_done += 1
            _write(sink, pieces, progress)
            pipe.taken(sum(map(len, parts_in)))
    except FrameError as error:
        tell(BoxFault(f"the box sent nonsense: {error}"))
    except OSError as error:
        tell(VaultUnusable(error.errno, f"cannot write to the vault: {error.strerror or error}"))
    finally:
        if sink is not None:
            sink.close()


def _write(sink: Sink | None, pieces: list[memoryview], progress: Progress) -> None:
    if sink is None or not pieces:
        return  # the parser gives content only between a header and its trailer
    sink.write_all(pieces)
    size = sum(map(len, pieces))
    progress.moved += size
    progress.bytes_done += size


def _open(header: Header, want: Wanted, part: PartName, boot_id: str, progress: Progress) -> Sink:
    expected = part.resumable(want.identity, boot_id)
    # the box starts at 0 when the file is not the version that the part is of
    offset = header.offset
    if offset and (offset != expected or header.identity != want.identity):
        raise FrameError("the box resumed at a place that was not asked for")
    part.remember(header.identity, boot_id)
    progress.path = want.path
    progress.bytes_done += offset
    return Sink(part.content, offset)


def _close(
    sink: Sink, header: Header, trailer: Trailer, want: Wanted, part: PartName
) -> Fetched | NotFetched:
    try:
        if trailer.error is not None:
            part.discard()
            return NotFetched(want, trailer.error)
        here = sink.finish()
        if trailer.identity != header.identity:
            part.discard()
            return NotFetched(want, "the file changed while it was sent")
        if here != trailer.sha256:
            part.discard()
            return NotFetched(want, "the copy differs from what the box hashed")
        sink.publish(want.target, trailer.identity[1])
        part.discard()
        return Fetched(want, trailer.identity, here)
    finally:
        sink.close()
