"""The daemon process: one per state folder, crash-only, everything owned by one task group."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import structlog

from gpuproviders import keys
from gpuproviders.model import Account, Provider
from gpuwatch.box.boxes import SshBoxes
from gpuwatch.box.hostkeys import HostKeys, own_key
from gpuwatch.box.pace import Pace
from gpuwatch.clean import clean
from gpuwatch.config import Config, ConfigError, SshSettings, vault_folder
from gpuwatch.daemon import metrics, standing, telling
from gpuwatch.daemon.actor import Actor
from gpuwatch.daemon.clock import SteadyClock, boot_of_this_computer, resume
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.daemon.lock import RENEW, AlreadyRunning, Lock, locked
from gpuwatch.daemon.mirroring import Mirrors
from gpuwatch.daemon.pulse import feed_watchdog, notify, ping
from gpuwatch.daemon.reconciling import Reconciler
from gpuwatch.daemon.retaining import Keeper
from gpuwatch.daemon.scrubbing import Scrubber
from gpuwatch.daemon.server import serve
from gpuwatch.daemon.service import Service
from gpuwatch.experience.book import Experience
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle.reconcile import stranger
from gpuwatch.lifecycle.recover import spec_for
from gpuwatch.lifecycle.run import FINAL, Run
from gpuwatch.paths import Paths, discover
from gpuwatch.spec import RunSpec, SpecError, read_spec
from gpuwatch.spec.units import parse_duration
from gpuwatch.vault.layout import Vault

__all__ = ["AlreadyRunning", "Children", "Daemon", "fleet_of", "providers_of", "run"]

log = structlog.get_logger()


@dataclass(slots=True)
class Daemon:
    """A daemon to be run. `providers` are the accounts it watches."""

    paths: Paths
    config: Config
    providers: dict[str, Provider]
    lock: Lock

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or a `shutdown` call. The caller holds the lock."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        vault = Vault(vault_folder(self.paths, self.config))
        vault.create(self.paths.state / "vaults")
        clock = SteadyClock(boot=boot_of_this_computer())
        ledger = await Ledger.open(self.paths.ledger, now=clock)
        await resume(clock, ledger)
        key = own_key(self.paths.keys)
        hostkeys = HostKeys(self.paths.keys)
        boxes = SshBoxes(key, hostkeys, Pace(self.config.transfer_rate))
        ctx = Context(
            config=self.config, ledger=ledger, vault=vault, boxes=boxes, hostkeys=hostkeys, key=key,
            public_key=key.with_suffix(".pub").read_text(encoding="ascii").strip(),
            fleets={n: fleet_of(p, ledger, self.config) for n, p in self.providers.items()},
            trainer=_trainer(), private=self.paths.state / "mirror", now=clock,
            experience=Experience(self.paths.state, clock),
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(ledger.write(), name="ledger")
                renewal = tasks.create_task(_renew(self.lock), name="lock")
                pulse = tasks.create_task(_pulse(self.config, writer), name="pulse")
                children = Children(ctx, self.paths, tasks, stop)
                async with serve(children.service, self.paths.socket):
                    children.start_all()
                    children.start_scrub()
                    children.start_mirrors()
                    children.start_retention()
                    children.start_telling()
                    children.start_metrics()
                    log.info("ready", socket=str(self.paths.socket), pid=os.getpid(), runs=len(ledger.runs))
                    notify("READY=1\nSTATUS=watching")
                    await stop.wait()
                    log.info("stopping")
                    notify("STOPPING=1")
                    await children.end()
                renewal.cancel()
                pulse.cancel()
                ledger.stop()
                await writer
        finally:
            for provider in self.providers.values():
                await provider.close()
            await ledger.close()
            log.info("stopped")


async def _pulse(config: Config, writer: asyncio.Task[None]) -> None:
    """Signs of life, to whoever asked for them."""
    async with asyncio.TaskGroup() as signs:
        signs.create_task(feed_watchdog(writer))
        if config.notify.heartbeat is not None:
            signs.create_task(ping(config.notify.heartbeat, parse_duration(config.notify.every), writer))


class Children:
    """The tasks of one daemon: the runs' drivers and the account watchers."""

    def __init__(self, ctx: Context, paths: Paths, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        self._ctx = ctx
        self._paths = paths
        self._tasks = tasks
        self._owned: set[asyncio.Task[None]] = set()
        self._driven: set[str] = set()
        """Runs that an actor drives now."""
        self.service = Service(ctx, paths, start_run=self.start, stop=stop.set)

    def own(self, task: asyncio.Task[None]) -> None:
        """Let `end` cancel it."""
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)

    def start_all(self) -> None:
        """Watch every account and drive every run that is not over: what a restart carries on with."""
        for name, fleet in self._ctx.fleets.items():
            reconciler = Reconciler(self._ctx, fleet, self.start)
            self.service.reconcilers[name] = reconciler
            self.own(self._tasks.create_task(reconciler.run(), name=f"reconcile:{name}"))
            self.own(self._tasks.create_task(fleet.watch(), name=f"fleet:{name}"))
        for run_id, run in list(self._ctx.ledger.runs.items()):
            if run.state not in FINAL:
                self.start(run_id)

    def start_telling(self) -> None:
        """Send alarms to where the settings say."""
        targets = telling.urls(self._ctx.config.notify.urls)
        telling_task = telling.keep_telling(self.service.alarms, targets)
        self.own(self._tasks.create_task(telling_task, name="telling"))

    def start_metrics(self) -> None:
        """Serve Prometheus text, if the settings name a port."""
        port = self._ctx.config.metrics.port
        if port is not None:
            page = lambda: metrics.text(self.service.snapshot(), standing.rows(self._ctx, None))  # noqa: E731
            self.own(self._tasks.create_task(metrics.serve_metrics(page, port), name="metrics"))

    def start_mirrors(self) -> None:
        """Copy what is verified on to the remotes that specs name."""
        mirrors = Mirrors(self._ctx)
        self.own(self._tasks.create_task(mirrors.run(), name="mirrors"))

    def start_retention(self) -> None:
        """Let old checkpoints go where specs say so."""
        keeper = Keeper(self._ctx, self.service.lives, self.service.actors)
        self.own(self._tasks.create_task(keeper.run(), name="retention"))

    def start_scrub(self) -> None:
        """Read old files of the vault again in the background, if the settings say so."""
        if self._ctx.config.scrub.enabled:
            scrubber = Scrubber(self._ctx, self.service.lives, self.service.actors)
            self.own(self._tasks.create_task(scrubber.run(), name="scrub"))

    def start(self, run_id: str) -> None:
        """Drive a run from where its ledger stands; one that is driven already decides anew."""
        run = self._ctx.ledger.runs[run_id]
        if run_id in self._driven:
            self.service.actors[run_id].nudge()
            return
        self.service.undriven.pop(run_id, None)
        if run_id not in self._ctx.specs:
            try:
                self._ctx.specs[run_id] = spec_for(run, read_spec(run.spec, file=run.file))
            except SpecError as error:
                # written by an older version whose spec this one does not take: shown, never acted upon
                log.exception("spec not readable", run=run_id)
                self.service.undriven[run_id] = (
                    f"its spec cannot be read by this version ({error.problems[0]}); run the version that launched it"
                )
                return
        spec = self._ctx.specs[run_id]
        absent = self._absent(run, spec)
        if absent is not None:
            self.service.live(run_id).say(absent)
            self.service.undriven[run_id] = absent
            return
        actor = Actor(self._ctx, run_id, spec, self.service.live(run_id), self.start)
        self.service.actors[run_id] = actor
        self._driven.add(run_id)
        self.own(self._tasks.create_task(self._drive(actor, run_id), name=f"run:{run_id}"))

    def _absent(self, run: Run, spec: RunSpec) -> str | None:
        """Why a run cannot be driven with the accounts there are, None when it can."""
        fleets = self._ctx.fleets
        if run.machine is not None and run.machine.provider not in fleets:
            return f"the provider {run.machine.provider} is not configured; its machine cannot be watched"
        if run.state not in FINAL and not any(p in fleets for p in spec.providers):
            return f"none of its providers ({', '.join(spec.providers)}) is configured"
        return None

    async def _drive(self, actor: Actor, run_id: str) -> None:
        """One run's fault must not end the watch over the others: it is logged, shown and tried again."""
        try:
            while True:
                try:
                    await actor.drive()
                    run = self._ctx.ledger.runs.get(run_id)
                    if run is None or run.state in FINAL:
                        return
                    continue  # its machine came back while the driver ended
                except Exception:
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise asyncio.CancelledError from None
                    log.exception("run failed", run=run_id)
                    actor.live.say("gpuwatch failed at this run; it tries again every minute, see its log")
                await asyncio.sleep(60)
        finally:
            self._driven.discard(run_id)

    async def end(self) -> None:
        """Cancel everything, with a deadline."""
        tasks = list(self._owned)
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=10)
            for task in late:
                log.warning("does not end", task=task.get_name())


