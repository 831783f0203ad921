"""One lane's worker thread: the bytes of a `send` stream become files of the vault."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gpuwatch.box.errors import BoxFault
from gpuwatch.box.frames import (
    AskedPack,
    AskedPart,
    Content,
    FrameError,
    FrameParser,
    Header,
    Hole,
    Identity,
    Missing,
    Small,
    Trailer,
)
from gpuwatch.box.pipe import Pipe
from gpuwatch.box.transfer import NotFetched, Progress, Wanted
from gpuwatch.vault.batch import Batch
from gpuwatch.vault.layout import VaultUnusable
from gpuwatch.vault.sink import PartName, Sink


@dataclass(slots=True)
class Large:
    """A file that comes in parts, perhaps over several lanes."""

    index: int
    want: Wanted
    part: PartName
    sink: Sink | None = None
    """None when it was not opened yet, or is done with."""
    waiting: int = 0
    """Parts that have not arrived."""
    hashed: tuple[Identity, str] | None = None
    """What the box says about the whole file."""
    failure: NotFetched | None = None


@dataclass(slots=True)
class Part:
    """Bytes `start` to `end` of a large file; `start` moves on as they arrive."""

    file: Large
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes to go."""
        return self.end - self.start


@dataclass(slots=True)
class Pack:
    """Small files to be asked for at once; those answered leave `indices`."""

    indices: deque[int]
    size: int


Unit: TypeAlias = Part | Pack
Event: TypeAlias = Unit | Exception | None
"""A unit that is done, what ended the lane, or the plain end of the stream."""


@dataclass(slots=True)
class Landing:
    """Parses what one lane's box sends and writes it. `tell` is called in the event loop."""

    pipe: Pipe
    wanted: Sequence[Wanted]
    batch: Callable[[], Batch]
    progress: Progress
    refuse: Callable[[int, NotFetched], None]
    """Called in the event loop for a small file that does not come."""
    tell: Callable[[Event], None]
    parser: FrameParser = field(default_factory=FrameParser)
    units: deque[Unit] = field(default_factory=deque)
    """Asked for and not done, oldest first."""
    thread: threading.Thread = field(init=False)
    _at: int = 0
    _open: Large | None = None
    _pieces: list[memoryview] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the thread; `start` it when the channel is open."""
        self.thread = threading.Thread(target=self._work, name="fetch", daemon=True)

    def ask(self, unit: Unit) -> None:
        """From the loop: the box has been asked for this."""
        self.units.append(unit)
        if isinstance(unit, Part):
            self.parser.ask(AskedPart(unit.file.index, unit.start, unit.end))
        else:
            self.parser.ask(AskedPack(tuple(unit.indices)))

    def _soon(self, event: Event) -> None:
        self.pipe.loop.call_soon_threadsafe(self.tell, event)

    def _work(self) -> None:
        try:
            while (parts := self.pipe.queue.get()) is not None:
                for data in parts:
                    for item in self.parser.feed(data):
                        self._take(item)
                self._write()
                self.pipe.taken(sum(map(len, parts)))
            self._soon(None)
        except FrameError as error:
            self._soon(BoxFault(f"the box sent nonsense: {error}"))
        except OSError as error:
            self._soon(VaultUnusable(error.errno, f"cannot write to the vault: {error.strerror or error}"))
        except Exception as error:  # noqa: BLE001 - told to the lane, which raises it
            self._soon(error)

    def _take(self, item: object) -> None:
        match item:
            case Content(data):
                self._pieces.append(data)
            case Small():
                self._small(item)
            case Hole(size):
                self._write()
                if self._open is not None and self._open.sink is not None:
                    self._moved(self._open.sink.skip(self._at, size))
            case Header():
                self._begin(item)
            case Trailer():
                self._write()
                self._end(item)
            case Missing():
                self._missing(item)

    def _begin(self, head: Header) -> None:
        part = self.units[0]
        if not isinstance(part, Part):
            raise TypeError("a part that was not asked for")
        self._open, self._at = part.file, head.start
        self.progress.path = part.file.want.path
        if head.identity != part.file.want.identity:
            # what comes is of another version than the parts before it; the next listing tells which
            self._fail(part.file, "the file changed since it was listed")

    def _write(self) -> None:
        if not self._pieces:
            return
        pieces, self._pieces = self._pieces, []
        if self._open is None or self._open.sink is None or self._open.failure is not None:
            return
        self._moved(self._open.sink.write(self._at, pieces))

    def _moved(self, at: int) -> None:
        self.progress.moved += at - self._at
        self.progress.bytes_done += at - self._at
        self._at = at
        if isinstance(unit := self.units[0], Part):
            unit.start = at

    def _end(self, trailer: Trailer) -> None:
        file, self._open = self._open, None
        if file is None:
            raise TypeError("an end without a beginning")
        if trailer.error is not None:
            self._fail(file, trailer.error)
        elif trailer.identity != file.want.identity:
            self._fail(file, "the file changed while it was sent")
        self._soon(self.units.popleft())

    def _missing(self, item: Missing) -> None:
        unit = self.units[0]
        if isinstance(unit, Part):
            self._fail(unit.file, item.error, gone=item.gone)
            self._soon(self.units.popleft())
            return
        told = NotFetched(self.wanted[item.index], item.error, gone=item.gone)
        self.pipe.loop.call_soon_threadsafe(self.refuse, item.index, told)
        self._answered(unit)

    def _small(self, item: Small) -> None:
        want = self.wanted[item.index]
        unit = self.units[0]
        if not isinstance(unit, Pack):
            raise TypeError("a pack that was not asked for")
        if item.identity != want.identity:
            told = NotFetched(want, "the file changed since it was listed")
            self.pipe.loop.call_soon_threadsafe(self.refuse, item.index, told)
        else:
            self.batch().add(item.index, want.target, item.data, item.sha256, item.identity[1])
        self.progress.path = want.path
        self.progress.moved += len(item.data)
        self.progress.bytes_done += len(item.data)
        self._answered(unit)

    def _answered(self, pack: Pack) -> None:
        pack.indices.popleft()
        if not pack.indices:
            self._soon(self.units.popleft())

    def _fail(self, file: Large, reason: str, *, gone: bool = False) -> None:
        if file.failure is None:
            file.failure = NotFetched(file.want, reason, gone=gone)
