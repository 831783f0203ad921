"""What goes on beside the steps while a box exists: telemetry, log capture, checkpoint mirroring, presence.

Each part runs on its own, reconnects on its own, and only reports; decisions are the
actor's. They start when the box is known and stop when it is gone.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

import structlog

from gpuwatch.box.errors import BoxError
from gpuwatch.box.frames import Identity
from gpuwatch.box.ports import Agent
from gpuwatch.clean import show_path
from gpuwatch.custody.complete import POINTER, Group, Stillness, complete, digest_of, groups
from gpuwatch.custody.rules import is_safe, promised_globs
from gpuwatch.daemon.accounting import day_ceiling_reached
from gpuwatch.daemon.collecting import bring
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.idling import watch_idleness
from gpuwatch.daemon.link import Backoff, Link
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.presence import watch_presence
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle import recover
from gpuwatch.lifecycle.evolve import HOMES, target
from gpuwatch.lifecycle.run import State
from gpuwatch.spec import RunSpec
from gpuwatch.vault.layout import VaultUnusable

log = structlog.get_logger()

LOG_LIMIT = 8 << 30
"""Bytes of a job's log that are captured; a box that prints more is cut off here, visibly."""

_CLOCK_SECONDS = 1.0
"""At most one entry of the log's clock in this time."""
_TIME = struct.Struct("<QQ")


async def accompany(
    ctx: Context,
    run_id: str,
    spec: RunSpec,
    link: Link,
    live: Live,
    nudge: Callable[[], None],
    start_run: Callable[[str], None],
) -> None:
    """All parts, until cancelled. `nudge` is called after an event that changes what is to be done.

    `start_run` starts driving a run that was made here.
    """
    async with asyncio.TaskGroup() as parts:
        parts.create_task(_again("telemetry", lambda: _telemetry(ctx, run_id, spec, link, live)))
        parts.create_task(_again("log", lambda: _capture(ctx, run_id, link, live)))
        parts.create_task(_again("mirror", lambda: _mirror(ctx, run_id, spec, link, live)))
        parts.create_task(watch_presence(ctx, run_id, spec, link, live, nudge, start_run))
        parts.create_task(_budget(ctx, run_id, spec, nudge))
        parts.create_task(watch_idleness(ctx, run_id, spec, live, nudge))


