"""The sentinel's commands as typed calls; its answers checked at this edge (I6)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gpuwatch import sentinel
from gpuwatch.box.errors import BoxFault, BoxUnreachable, NoPython
from gpuwatch.box.fetch import Fetched, NotFetched, Progress, Wanted, fetch
from gpuwatch.box.frames import FrameError, parse_identity
from gpuwatch.box.push import LARGE, Outgoing, push
from gpuwatch.box.ssh import Box
from gpuwatch.clean import clean, clean_bytes
from gpuwatch.custody.facts import BoxFile, Inventory, Link
from gpuwatch.custody.rules import glob_pattern
from gpuwatch.telemetry.read import read_progress, read_vitals
from gpuwatch.telemetry.sample import JobProgress, Vitals

FOLDER = ".gpuwatch"
RENEW = 15.0
"""Seconds between two signs of life for the box's lease."""
MAX_FILES = 1_000_000
_LIST_LIMIT = 400 << 20
_MAX_TARGET = 4096
_YEAR_5000 = 95_617_584_000.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What `probe` found. `gpus` are the names the driver gives."""

    python: str
    workspace: str
    boot_id: str
    gpus: tuple[str, ...]
    driver: str | None
    disk_free: int | None
    disk_speed: float | None = None
    """Bytes per second, written and synced."""


@dataclass(frozen=True, slots=True)
class StageState:
    """How far a supervised stage is: none, starting, running, ended or vanished."""

    phase: str
    pid: int | None
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU's reading; None where the driver said `[N/A]` or worse. Bytes, watts, °C, per cent."""

    index: int
    name: str
    utilisation: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None
    temperature: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """One line of `watch`."""

    at: float
    boot_id: str
    job: StageState
    log_size: int
    gpus: tuple[Gpu, ...] | None
    cpu: float | None
    memory_used: int | None
    memory_total: int | None
    disk_free: int | None
    disk_total: int | None
    step: int | None
    steps: int | None
    loss: float | None
    tokens_per_second: float | None
    files: tuple[BoxFile, ...] | None
    """The promised files, when they changed since the last report that had them."""
    vitals: Vitals = field(default_factory=Vitals)
    progress: JobProgress = field(default_factory=JobProgress)
    deadman: str | None = None
    """What the dead-man switch did on this box, in words; None when it did nothing."""


