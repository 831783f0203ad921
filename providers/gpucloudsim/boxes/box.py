"""One box: a directory that lives as long as its contract, and what runs in it.

DIR/boxes/<id>/
  root/            HOME; .ssh/authorized_keys, .vast_api_key, onstart.sh, onstart.log,
                   .container_env and etc-environment (the environment of the create call: on a
                   plain image only process 1 has it, SSH sessions do not),
                   .box_boot_id (new at every start, also exported as BOX_BOOT_ID: what a real box
                   tells by its kernel's boot_id and the start time of process 1)
  workspace/       $WORKSPACE and $DATA_DIRECTORY
  tmp/ bin/        $TMPDIR; bin/ is first on PATH and holds nvidia-smi
  var/             the simulator's own: host key, ports, GPU state, number of the last start
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from gpucloudsim.boxes import nvidia_smi
from gpucloudsim.boxes.container import Container, Program
from gpucloudsim.boxes.files import used_bytes
from gpucloudsim.boxes.processes import MARKER, kill_all
from gpucloudsim.boxes.sessions import Count, Shell
from gpucloudsim.boxes.sshd import Access, SshHost, bind, new_host_key
from gpucloudsim.engine.model import Quirks

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True)
class BoxSpec:
    """What the machine's owner and the customer decided about a box."""

    instance_id: int
    api_key: str
    api_url: str
    env: dict[str, str]
    onstart: str | None
    gpu_count: int
    ssh: bool
    quirks: Quirks
    session: tuple[tuple[str, str], ...]
    """The vendor's own variables in every session; `{port}` stands for the direct SSH port."""
    banner: str = ""
    """What SSH says before it lets anyone in."""
    key_file: str | None = None
    """Where in HOME the vendor leaves the instance's own key."""
    program: Program | None = None
    """Process 1 where the vendor runs the container's command; None where `onstart` is run beside sshd."""