async def _again(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run a part again whenever the box was out of reach, also behind a host key that is not the pinned one."""
    backoff = Backoff(1, 30)
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            await part()
            return
        except (BoxError, OSError) as error:
            log.info("companion interrupted", part=name, problem=str(error))
        except Exception:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from None  # a clean-up that failed must not undo the cancellation
            # one part's fault must not blind the others; it shows in the log and is tried again
            log.exception("companion failed", part=name)
        if loop.time() - started > 60:
            backoff.reset()
        await backoff.wait()


async def _telemetry(ctx: Context, run_id: str, spec: RunSpec, link: Link, live: Live) -> None:
    sentinel = await link.sentinel()
    out = PurePosixPath(spec.checkpoints.path).parent if spec.checkpoints is not None else PurePosixPath()
    loop = asyncio.get_running_loop()
    await _arm(ctx, run_id, spec, sentinel)
    async for report in sentinel.watch(
        globs=promised_globs(spec), interval=ctx.config.telemetry_interval,
        metrics=f"{sentinel.work}/{out}/metrics.jsonl", status=f"{sentinel.work}/{out}/status.json",
    ):  # fmt: skip
        live.observe(report, loop.time(), ctx.now())


async def _arm(ctx: Context, run_id: str, spec: RunSpec, sentinel: Agent) -> None:
    """Start the box's dead-man switch, when the spec wants one and stopping keeps this machine's disk."""
    machine = ctx.ledger.runs[run_id].machine
    if spec.deadman.after is None or machine is None:
        return
    keeps = ctx.fleets[machine.provider].provider.capabilities.stop_keeps_disk
    if machine.provider != "vast" or not keeps:
        log.info(
            "no dead-man switch here: a box of this provider cannot stop itself and keep its disk", run=run_id
        )
        return
    url = ctx.config.providers.vast.url or "https://console.vast.ai"
    await sentinel.guard(provider=machine.provider, url=url, term=spec.deadman.after)


async def _capture(ctx: Context, run_id: str, link: Link, live: Live) -> None:
    """Append the job's output to the vault, from where the last capture stopped."""
    sentinel = await link.sentinel()
    path = ctx.vault.log(run_id)
    await asyncio.to_thread(ctx.vault.check)
    size = await asyncio.to_thread(_size, path)
    live.logged_to(size, complete=False)
    noted = 0.0
    async for chunk in sentinel.tail(size):
        if size + len(chunk) > LOG_LIMIT:
            log.warning("log limit reached", run=run_id, limit=LOG_LIMIT)
            return
        now = ctx.now()
        if now - noted >= _CLOCK_SECONDS:
            await asyncio.to_thread(_append, ctx.vault.log_clock(run_id), _TIME.pack(size, int(now * 1000)))
            noted = now
        await asyncio.to_thread(_append, path, chunk)
        size += len(chunk)
        live.logged_to(size, complete=False)
    live.logged_to(size, complete=True)


def _size(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, data: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise VaultUnusable(error.errno, f"cannot write the log to the vault: {error.strerror}") from error


async def _mirror(ctx: Context, run_id: str, spec: RunSpec, link: Link, live: Live) -> None:
    """Bring each checkpoint home as soon as it is whole, newest first."""
    if spec.checkpoints is None:
        return
    still = Stillness()
    hopeless: set[tuple[str, Identity]] = set()
    while True:
        await live.reported.wait()
        run = ctx.ledger.runs[run_id]
        if run.state is not State.RUNNING:
            continue  # the collection at the end takes everything that is left
        report = live.report
        if report is None:
            continue
        entries = groups(live.files, spec.checkpoints.path)
        whole = complete(entries, still.observe(entries))
        copies = ctx.ledger.copies(run_id)
        for number, group in enumerate(whole):
            unsafe = [f for f in group.files if not is_safe(f, copies.get(f.path))]
            missing = [f for f in unsafe if (f.path, f.identity) not in hopeless]
            if not unsafe and number < HOMES:
                await note_home(ctx, run_id, group)
            if missing and ctx.ledger.runs[run_id].state is State.RUNNING:
                hopeless |= await _bring_group(
                    ctx, run_id, await link.sentinel(), group, report.boot_id, spec.checkpoints.path, live
                )
                break  # look again: something newer may be there by now


async def note_home(ctx: Context, run_id: str, group: Group) -> None:
    """Write down, once for each version, that a whole checkpoint stands at home: what a recovery may go back to."""
    run, copies = ctx.ledger.runs[run_id], ctx.ledger.copies(run_id)
    if show_path(group.name) != group.name:
        return  # a name that no terminal can be shown is not one to go back to
    mine = [copies[f.path] for f in group.files]
    digest = digest_of(mine)
    known = any((h.name, h.digest) == (group.name, digest) for h in run.homes)
    # of one that is older than all that are remembered nothing would stay
    full = len(run.homes) == HOMES and (group.step or 0) < (run.homes[0].step or 0)
    if known or full or target(run.state, e.CheckpointHome) is None:
        return
    home = e.CheckpointHome(
        name=group.name, step=group.step, files=len(mine), bytes=sum(c.size for c in mine), digest=digest
    )
    await ctx.ledger.append(run_id, home)


async def _bring_group(
    ctx: Context, run_id: str, sentinel: Agent, group: Group, boot_id: str, folder: str, live: Live
) -> set[tuple[str, Identity]]:
    """Bring one checkpoint; returns the files, in this version, that the vault can never keep."""
    copies = ctx.ledger.copies(run_id)
    missing = [f for f in group.files if not is_safe(f, copies.get(f.path))]
    if group.manifest:
        missing += [
            f for f in live.files if f.path == f"{folder}/{POINTER}" and not is_safe(f, copies.get(f.path))
        ]
    await _answer(sentinel, group, folder, "uploading")
    brought = await bring(ctx, run_id, sentinel, missing, boot_id, live, step=group.step)
    now_safe = ctx.ledger.copies(run_id)
    if all(is_safe(f, now_safe.get(f.path)) for f in group.files):
        await note_home(ctx, run_id, group)
        await _answer(sentinel, group, folder, "verified")
    elif brought.reasons or brought.refused:
        reasons = [*brought.reasons, *brought.refused.values()][:3]
        log.warning("checkpoint not mirrored", run=run_id, checkpoint=group.name, reasons=reasons)
    return {(f.path, f.identity) for f in missing if f.path in brought.refused}


async def _answer(sentinel: Agent, group: Group, folder: str, state: str) -> None:
    """Tell a trainer that speaks the run contract what stands verified (`mirror/step-N.json`)."""
    if not group.manifest or group.step is None:
        return
    text = json.dumps({"step": group.step, "state": state, "where": "vault"})
    await sentinel.put(f"{PurePosixPath(folder).parent}/mirror/{group.name}.json", text.encode() + b"\n")


over_budget = recover.ceiling
"""Which ceiling a running job has reached, None while it is below all. Pure."""


async def _budget(ctx: Context, run_id: str, spec: RunSpec, nudge: Callable[[], None]) -> None:
    """At a ceiling: the same gate as everyone, that is stop the job, copy, verify, destroy (I5)."""
    while True:
        run = ctx.ledger.runs[run_id]
        if run.state is State.RUNNING and run.end_requested_by is None:
            reason = over_budget(run, spec, ctx.now()) or day_ceiling_reached(ctx, ctx.now())
            if reason is not None:
                await ctx.ledger.append(run_id, e.EndRequested(by="budget", reason=reason))
                nudge()
        await asyncio.sleep(5)
