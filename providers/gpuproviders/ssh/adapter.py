"""Own machines as a provider: hosts of an OpenSSH client configuration, one run at a time each.

How a host is reached (address, user, key, agent, jump hosts) and which host keys are right is the user's own
`~/.ssh/config` and `known_hosts`; a host whose key is not known there is refused. To "create" is to leave a
lease file on the machine, to "destroy" is to remove everything of ours. Nothing else on it is touched.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpuproviders.errors import Ambiguous, OfferGone, ProviderError, Refused, Unauthorized, Unavailable, scrub
from gpuproviders.gpus import canonical, nominal_memory
from gpuproviders.model import (
    MIB,
    Account,
    Capabilities,
    Created,
    Endpoint,
    Instance,
    Listing,
    Offer,
    OfferQuery,
    Order,
    Permit,
    Power,
)
from gpuproviders.money import ZERO
from gpuproviders.ssh import scripts

if TYPE_CHECKING:
    import asyncssh

NAME = "ssh"
CALL_SECONDS = 20.0
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_ANSWER = 1 << 16


class SshProvider:
    """The hosts named in the settings. See `gpuproviders.model.Provider` for what each method promises."""

    name = NAME
    capabilities = Capabilities(stop_keeps_disk=True, can_stop=False, spot=False)

    def __init__(
        self, hosts: Sequence[str], *, config: Path | None = None, seconds: float = CALL_SECONDS
    ) -> None:
        """`hosts` are names of `config` (default `~/.ssh/config`). Raises ValueError for what cannot be a name."""
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{scrub(host)[:40]!r} is no name of a host")
        self._hosts = tuple(dict.fromkeys(hosts))
        self._config = config or Path.home() / ".ssh" / "config"
        self._seconds = seconds
        self._open: dict[str, asyncssh.SSHClientConnection] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._labels: dict[str, str] = {}
        """The newest lease known of each host: what a machine that is out of reach now still has."""

    async def account(self) -> Account:
        """The list of hosts is the account."""
        mark = hashlib.sha256("\n".join(sorted(self._hosts)).encode()).hexdigest()[:12]
        return Account(NAME, f"own-{mark}", None, key_id=mark)

    async def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        """Free machines that answer and have at least the GPUs asked for, at no price."""
        if query.spot:
            return ()
        found = await asyncio.gather(*(self._offer(host) for host in self._hosts))
        fitting = [
            o
            for o in found
            if o is not None
            and (not query.gpu_names or o.gpu_name in query.gpu_names)
            and (query.gpu_count is None or o.gpu_count >= query.gpu_count)
            and (query.max_price is None or query.max_price >= 0)
            and (o.disk is None or o.disk >= query.disk)
        ]
        return tuple(sorted(fitting, key=lambda o: o.offer_id)[: query.limit])

    async def _offer(self, host: str) -> Offer | None:
        """The machine as an offer; None when it is taken, out of reach or has no GPU."""
        try:
            parts = scripts.sections(await self._ask(host, scripts.PROBE))
        except ProviderError:
            return None
        if len(parts) != 5 or parts[0]:
            return None
        gpus = [row.rpartition(",") for row in parts[1] if "," in row]
        if not gpus:
            return None
        name, _, memory = gpus[0]
        free, cores, kib = " ".join(parts[2]).split(), "".join(parts[3]), "".join(parts[4])
        known = canonical(name.strip())
        return Offer(
            provider=NAME,
            offer_id=host,
            machine_id=host,
            gpu_name=known,
            gpu_count=len(gpus),
            gpu_memory=nominal_memory(known, _count(memory, MIB) or 0),
            price=ZERO,
            disk_price=ZERO,
            verified=True,
            disk=_count(free[3], 1024) if len(free) >= 4 else None,
            cpu_cores=_count(cores),
            memory=_count(kib, 1024),
            transfer_price=ZERO,
            receive_price=ZERO,
            direct_ssh=True,
        )

    async def create(self, order: Order) -> Created:
        """Take the machine. The image and the environment of the order do not apply: it is what it is."""
        host = order.offer.offer_id
        if host not in self._hosts:
            raise Refused(f"{scrub(host)[:60]!r} is none of the own machines", provider=NAME, code="host")
        try:
            connection = await self._connection(host)
        except ProviderError as error:
            # nothing was sent
            raise Refused(f"nothing was taken: {error}", provider=NAME, code="unreachable") from error
        self._labels[host] = order.label
        try:
            has = scripts.lease(await self._run(host, connection, scripts.take(order.label)))
        except Unavailable as error:
            raise Ambiguous(str(error), provider=NAME) from error
        if has != order.label:
            self._labels.pop(host, None)
            raise OfferGone(
                f"{host} is in use by {has or 'nobody, and cannot be taken'}", provider=NAME, code="in-use"
            )
        return Created(_instance_id(host, order.label))

    async def instances(self) -> Listing:
        """Every taken machine. One that is out of reach is listed as offline: it may be taken, so it is not gone."""
        found = await asyncio.gather(*(self._instance(host) for host in self._hosts))
        return Listing(tuple(one for one in found if one is not None))

    async def _instance(self, host: str) -> Instance | None:
        power, status = Power.RUNNING, None
        try:
            label = scripts.lease(await self._ask(host, scripts.READ))
        except ProviderError as error:
            power, status, label = Power.OFFLINE, str(error), self._labels.get(host, "?")
        if label is None:
            self._labels.pop(host, None)
            return None
        self._labels[host] = label
        return Instance(
            provider=NAME,
            instance_id=_instance_id(host, label),
            label=label,
            power=power,
            status=status,
            machine_id=host,
            price=ZERO,
            endpoints=(Endpoint(host, 22, user="", kind="own", config=str(self._config)),),
        )

    async def instance(self, instance_id: str) -> Instance | None:
        """Ask that one machine. None only when it answers that it is free, or has another label."""
        host = self._host(instance_id)
        if host is None:
            return None
        label = scripts.lease(await self._ask(host, scripts.READ))
        if label is None or _instance_id(host, label) != instance_id:
            return None
        return await self._instance(host)

    async def start(self, instance_id: str) -> None:
        """Own machines are not switched on from here."""
        raise Refused("an own machine cannot be started from here", provider=NAME, code="own")

    async def stop(self, permit: Permit) -> None:
        """Own machines are not switched off from here."""
        raise Refused("an own machine is not stopped from here; it costs nothing", provider=NAME, code="own")

    async def destroy(self, permit: Permit) -> None:
        """Release: what still runs in `~/.gputui` ends, the folder is removed, the machine stays as it is."""
        permit.spend()
        host = self._host(permit.instance_id)
        if host is None:
            raise Refused(
                f"{scrub(permit.instance_id)[:60]!r} is none of the own machines", provider=NAME, code="host"
            )
        try:
            label = scripts.lease(await self._ask(host, scripts.READ))
            if label is None or _instance_id(host, label) != permit.instance_id:
                return  # released before
            said = await self._ask(host, scripts.release(label))
        except Unavailable as error:
            raise Ambiguous(f"whether {host} was released is not known: {error}", provider=NAME) from error
        if said:
            raise Refused(f"{host}: {scrub(' '.join(said))[:200]}", provider=NAME, code="not-removed")
        self._labels.pop(host, None)

    async def log(self, instance_id: str, lines: int = 200) -> str:
        """There is no log of a vendor."""
        return ""

    async def close(self) -> None:
        """Hang up everywhere."""
        for connection in self._open.values():
            connection.abort()
        self._open.clear()

    # --- SSH -------------------------------------------------------------------------------------

    def _host(self, instance_id: str) -> str | None:
        return next((h for h in self._hosts if instance_id.rpartition(".")[0] == h), None)

    async def _ask(self, host: str, script: str) -> list[str]:
        """The lines of a script's answer. Raises Unavailable or Unauthorized."""
        return await self._run(host, await self._connection(host), script)

    async def _connection(self, host: str) -> asyncssh.SSHClientConnection:
        """The open connection of a host. Raises Unauthorized (key, host key) or Unavailable."""
        import asyncssh

        async with self._locks.setdefault(host, asyncio.Lock()):
            known = self._open.get(host)
            if known is not None and not known.is_closed():
                return known
            try:
                async with asyncio.timeout(self._seconds):
                    made = await asyncssh.connect(
                        host, config=[str(self._config)] if self._config.exists() else None,
                        connect_timeout=10, keepalive_interval=15, keepalive_count_max=3,
                    )  # fmt: skip
            except asyncssh.HostKeyNotVerifiable as error:
                raise Unauthorized(
                    f"the host key of {host} is not in your known_hosts; `ssh {host}` once shows it to you",
                    provider=NAME, code="host-key",
                ) from error  # fmt: skip
            except asyncssh.PermissionDenied as error:
                raise Unauthorized(
                    f"{host} takes none of your SSH keys; try `ssh {host}`", provider=NAME, code="ssh-key"
                ) from error
            except (OSError, asyncssh.Error, TimeoutError, ValueError) as error:
                raise Unavailable(
                    f"{host} is out of reach: {scrub(str(error)) or type(error).__name__}", provider=NAME
                ) from error
            self._open[host] = made
            return made

    async def _run(self, host: str, connection: asyncssh.SSHClientConnection, script: str) -> list[str]:
        import asyncssh

        try:
            async with asyncio.timeout(self._seconds):
                done = await connection.run(
                    f"/bin/sh -c {shlex.quote(script)}", errors="replace", check=False
                )
        except (OSError, asyncssh.Error, TimeoutError) as error:
            connection.abort()
            self._open.pop(host, None)
            raise Unavailable(f"{host} stopped answering: {type(error).__name__}", provider=NAME) from error
        found = scripts.lines(str(done.stdout or "")[:_ANSWER])
        if found is None:
            raise Unavailable(f"{host} gave no whole answer", provider=NAME)
        return found


def _count(text: str, unit: int = 1) -> int | None:
    """A number of units that a machine printed; None when it is none."""
    text = text.strip()
    return int(text) * unit if text.isascii() and text.isdigit() and len(text) < 13 else None


def _instance_id(host: str, label: str) -> str:
    """One lease of one host: another run on the same machine has another id."""
    return f"{host}.{hashlib.sha256(label.encode()).hexdigest()[:10]}"