class Sentinel:
    """The sentinel on one connected box. Paths are of the box."""

    def __init__(self, box: Box, workspace: str, run_id: str) -> None:
        self.box = box
        self.workspace = workspace
        self.folder = f"{workspace}/{FOLDER}/{run_id}"
        """The run's own state folder."""
        self.work = f"{workspace}/{run_id}"
        """The run's work folder: uploads land here, the job runs here, artifacts are relative to it."""
        self._program = f"{workspace}/{FOLDER}/sentinel.py"

    @property
    def log(self) -> str:
        """The job's log on the box."""
        return f"{self.folder}/log"

    def argv(self, command: str) -> list[str]:
        """The command line of a sentinel command; it holds no name that the user or the job chose."""
        return ["python3", self._program, command]

    async def stage(
        self, stage: str, *, command: str, env: dict[str, str], again: bool = False
    ) -> StageState:
        """Start a stage once; the same call again reports it. `env` (with secrets) travels on stdin only."""
        order = {
            "folder": self._stage_folder(stage), "work": self.work, "log": self.log, "command": command,
            "env": env, "again": again,
        }  # fmt: skip
        # what a box says goes into the ledger, and it may repeat what it was told
        return _state(await self._ask("start", order, secrets=[v for v in env.values() if len(v) >= 6]))

    async def state(self, stage: str) -> StageState:
        """How far a stage is."""
        return _state(await self._ask("state", {"folder": self._stage_folder(stage)}))

    async def stop(self, stage: str, *, grace: float = 30) -> StageState:
        """SIGTERM, then SIGKILL after `grace` seconds."""
        order = {"folder": self._stage_folder(stage), "grace": grace}
        return _state(await self._ask("stop", order, seconds=grace + 30))

    async def inventory(
        self, globs: Sequence[str], instance_id: str, *, root: str | None = None
    ) -> Inventory:
        """A complete listing of the promised files. Raises BoxFault when it is not complete."""
        order = inventory_order(root or self.work, globs) | {"limit": MAX_FILES}
        done = await self.box.run(self.argv("list"), stdin=_line(order), seconds=300, limit=_LIST_LIMIT)
        if done.status != 0:
            raise BoxFault(f"listing the files failed: {clean_bytes(done.stderr[-300:])}")
        # a million files take seconds to parse: not in the event loop
        return await asyncio.to_thread(parse_inventory, done.stdout, instance_id)

    async def put(self, name: str, data: bytes) -> None:
        """Write one small file below the work folder, replacing it whole."""
        head = {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        stdin = _line({"root": self.work}) + _line(head) + data + b"\n"
        done = await self.box.run(self.argv("receive"), stdin=stdin)
        if done.status != 0:
            raise BoxFault(f"cannot write {name} on the box: {clean_bytes(done.stderr[-200:])}")

    async def upload(
        self, files: Sequence[tuple[str, Path]], *, root: str | None = None, progress: Progress | None = None
    ) -> int:
        """Put local files below the work folder (or `root`), hashed on arrival; returns how many.

        Large ones go in parts and resume after a cut (see `gpuwatch.box.push`), the others in one stream.
        """
        sizes = await asyncio.to_thread(lambda: [path.stat().st_size for _, path in files])
        progress = progress or Progress()
        progress.up, progress.started = True, asyncio.get_running_loop().time()
        progress.files_total, progress.bytes_total = len(files), sum(sizes)
        for (name, path), size in zip(files, sizes, strict=True):
            if size >= LARGE:
                await push(
                    self.box, self.argv, root=root or self.work, file=Outgoing(name, path), progress=progress
                )
        await self._stream([f for f, size in zip(files, sizes, strict=True) if size < LARGE], root, progress)
        return len(files)

    async def _stream(self, files: Sequence[tuple[str, Path]], root: str | None, progress: Progress) -> None:
        async with self.box.process(self.argv("receive")) as process:
            process.stdin.write(_line({"root": root or self.work}))
            for name, path in files:
                head, blocks = await asyncio.to_thread(_open_upload, name, path)
                process.stdin.write(head)
                try:
                    while block := await asyncio.to_thread(blocks.read, 1 << 20):
                        await self.box.pace.take(len(block))
                        process.stdin.write(block)
                        await process.stdin.drain()
                        progress.moved += len(block)
                        progress.bytes_done += len(block)
                finally:
                    blocks.close()
                progress.files_done += 1
            process.stdin.write(b"\n")
            process.stdin.write_eof()
            async with asyncio.timeout(120):
                answer = await process.stdout.read(4096)
                problem = await process.stderr.read(4096)
                await process.wait()
            status = process.exit_status
        if status != 0 or _json(answer).get("received") != len(files):
            raise BoxFault(f"the upload failed: {clean_bytes(problem[-300:]) or 'no answer'}")

    def fetch(
        self,
        wanted: Sequence[Wanted],
        *,
        partial: Path,
        boot_id: str,
        progress: Progress,
        root: str | None = None,
    ) -> AsyncGenerator[Fetched | NotFetched, None]:
        """Bring files below the work folder (or `root`) home, proved; see `gpuwatch.box.fetch.fetch`."""
        return fetch(
            self.box, self.argv, root=root or self.work, wanted=wanted, partial=partial, boot_id=boot_id,
            progress=progress,
        )  # fmt: skip

    async def watch(
        self, *, globs: Sequence[str], interval: float, metrics: str | None, status: str | None
    ) -> AsyncIterator[Report]:
        """Reports, one per interval, until the connection ends (BoxUnreachable) or the caller leaves."""
        order = {
            "folder": self._stage_folder("job"), "log": self.log, "interval": interval,
            "inventory": inventory_order(self.work, globs), "metrics": metrics, "status": status,
        }  # fmt: skip
        async with self.box.process(self.argv("watch")) as process:
            process.stdin.write(_line(order))
            buffer = b""
            loop = asyncio.get_running_loop()
            said = loop.time()
            while True:
                try:
                    async with asyncio.timeout(60 + 20 * interval):
                        chunk = await process.stdout.read(1 << 20)
                except TimeoutError as error:
                    raise BoxUnreachable("the box stopped reporting") from error
                if not chunk:
                    problem = clean_bytes((await process.stderr.read(2000))[-300:])
                    raise BoxUnreachable(f"the reporter on the box ended: {problem or 'no reason given'}")
                buffer += chunk
                if len(buffer) > 16 << 20:
                    raise BoxFault("the box reports a line without end")
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    yield parse_report(line)
                if loop.time() - said >= RENEW:
                    # the box's dead-man switch counts from what it hears of us
                    process.stdin.write(b"\n")
                    said = loop.time()

    async def guard(self, *, provider: str, url: str, term: float) -> None:
        """Start the dead-man switch on the box, or find it started. `term` in seconds."""
        interval = max(5.0, min(30.0, term / 6))
        await self._ask(
            "guard",
            {"folder": self.folder, "provider": provider, "url": url, "term": term, "interval": interval},
        )

    async def forget(self, folder: str, name: str, files: Sequence[BoxFile]) -> str | None:
        """Remove one checkpoint below `folder` that is proved at home; None, or why it stays. Raises BoxError.

        The box removes it only when it holds exactly these files, in these versions, and nobody writes them.
        """
        rows = [[f.path, *f.identity] for f in files]
        order = {"root": self.work, "folder": folder, "name": name, "files": rows}
        said = await self._ask("forget", order, seconds=300)
        if said.get("removed") is True:
            return None
        why = said.get("why")
        return clean(why, 200) if isinstance(why, str) and why else "the box did not say why"

    async def tail(self, offset: int) -> AsyncIterator[bytes]:
        """The log's bytes from `offset`; ends when the job has ended and all is here."""
        order = {"folder": self._stage_folder("job"), "log": self.log, "offset": offset}
        async with self.box.process(self.argv("tail")) as process:
            process.stdin.write(_line(order))
            while chunk := await process.stdout.read(1 << 18):
                yield chunk
            await process.wait()
            if process.exit_status != 0:
                raise BoxUnreachable("the log stream broke off")

    def _stage_folder(self, stage: str) -> str:
        return self.folder if stage == "job" else f"{self.folder}/{stage}"

    async def _ask(
        self, command: str, order: dict[str, Any], *, seconds: float = 60, secrets: Sequence[str] = ()
    ) -> dict[str, Any]:
        done = await self.box.run(self.argv(command), stdin=_line(order), seconds=seconds)
        if done.status != 0:
            problem = done.stderr
            for secret in secrets:
                problem = problem.replace(secret.encode(), b"[secret]")
            raise BoxFault(f"{command} failed on the box: {clean_bytes(problem[-300:])}")
        return _json(done.stdout)


async def install(box: Box) -> Facts:
    """Put the sentinel on the box and ask what the box is. Raises NoPython, BoxFault, BoxUnreachable.

    The first script is plain sh: it finds Python and the workspace (the provider's, else the
    home folder) and prints both; nothing is assumed about either.
    """
    script = (
        "umask 077; python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || exit 42; "
        'd=${TMPDIR:-/tmp}; cat > "$d/.gpuwatch-sentinel.$$" && python3 "$d/.gpuwatch-sentinel.$$" probe; '
        'code=$?; rm -f "$d/.gpuwatch-sentinel.$$"; exit $code'
    )
    done = await box.run(["sh", "-c", script], stdin=sentinel.source(), seconds=90)
    if done.status == 42:
        raise NoPython(
            "the image has no python3 of version 3.8 or newer, which gpuwatch needs on the box: use an image that "
            "has one, or install it when the machine starts (Debian, Ubuntu: apt-get install -y python3)"
        )
    if done.status != 0:
        raise BoxFault(f"the box cannot run the sentinel: {clean_bytes(done.stderr[-300:])}")
    facts = parse_facts(done.stdout)
    place = shlex.quote(f"{facts.workspace}/{FOLDER}")
    put = f"umask 077; mkdir -p {place} && cat > {place}/sentinel.new && mv {place}/sentinel.new {place}/sentinel.py"
    done = await box.run(["sh", "-c", put], stdin=sentinel.source(), seconds=90)
    if done.status != 0:
        raise BoxFault(f"cannot write to {facts.workspace} on the box: {clean_bytes(done.stderr[-300:])}")
    return facts


# --- parsers of hostile answers ------------------------------------------------------------------


def inventory_order(root: str, globs: Sequence[str]) -> dict[str, Any]:
    """The `list` order for promised globs: where to start looking, and patterns as regular expressions.

    `hidden`: folders that start with a dot are walked only when a glob names one.
    """
    roots = []
    for glob in globs:
        fixed: list[str] = []
        for part in glob.split("/"):
            if any(c in part for c in "*?["):
                break
            fixed.append(part)
        roots.append("/".join(fixed))
    return {
        "root": root,
        "roots": list(dict.fromkeys(roots)),
        "patterns": [glob_pattern(g).pattern for g in globs],
        "hidden": any(part.startswith(".") for g in globs for part in g.split("/")),
    }


def parse_facts(data: bytes) -> Facts:
    """`probe`'s line, or BoxFault."""
    value = _json(data)
    place = value.get("workspace")
    if (
        not isinstance(place, str)
        or not place.startswith("/")
        or len(place) > 1000
        or not place.isprintable()
    ):
        raise BoxFault("the box names no usable workspace")
    boot = value.get("boot_id")
    if not isinstance(boot, str) or not boot.isalnum() or len(boot) > 64:
        raise BoxFault("the box names no boot id")
    gpus = value.get("gpus")
    names = tuple(clean(str(g), 60) for g in gpus[:64]) if isinstance(gpus, list) else ()
    driver = value.get("driver")
    return Facts(
        python=clean(str(value.get("python")), 20),
        workspace=place.rstrip("/") or "/",
        boot_id=boot,
        gpus=names,
        driver=clean(driver, 40) if isinstance(driver, str) else None,
        disk_free=_size(value.get("disk_free")),
        disk_speed=speed
        if (speed := _number(value.get("disk_speed"), 1e12)) is not None and speed > 0
        else None,
    )


def parse_inventory(data: bytes, instance_id: str) -> Inventory:
    """`list`'s lines; BoxFault unless the closing line says that they are all."""
    lines = data.split(b"\n")
    if not lines or lines.pop() != b"":
        raise BoxFault("the listing breaks off")
    end = _json(lines.pop()) if lines else {}
    problems = end.get("problems")
    boot = end.get("boot_id")
    at = _number(end.get("at"), _YEAR_5000)
    if end.get("end") != len(lines) or not isinstance(problems, list) or not isinstance(boot, str):
        raise BoxFault("the listing is not complete")
    if len(lines) > MAX_FILES or not boot.isalnum() or at is None:
        raise BoxFault("the listing is out of bounds")
    files, links = _files(_rows(lines))
    return Inventory(
        instance_id=instance_id,
        boot_id=boot[:64],
        taken_at=at,
        files=files,
        problems=tuple(clean(str(p), 200) for p in problems[:100]),
        links=links,
        sessions=_size(end.get("sessions")),
    )


_ROW = tuple[str, int, int, int, int, bool, str | None]
_LISTING = msgspec.json.Decoder(list[_ROW])


def _rows(lines: Sequence[bytes]) -> Sequence[object]:
    """Lines as values. What is well formed is decoded in one go, five times as fast as line by line."""
    try:
        return _LISTING.decode(b"[" + b",".join(lines) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [_any(line) for line in lines]  # names that are no UTF-8 among them, or nonsense


def _files(rows: Sequence[object]) -> tuple[tuple[BoxFile, ...], tuple[Link, ...]]:
    """Rows of a listing as files and links."""
    files: dict[str, BoxFile] = {}
    links: dict[str, str] = {}
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 7 or not isinstance(row[0], str) or not row[0]:
            raise BoxFault("the listing has a row that is none")
        path, size, mtime, ctime, inode, writer, link = row
        if not path.isascii() and not _is_name(path):
            raise BoxFault("the listing has a name that no file can have")
        if path in files or path in links:
            raise BoxFault("the listing names a file twice")
        if "\0" in path:
            raise BoxFault("the listing has a name that no file can have")
        if link is not None:
            links[path] = str(link)[:_MAX_TARGET]
            continue
        try:
            identity = parse_identity([size, mtime, ctime, inode])
        except FrameError as error:
            raise BoxFault(f"the listing has a row that is none: {error}") from error
        files[path] = BoxFile(path, *identity, writer=writer is True)
    # a link inside the promised tree loses nothing: its target is a file of the listing
    folders = {folder for path in files for folder in _above(path)} if links else frozenset()
    return tuple(files.values()), tuple(
        Link(path, target, stray=target not in files and target not in folders)
        for path, target in links.items()
    )


def _above(path: str) -> Iterator[str]:
    """The folders above a path."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _is_name(path: str) -> bool:
    """Whether some file system could have told this name (undecodable bytes as PEP 383 surrogates)."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def parse_report(line: bytes) -> Report:
    """One `watch` line, or BoxFault. Numbers out of range are unknown."""
    value = _json(line)
    at, boot = _number(value.get("at"), _YEAR_5000), value.get("boot_id")
    if at is None or not isinstance(boot, str) or not boot.isalnum():
        raise BoxFault("a report without time or boot id")
    progress = read_progress(value.get("metrics"), value.get("trainer"), value.get("steps"))
    vitals = read_vitals(value.get("vitals"))
    memory, disk, gpus, files = (value.get(k) for k in ("memory", "disk", "gpus", "files"))
    return Report(
        at=at,
        boot_id=boot[:64],
        job=_state(value.get("job")),
        log_size=_size(value.get("log")) or 0,
        gpus=_shown(vitals) if vitals.gpus.rows else _gpus(gpus),
        cpu=_number(value.get("cpu"), 100),
        memory_used=_size(memory[0]) if isinstance(memory, list) and len(memory) == 2 else None,
        memory_total=_size(memory[1]) if isinstance(memory, list) and len(memory) == 2 else None,
        disk_free=_size(disk[0]) if isinstance(disk, list) and len(disk) == 2 else None,
        disk_total=_size(disk[1]) if isinstance(disk, list) and len(disk) == 2 else None,
        step=progress.step,
        steps=progress.steps,
        loss=progress.loss,
        tokens_per_second=progress.tokens_per_second,
        files=_files(files)[0] if isinstance(files, list) and len(files) <= MAX_FILES else None,
        vitals=vitals,
        progress=progress,
        deadman=_deadman(value.get("deadman")),
    )


def _deadman(value: object) -> str | None:
    """The dead-man switch's diary in words."""
    try:
        entry = json.loads(value) if isinstance(value, str) and value else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("why"), str):
        return None
    return clean(f"{entry['why']} (stop {entry.get('result')})", 300)


def _shown(vitals: Vitals) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(g.index, g.name, g.utilisation, g.memory_used, g.memory_total, g.power, g.temperature)
        for g in vitals.gpus.rows
    )


