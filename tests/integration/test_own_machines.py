"""Own machines on Debian's sshd: through the user's SSH configuration, agent and jump hosts; released, never harmed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gpuproviders.errors import Ambiguous, OfferGone, Refused, Unauthorized
from gpuproviders.model import GB, OfferQuery, Order, Permit, Power
from gpuproviders.ssh import SshProvider, scripts
from integration.world import World

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
ANY = OfferQuery(gpu_count=1, disk=1)
SMI = """#!/bin/sh
case "$*" in *memory.total*) echo "NVIDIA RTX A4000, 16376";; *driver_version*) echo "NVIDIA RTX A4000, 570.1";; esac
"""


class OnePermit(Permit):
    instance_id = ""
    covers_loss = True

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id

    def spend(self) -> None:
        """As often as the test likes."""


class Lab:
    """A machine of our own: sshd, a home folder with things in it, a GPU that only its driver's tool knows."""

    def __init__(self, home: Path) -> None:
        assert SSHD is not None, "openssh-server is not installed (apt-get install openssh-server)"
        self.home = home
        self.house = home / "house"
        (self.house / "bin").mkdir(parents=True)
        (self.house / "thesis.txt").write_text("not ours")
        smi = self.house / "bin" / "nvidia-smi"
        smi.write_text(SMI)
        smi.chmod(0o755)
        for name in ("host_key", "id"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True
            )
        (home / "authorized_keys").write_bytes((home / "id.pub").read_bytes())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        python = Path(os.sys.executable).parent  # type: ignore[attr-defined]
        (home / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {home / 'host_key'}\nAuthorizedKeysFile {home / 'authorized_keys'}\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv HOME={self.house} PATH={self.house / 'bin'}:{python}:/usr/bin:/bin\n"
        )
        key = (home / "host_key.pub").read_text().split()[:2]
        (home / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {' '.join(key)}\n")
        self.user = subprocess.check_output(["id", "-un"], text=True).strip()
        self.config = home / "config"
        self.config.write_text(
            f"Host lab bastion\n  HostName 127.0.0.1\n  Port {self.port}\n  User {self.user}\n  IdentityFile {home / 'id'}\n"
            f"  UserKnownHostsFile {home / 'known_hosts'}\nHost behind\n  HostName 127.0.0.1\n  Port {self.port}\n  User {self.user}\n"
            f"  IdentityFile {home / 'id'}\n  UserKnownHostsFile {home / 'known_hosts'}\n  ProxyJump bastion\n"
        )
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        assert SSHD is not None
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.home / "sshd_config")], stderr=subprocess.PIPE, text=True, start_new_session=True
        )  # fmt: skip
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Server listening" in line:
                return
        raise AssertionError("sshd did not start")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.process = None

    @property
    def ours(self) -> Path:
        return self.house / ".gputui"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "lab") if (tmp_path / "lab").mkdir() is None else None
    assert made is not None
    yield made
    made.stop()


@pytest.fixture
async def own(lab: Lab) -> AsyncIterator[SshProvider]:
    made = SshProvider(["lab"], config=lab.config, seconds=10)
    yield made
    await made.close()


async def order(provider: SshProvider, label: str = "gputui-r-1-ab") -> Order:
    return Order(label=label, offer=(await provider.offers(ANY))[0], image="", disk=GB)


async def test_a_machine_is_offered_taken_listed_and_released_with_nothing_else_touched(
    own: SshProvider, lab: Lab
) -> None:
    (offer,) = await own.offers(ANY)
    assert (offer.offer_id, offer.gpu_name, offer.gpu_count, offer.price) == ("lab", "RTX A4000", 1, 0)
    assert offer.disk is not None
    assert offer.memory is not None
    made = await own.create(await order(own))
    (listed,) = (await own.instances()).by_label("gputui-r-1-ab")
    assert (listed.instance_id, listed.power, listed.endpoints[0].kind) == (
        made.instance_id,
        Power.RUNNING,
        "own",
    )
    assert await own.offers(ANY) == (), "one run at a time"
    (lab.ours / "workspace" / "result").write_text("x")
    await own.destroy(OnePermit(made.instance_id))
    assert sorted(p.name for p in lab.house.iterdir()) == ["bin", "thesis.txt"]
    assert (await own.instances()).instances == ()
    assert await own.instance(made.instance_id) is None
    await own.destroy(OnePermit(made.instance_id))


async def test_release_ends_what_works_in_our_folder_and_nothing_else(own: SshProvider, lab: Lab) -> None:
    made = await own.create(await order(own))
    ours = subprocess.Popen(["sleep", "600"], cwd=lab.ours / "workspace", start_new_session=True)
    other = subprocess.Popen(["sleep", "600"], cwd=lab.house, start_new_session=True)
    try:
        await own.destroy(OnePermit(made.instance_id))
        assert await asyncio.to_thread(ours.wait, 10) == -signal.SIGTERM
        assert other.poll() is None
        assert not lab.ours.exists()
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


