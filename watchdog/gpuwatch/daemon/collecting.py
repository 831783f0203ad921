"""Bring files home and prove them: single checkpoints while the job runs, everything at its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from gpuwatch.box.errors import BoxError, BoxFault
from gpuwatch.box.fetch import Fetched, Progress, Wanted
from gpuwatch.box.ports import Agent
from gpuwatch.clean import clean, show_path
from gpuwatch.custody.complete import MANIFEST, POINTER
from gpuwatch.custody.facts import BoxFile, Copy, Inventory
from gpuwatch.custody.rules import Assessment, Hold, assess, is_safe, promised_globs, spoken
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.link import Backoff, Link
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.standing import MirrorBehind, demand_required
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import target
from gpuwatch.lifecycle.run import Run
from gpuwatch.spec import RunSpec
from gpuwatch.vault import receipt, reread
from gpuwatch.vault.layout import LOG, HostilePath, make_folder, relative_parts
from gpuwatch.vault.names import refusals
from gpuwatch.vault.reread import Kind, NotThere, Reread
from gpuwatch.vault.sink import PartName

log = structlog.get_logger()

ROUNDS = 6
"""How often files may change under our hands before a collection starts over later."""
SLICE = 5000
"""Files that one fetch is asked for: what is in memory for each of them is bounded."""
RECORD_FILES = 1000
RECORD_SECONDS = 5.0
_REASONS = 50
_NAMES = 20
"""Refused names that are told one by one."""
WRITER_PATIENCE = 900.0
"""Seconds to wait for a process that still writes a promised file after the job's end; then a person decides."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What one download achieved."""

    copies: tuple[Copy, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why other files did not come; they may be tried again."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Path → why the vault can never keep that file as it is now."""


async def bring(
    ctx: Context,
    run_id: str,
    sentinel: Agent,
    files: Sequence[BoxFile],
    boot_id: str,
    live: Live,
    *,
    step: int | None = None,
) -> Brought:
    """Download and prove `files`. Raises BoxError, VaultUnusable.

    What was proved before a failure is in the ledger already and is not fetched again. One
    download of a run at a time: whoever waits finds what the other has brought meanwhile.
    """
    async with live.bringing:
        known = await present(ctx, run_id)
        missing = [f for f in files if not is_safe(f, known.get(f.path))]
        return await _bring(ctx, run_id, sentinel, missing, boot_id, live, step) if missing else Brought()


async def present(ctx: Context, run_id: str) -> dict[str, Copy]:
    """The proved copies that stand in the vault now; one that was removed since is none. Raises VaultUnusable."""

    def look() -> dict[str, Copy]:
        ctx.vault.check()
        return {p: c for p, c in ctx.ledger.copies(run_id).items() if ctx.vault.holds(run_id, p, c.size)}

    return await asyncio.to_thread(look)


async def _bring(
    ctx: Context,
    run_id: str,
    sentinel: Agent,
    files: Sequence[BoxFile],
    boot_id: str,
    live: Live,
    step: int | None,
) -> Brought:
    await asyncio.to_thread(ctx.vault.check)
    folds = await asyncio.to_thread(ctx.vault.folds_case)
    others = ctx.ledger.copies(run_id).keys() if folds else ()
    refused = await asyncio.to_thread(refusals, {f.path for f in files}.union(others), folds=folds)
    refused = {f.path: refused[f.path] for f in files if f.path in refused}
    keepable = sorted((f for f in files if f.path not in refused), key=lambda f: _rank(f.path))
    progress = Progress(files_total=len(keepable), bytes_total=sum(f.size for f in keepable))
    live.transfer = progress
    record = _Record(ctx, run_id, boot_id, step, progress)
    reasons: list[str] = []
    try:
        for at in range(0, len(keepable), SLICE):
            wanted = [
                Wanted(f.path, f.identity, ctx.vault.destination(run_id, f.path), _rank(f.path))
                for f in keepable[at : at + SLICE]
            ]
            stream = sentinel.fetch(
                wanted, partial=ctx.vault.partial(run_id), boot_id=boot_id, progress=progress
            )
            async with contextlib.aclosing(stream):
                async for outcome in stream:
                    live.bump()
                    if isinstance(outcome, Fetched):
                        await record.add(outcome)
                    elif outcome.refused:
                        refused[outcome.wanted.path] = outcome.reason
                    elif not outcome.gone and len(reasons) < _REASONS:
                        reasons.append(f"{spoken(outcome.wanted.path)}: {outcome.reason}")
    finally:
        live.transfer = None
        await record.close()
    return Brought(tuple(record.copies), tuple(reasons), refused)


def _rank(path: str) -> int:
    """Data, then manifest, then pointer: whoever reads the vault never sees one without what it names."""
    name = path.rpartition("/")[2]
    return 2 if name == POINTER else 1 if name == MANIFEST else 0


class _Record:
    """Writes proved files down, some hundred at a time: a crash costs little, and the log stays readable."""

    def __init__(self, ctx: Context, run_id: str, boot_id: str, step: int | None, progress: Progress) -> None:
        self._ctx = ctx
        self._run_id = run_id
        self._boot_id = boot_id
        self._step = step
        self._progress = progress
        self._moved = progress.moved
        self._loop = asyncio.get_running_loop()
        self._written = self._loop.time()
        self._waiting: list[Copy] = []
        self.copies: list[Copy] = []

    async def add(self, done: Fetched) -> None:
        """One more; durable within RECORD_SECONDS while files come."""
        late = self._loop.time() - self._written > RECORD_SECONDS
        if self._waiting and (late or len(self._waiting) >= RECORD_FILES):
            await self._write(None)
        copy = _copy(done, self._boot_id, self._ctx.now(), self._step)
        self._waiting.append(copy)
        self.copies.append(copy)

    async def close(self) -> None:
        """The rest, and the step that is complete with it."""
        if self._waiting:
            await self._write(self._step)

    async def _write(self, step: int | None) -> None:
        # a run that is being destroyed or lost meanwhile has no more use for the record
        if target(self._ctx.ledger.runs[self._run_id].state, e.FilesVerified) is not None:
            moved, seconds = self._progress.moved - self._moved, self._loop.time() - self._written
            event = _verified(self._waiting, step, seconds=round(seconds, 2), moved=moved)
            await self._ctx.ledger.append(self._run_id, event, copies=self._waiting)
        self._waiting, self._written, self._moved = [], self._loop.time(), self._progress.moved


def _verified(
    copies: list[Copy], step: int | None, *, seconds: float | None = None, moved: int | None = None
) -> e.FilesVerified:
    path = os.path.commonpath([c.path for c in copies]) if len(copies) > 1 else copies[0].path
    return e.FilesVerified(
        files=len(copies),
        bytes=sum(c.size for c in copies),
        step=step,
        path=show_path(path),
        seconds=seconds,
        moved=moved,
    )


def _copy(done: Fetched, boot_id: str, at: float, step: int | None) -> Copy:
    return Copy(done.wanted.path, done.identity[0], done.sha256, done.identity, boot_id, at, step, done.home)


async def collect(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live) -> None:
    """Until everything promised is proved (ReceiptWritten), or cannot be (CollectBlocked)."""
    await ctx.ledger.append(run.id, e.CollectStarted())
    backoff = Backoff(1, 60)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WRITER_PATIENCE
    while True:
        try:
            await _collect(ctx, ctx.ledger.runs[run.id], spec, link, live, patient=loop.time() < deadline)
            live.say(None)
            return
        except (BoxError, OSError, MirrorBehind) as error:
            # a full, missing or failing vault, a broken connection: nothing is lost, it is tried again
            if live.trouble != str(error):
                live.say(str(error))
                await ctx.ledger.append(run.id, e.CollectFailed(reason=str(error)))
            await backoff.wait()


async def _collect(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live, *, patient: bool) -> None:
    instance, began = _instance_id(run), ctx.now()
    globs = promised_globs(spec)
    reasons: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    for _ in range(ROUNDS):
        sentinel = await link.sentinel()
        inventory = await sentinel.inventory(globs, instance)
        live.files, live.links = inventory.files, inventory.links
        verdict = await judge(ctx, run, spec, inventory)
        busy = next((f.path for f in inventory.files if f.writer and spoken(f.path) not in run.waivers), None)
        if busy is not None and patient:
            raise BoxFault(f"some process still writes {show_path(busy)}; waiting for its end")
        refused = await _unkeepable(ctx, inventory, refused)
        missing = [f for f in verdict.unsafe if not f.writer and f.path not in refused]
        if missing:
            brought = await bring(ctx, run.id, sentinel, missing, inventory.boot_id, live)
            reasons = brought.reasons
            refused |= brought.refused
        elif await _stand_as_proved(ctx, run.id, verdict.safe):
            break
    else:
        raise BoxFault(
            f"files keep changing while they are collected: {'; '.join(reasons[:2]) or 'new versions appear'}"
        )
    log_copy = await _collect_log(ctx, run, sentinel, inventory, live)
    if not verdict.holds:
        demand_required(ctx, run, spec, [*verdict.safe, *log_copy])
    if verdict.holds:
        waived = frozenset(run.waivers)
        holds = [
            *verdict.holds,
            *_name_holds(run, {p: r for p, r in refused.items() if spoken(p) not in waived}),
        ]
        texts = [str(h) for h in holds] + [f"transfer: {r}" for r in reasons[:5]]
        await ctx.ledger.append(run.id, e.CollectBlocked(holds=texts))
        return
    waivers = list(dict.fromkeys([*(spoken(f.path) for f in verdict.waived), *run.waivers]))
    head = receipt.heading(
        run=run.id, name=run.name, label=run.machine.label if run.machine else "", inventory=inventory,
        waived=waivers, reason=run.end_reason, at=ctx.now(),
    )  # fmt: skip
    reads = receipt.Reads(began, await _reads(ctx, run.id))
    written = await asyncio.to_thread(
        receipt.write, ctx.vault, run.id, head, [*verdict.safe, *log_copy], reads
    )
    await ctx.ledger.append(
        run.id,
        e.ReceiptWritten(
            digest=written.digest, files=written.files, bytes=written.bytes, boot_id=inventory.boot_id, at=ctx.now(),
            waived=waivers,
        ),
    )  # fmt: skip


async def _unkeepable(ctx: Context, inventory: Inventory, known: Mapping[str, str]) -> dict[str, str]:
    """Path → why the vault cannot keep it, of the files that are listed now; `known` was found by trying."""
    folds = await asyncio.to_thread(ctx.vault.folds_case)
    listed = [f.path for f in inventory.files]
    found = await asyncio.to_thread(refusals, listed, folds=folds)
    return {path: reason for path, reason in known.items() if path in set(listed)} | found


def _name_holds(run: Run, refused: Mapping[str, str]) -> list[Hold]:
    """A hold for each file that the vault cannot keep, with the way out."""
    holds = [
        Hold(
            "name",
            f"{clean(spoken(path), 200)} cannot be kept in the vault: {reason}; rename it on the box, "
            f"or give it up: gputui destroy {run.id} --waive PATH",
        )
        for path, reason in sorted(refused.items())[:_NAMES]
    ]
    if len(refused) > _NAMES:
        holds.append(Hold("name", f"{len(refused) - _NAMES} more files cannot be kept in the vault"))
    return holds


async def _reads(ctx: Context, run_id: str) -> dict[str, float]:
    """Path → when a scrub last read that copy and found it good, Unix seconds."""
    return {
        path: scrub.at
        for (run, path), scrub in (await ctx.ledger.scrubs()).items()
        if run == run_id and scrub.problem is None and ctx.ledger.copies(run_id).get(path) == scrub.copy
    }


async def _stand_as_proved(ctx: Context, run_id: str, copies: Sequence[Copy]) -> bool:
    """Whether each file stands in the vault as it was when it was read back; one that does not is read again.

    A file whose size, modification time and inode have not changed is taken from the
    record. False: one was bad, is no copy any more and has to come home again.
    """

    def look() -> list[Copy]:
        ctx.vault.check()
        return [c for c in copies if c.home is None or ctx.vault.standing(run_id, c.path) != c.home]

    found: list[Scrubbed] = []
    for copy in await asyncio.to_thread(look):
        problem = await asyncio.to_thread(problem_of, ctx.vault.run(run_id), copy)
        found.append(Scrubbed(run_id, copy, ctx.now(), problem))
    await ctx.ledger.record_scrubs(found)
    return all(scrub.problem is None for scrub in found)


def problem_of(folder: Path, copy: Copy) -> str | None:
    """Read a copy again from its disk: what is wrong with it, None when nothing is. Blocking. Raises OSError."""
    try:
        with Reread(
            folder, (LOG,) if copy.path == LOG else relative_parts(copy.path), size=copy.size
        ) as file:
            while file.read():
                pass
            kind = reread.judge(file.seen(), size=copy.size, sha256=copy.sha256)
    except (NotThere, HostilePath):
        return Kind.MISSING.value
    return None if kind is None else kind.value


async def judge(ctx: Context, run: Run, spec: RunSpec, inventory: Inventory) -> Assessment:
    """Custody's verdict on one inventory, with the copies that stand in the vault now. Raises VaultUnusable."""
    copies = await present(ctx, run.id)
    released = [hold.name for hold in run.released]
    return await asyncio.to_thread(
        assess, spec, inventory, copies, run.waivers, job_succeeded=run.exit_code == 0, released=released
    )


async def _collect_log(
    ctx: Context, run: Run, sentinel: Agent, inventory: Inventory, live: Live
) -> list[Copy]:
    """The job's log, proved like any file: what was captured live is the part that is resumed."""
    listing = await sentinel.inventory(["log"], inventory.instance_id, root=sentinel.folder)
    on_box = next((f for f in listing.files if f.path == "log"), None)
    if on_box is None:
        return []
    known = (await present(ctx, run.id)).get(LOG)
    if is_safe(on_box, known) and known is not None and await _stand_as_proved(ctx, run.id, [known]):
        return [known]
    target, partial = ctx.vault.log(run.id), ctx.vault.partial(run.id)
    if not live.log_torn:
        await asyncio.to_thread(_seed, target, PartName.of(partial, "log"), on_box, inventory.boot_id)
    stream = sentinel.fetch(
        [Wanted("log", on_box.identity, target)], partial=partial, boot_id=inventory.boot_id,
        progress=Progress(files_total=1, bytes_total=on_box.size), root=sentinel.folder,
    )  # fmt: skip
    async with contextlib.aclosing(stream):
        async for outcome in stream:
            if not isinstance(outcome, Fetched):
                # what was captured live may be torn (a power cut): the next try starts from nothing
                live.log_torn = True
                raise BoxFault(f"the job's log did not come home: {outcome.reason}")
            copy = replace(_copy(outcome, inventory.boot_id, ctx.now(), None), path=LOG)
            await ctx.ledger.append(run.id, _verified([copy], None), copies=[copy])
            live.logged_to(copy.size, complete=True)
            return [copy]
    raise BoxFault("the job's log did not come home")


def _seed(captured: Path, part: PartName, on_box: BoxFile, boot_id: str) -> None:
    """Let the live capture be the beginning of the download; the re-read proves it, or it is fetched anew.

    A copy of it: the capture may still be written to.
    """
    if part.content.exists() or not captured.exists() or captured.stat().st_size > on_box.size:
        return
    make_folder(part.content.parent)
    shutil.copyfile(captured, part.content)
    size = min(part.content.stat().st_size, on_box.size)
    part.remember(on_box.identity, boot_id, ((0, size),) if size else ())


def _instance_id(run: Run) -> str:
    if run.machine is None or run.machine.instance_id is None:
        raise RuntimeError(f"run {run.id} collects without a machine")
    return run.machine.instance_id