def _gpus(value: object) -> tuple[Gpu, ...] | None:
    if not isinstance(value, list):
        return None
    rows = []
    for row in value[:64]:
        if not isinstance(row, list) or len(row) != 7 or not all(isinstance(cell, str) for cell in row):
            return None
        if not row[0].isdigit():
            return None
        mib = 1 << 20
        used, total = _cell(row[3], 1e9), _cell(row[4], 1e9)
        rows.append(
            Gpu(
                index=int(row[0][:4]),
                name=clean(row[1], 60),
                utilisation=_cell(row[2], 100),
                memory_used=None if used is None else int(used * mib),
                memory_total=None if total is None else int(total * mib),
                power=_cell(row[5], 1e5),
                temperature=_cell(row[6], 1e3),
            )
        )
    return tuple(rows)


def _cell(text: str, high: float) -> float | None:
    """A cell of nvidia-smi's table; `[N/A]`, `[Not Supported]`, `ERR!` and the like are unknown."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= high else None


def _state(value: object) -> StageState:
    row = value if isinstance(value, dict) else {}
    phase = row.get("phase")
    if phase not in ("none", "starting", "running", "ended", "vanished"):
        raise BoxFault("the box does not say what the job does")
    pid, code = row.get("pid"), row.get("exit_code")
    return StageState(
        phase=phase,
        pid=pid if isinstance(pid, int) and 0 < pid < 1 << 31 else None,
        exit_code=code
        if isinstance(code, int) and not isinstance(code, bool) and abs(code) < 1 << 16
        else None,
    )


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None


def _number(value: object, high: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -high <= value <= high else None


def _any(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BoxFault("the box answered with something that is no JSON") from error


def _json(data: bytes) -> dict[str, Any]:
    value = _any(data.strip() or b"null")
    if not isinstance(value, dict):
        raise BoxFault("the box answered with something that is no JSON object")
    return value


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _open_upload(name: str, path: Path) -> tuple[bytes, Any]:
    handle = path.open("rb")
    digest = hashlib.file_digest(handle, "sha256").hexdigest()
    size = handle.tell()
    handle.seek(0)
    mode = 0o755 if path.stat().st_mode & 0o111 else 0o644
    return _line({"path": name, "size": size, "mode": mode, "sha256": digest}), handle
