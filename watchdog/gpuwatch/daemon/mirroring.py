"""Second copies: from the vault to each remote of a run's spec, newest checkpoint first, verified, for as long as it takes.

It works from the vault alone, so it goes on when the machine is gone. One transfer at a time per remote, and
so never two of one file. What stands where is in the vault (`gpuwatch.mirror.proof`), not in memory.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog

from gpuwatch.clean import clean, show_path
from gpuwatch.custody.facts import Copy
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.daemon.collecting import problem_of
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.link import Backoff
from gpuwatch.lifecycle.recover import spec_for
from gpuwatch.lifecycle.run import FINAL
from gpuwatch.mirror import plan, proof
from gpuwatch.mirror.known import paths_of
from gpuwatch.mirror.names import CHECKPOINTS, LATEST, BadRemote, folder_of, place
from gpuwatch.mirror.rclone import MirrorFault, Progress, Rclone, Trouble, make_rclone
from gpuwatch.mirror.standing import Standing
from gpuwatch.spec import RunSpec, SpecError, read_spec
from gpuwatch.vault.layout import VaultUnusable

log = structlog.get_logger()

BATCH_BYTES = 20_000_000_000
"""Loose files go in batches of about this size, so that a newer checkpoint does not wait for hours."""
LOOK_EVERY = 600.0
"""Seconds after which everything is compared with the vault again, although nothing was heard."""


class Mirrors:
    """The daemon's mirroring. `run` until cancelled."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._rclone: Rclone | None = None
        self._served: set[str] = set()
        self._specs: dict[str, RunSpec] = {}
        """Of every run that may lack something somewhere; the context forgets runs that are over, this does not."""

    async def run(self) -> None:
        """One server per remote, started when the first run names it."""
        await self._remember()
        async with asyncio.TaskGroup() as servers:
            while True:
                changed = asyncio.create_task(self._ctx.ledger.changed())
                try:
                    self._specs |= {i: s for i, s in self._ctx.specs.items() if s.mirror.remotes}
                    wanted = {remote for spec in self._specs.values() for remote in spec.mirror.remotes}
                    for remote in sorted(wanted - self._served):
                        self._served.add(remote)
                        servers.create_task(self._serve(remote), name=f"mirror:{remote}")
                    await changed
                finally:
                    changed.cancel()

    async def _remember(self) -> None:
        """Know the runs that are over and whose files may still be on the way to a remote."""
        for run_id in await asyncio.to_thread(proof.unfinished, self._ctx.vault):
            try:
                run = (await self._ctx.ledger.record(run_id)).run
                self._specs[run_id] = spec_for(run, read_spec(run.spec, file=run.file))
            except (KeyError, SpecError) as error:
                log.warning("mirror of an unknown run", run=run_id, problem=clean(str(error), 200))

    async def _serve(self, remote: str) -> None:
        """Bring one remote up to date, again and again. A fault waits longer each time; a new file ends the wait."""
        backoff = Backoff(2, 600)
        while True:
            changed = asyncio.create_task(self._ctx.ledger.changed())
            try:
                busy = await self._round(remote)
                backoff.reset()
                if not busy:
                    await asyncio.wait({changed}, timeout=LOOK_EVERY)
            except (MirrorFault, VaultUnusable, OSError, ValueError) as error:
                log.warning("mirror behind", remote=remote, problem=clean(str(error), 300))
                await backoff.wait()
            finally:
                changed.cancel()

    async def _round(self, remote: str) -> bool:
        """One batch of each run that is behind on this remote; whether there was any. Raises the last run's fault, if nothing went."""
        busy, failure = False, None
        for run_id in sorted(self._specs, reverse=True):
            spec = self._specs[run_id]
            if remote not in spec.mirror.remotes:
                continue
            async with self._ctx.remotes.setdefault(remote, asyncio.Lock()):
                # what stands is read and written down again here: not while retention takes something off that list
                standing = await self._standing(run_id, remote, spec)
            try:
                async with self._ctx.remotes[remote]:
                    busy |= await self._bring(standing, spec)
            except (MirrorFault, VaultUnusable, OSError, ValueError, BadRemote) as error:
                standing.problem, failure = clean(str(error), 400), error
            else:
                standing.problem = None
            finally:
                standing.progress = standing.copying = None
        if failure is not None and not busy:
            raise failure
        # where the remote takes what others bring, one run's trouble must not make them wait
        return busy

    async def _standing(self, run_id: str, remote: str, spec: RunSpec) -> Standing:
        key = (run_id, remote)
        if key not in self._ctx.mirrored:
            stands = await asyncio.to_thread(proof.load, self._ctx.vault, run_id, remote)
            # from here on a restart knows that something may be missing there
            await asyncio.to_thread(proof.save, self._ctx.vault, run_id, remote, stands)
            self._ctx.mirrored[key] = Standing(run_id, remote, stands, required=remote in spec.mirror.require)
        return self._ctx.mirrored[key]

    async def _copies(self, run_id: str) -> tuple[dict[str, Copy], bool]:
        """(the proved copies that stand in the vault, whether the run is over). Raises VaultUnusable."""
        record = await self._ctx.ledger.record(run_id)

        def look() -> dict[str, Copy]:
            self._ctx.vault.check()
            return {p: c for p, c in record.copies.items() if self._ctx.vault.holds(run_id, p, c.size)}

        return await asyncio.to_thread(look), record.run.state in FINAL

    async def _bring(self, standing: Standing, spec: RunSpec) -> bool:
        """The most urgent batch of one run: copy, verify, write down, point. False when nothing was due."""
        ctx, folder = self._ctx, spec.checkpoints.path if spec.checkpoints is not None else None
        if standing.complete or self._unchanged(standing):
            return False
        copies, over = await self._copies(standing.run)
        past = [p.copy for p in await ctx.ledger.let_go(standing.run) if p.place == standing.remote]
        standing.let_go = paths_of(past)
        self._look(standing, copies, folder)
        target = folder_of(standing.remote, standing.run)
        if standing.due is None or not standing.due.batches:
            await self._point(standing, copies, folder, target, spec)
            standing.looked = (self._stamp(standing.run), asyncio.get_running_loop().time())
            if over and not standing.complete:
                await asyncio.to_thread(
                    proof.save, ctx.vault, standing.run, standing.remote, standing.stands, complete=True
                )
                standing.complete = True
            return False
        failure: MirrorFault | None = None
        for batch in standing.due.batches:
            try:
                standing.copying = batch.name or None
                await self._batch(standing, _cut(batch), folder, target, spec)
            except MirrorFault as error:
                if error.trouble not in (Trouble.CHANGED, Trouble.UNPROVED):
                    raise
                # it is about these files: the others must not wait for a person
                failure = failure or error
                continue
            self._look(standing, (await self._copies(standing.run))[0], folder)
            await self._point(standing, copies, folder, target, spec)
            if failure is None:
                return True
        if failure is not None:
            raise failure
        return True

    def _stamp(self, run_id: str) -> object:
        """Changes whenever a run gets a new copy or ends."""
        run = self._ctx.ledger.runs.get(run_id)
        return None if run is None else (run.verified_files, run.last_verified_at, run.state)

    def _unchanged(self, standing: Standing) -> bool:
        """Whether nothing has come since nothing was missing; now and then it is compared all the same."""
        if standing.looked is None or standing.problem is not None:
            return False
        stamp, at = standing.looked
        return stamp == self._stamp(standing.run) and asyncio.get_running_loop().time() - at < LOOK_EVERY

    async def _batch(
        self, standing: Standing, batch: plan.Batch, folder: str | None, target: str, spec: RunSpec
    ) -> None:
        """Copy, verify, write down. Raises MirrorFault."""
        ctx, rclone = self._ctx, await self._tool()
        source, destination = self._ends(standing.run, batch, folder, target)
        names = [place(c.path, folder)[1] for c in batch.files]

        def progress(now: Progress) -> None:
            standing.progress = now

        again = standing.ours.issuperset(names)
        try:
            await rclone.copy(
                source,
                destination,
                names,
                replace=batch.replaces or again,
                limit=spec.mirror.bandwidth,
                progress=progress,
            )
        except MirrorFault as error:
            if error.ours:
                # cut off in the middle: the part that lies there is written over by the next try
                standing.ours.update(names)
            raise
        try:
            how = await rclone.verify(source, destination, names, read_back=spec.mirror.read_back)
        except MirrorFault as error:
            if error.trouble is Trouble.UNPROVED:
                # the copy above wrote them, or found them equal by their hashes: no stranger's file is among them
                standing.ours.update(names)
            raise
        await self._demand_sound(standing, batch.files, names)
        standing.ours.difference_update(names)
        standing.stands = proof.with_files(standing.stands, batch.files, how, ctx.now())
        await asyncio.to_thread(proof.save, ctx.vault, standing.run, standing.remote, standing.stands)
        log.info(
            "mirrored", run=standing.run, remote=standing.remote, files=len(names), bytes=batch.bytes, how=how
        )

    async def _demand_sound(self, standing: Standing, files: Sequence[Copy], names: Sequence[str]) -> None:
        """Read the vault's files again: a remote that equals a file which has rotted here proves nothing.

        Raises MirrorFault. What is bad is written down, so that the scrub mends it; then it is sent again.
        """
        folder = self._ctx.vault.run(standing.run)
        for copy in files:
            problem = await asyncio.to_thread(problem_of, folder, copy)
            if problem is not None:
                standing.ours.update(names)
                bad = Scrubbed(standing.run, copy, self._ctx.now(), problem)
                await self._ctx.ledger.record_scrubs([bad])
                raise MirrorFault(Trouble.UNPROVED, f"{show_path(copy.path)} in the vault is {problem}")

    def _look(self, standing: Standing, copies: dict[str, Copy], folder: str | None) -> None:
        standing.due = plan.due(copies.values(), standing.stands, folder, standing.let_go)
        lacking = bool(standing.due.batches or standing.due.refused)
        standing.behind_since = (standing.behind_since or self._ctx.now()) if lacking else None

    def _ends(self, run_id: str, batch: plan.Batch, folder: str | None, target: str) -> tuple[Path, str]:
        base = self._ctx.vault.run(run_id)
        if batch.place == CHECKPOINTS and folder is not None:
            return base / folder, f"{target}/{CHECKPOINTS}"
        return base, target

    async def _point(
        self, standing: Standing, copies: dict[str, Copy], folder: str | None, target: str, spec: RunSpec
    ) -> None:
        """Let `checkpoints/latest.json` name the newest checkpoint that stands there whole. Written after its data."""
        found = plan.newest(copies.values(), standing.stands, folder)
        if found is None or standing.pointed == found[:2]:
            return
        step, name, files = found
        manifest = next((f.sha256 for f in files if f.path.endswith(f"/{name}/{plan.MANIFEST}")), None)
        pointer = {
            "step": step,
            "dir": name,
            "manifest_sha256": manifest,
            "files": [{"path": place(f.path, folder)[1], "bytes": f.size, "sha256": f.sha256} for f in files],
        }
        rclone = await self._tool()
        with tempfile.TemporaryDirectory(prefix="gpuwatch-pointer-") as made:
            await asyncio.to_thread(Path(made, LATEST).write_text, json.dumps(pointer, indent=1) + "\n")
            await rclone.copy(
                Path(made),
                f"{target}/{CHECKPOINTS}",
                [LATEST],
                replace=True,
                limit=spec.mirror.bandwidth,
                progress=lambda _: None,
            )
        standing.pointed = (step, name)

    async def _tool(self) -> Rclone:
        if self._rclone is None:
            self._rclone = await make_rclone(self._ctx.private)
        return self._rclone


def _cut(batch: plan.Batch) -> plan.Batch:
    """A batch of loose files in a bearable size; a checkpoint stays whole."""
    if batch.place == CHECKPOINTS:
        return batch
    files: list[Copy] = []
    for file in batch.files:
        if files and sum(f.size for f in files) + file.size > BATCH_BYTES:
            break
        files.append(file)
    return plan.Batch(batch.place, batch.name, batch.step, tuple(files), batch.replaces)
