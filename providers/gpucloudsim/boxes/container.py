"""Process 1 of a container that is started by its command, as on RunPod: run, logged, started again.

Paths that such a command takes for granted (`/start.sh`, `/workspace`, `/run/sshd`, …) are led into the
box's directory, and the tools that would change a machine (`sshd`, `apt-get`, `ssh-keygen`, `service`)
are stand-ins. SSH answers exactly while a stand-in of sshd runs: an image without one, or a command that
drops it, has no SSH.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RESTART_S = 1.0
"""Pause before a container that ended is started again (the real pause is about 16 s)."""
LOG_LIMIT = 4 << 20
START_SH = "/start.sh"
"""What official images run: it takes the keys from PUBLIC_KEY, starts sshd and stays."""

_LED_ASIDE = re.compile(r"(?<![\w./-])/(start\.sh|run/sshd|root|workspace|etc/ssh|var/log)(?![\w-])")
_SSHD = """\
#!/bin/sh
case " $* " in
  *" -t "*) exit 0 ;;
  *" -D "*) echo $$ > "{var}/sshd"; exec sleep infinity ;;
esac
setsid sleep infinity > /dev/null 2>&1 < /dev/null &
echo $! > "{var}/sshd"
"""
_START = """\
#!/bin/bash
mkdir -p ~/.ssh; chmod 700 ~/.ssh
[ -n "$PUBLIC_KEY" ] && echo "$PUBLIC_KEY" >> ~/.ssh/authorized_keys
chmod 600 ~/.ssh/authorized_keys
echo "Start script(s) finished, pod is ready to use."
service ssh start
exec sleep infinity
"""
_APT = """\
#!/bin/sh
case " $* " in *" install "*openssh-server*) cp "{var}/sshd.sh" "{bin}/sshd" ;; esac
exit 0
"""
_SERVICE = """\
#!/bin/sh
[ "$1 $2" = "ssh start" ] && command -v sshd > /dev/null && exec sshd
exit 0
"""


def aside(text: str, box: Path) -> str:
    """`text` with a container's absolute paths led into the box."""
    places = {"start.sh": "start.sh", "root": "root", "workspace": "workspace"}
    return _LED_ASIDE.sub(lambda m: str(box / places.get(m[1], f"root/.{m[1].replace('/', '-')}")), text)


@dataclass(frozen=True)
class Program:
    """What a container runs as process 1. An empty `command` is the image's own."""

    command: tuple[str, ...] = ()
    image_has_sshd: bool = False
    keeps_workspace: bool = False
    """Whether the workspace outlives a stop; the rest of the container's disk never does."""
    volume: Path | None = None
    """A network volume that is the workspace."""


@dataclass
class Container:
    """The running program of one box. `env` is made by the box at each start."""

    box: Path
    program: Program
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _ended: float | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)
    _env: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def log(self) -> Path:
        """What the container wrote, each line with the time of its arrival."""
        return self.box / "var" / "container.log"

    def furnish(self) -> None:
        """Put the stand-ins into the box."""
        bin_, var = self.box / "bin", self.box / "var"
        sshd = _SSHD.format(var=var)
        self._script(var / "sshd.sh", sshd)
        self._script(bin_ / "apt-get", _APT.format(var=var, bin=bin_))
        self._script(bin_ / "apt", _APT.format(var=var, bin=bin_))
        self._script(bin_ / "service", _SERVICE)
        self._script(bin_ / "ssh-keygen", "#!/bin/sh\nexit 0\n")
        if self.program.image_has_sshd:
            self._script(bin_ / "sshd", sshd)
            self._script(self.box / "start.sh", _START)

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def start(self, env: dict[str, str]) -> None:
        """Run the program. sbin is left out of its PATH, so that the host's own sshd is not found."""
        own = self.box / "bin"
        path = [str(own), str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
        self._env = {**env, "PATH": os.pathsep.join(path)}
        self._run()

    def _run(self) -> None:
        self._ended, self._began = None, time.monotonic()
        (self.box / "var" / "sshd").unlink(missing_ok=True)
        command = [aside(word, self.box) for word in self.program.command]
        if not command:
            start = self.box / "start.sh"
            command = [str(start)] if start.exists() else ["sleep", "infinity"]
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_LIMIT:
                self.log.unlink()
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._env,
                    cwd=self.box / "root", start_new_session=True,
                )  # fmt: skip
            except OSError as problem:
                log.write(f"exec {command[0]}: {problem.strerror}\n".encode())
                self._process, self._ended = None, time.monotonic()
        if self._process is not None:
            (self.box / "var" / "main.pid").write_text(str(self._process.pid))

    def crash(self, after_s: float) -> None:
        """End process 1 when it has run for so long."""
        if self._process is not None and time.monotonic() - self._began >= after_s:
            self._process.kill()
            self._process.wait()

    def tend(self) -> bool:
        """Start the program again some time after it ended, for ever, as the vendor does.

        True when it has just ended: whatever else ran in the container ends with it.
        """
        if self._process is not None and self._process.poll() is not None:
            self._process, self._ended = None, time.monotonic()
            return True
        if self._ended is not None and time.monotonic() - self._ended >= RESTART_S:
            self._run()
        return False

    @property
    def sshd(self) -> bool:
        """Whether the stand-in of sshd runs."""
        try:
            pid = int((self.box / "var" / "sshd").read_text())
        except (OSError, ValueError):
            return False
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def ended(self) -> None:
        """The box went down: its processes are dead already."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        self._process = self._ended = None
        for name in ("sshd", "main.pid"):
            (self.box / "var" / name).unlink(missing_ok=True)