async def test_two_daemons_cannot_both_have_a_machine_and_neither_releases_the_others(
    own: SshProvider, lab: Lab
) -> None:
    other = SshProvider(["lab"], config=lab.config)
    try:
        mine, theirs = await order(own, "gputui-a"), await order(other, "gputui-b")
        made = await own.create(mine)
        with pytest.raises(OfferGone, match="in use by gputui-a"):
            await other.create(theirs)
        listed = (await other.instances()).by_id(made.instance_id)
        assert listed is not None
        assert listed.label == "gputui-a"
        forged = made.instance_id.replace(made.instance_id[-3:], "000")
        await other.destroy(OnePermit(forged))
        assert (lab.ours / "lease").read_text() == "gputui-a\n", "a permit for another lease releases nothing"
    finally:
        await other.close()


async def test_a_machine_out_of_reach_is_offline_with_its_label_never_gone(
    own: SshProvider, lab: Lab
) -> None:
    made = await own.create(await order(own))
    await own.close()
    lab.stop()
    (listed,) = (await own.instances()).instances
    assert (listed.instance_id, listed.power, listed.label) == (
        made.instance_id,
        Power.OFFLINE,
        "gputui-r-1-ab",
    )
    assert await own.offers(ANY) == ()
    with pytest.raises(Ambiguous):
        await own.destroy(OnePermit(made.instance_id))
    stranger = SshProvider(["lab"], config=lab.config)
    assert [i.power for i in (await stranger.instances()).instances] == [Power.OFFLINE], (
        "unknown is listed, not left out"
    )
    await stranger.close()
    lab.start()
    assert (await own.instances()).instances[0].power is Power.RUNNING


async def test_jump_hosts_and_agents_of_the_users_configuration_are_used(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = SshProvider(["behind"], config=lab.config)
    try:
        assert len(await behind.offers(ANY)) == 1
    finally:
        await behind.close()
    socket_path = str(lab.home / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket_path], stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        subprocess.run(["ssh-add", "-q", str(lab.home / "id")], check=True)
        lab.config.write_text(lab.config.read_text().replace(f"  IdentityFile {lab.home / 'id'}\n", ""))
        by_agent = SshProvider(["lab"], config=lab.config)
        try:
            assert len(await by_agent.offers(ANY)) == 1
        finally:
            await by_agent.close()
    finally:
        agent.kill()
        agent.wait()
        assert agent.stdout is not None
        agent.stdout.close()


async def test_an_unknown_or_changed_host_key_is_refused_with_what_to_do(lab: Lab) -> None:
    (lab.home / "known_hosts").write_text("")
    provider = SshProvider(["lab"], config=lab.config)
    with pytest.raises(Unauthorized, match="`ssh lab` once"):
        await provider.destroy(OnePermit("lab.0123456789"))
    assert (await provider.instances()).instances[0].power is Power.OFFLINE
    for act in (provider.start("x"), provider.stop(OnePermit("x"))):
        with pytest.raises(Refused):
            await act
    await provider.close()


def test_names_of_hosts_and_answers_are_checked() -> None:
    for name in ("-oProxyCommand=x", "a b", "", "$(x)"):
        with pytest.raises(ValueError, match="no name of a host"):
            SshProvider([name])
    assert scripts.lines("a\nb\n") is None
    assert scripts.lines("a\ngputui-end\n") == ["a"]
    assert scripts.lease(["x y"]) == "?"
    assert scripts.lease(["two", "lines"]) == "?"
    assert scripts.lease([]) is None


def test_the_daemon_runs_a_job_on_an_own_machine_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab")
    here = World(tmp_path)
    try:
        here.start_simulator("--ephemeral")
        config = tmp_path / "config" / "config.toml"
        config.write_text(
            config.read_text()
            + f'[providers.ssh.host.lab]\naddress = "127.0.0.1"\nport = {lab.port}\nuser = "{lab.user}"\nkey = "{lab.home / "id"}"\n'
            f'known_hosts = "{lab.home / "known_hosts"}"\n'
        )
        here.start_daemon()
        spec = (
            'name = "own"\nprovider = "ssh"\ndisk = "10GB"\n[gpu]\nname = "RTX A4000"\n'
            "[job]\ncommand = 'pwd > where.txt; echo done'\n[[artifacts]]\npath = 'where.txt'\n"
        )
        run = here.launch(spec)
        row = here.wait_end(run)
        assert (row.state, row.exit_code) == ("gone", 0)
        assert here.file(run, "where.txt").read_text().startswith(str(lab.ours / "workspace"))
        here.assert_receipt_holds(run)
        assert sorted(p.name for p in lab.house.iterdir()) == ["bin", "thesis.txt"]
        assert here.machines() == [], "nothing was rented"
    finally:
        here.stop()
        lab.stop()
