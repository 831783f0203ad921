"""Bring files home and prove them: single checkpoints while the job runs, everything at its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from gpuwatch.box.errors import BoxError, BoxFault
from gpuwatch.box.fetch import Fetched, Progress, Wanted
from gpuwatch.box.ports import Agent
from gpuwatch.clean import show_path
from gpuwatch.custody.facts import BoxFile, Copy, Inventory
from gpuwatch.custody.rules import Assessment, assess, is_safe, promised_globs, spoken
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.link import Backoff, Link
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.standing import MirrorBehind, demand_required
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import target
from gpuwatch.lifecycle.run import Run
from gpuwatch.spec import RunSpec
from gpuwatch.vault import receipt
from gpuwatch.vault.layout import LOG, HostilePath
from gpuwatch.vault.sink import PartName

log = structlog.get_logger()

ROUNDS = 6
"""How often files may change under our hands before a collection starts over later."""
WRITER_PATIENCE = 900.0
"""Seconds to wait for a process that still writes a promised file after the job's end; then a person decides."""


async def bring(
    ctx: Context,
    run_id: str,
    sentinel: Agent,
    files: Sequence[BoxFile],
    boot_id: str,
    live: Live,
    *,
    step: int | None = None,
) -> tuple[list[Copy], list[str]]:
    """Download and prove `files`; returns the copies, and why others did not come. Raises BoxError, VaultUnusable.

    What was proved before a failure is in the ledger already and is not fetched again. One
    download of a run at a time: whoever waits finds what the other has brought meanwhile.
    """
    async with live.bringing:
        known = await present(ctx, run_id)
        missing = [f for f in files if not is_safe(f, known.get(f.path))]
        return await _bring(ctx, run_id, sentinel, missing, boot_id, live, step) if missing else ([], [])


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
) -> tuple[list[Copy], list[str]]:
    await asyncio.to_thread(ctx.vault.check)
    unkeepable = await _unkeepable(ctx, run_id, files)
    refused = list(unkeepable.values())
    wanted = [
        Wanted(f.path, f.identity, ctx.vault.destination(run_id, f.path))
        for f in files
        if f.path not in unkeepable
    ]
    progress = Progress(files_total=len(wanted), bytes_total=sum(w.identity[0] for w in wanted))
    live.transfer = progress
    copies: list[Copy] = []
    try:
        stream = sentinel.fetch(wanted, partial=ctx.vault.partial(run_id), boot_id=boot_id, progress=progress)
        async with contextlib.aclosing(stream):
            async for outcome in stream:
                live.bump()
                if isinstance(outcome, Fetched):
                    copies.append(_copy(outcome, boot_id, ctx.now(), step))
                elif not outcome.gone:
                    refused.append(f"{spoken(outcome.wanted.path)}: {outcome.reason}")
    finally:
        live.transfer = None
        # a run that is being destroyed or lost meanwhile has no more use for the record
        if copies and target(ctx.ledger.runs[run_id].state, e.FilesVerified) is not None:
            await ctx.ledger.append(run_id, _verified(copies, step), copies=copies)
    return copies, refused


async def _unkeepable(ctx: Context, run_id: str, files: Sequence[BoxFile]) -> dict[str, str]:
    """Path → why this vault will never hold a file of that name."""
    folds = await asyncio.to_thread(ctx.vault.folds_case)
    taken = {p.casefold(): p for p in ctx.ledger.copies(run_id)} if folds else {}
    refused: dict[str, str] = {}
    for file in files:
        if folds and taken.setdefault(file.path.casefold(), file.path) != file.path:
            refused[file.path] = (
                f"{spoken(file.path)} differs from another file only in case, which this disk cannot keep"
            )
        try:
            ctx.vault.destination(run_id, file.path)
        except HostilePath as error:
            refused[file.path] = str(error)
    return refused


