"""Steps from a machine to a running job: wait for SSH, check the box, upload, set up, start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import structlog

from gpuproviders.model import Instance, Power
from gpuproviders.money import format_usd
from gpuproviders.worth import DEARER
from gpuwatch.box.errors import BoxError, BoxFault, BoxUnreachable, HostKeyChanged, NoPython
from gpuwatch.box.ports import Agent
from gpuwatch.box.sentinel import Facts, StageState
from gpuwatch.box.transfer import Progress
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.link import Backoff, Link
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.renting import foreign
from gpuwatch.daemon.restoring import NotRestored, restore
from gpuwatch.daemon.secrets import resolve_secrets
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Machine, Run
from gpuwatch.spec import RunSpec
from gpuwatch.spec.uploads import upload_files, walk

log = structlog.get_logger()


async def boot(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live) -> None:
    """Wait until SSH answers; a machine that cannot, or not in time, is a dud and costs no more."""
    machine = run.machine
    if machine is None or machine.instance_id is None:
        raise RuntimeError(f"run {run.id} boots without a machine")
    fleet = ctx.fleets[machine.provider]
    # wall time, because it must go on counting while the daemon is down
    deadline = (machine.rented_at or ctx.now()) + spec.boot.timeout
    while True:
        left = deadline - ctx.now()
        if left <= 0:
            await ctx.ledger.append(
                run.id, e.Dud(reason=f"not reachable within {spec.boot.timeout / 60:.0f} min: {live.trouble}")
            )
            return
        listing = await fleet.next_listing()
        seen = listing.by_id(machine.instance_id) if listing is not None else None
        if seen is not None and (why := foreign(ctx, machine, machine.instance_id)) is not None:
            live.say(f"instance {machine.instance_id} {why}: it is not used")
        elif seen is not None:
            if seen.trouble is not None:
                await ctx.ledger.append(
                    run.id, e.Dud(reason=f"{seen.trouble.value}: {seen.status or 'no reason given'}")
                )
                return
            dear = too_dear(seen, machine, spec)
            if dear is not None:
                await ctx.ledger.append(run.id, e.Dud(reason=dear))
                return
            live.say(f"the provider says: {seen.status or seen.power.value}")
            if seen.power is Power.RUNNING and seen.endpoints:
                try:
                    async with asyncio.timeout(min(60.0, left)):
                        box = await link.box()
                except HostKeyChanged:
                    raise
                except (BoxError, TimeoutError) as error:
                    live.say(str(error) or "SSH does not answer")
                else:
                    live.say(None)
                    at = box.endpoint
                    await ctx.ledger.append(
                        run.id,
                        e.Booted(
                            host=at.host, port=at.port, user=at.user, fingerprint=box.fingerprint,
                            seconds=round(ctx.now() - (machine.rented_at or ctx.now()), 1),
                        ),
                    )  # fmt: skip
                    return
        elif listing is not None:
            live.say("the machine is not listed (yet)")
        await asyncio.sleep(ctx.config.boot_interval)


def too_dear(seen: Instance, machine: Machine, spec: RunSpec) -> str | None:
    """Why a machine that has just been made is not taken at the price it is listed at, None when it is. Pure.

    Asked before anything runs on it: it is ended like a dud, and the next offer is taken at today's prices.
    """
    if seen.power is not Power.RUNNING or seen.price is None or seen.price <= machine.price * DEARER:
        return None
    if spec.gpu.spot and seen.spot:
        return None  # it costs our bid, whatever is listed
    limit = spec.gpu.max_price
    if limit is not None and seen.price <= limit:
        return None  # the spec says that it may cost that
    return f"it costs {format_usd(seen.price)}/h, and was offered at {format_usd(machine.price)}/h"


async def prepare(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live) -> None:
    """Make the box ready and start the job. Every part can be repeated after a crash."""
    backoff = Backoff(1, 20)
    while True:
        try:
            await _prepare(ctx, ctx.ledger.runs[run.id], spec, link, live)
            return
        except HostKeyChanged:
            raise
        except OSError as error:
            # the vault is away or its disk fails: nothing is known of the checkpoint, so it is asked again
            live.say(str(error))
            await backoff.wait()
        except BoxError as error:
            live.say(str(error))
            # once the order to start may have reached the box it is no dud, whatever it answers (I1)
            if not ctx.ledger.runs[run.id].data_at_risk:
                verdict = _verdict(error, late=ctx.now() - run.since > spec.boot.timeout)
                if verdict is not None:
                    await ctx.ledger.append(run.id, verdict)
                    return
            await backoff.wait()


def _verdict(error: BoxError, *, late: bool) -> e.PrepareFailed | e.Dud | None:
    """What a failure while preparing means for a machine on which nothing started; None: try again. Pure."""
    match error:
        case NoPython():
            return e.PrepareFailed(reason=str(error))
        case BoxUnreachable():
            return e.Dud(reason=f"lost while preparing: {error}") if late else None
        case _:
            return e.Dud(reason=str(error))


async def _prepare(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live) -> None:
    facts = await ctx.boxes.install(await link.box())
    problem = None if run.data_at_risk else unfit(facts, spec)
    if problem is not None:
        await ctx.ledger.append(run.id, e.Dud(reason=problem))
        return
    machine = run.machine
    if machine is None or (machine.boot_id, machine.workspace) != (facts.boot_id, facts.workspace):
        if run.losses and machine is not None and machine.workspace is None:
            await asyncio.to_thread(ctx.vault.set_log_aside, run.id, len(run.past))
        checked = e.BoxChecked(
            boot_id=facts.boot_id, workspace=facts.workspace, python=facts.python, gpus=len(facts.gpus),
            driver=facts.driver, disk_free=facts.disk_free, disk_speed=facts.disk_speed,
        )  # fmt: skip
        await ctx.ledger.append(run.id, checked)
        return  # decided again with the box known: its log is followed from here on
    sentinel = await link.sentinel()
    if (state := await sentinel.state("job")).phase != "none":
        # started before a crash of this daemon; nothing is put under a running job
        await ctx.ledger.append(run.id, e.JobStarted(boot_id=facts.boot_id, pid=state.pid or 0))
        return
    try:
        files = await asyncio.to_thread(lambda: list(upload_files(Path(run.base), spec.upload.paths)))
        env = dict(spec.job.env) | await asyncio.to_thread(resolve_secrets, spec.job.secrets)
    except (OSError, ValueError) as error:
        await _cannot(ctx, run, str(error))
        return
    live.say(f"uploading {len(files)} files" if files else None)
    await _upload(sentinel, files, live)
    if spec.train is not None:
        if ctx.trainer is None:
            await _cannot(ctx, run, "the trainer is not installed beside gpuwatch")
            return
        trainer = await asyncio.to_thread(lambda root: list(trainer_files(root)), ctx.trainer)
        await _upload(sentinel, trainer, live, root=f"{sentinel.folder}/trainer")
        env["GPUWATCH_TRAINER"] = f"{sentinel.folder}/trainer"
    if spec.setup is not None and not await _set_up(ctx, run, spec, sentinel, env, live):
        return
    try:
        await restore(ctx, ctx.ledger.runs[run.id], spec, sentinel, live, facts.boot_id)
    except NotRestored as error:
        await _cannot(ctx, run, str(error))
        return
    live.say(None)
    await ctx.ledger.append(run.id, e.StartSent(boot_id=facts.boot_id))
    state = await sentinel.stage("job", command=spec.job.command, env=env)
    if state.phase == "none":
        raise BoxFault("the job did not start")
    await ctx.ledger.append(run.id, e.JobStarted(boot_id=facts.boot_id, pid=state.pid or 0))


async def _upload(
    sentinel: Agent, files: list[tuple[str, Path]], live: Live, *, root: str | None = None
) -> None:
    """Send files, seen by whoever looks at the run meanwhile."""
    live.transfer = Progress()
    try:
        await sentinel.upload(files, root=root, progress=live.transfer)
    finally:
        live.transfer = None


async def _cannot(ctx: Context, run: Run, reason: str) -> None:
    """The job cannot be started here. If an earlier order may have started it, it ends like any job."""
    if ctx.ledger.runs[run.id].data_at_risk:
        await ctx.ledger.append(run.id, e.JobEnded(exit_code=None, reason=reason))
    else:
        await ctx.ledger.append(run.id, e.PrepareFailed(reason=reason))


async def _log_comes_home(live: Live) -> None:
    """The capture runs beside the steps, and the machine goes next: wait until the log has come and grows no more, 10 s at most."""
    for _ in range(10):
        size = live.log_size
        await asyncio.sleep(1)
        if size and live.log_size == size:
            return


async def _set_up(
    ctx: Context, run: Run, spec: RunSpec, sentinel: Agent, env: dict[str, str], live: Live
) -> bool:
    """Run the setup command under supervision; False (and PrepareFailed written) when it failed."""
    setup = spec.setup
    if setup is None:
        return True
    live.say("setup command runs")
    state: StageState = await sentinel.stage("setup", command=setup.command, env=env, again=True)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + setup.timeout
    while state.phase in ("starting", "running"):
        if loop.time() > deadline:
            await sentinel.stop("setup", grace=5)
            reason = f"the setup command took longer than {setup.timeout / 60:.0f} min; its output is in the run's log"
            await _cannot(ctx, run, reason)
            return False
        await asyncio.sleep(1)
        state = await sentinel.stage("setup", command=setup.command, env=env)
    if state.phase == "ended" and state.exit_code == 0:
        return True
    await _log_comes_home(live)
    reason = f"the setup command exited with {state.exit_code}; its output is in the run's log (gputui logs {run.id})"
    await _cannot(ctx, run, reason)
    return False


def unfit(facts: Facts, spec: RunSpec) -> str | None:
    """Why this box cannot run the job although it answers, None when it can. Pure."""
    if len(facts.gpus) < spec.gpu.count:
        return f"nvidia-smi shows {len(facts.gpus)} GPUs, {spec.gpu.count} were rented"
    if facts.disk_free is not None and facts.disk_free < spec.disk * 0.5:
        return f"only {facts.disk_free / 1e9:.0f} GB of disk are free, {spec.disk / 1e9:.0f} GB were rented"
    return None


def trainer_files(root: Path) -> Iterator[tuple[str, Path]]:
    """The trainer's source as it must lie on the box: `gputrain/…`."""
    for path in walk(root):
        if path.suffix in (".py", ".toml", ".json"):
            yield f"{root.name}/{path.relative_to(root).as_posix()}", path
