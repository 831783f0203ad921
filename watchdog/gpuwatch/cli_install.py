"""`gpuwatch install`: a service of the user that starts the daemon, watches it, and starts it again.

systemd: Type=notify with a watchdog that only a turning event loop feeds. The hardening is what a user's
own systemd can always do: what needs a mount namespace is left out, because it fails where those are forbidden.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "gpuwatch.service"
LABEL = "dev.gputui.gpuwatch"
WATCHDOG_SECONDS = 90
KEPT = ("GPUTUI_HOME", "GPUTUI_VAULT", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "RCLONE_CONFIG")
"""Where things lie, as it is now; keys are never written into a unit."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was written, and what the user should run next."""

    path: Path
    text: str
    commands: tuple[str, ...]


def unit(python: str, environment: Mapping[str, str]) -> str:
    """The systemd user unit. Pure."""
    settings = "".join(
        f"Environment={_quoted(f'{k}={environment[k]}')}\n" for k in KEPT if environment.get(k)
    )
    return f"""\
[Unit]
Description=gpuwatch, the daemon that owns rented GPU machines
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={_quoted(python)} -m gpuwatch run --log-format json
Restart=always
RestartSec=5
WatchdogSec={WATCHDOG_SECONDS}
TimeoutStopSec=60
KillMode=mixed
{settings}UMask=0077
LimitNOFILE=8192
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""


def _quoted(text: str) -> str:
    """One word of a unit file: quotes, backslashes, specifiers and variables mean nothing in it."""
    if "\n" in text or "\0" in text:
        raise ValueError(f"cannot stand in a unit file: {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'


def plist(python: str, environment: Mapping[str, str], log: Path) -> bytes:
    """The launchd agent for macOS. Pure."""
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": [
                python,
                "-m",
                "gpuwatch",
                "run",
                "--log-format",
                "json",
                "--log-file",
                str(log),
            ],
            "RunAtLoad": True,
            "KeepAlive": True,
            "ProcessType": "Background",
            "StandardErrorPath": str(log),
            "EnvironmentVariables": {k: environment[k] for k in KEPT if environment.get(k)},
            "SoftResourceLimits": {"NumberOfFiles": 8192},
            "Umask": 0o077,
        }
    )


def install(environment: Mapping[str, str], home: Path, *, platform: str = sys.platform) -> Installed:
    """Write the service file of this platform, replacing an older one. Raises OSError, ValueError."""
    python = str(Path(sys.executable).absolute())
    commands: tuple[str, ...]
    if platform == "darwin":
        path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        data = plist(python, environment, home / "Library" / "Logs" / "gpuwatch.log")
        commands = (f"launchctl bootstrap gui/{os.getuid()} '{path}'", "gpuwatch status")
    else:
        config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
        path = config / "systemd" / "user" / NAME
        data = unit(python, environment).encode()
        commands = (
            "systemctl --user daemon-reload",
            f"systemctl --user enable --now {NAME}",
            "loginctl enable-linger   # so that it runs while you are logged out",
            "gpuwatch status",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    fresh.replace(path)
    return Installed(path, data.decode(), commands)


def run(*, show: bool) -> int:
    """The command. `show` prints the file and writes nothing."""
    home = Path.home()
    if show:
        sys.stdout.write(unit(str(Path(sys.executable).absolute()), os.environ))
        return 0
    try:
        done = install(os.environ, home)
    except (OSError, ValueError) as error:
        print(f"gpuwatch: cannot write the service: {error}", file=sys.stderr)
        return 1
    print(f"wrote {done.path}\nnow run:")
    for command in done.commands:
        print(f"  {command}")
    if sys.platform != "darwin" and shutil.which("systemctl") is None:
        print("this system has no systemctl; start `gpuwatch run` in your own way", file=sys.stderr)
    return 0
