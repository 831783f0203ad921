"""The way to one run's box: connects when someone needs it, shares the connection, survives its loss."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from gpuproviders.model import Endpoint, Instance, Power
from gpuwatch.box.errors import BoxAuth, BoxError, BoxUnreachable, HostKeyChanged
from gpuwatch.box.ports import Agent, Connection
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.lifecycle.run import Machine

log = structlog.get_logger()


def alias(machine: Machine) -> str:
    """The name under which a machine's host key is pinned: the instance, never its address."""
    return f"{machine.provider}-{machine.instance_id}"


class Link:
    """One run's connection to its current machine. Safe to use from several tasks."""

    def __init__(self, ctx: Context, run_id: str, live: Live) -> None:
        self._ctx = ctx
        self._run_id = run_id
        self._live = live
        self._lock = asyncio.Lock()
        self._box: Connection | None = None
        self._label: str | None = None
        """Of the machine that `_box` leads to."""
        self._since: float | None = None
        """When it was last reached, event-loop time."""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where SSH may answer: what the newest listing says, else where it answered before."""
        machine = self._machine()
        fleet = self._ctx.fleets[machine.provider]
        listed = fleet.instance(machine.instance_id or "")
        if listed is not None and listed.endpoints:
            return listed.endpoints
        if machine.host is not None and machine.port is not None:
            return (Endpoint(machine.host, machine.port, machine.user),)
        return ()

    async def box(self) -> Connection:
        """The open connection; connects when there is none. Raises BoxUnreachable, BoxAuth, HostKeyChanged."""
        async with self._lock:
            machine = self._machine()
            if self._box is not None and self._label != machine.label:
                await self.close()  # the run goes on with another machine
            if self._box is not None and not self._box.closed:
                return self._box
            failure: BoxError = BoxUnreachable("the provider names no address for SSH yet")
            for endpoint in self.endpoints():
                try:
                    self._box = await self._connect(endpoint, machine)
                    self._label = machine.label
                except HostKeyChanged as error:
                    self._live.stranger = error.key
                    self._live.say(f"{error}. {_way_out(self._run_id, endpoint, error)}")
                    raise
                except (BoxAuth, BoxUnreachable) as error:
                    failure = error
                else:
                    if self._live.stranger is not None:
                        self._live.stranger = None
                        self._live.say(None)
                    return self._box
            raise failure

    async def _connect(self, endpoint: Endpoint, machine: Machine) -> Connection:
        """Log in. A key that differs is taken as at first contact only where the vendor told of a new container."""
        name, hostkeys = alias(machine), self._ctx.hostkeys
        try:
            box = await self._ctx.boxes.connect(endpoint, alias=name)
        except HostKeyChanged:
            if not await asyncio.to_thread(hostkeys.expects_new, name):
                raise
            log.warning("a new container, a new host key", run=self._run_id, machine=name)
            await _keep(hostkeys.forget, name)
            box = await self._ctx.boxes.connect(endpoint, alias=name)
        try:
            await _keep(hostkeys.same, name)
        except BoxUnreachable:
            await box.close()
            raise
        self._since = asyncio.get_running_loop().time()
        return box

    async def note(self, listed: Instance | None) -> None:
        """What the newest complete listing says: where a start makes a new container, a stop explains another host key.

        To be told before a start is asked for, and kept on the disk: it holds when the daemon is started anew.
        """
        if listed is None or listed.power is not Power.STOPPED:
            return
        fleet = self._ctx.fleets[listed.provider]
        if fleet.listed_at is not None and not fleet.provider.capabilities.stop_keeps_host_key:
            await self.expect_new_key(fleet.listed_at)

    async def expect_new_key(self, at: float) -> None:
        """A listing of `at` (event-loop time) has the machine stopped, and when it starts it has a new container with new keys.

        A listing that is older than the last contact says nothing of what comes after it.
        """
        async with self._lock:
            if self._since is not None and self._since >= at:
                return
            try:
                await asyncio.to_thread(self._ctx.hostkeys.expect_new, alias(self._machine()))
            except OSError as error:  # the next listing tells it again; else a person is asked about the key
                log.warning("a new container is not written down", run=self._run_id, problem=str(error))

    async def sentinel(self) -> Agent:
        """The sentinel over the open connection. Raises like `box`."""
        machine = self._machine()
        if machine.workspace is None:
            raise BoxUnreachable("the box has not been prepared yet")
        on_box = self._ctx.ledger.runs[self._run_id].on_box
        return self._ctx.boxes.agent(await self.box(), machine.workspace, on_box)

    async def close(self) -> None:
        """Hang up, if connected."""
        box, self._box = self._box, None
        if box is not None:
            await box.close()

    def _machine(self) -> Machine:
        machine = self._ctx.ledger.runs[self._run_id].machine
        if machine is None or machine.instance_id is None:
            raise BoxUnreachable("there is no machine")
        return machine


async def _keep(act: Callable[[str], None], name: str) -> None:
    """Write down something about a pinned key. Raises BoxUnreachable: without it the next contact could not be judged."""
    try:
        await asyncio.to_thread(act, name)
    except OSError as error:
        raise BoxUnreachable(f"the pinned host keys cannot be written: {error}") from error


def _way_out(run_id: str, endpoint: Endpoint, error: HostKeyChanged) -> str:
    """What a person can do about another host key. Pure."""
    if endpoint.kind == "own" or error.key is None:
        return f"If you know why, remove the old key from your known_hosts (ssh-keygen -R {endpoint.host}) and log in once"
    return (
        f"If its restart or the vendor's console explains that, accept it: gputui release {run_id} host-key"
    )


class Backoff:
    """Waits that grow from `first` to `most` seconds, with jitter, until `reset`."""

    def __init__(self, first: float = 1.0, most: float = 30.0) -> None:
        self._first = first
        self._most = most
        self._next = first

    async def wait(self) -> None:
        """Sleep for the next interval."""
        delay, self._next = self._next, min(self._most, self._next * 2)
        await asyncio.sleep(delay * random.uniform(0.7, 1.0))  # noqa: S311 - jitter

    def reset(self) -> None:
        """Start over: it worked."""
        self._next = self._first