class Box:
    """The inside of one instance."""

    def __init__(self, path: Path, spec: BoxSpec, count: Count) -> None:
        self.path = path
        self.spec = spec
        self.boot = int(self._read("var/up") or 0)
        """Number of the start that is up, also one left by an earlier life of the simulator; 0 when down."""
        self._count = count
        self._sockets = self._bind()
        self._host: SshHost | None = None
        self._container = Container(path, spec.program) if spec.program is not None else None
        self._onstart: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """HOME inside the box."""
        return self.path / "root"

    @property
    def ports(self) -> tuple[int, int]:
        """(direct, proxy) SSH ports on 127.0.0.1."""
        return self._sockets[0].getsockname()[1], self._sockets[1].getsockname()[1]

    @property
    def listening(self) -> bool:
        """Whether SSH is up."""
        return self._host is not None

    @property
    def connections(self) -> int:
        """Open SSH connections."""
        return len(self._host.connections) if self._host else 0

    def env(self) -> dict[str, str]:
        """Environment of an SSH session in the box. Nothing of the simulator's own leaks in."""
        boot_id = self._read("root/.box_boot_id")
        spec = self.spec
        direct, _ = self.ports
        env = {
            MARKER: str(self.path),
            "HOME": str(self.home),
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join(self._search_path()),
            "TMPDIR": str(self.path / "tmp"),
            "WORKSPACE": str(self.path / "workspace"),
            "DATA_DIRECTORY": str(self.path / "workspace"),
            **{name: value.replace("{port}", str(direct)) for name, value in spec.session},
            "BOX_BOOT_ID": boot_id.strip(),
        }
        if spec.quirks.env_in_ssh:
            env = {**self._customer_env(), **env}
        return env

    def _customer_env(self) -> dict[str, str]:
        return {key: value for key, value in self.spec.env.items() if not key.startswith("-")}

    def _search_path(self) -> list[str]:
        own = str(self.path / "bin")
        if self.spec.quirks.no_python:
            return [own, str(self.path / "bin-nopython")]
        return [own, str(Path(sys.executable).parent), *SYSTEM_PATH]

    def shell(self) -> Shell:
        """What the next SSH session starts with."""
        quota = self.spec.quirks.quota_bytes
        limit = None if quota is None else max(0, quota - used_bytes(self.path))
        return Shell(self.env(), self.home, limit)

    def up(self, boot: int, keys: dict[int, str]) -> None:
        """Start the container: a new boot id, the customer's keys, onstart. Blocking, short."""
        self._furnish()
        self._new_boot_id()
        self.sync_keys(keys)
        self.boot = boot
        (self.path / "var" / "up").write_text(str(boot))
        if self._container is not None:
            self._container.start({**self._customer_env(), **self.env()})
        else:
            self._run_onstart()

    @property
    def serves_ssh(self) -> bool:
        """Whether something in the container answers on the SSH port."""
        return self._container is None or self._container.sshd

    async def tend(self) -> bool:
        """A container that ended is started again. True when it has just ended, and SSH with it."""
        if self._container is None or not self.boot:
            return False
        if self.spec.quirks.crash_after_s is not None:
            self._container.crash(self.spec.quirks.crash_after_s)
        if not self._container.tend():
            return False
        await self.hang_up()
        await asyncio.to_thread(kill_all, self.path)
        self._new_boot_id()
        return True

    def _new_boot_id(self) -> None:
        (self.home / ".box_boot_id").write_text(f"{uuid.uuid4()}\n")

    async def listen(self) -> None:
        """Let SSH in."""
        if self._host is not None or not self.spec.ssh:
            return
        quirks = self.spec.quirks
        key = self.path / "var" / "host_key"
        if not key.exists():
            new_host_key(key)
        greeted = self.path / "var" / "greeted"
        banner = self.spec.banner
        access = Access(
            self.home / ".ssh" / "authorized_keys", 0 if greeted.exists() else quirks.ssh_denied, banner
        )
        greeted.touch()
        host = SshHost(self.path, self.home, access, self.shell, quirks.quota_bytes, self._count)
        if quirks.ssh_silent:
            await host.open_silent(list(self._sockets))
        else:
            await host.open(list(self._sockets), key)
        self._host = host  # only now: who waits for SSH must find it

    async def hang_up(self) -> None:
        """Cut SSH; the processes run on."""
        if self._host is None:
            return
        host, self._host = self._host, None
        await host.close()
        self._sockets = self._bind()

    async def down(self) -> None:
        """Stop the container: SSH ends, every process is killed, the directory stays."""
        await self.hang_up()
        await asyncio.to_thread(kill_all, self.path)
        self._reap()
        self.boot = 0
        (self.path / "var" / "up").unlink(missing_ok=True)
        if self._container is not None:
            self._container.ended()
            await asyncio.to_thread(self._lose_container_disk)
        quirks = self.spec.quirks
        if quirks.host_key_changes:
            (self.path / "var" / "host_key").unlink(missing_ok=True)
        if quirks.port_changes:
            (self.path / "var" / "ports").unlink(missing_ok=True)
            self.release()
            self._sockets = self._bind()

    def _lose_container_disk(self) -> None:
        """A stopped container's disk is gone; a volume stays."""
        program = self.spec.program
        kept = {"var"} if program is None or not program.keeps_workspace else {"var", "workspace"}
        for path in self.path.iterdir():
            if path.name not in kept and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for name in ("furnished", "host_key", "greeted"):
            (self.path / "var" / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Give the reserved ports back."""
        for sock in self._sockets:
            sock.close()

    async def delete(self) -> None:
        """End of the contract: processes killed, directory deleted."""
        await self.down()
        self.release()
        await asyncio.to_thread(wipe, self.path)

    def sync_keys(self, keys: dict[int, str]) -> None:
        """Add the contract's keys to authorized_keys; lines that the box added itself stay."""
        file = self.home / ".ssh" / "authorized_keys"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        present = self._read("root/.ssh/authorized_keys").splitlines()
        missing = [text.strip() for text in keys.values() if text.strip() not in present]
        if missing or not file.exists():
            file.write_text("".join(f"{line}\n" for line in [*present, *missing]))
            file.chmod(0o600)

    def drop_key(self, text: str) -> None:
        """Remove one key."""
        file = self.home / ".ssh" / "authorized_keys"
        kept = [
            line
            for line in self._read("root/.ssh/authorized_keys").splitlines()
            if line.strip() != text.strip()
        ]
        file.write_text("".join(f"{line}\n" for line in kept))

    def log_text(self) -> str:
        """What the container wrote (the output of its command, or of onstart)."""
        return self._read("root/onstart.log" if self._container is None else "var/container.log")

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(errors="replace")
        except OSError:
            return ""

    def _bind(self) -> tuple[socket.socket, socket.socket]:
        file = self.path / "var" / "ports"
        wanted: list[int | None] = [None, None]
        with contextlib.suppress(OSError, ValueError):
            wanted = json.loads(file.read_text())
        sockets = (bind(wanted[0]), bind(wanted[1]))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([sock.getsockname()[1] for sock in sockets]))
        return sockets

    def _furnish(self) -> None:
        """Make what a container's image and the vendor put there, once."""
        if (self.path / "var" / "furnished").exists():
            return
        volume = self.spec.program.volume if self.spec.program is not None else None
        if volume is not None and not (self.path / "workspace").exists():
            volume.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "workspace").symlink_to(volume)
        for name in ("root/.ssh", "workspace", "tmp", "bin", "var"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        if self.spec.key_file is not None:
            key = self.home / self.spec.key_file
            key.write_text(self.spec.api_key + "\n")
            key.chmod(0o600)
        first = {**self._customer_env(), **self.env()}
        lines = "".join(f"{name}={value}\n" for name, value in first.items() if name != MARKER)
        (self.home / ".container_env").write_text(lines)
        (self.home / "etc-environment").write_text("")
        (self.home / ".bashrc").write_text(
            f"[ -z \"$PS1\" ] && return\nPS1='root@C.{self.spec.instance_id}:\\w\\$ '\n"
        )
        if self.spec.onstart:
            script = self.home / "onstart.sh"
            script.write_text(self.spec.onstart)
            script.chmod(0o755)
        if self.spec.quirks.smi != "missing":
            smi = self.path / "bin" / "nvidia-smi"
            source = Path(nvidia_smi.__file__)
            smi.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{source}" "{self.path}" "$@"\n')
            smi.chmod(0o755)
        if self.spec.quirks.no_python:
            self._farm_without_python()
        if self._container is not None:
            self._container.furnish()
        (self.path / "var" / "furnished").touch()

    def _farm_without_python(self) -> None:
        farm = self.path / "bin-nopython"
        farm.mkdir(exist_ok=True)
        for folder in SYSTEM_PATH:
            for tool in Path(folder).glob("*"):
                link = farm / tool.name
                if not tool.name.startswith(("python", "pypy", "nvidia-smi")) and not link.is_symlink():
                    link.symlink_to(tool)

    def _run_onstart(self) -> None:
        if not self.spec.onstart:
            return
        with (self.home / "onstart.log").open("ab") as log:
            self._onstart = subprocess.Popen(
                ["/bin/bash", str(self.home / "onstart.sh")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env={**self._customer_env(), **self.env()},
                start_new_session=True,
            )

    def _reap(self) -> None:
        if self._onstart is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._onstart.wait(1)
            self._onstart = None


def wipe(path: Path) -> None:
    """Delete a box's directory and end what runs in it.

    Its name changes first, so that a half-deleted box is never taken for a whole one.
    """
    if not path.exists():
        return
    kill_all(path)
    doomed = path.with_name(f".deleted-{path.name}-{secrets.token_hex(3)}")
    path.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