def _verified(copies: list[Copy], step: int | None) -> e.FilesVerified:
    path = os.path.commonpath([c.path for c in copies]) if len(copies) > 1 else copies[0].path
    return e.FilesVerified(
        files=len(copies),
        bytes=sum(c.size for c in copies),
        step=step,
        path=show_path(path),
    )


def _copy(done: Fetched, boot_id: str, at: float, step: int | None) -> Copy:
    return Copy(done.wanted.path, done.identity[0], done.sha256, done.identity, boot_id, at, step)


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
    instance = _instance_id(run)
    globs = promised_globs(spec)
    reasons: list[str] = []
    for _ in range(ROUNDS):
        sentinel = await link.sentinel()
        inventory = await sentinel.inventory(globs, instance)
        live.files = inventory.files
        verdict = await judge(ctx, run, spec, inventory)
        busy = next((f.path for f in inventory.files if f.writer and spoken(f.path) not in run.waivers), None)
        if busy is not None and patient:
            raise BoxFault(f"some process still writes {show_path(busy)}; waiting for its end")
        missing = [f for f in verdict.unsafe if not f.writer]
        # what can never come home is not tried again and again while the machine bills: a person decides
        unkeepable = await _unkeepable(ctx, run.id, missing)
        missing = [f for f in missing if f.path not in unkeepable]
        reasons = list(unkeepable.values())
        if not missing:
            break
        _, reasons = await bring(ctx, run.id, sentinel, missing, inventory.boot_id, live)
    else:
        raise BoxFault(
            f"files keep changing while they are collected: {'; '.join(reasons[:2]) or 'new versions appear'}"
        )
    log_copy = await _collect_log(ctx, run, sentinel, inventory, live)
    if not verdict.holds:
        demand_required(ctx, run, spec, [*verdict.safe, *log_copy])
    if verdict.holds:
        holds = [str(h) for h in verdict.holds] + [f"transfer: {r}" for r in reasons[:5]]
        await ctx.ledger.append(run.id, e.CollectBlocked(holds=holds))
        return
    waived = list(dict.fromkeys([*(spoken(f.path) for f in verdict.waived), *run.waivers]))
    content = receipt.document(
        run=run.id, name=run.name, label=run.machine.label if run.machine else "", inventory=inventory,
        copies=[*verdict.safe, *log_copy], waived=waived, reason=run.end_reason, at=ctx.now(),
    )  # fmt: skip
    written = await asyncio.to_thread(receipt.write, ctx.vault, run.id, content)
    await ctx.ledger.append(
        run.id,
        e.ReceiptWritten(
            digest=written.digest, files=written.files, bytes=written.bytes, boot_id=inventory.boot_id, at=ctx.now(),
            waived=waived,
        ),
    )  # fmt: skip


async def judge(ctx: Context, run: Run, spec: RunSpec, inventory: Inventory) -> Assessment:
    """Custody's verdict on one inventory, with the copies that stand in the vault now. Raises VaultUnusable."""
    copies = await present(ctx, run.id)
    released = [hold.name for hold in run.released]
    return assess(spec, inventory, copies, run.waivers, job_succeeded=run.exit_code == 0, released=released)


async def _collect_log(
    ctx: Context, run: Run, sentinel: Agent, inventory: Inventory, live: Live
) -> list[Copy]:
    """The job's log, proved like any file: what was captured live is the part that is resumed."""
    listing = await sentinel.inventory(["log"], inventory.instance_id, root=sentinel.folder)
    on_box = next((f for f in listing.files if f.path == "log"), None)
    if on_box is None:
        return []
    known = (await present(ctx, run.id)).get(LOG)
    if is_safe(on_box, known) and known is not None:
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
    """Let the live capture be the partial download; the re-read proves it, or it is fetched anew."""
    if not captured.exists() or captured.stat().st_size > on_box.size or part.content.exists():
        return
    part.remember(on_box.identity, boot_id)
    os.link(captured, part.content)


def _instance_id(run: Run) -> str:
    if run.machine is None or run.machine.instance_id is None:
        raise RuntimeError(f"run {run.id} collects without a machine")
    return run.machine.instance_id
