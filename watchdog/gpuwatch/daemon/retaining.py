"""Retention carried out: old checkpoints leave the vault, remotes and boxes, as specs say (`prune`), one at a time.

What may go is decided by `mirror.retention` from facts that are gathered anew before each removal. Before
anything goes, the copy that stays is proved again: the remote is compared, or the vault's files are re-read.
Then it is written down (in the ledger, and in the vault for `gpuwatch verify`), then it goes: a crash at any
point leaves a removal to be finished, never a file that counts as lost. Custody does not rely on any of this:
it looks at what stands in the vault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog

from gpuwatch.box.errors import BoxError
from gpuwatch.clean import clean, show_path
from gpuwatch.custody.complete import groups
from gpuwatch.custody.facts import Copy
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.daemon.actor import Actor
from gpuwatch.daemon.checkpoints import begun_from, box_of, known_of, policies_of
from gpuwatch.daemon.collecting import problem_of
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.retained import found
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.recover import spec_for
from gpuwatch.lifecycle.run import FINAL, Run
from gpuwatch.mirror import proof
from gpuwatch.mirror.known import Known
from gpuwatch.mirror.names import CHECKPOINTS, BadRemote, folder_of, place
from gpuwatch.mirror.plan import step_of
from gpuwatch.mirror.rclone import MirrorFault, Rclone, Trouble, make_rclone
from gpuwatch.mirror.retention import BOX, EVERYWHERE, VAULT, Removal, decide, short_of
from gpuwatch.mirror.standing import Standing
from gpuwatch.spec import RunSpec, SpecError, read_spec
from gpuwatch.vault import let_go as records
from gpuwatch.vault.layout import VaultUnusable

log = structlog.get_logger()

EVERY = 300.0
"""Seconds after which everything is looked at again, although nothing was heard."""
PAUSE = 5.0
"""Seconds between two looks while much happens."""
_TROUBLES = (MirrorFault, BadRemote, BoxError, VaultUnusable, OSError, ValueError, TimeoutError)


class NotNow(Exception):
    """A removal that was decided and is not carried out; the message says why."""


class Keeper:
    """The daemon's retention. Run `run` as a task; it ends only by cancellation.

    `lives` and `actors` are the daemon's own, by run id: what a box has, and the way to it.
    """

    def __init__(self, ctx: Context, lives: Mapping[str, Live], actors: Mapping[str, Actor]) -> None:
        self._ctx = ctx
        self._lives = lives
        self._actors = actors
        self._rclone: Rclone | None = None
        self._specs: dict[str, RunSpec | None] = {}
        self._settled: dict[str, object] = {}
        """Run → what it looked like when nothing was left to be done."""

    async def run(self) -> None:
        """For ever. A fault is logged and told; what was to go stays, and is looked at again."""
        while True:
            changed = asyncio.create_task(self._ctx.ledger.changed())
            try:
                await self.round()
            except Exception:
                # a fault of ours: nothing goes, and nothing is worse for that
                log.exception("retention failed")
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError from None
            try:
                await asyncio.wait({changed}, timeout=EVERY)
            finally:
                changed.cancel()
            await asyncio.sleep(PAUSE)

    async def round(self) -> None:
        """One look at every run whose spec names a place to prune, and at what was left unfinished."""
        unfinished = await self._ctx.ledger.letting_go()
        for run_id in dict.fromkeys([*unfinished, *self._ctx.ledger.runs]):
            try:
                run = self._ctx.ledger.runs.get(run_id) or (await self._ctx.ledger.record(run_id)).run
                spec = self._spec(run)
                if spec is not None:
                    await self._look(run, spec)
            except KeyError:
                continue
            except _TROUBLES as error:
                log.warning("retention waits", run=run_id, problem=clean(str(error), 500))

    def _spec(self, run: Run) -> RunSpec | None:
        """The run's spec, when it wants anything let go; parsed once."""
        if run.id not in self._specs:
            try:
                spec = self._ctx.specs.get(run.id) or spec_for(run, read_spec(run.spec, file=run.file))
            except SpecError:
                spec = None
            wanted = spec is not None and spec.checkpoints is not None and spec.checkpoints.prune
            self._specs[run.id] = spec if wanted else None
        return self._specs[run.id]

    async def _look(self, run: Run, spec: RunSpec) -> None:
        """Let go of everything that may go now, one checkpoint after the other. Raises VaultUnusable, OSError."""
        ctx = self._ctx
        mark = self._mark(run, spec)
        if self._settled.get(run.id) == mark or spec.checkpoints is None:
            return
        tried: set[tuple[str, str]] = set()
        problems: dict[str, str] = {}
        await self._finish(run, spec, problems)
        while True:
            run = (await ctx.ledger.record(run.id)).run
            box = box_of(run, self._lives.get(run.id), asyncio.get_running_loop().time())
            known = await known_of(ctx, run, spec, box)
            checkpoints, policies = known.checkpoints(), policies_of(spec, known, box)
            decision = decide(checkpoints, policies)
            for where in spec.checkpoints.prune:
                view = found(where, checkpoints, decision, known.past, problems.get(where))
                ctx.retained[run.id, where] = view
            removal = next((r for r in decision.go if (r.place, r.name) not in tried), None)
            if removal is None:
                break
            tried.add((removal.place, removal.name))
            try:
                await self._carry_out(run, spec, known, removal)
            except NotNow as error:
                log.info("not let go", run=run.id, name=show_path(removal.name), why=str(error))
            except _TROUBLES as error:
                problems[removal.place] = clean(str(error), 500)
                log.warning("not let go", run=run.id, place=removal.place, problem=problems[removal.place])
        if not tried and not problems:
            self._settled[run.id] = mark

    def _mark(self, run: Run, spec: RunSpec) -> object:
        """Changes whenever something of a run may have become free to go."""
        standings = [self._ctx.mirrored.get((run.id, remote)) for remote in spec.mirror.remotes]
        live = self._lives.get(run.id)
        box = box_of(run, live, asyncio.get_running_loop().time())
        return (
            run.state, run.verified_files, live.files_version if live is not None else 0, box.files is None,
            short_of(box.free, box.total, 0) > 0, frozenset(begun_from(run.id, self._ctx, spec.mirror.remotes)),
            tuple((id(s.stands), len(s.stands), s.copying) if s is not None else None for s in standings),
        )  # fmt: skip

    # --- removing --------------------------------------------------------------------------------

    async def _carry_out(self, run: Run, spec: RunSpec, known: Known, removal: Removal) -> None:
        """Prove what stays, write down what goes, remove it. Raises NotNow and what disks, boxes and remotes raise."""
        copies = list(known.files()[removal.name].values())
        if removal.place == VAULT:
            await self._compare(run.id, spec, known.folder, copies, removal.stands)
            await asyncio.to_thread(
                records.write, self._ctx.vault, run.id, removal.name, copies, removal.stands, self._ctx.now()
            )
            self._demand_as_it_was(run, spec, removal)
            await self._write_down(run.id, removal, copies)
            await self._from_vault(run.id, known.folder, copies)
            return
        await self._reread(run.id, copies)
        self._demand_as_it_was(run, spec, removal)
        if removal.place == BOX:
            await self._from_box(run.id, known, removal)
            await self._write_down(run.id, removal, copies)
            return
        lock = self._ctx.remotes.setdefault(removal.place, asyncio.Lock())
        if lock.locked():
            raise NotNow(f"something is being copied to {removal.place}")
        async with lock:
            await self._write_down(run.id, removal, copies)
            await self._from_remote(run.id, known.folder, removal.place, copies)

    def _demand_as_it_was(self, run: Run, spec: RunSpec, removal: Removal) -> None:
        """Raises NotNow when, while we read, something came up that holds the checkpoint. Nothing happens between this
        and the record of it: no other task runs."""
        now = self._ctx.ledger.runs.get(run.id)
        if (now is None and run.state not in FINAL) or (now is not None and now.state is not run.state):
            raise NotNow("the run has moved on")
        if begun_from(run.id, self._ctx, spec.mirror.remotes) & {removal.name, EVERYWHERE}:
            raise NotNow("a run begins from it")
        if run.state not in FINAL and removal.place != BOX:
            box = box_of(now or run, self._lives.get(run.id), asyncio.get_running_loop().time())
            folder = spec.checkpoints.path if spec.checkpoints is not None else ""
            if box.files is None or any(g.name == removal.name for g in groups(box.files, folder)):
                raise NotNow("its machine may have it again")

    async def _write_down(self, run_id: str, removal: Removal, copies: Sequence[Copy]) -> None:
        event = e.LetGo(
            place=removal.place, name=show_path(removal.name), step=step_of(removal.name), files=len(copies),
            bytes=sum(c.size for c in copies), stands=list(removal.stands),
        )  # fmt: skip
        await self._ctx.ledger.lets_go(run_id, event, copies)
        log.info("let go", run=run_id, place=removal.place, name=show_path(removal.name), bytes=removal.bytes)

    async def _compare(
        self, run_id: str, spec: RunSpec, folder: str, copies: Sequence[Copy], stands: Collection[str]
    ) -> None:
        """Compare the vault's files with one remote that has them, now. What is not equal there stands there no more."""
        ctx, rclone = self._ctx, await self._tool()
        remote = next(r for r in spec.mirror.remotes if r in stands)
        source, target = ctx.vault.run(run_id) / folder, f"{folder_of(remote, run_id)}/{CHECKPOINTS}"
        await self._reread(run_id, copies)  # else two equal files that are both bad would prove each other
        names = [place(c.path, folder)[1] for c in copies]
        try:
            await rclone.verify(source, target, names, read_back=spec.mirror.read_back)
        except MirrorFault as error:
            if error.trouble is Trouble.UNPROVED:
                async with ctx.remotes.setdefault(remote, asyncio.Lock()):
                    await self._stands_no_more(run_id, remote, copies, complete=False)
                # it is copied again, over what is there: we put these files there
                known = Standing(run_id, remote, {}, required=remote in spec.mirror.require)
                standing = ctx.mirrored.setdefault((run_id, remote), known)
                if standing is known:
                    standing.stands = await asyncio.to_thread(proof.load, ctx.vault, run_id, remote)
                standing.ours.update(names)
                ctx.specs.setdefault(run_id, spec)
            raise

    async def _reread(self, run_id: str, copies: Sequence[Copy]) -> None:
        """Read the vault's files again. Raises NotNow when one is not as it was proved."""
        ctx = self._ctx
        await asyncio.to_thread(ctx.vault.check)
        for copy in copies:
            problem = await asyncio.to_thread(problem_of, ctx.vault.run(run_id), copy)
            await ctx.ledger.record_scrubs([Scrubbed(run_id, copy, ctx.now(), problem)])
            if problem is not None:
                raise NotNow(f"{show_path(copy.path)} in the vault is {problem}")

    async def _stands_no_more(
        self, run_id: str, remote: str, copies: Sequence[Copy], *, complete: bool | None = None
    ) -> None:
        """Take files off the list of what stands on a remote. The caller holds the remote's lock."""
        ctx, paths = self._ctx, [c.path for c in copies]
        left = await asyncio.to_thread(proof.without, ctx.vault, run_id, remote, paths, complete=complete)
        standing = ctx.mirrored.get((run_id, remote))
        if standing is not None:
            standing.stands, standing.looked, standing.complete = left, None, False

    async def _from_vault(self, run_id: str, folder: str, copies: Sequence[Copy]) -> None:
        await asyncio.to_thread(records.remove, self._ctx.vault, run_id, folder, copies)
        await self._ctx.ledger.removed(run_id, VAULT, [c.path for c in copies])

    async def _from_remote(self, run_id: str, folder: str, remote: str, copies: Sequence[Copy]) -> None:
        """The caller holds the remote's lock."""
        ctx, rclone = self._ctx, await self._tool()
        await self._stands_no_more(run_id, remote, copies)
        names = [place(c.path, folder)[1] for c in copies]
        target = f"{folder_of(remote, run_id)}/{CHECKPOINTS}"
        await rclone.remove(ctx.vault.run(run_id), target, names)
        await ctx.ledger.removed(run_id, remote, [c.path for c in copies])

    async def _from_box(self, run_id: str, known: Known, removal: Removal) -> None:
        """Raises NotNow when the box keeps it, BoxError."""
        actor = self._actors.get(run_id)
        group = next((g for g in groups(known.box or (), known.folder) if g.name == removal.name), None)
        if actor is None or group is None:
            raise NotNow("there is no way to its machine")
        sentinel = await actor.link.sentinel()
        why = await sentinel.forget(known.folder, removal.name, group.files)
        if why is not None:
            raise NotNow(f"its machine keeps it: {why}")

    async def _finish(self, run: Run, spec: RunSpec, problems: dict[str, str]) -> None:
        """Remove what was written down and, because we died or a remote was away, is perhaps still there."""
        open_ = [p for p in await self._ctx.ledger.let_go(run.id) if not p.removed]
        folder = spec.checkpoints.path if spec.checkpoints is not None else ""
        for where in dict.fromkeys(p.place for p in open_):
            copies = [p.copy for p in open_ if p.place == where]
            try:
                if where == VAULT:
                    for files in Known(folder, {c.path: c for c in copies}, frozenset()).files().values():
                        await self._finish_vault(run.id, spec, folder, list(files.values()))
                else:
                    async with self._ctx.remotes.setdefault(where, asyncio.Lock()):
                        await self._from_remote(run.id, folder, where, copies)
            except (*_TROUBLES, NotNow) as error:
                problems[where] = clean(str(error), 500)
                log.warning("not removed yet", run=run.id, place=where, problem=problems[where])

    async def _finish_vault(self, run_id: str, spec: RunSpec, folder: str, copies: Sequence[Copy]) -> None:
        """What still lies in the vault goes only when a remote has it now: what was compared then may be long ago."""
        ctx = self._ctx
        left = await asyncio.to_thread(lambda: [c for c in copies if ctx.vault.holds(run_id, c.path, c.size)])
        if left:
            await self._compare(run_id, spec, folder, left, spec.mirror.remotes)
        await self._from_vault(run_id, folder, copies)

    async def _tool(self) -> Rclone:
        if self._rclone is None:
            self._rclone = await make_rclone(self._ctx.private)
        return self._rclone