def fleet_of(provider: Provider, ledger: Ledger, config: Config) -> Fleet:
    """The account behind a provider, whose listings count only for the account that our machines are of."""

    def strange(account: Account) -> str | None:
        return stranger(account, ledger.accounts.get(account.provider), ledger.register.values())

    return Fleet(provider, interval=config.account_interval, idle=config.reconcile_interval, stranger=strange)


async def _renew(lock: Lock) -> None:
    """Signs of life beside the lock. A disk that refuses them ends the daemon: it could not write the ledger either."""
    while True:
        await asyncio.to_thread(lock.renew)
        await asyncio.sleep(RENEW)


def _trainer() -> Path | None:
    """The trainer's source beside us, found without importing it."""
    found = util.find_spec("gputrain")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def providers_of(config: Config) -> dict[str, Provider]:
    """The configured accounts. SDKs are not imported here."""
    found: dict[str, Provider] = {}
    if config.providers.vast.enabled:
        from gpuproviders.vast import VastProvider

        found["vast"] = VastProvider(
            url=config.providers.vast.url,
            paced=config.providers.vast.paced,
            seconds=parse_duration(config.providers.vast.timeout),
        )
    settings = config.providers.runpod
    if settings.enabled if settings.enabled is not None else keys.runpod() is not None:
        from gpuproviders.runpod import RunpodProvider

        found["runpod"] = RunpodProvider(
            url=settings.url,
            paced=settings.paced,
            seconds=parse_duration(settings.timeout),
            spot=settings.spot,
        )
    own = config.providers.ssh
    if own.hosts or own.host:
        from gpuproviders.ssh import SshProvider

        found["ssh"] = SshProvider(
            [*own.hosts, *own.host], config=ssh_config(own, discover()), seconds=parse_duration(own.timeout)
        )
    return found


