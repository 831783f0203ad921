"""The ground that a provider is checked on: an account on which everything may be made and broken."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuproviders.model import OfferQuery, Permit, Provider

SECONDS = 30.0
"""How long a check waits for something to come about."""


class OncePermit(Permit):
    """A permit of the checks: good for one machine, once."""

    instance_id = ""
    covers_loss = False

    def __init__(self, instance_id: str, *, covers_loss: bool = True) -> None:
        self.instance_id = instance_id
        self.covers_loss = covers_loss
        self.spent = 0

    def spend(self) -> None:
        """Count."""
        self.spent += 1


@dataclass(frozen=True)
class Ground:
    """A provider on an account of its own. `provider_for(key)` makes another one with this key."""

    name: str
    provider: Provider
    provider_for: Callable[[str], Provider]
    key: str
    """The account's key; must appear in no message."""
    query: OfferQuery
    """Finds at least one offer."""
    ssh_key: Path
    image: str
    home: Path
    url: str | None = None
    """The simulator's address; None when there is no simulator and so no faults."""
    absent_id: str = "99999999"
    """A well-formed id of no machine."""

    async def sim(self, method: str, path: str, body: object = None) -> Any:
        """One call to the simulator's controls."""
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, f"{self.url}{path}", json=body, timeout=aiohttp.ClientTimeout(total=SECONDS)
            ) as answer,
        ):
            return await answer.json(content_type=None)

    async def fault(self, setting: str) -> None:
        """Switch a fault on, e.g. `create_hang_after*1`."""
        answer = await self.sim("POST", "/_sim/faults", {"set": setting})
        if "error" in answer:
            raise ValueError(answer["error"])

    async def living(self) -> list[str]:
        """Labels of all machines that exist, as the simulator itself knows."""
        state = await self.sim("GET", "/_sim/state")
        return [str(i["label"]) for i in state["instances"] if i["destroyed"] is None]

    async def calls(self, endpoint: str) -> int:
        """How often an endpoint was called."""
        return int((await self.sim("GET", "/_sim/state"))["calls"].get(endpoint, 0))

    def label(self) -> str:
        """A fresh label."""
        return f"gputui-check-{secrets.token_hex(4)}"


def _key_pair(folder: Path) -> Path:
    import asyncssh

    path = folder / "id"
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.write_bytes(key.export_private_key())
    path.chmod(0o600)
    path.with_suffix(".pub").write_bytes(key.export_public_key())
    return path


@asynccontextmanager
async def simulated(cloud: str, faults: list[str]) -> AsyncIterator[Ground]:
    """A simulator of its own process, thrown away afterwards. `faults` are on from the start and stay on."""
    key = f"key-{secrets.token_hex(12)}"
    with tempfile.TemporaryDirectory(prefix="gputui-conformance-") as folder:
        home = Path(folder)
        ssh_key = await asyncio.to_thread(_key_pair, home)
        argv = [
            sys.executable, "-m", "gpucloudsim", "--cloud", cloud, "--state", str(home / "cloud"), "--api-key", key,
            "--boot-seconds", "0.3", "--ephemeral", "--market-at", "stocked",
        ]  # fmt: skip
        for fault in ("ssh_denied=0", "ssh_refused=0.01", *faults):
            argv += ["--fault", fault]
        process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        try:
            if process.stdout is None:
                raise RuntimeError("the simulator has no output")
            async with asyncio.timeout(SECONDS):
                line = await process.stdout.readline()
            if not line:
                raise RuntimeError("the simulator did not start")
            url = str(json.loads(line)["url"])
            make = _makers()[cloud]

            def provider_for(wanted: str) -> Provider:
                return make(wanted, url)

            provider = provider_for(key)
            try:
                yield Ground(
                    name=cloud, provider=provider, provider_for=provider_for, key=key, home=home, url=url, ssh_key=ssh_key,
                    query=OfferQuery(gpu_names=("RTX 4090",), gpu_count=1, verified_only=False),
                    image="ubuntu:24.04", absent_id="99999999" if cloud == "vast" else "0nopod0nopod00",
                )  # fmt: skip
            finally:
                await provider.close()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _makers() -> dict[str, Callable[[str, str], Provider]]:
    from gpuproviders.runpod import RunpodProvider
    from gpuproviders.vast import VastProvider

    return {
        "vast": lambda key, url: VastProvider(key=lambda: key, url=url, paced=False, seconds=3),
        "runpod": lambda key, url: RunpodProvider(key=lambda: key, url=url, seconds=3),
    }


SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/id.pub
StrictModes no
UsePAM no
PidFile none
PasswordAuthentication no
PermitRootLogin yes
SetEnv HOME={house} PATH={house}/bin:/usr/local/bin:/usr/bin:/bin
"""
_SMI = "#!/bin/sh\necho 'NVIDIA RTX A4000, 16376'\n"


@asynccontextmanager
async def own_machines(count: int = 3) -> AsyncIterator[Ground]:
    """So many machines of our own: OpenSSH servers on this machine, each with a home folder of its own."""
    from gpuproviders.ssh import SshProvider

    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None:
        raise RuntimeError("there is no sshd on this machine (apt-get install openssh-server)")
    with tempfile.TemporaryDirectory(prefix="gputui-conformance-") as folder:
        home = Path(folder)
        ssh_key = await asyncio.to_thread(_key_pair, home)
        ports = await asyncio.to_thread(_furnish, home, count)
        servers = [
            await asyncio.create_subprocess_exec(
                sshd, "-D", "-e", "-f", str(home / f"sshd-{port}"), stderr=subprocess.PIPE, start_new_session=True
            )
            for port in ports
        ]  # fmt: skip
        try:
            for server in servers:
                async with asyncio.timeout(SECONDS):
                    while server.stderr is not None and b"Server listening" not in (
                        line := await server.stderr.readline()
                    ):
                        if not line:
                            raise RuntimeError("sshd did not start")
            names = [f"own{port}" for port in ports]
            provider = SshProvider(names, config=home / "config")
            try:
                yield Ground(
                    name="ssh", provider=provider, provider_for=lambda _key: provider, key=secrets.token_hex(16), home=home,
                    query=OfferQuery(gpu_count=1, disk=1), ssh_key=ssh_key, image="", absent_id="own1.0123456789",
                )  # fmt: skip
            finally:
                await provider.close()
        finally:
            for server in servers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                await server.wait()


def _furnish(home: Path, count: int) -> list[int]:
    """Home folders, server and client configurations; returns the servers' ports. Blocking."""
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    (home / "host_key").write_bytes(key.export_private_key())
    (home / "host_key").chmod(0o600)
    public = key.export_public_key().decode().strip()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd wants it when root starts it
    ports, client, known = [], "", ""
    with contextlib.ExitStack() as reserved:
        for _ in range(count):
            free = reserved.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(int(free.getsockname()[1]))
    for port in ports:
        house = home / f"house-{port}"
        (house / "bin").mkdir(parents=True)
        smi = house / "bin" / "nvidia-smi"
        smi.write_text(_SMI)
        smi.chmod(0o755)
        (home / f"sshd-{port}").write_text(SSHD.format(port=port, home=home, house=house))
        known += f"[127.0.0.1]:{port} {public}\n"
        client += (
            f"Host own{port}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {home / 'id'}\n  UserKnownHostsFile {home / 'known_hosts'}\n"
        )
    (home / "known_hosts").write_text(known)
    (home / "config").write_text(client)
    return ports
