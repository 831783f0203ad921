"""Large files to a box: in parts, over as many channels as the distance asks for, named there only when proved.

OpenSSH's server takes 2 MiB under way per channel, so a far box needs several. The parts
of a version of a file that are there after a cut are not sent again. The box makes the
file durable, hashes it and gives it its name only when the hash is that of the local file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuwatch.box.errors import BoxFault, BoxUnreachable
from gpuwatch.box.ssh import Box
from gpuwatch.box.transfer import Progress
from gpuwatch.clean import clean_bytes

PART = 4 << 20
LARGE = 4 << 20
"""Bytes from which on a file is sent in parts."""
CREW = (3, 3, 3)
"""Lanes to a far box, per connection."""
_PIECE = 256 << 10
_STALL = 120.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A local file that is to stand on the box as `name`."""

    name: str
    path: Path


async def push(
    box: Box, argv: Callable[[str], list[str]], *, root: str, file: Outgoing, progress: Progress
) -> str:
    """Send one large file; returns its SHA-256, which the box has found too. Call again after a cut: it resumes.

    Raises BoxUnreachable, BoxFault (the box cannot keep it; the local file changed), OSError
    (the local file cannot be read).
    """
    size, sha256, mode = await asyncio.to_thread(_look, file.path)
    progress.path = file.name
    version = {"size": size, "sha256": sha256}
    answer = await _ask(box, argv, root, {"begin": file.name} | version)
    work = _Work(box, argv, root, file, progress, deque(_missing(answer.get("have"), size)))
    progress.bytes_done += size - sum(end - start for start, end in work.todo)
    await work.run()
    answer = await _ask(
        box, argv, root, {"finish": file.name, "mode": mode} | version, seconds=60 + size / 20e6
    )
    if answer.get("placed") is not True:
        raise BoxFault(f"{file.name} arrived damaged, or changed while it was sent; it is sent anew")
    progress.files_done += 1
    return sha256


def _look(path: Path) -> tuple[int, str, int]:
    with path.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        size = handle.tell()
    return size, sha256, 0o755 if path.stat().st_mode & 0o111 else 0o644


def _missing(have: object, size: int) -> list[tuple[int, int]]:
    """The parts that the box has not got. What it says that makes no sense is sent again."""
    here = {
        tuple(span)
        for span in (have if isinstance(have, list) else [])
        if isinstance(span, list) and len(span) == 2
    }
    parts = ((at, min(at + PART, size)) for at in range(0, size, PART))
    return [part for part in parts if part not in here]


async def _ask(
    box: Box, argv: Callable[[str], list[str]], root: str, task: dict[str, Any], *, seconds: float = 60
) -> dict[str, Any]:
    stdin = b"".join(json.dumps(line).encode() + b"\n" for line in ({"root": root}, task))
    done = await box.run(argv("place"), stdin=stdin, seconds=seconds, limit=64 << 20)
    try:
        answer = json.loads(done.stdout)
    except (ValueError, RecursionError):
        answer = None
    if done.status != 0 or not isinstance(answer, dict):
        raise BoxFault(f"the upload failed: {clean_bytes(done.stderr[-300:]) or 'no answer'}")
    return answer


@dataclass(slots=True)
class _Work:
    """The parts of one file that are on their way."""

    box: Box
    argv: Callable[[str], list[str]]
    root: str
    file: Outgoing
    progress: Progress
    todo: deque[tuple[int, int]]

    async def run(self) -> None:
        """Until every part has been acknowledged. Raises the last lane's failure."""
        while self.todo:
            crew = [self.box]
            siblings: list[Box] = []
            if self.box.far and len(self.todo) > 2:
                more = await asyncio.gather(*(self.box.sibling() for _ in CREW[1:]), return_exceptions=True)
                siblings = [b for b in more if isinstance(b, Box)]
                crew = [b for b, n in zip([self.box, *siblings], CREW, strict=False) for _ in range(n)]
            before = len(self.todo)
            try:
                ends = await asyncio.gather(*map(self._lane, crew), return_exceptions=True)
            finally:
                for sibling in siblings:
                    await sibling.close()
            for end in ends:
                if isinstance(end, BaseException) and (
                    not isinstance(end, BoxUnreachable) or len(self.todo) == before
                ):
                    raise end

    async def _lane(self, box: Box) -> None:
        waiting: deque[tuple[int, int]] = deque()
        try:
            async with box.process(self.argv("place")) as process:
                process.stdin.write(json.dumps({"root": self.root}).encode() + b"\n")
                while self.todo or waiting:
                    if self.todo and len(waiting) < 2:
                        waiting.append(self.todo.popleft())
                        async with asyncio.timeout(_STALL + 60):
                            await self._send(box, process, *waiting[-1])
                        continue
                    async with asyncio.timeout(_STALL):
                        line = await process.stdout.readline()
                    if not line:
                        problem = clean_bytes((await process.stderr.read(2000))[-300:])
                        raise (BoxFault if problem else BoxUnreachable)(
                            f"the upload broke off: {problem or 'no reason given'}"
                        )
                    waiting.popleft()
        except TimeoutError as error:
            raise BoxUnreachable(f"the box took no byte for {_STALL:.0f} s") from error
        finally:
            self.todo.extend(waiting)

    async def _send(self, box: Box, process: Any, start: int, end: int) -> None:
        await box.pace.take(end - start)
        data = await asyncio.to_thread(_read, self.file.path, start, end - start)
        head = {"write": self.file.name, "at": start, "size": end - start}
        process.stdin.write(json.dumps(head).encode() + b"\n")
        for at in range(0, len(data), _PIECE):
            process.stdin.write(data[at : at + _PIECE])
            await process.stdin.drain()
            moved = min(_PIECE, len(data) - at)
            self.progress.moved += moved
            self.progress.bytes_done += moved


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as handle:
        handle.seek(start)
        data = handle.read(size)
    if len(data) != size:
        raise BoxFault(f"{path.name} changed while it was sent")
    return data