def ssh_config(own: SshSettings, paths: Paths) -> Path:
    """The SSH client configuration for own machines: the user's, with the settings' own hosts before it."""
    users = Path(own.config).expanduser() if own.config else Path.home() / ".ssh" / "config"
    if not own.host:
        return users
    text = ""
    for name, host in own.host.items():
        words = {
            "HostName": host.address, "Port": str(host.port), "User": host.user, "IdentityFile": host.key, "ProxyJump": host.jump,
            "UserKnownHostsFile": host.known_hosts,
        }  # fmt: skip
        for value in (name, *words.values()):
            if value is not None and ("\n" in value or '"' in value or not value.strip()):
                raise ConfigError(
                    f"providers.ssh.host.{clean(name, 40)}: {clean(value, 60)!r} cannot be used"
                )
        text += f"Host {name}\n" + "".join(f'  {k} "{v}"\n' for k, v in words.items() if v is not None)
    if users.exists():
        text += f'Match all\nInclude "{users}"\n'
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = paths.state / "ssh_config"
    made.write_text(text, encoding="utf-8")
    made.chmod(0o600)
    return made


def run(paths: Paths, config: Config) -> None:
    """Run a daemon in this process. Raises AlreadyRunning, LedgerDamaged, VaultUnusable."""
    with locked(paths.lock) as lock:
        asyncio.run(Daemon(paths, config, providers_of(config), lock).run())
    sys.stdout.flush()
