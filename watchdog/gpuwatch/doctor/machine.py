"""Python, packages, settings, tools and limits of this machine."""

from __future__ import annotations

import platform
import resource
import shutil
import subprocess
import sys
from importlib import util

from gpuwatch import __version__
from gpuwatch.clean import clean, clean_bytes
from gpuwatch.config import ConfigError, load
from gpuwatch.doctor.finding import Check, Found, Level, Patient, by_floor, ok

OLDEST_PYTHON = (3, 11)


_NEEDED = ("asyncssh", "aiosqlite", "msgspec", "structlog", "platformdirs", "psutil")


def python(_: Patient) -> Found:
    """Version and platform."""
    what = f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Check("python", Level.FAIL, what, "install Python 3.11 or newer")
    elif sys.platform not in ("linux", "darwin"):
        yield Check("python", Level.WARN, what, "only Linux and macOS are tested; on Windows use WSL 2")
    else:
        yield ok("python", what)


def packages(_: Patient) -> Found:
    """Whether what gpuwatch imports is installed."""
    missing = [name for name in _NEEDED if util.find_spec(name) is None]
    if missing:
        yield Check(
            "packages",
            Level.FAIL,
            f"not installed: {', '.join(missing)}",
            "pip install --force-reinstall gputui",
        )
    else:
        yield ok("packages", f"gputui {__version__} and what it needs")


def config(patient: Patient) -> Found:
    """Whether the settings can be read; the patient learns them."""
    path = patient.paths.config_file
    try:
        patient.config = load(path)
    except ConfigError as error:
        yield Check("config", Level.FAIL, str(error), f"mend {path}, or move it away for the defaults")
    else:
        yield ok("config", str(path) if path.exists() else f"no {path}: the defaults")


def rclone(_: Patient) -> Found:
    """Whether a current rclone is there, for mirrors."""
    program = shutil.which("rclone")
    if program is None:
        yield ok("rclone", "not installed; only mirrors to other storage need it")
        return
    try:
        done = subprocess.run([program, "version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check(
            "rclone", Level.WARN, f"{program} does not run: {clean(str(error), 200)}", "reinstall rclone"
        )
        return
    version = clean_bytes(done.stdout.split(b"\n")[0], 80)
    if done.returncode or not version.startswith("rclone v"):
        yield Check("rclone", Level.WARN, f"{program} says {version!r}", "reinstall rclone")
    else:
        yield ok("rclone", f"{version} at {program}")


def open_files(_: Patient) -> Found:
    """How many files may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    what = f"{soft} open files allowed" + ("" if soft == hard else f" (up to {hard} on request)")
    todo = "`ulimit -n 4096` before starting gpuwatch, or LimitNOFILE=4096 in its systemd unit"
    yield by_floor("open-files", what, todo, soft if soft >= 0 else sys.maxsize, warn=512, fail=128)
