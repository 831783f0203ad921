"""The daemon's own things: state folder, socket, the process itself, its SSH key."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from pathlib import Path

from gpuwatch import __version__
from gpuwatch.clean import clean
from gpuwatch.doctor.finding import Check, Found, Level, Patient, not_writable, ok

_SUN_PATH = {"darwin": 104}


def state(patient: Patient) -> Found:
    """The state folder: there, ours, private, writable."""
    folder = patient.paths.state
    if not folder.exists():
        yield ok("state", f"{folder} does not exist yet; the first `gpuwatch run` makes it")
        return
    yield from _private_folder("state", folder)


def _private_folder(name: str, folder: Path) -> Found:
    status = folder.stat()
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        yield Check(name, Level.FAIL, f"{folder} is no folder", "move it away")
    elif status.st_uid != os.getuid():
        yield Check(
            name,
            Level.FAIL,
            f"{folder} belongs to user {status.st_uid}",
            f"sudo chown -R {os.getuid()} {folder}",
        )
    elif (problem := not_writable(folder)) is not None:
        yield Check(
            name, Level.FAIL, f"{folder} cannot be written: {problem}", "check its permissions and its disk"
        )
    elif mode & 0o077:
        yield Check(
            name, Level.WARN, f"{folder} has mode {mode:04o}: others can look in", f"chmod 700 {folder}"
        )
    else:
        yield ok(name, f"{folder}, private and writable")


def socket(patient: Patient) -> Found:
    """Whether the socket's path fits and its folder is ours."""
    path, wanted = patient.paths.socket, patient.paths.runtime / "gpuwatch.sock"
    length, most = len(os.fsencode(path)), _SUN_PATH.get(sys.platform, 108) - 1
    if length > most:
        yield Check(
            "socket",
            Level.FAIL,
            f"{path} has {length} bytes, a socket's path may have {most}",
            "set a shorter XDG_RUNTIME_DIR",
        )
        return
    if path.parent.exists() and path.parent.stat().st_uid != os.getuid():
        yield Check(
            "socket",
            Level.FAIL,
            f"{path.parent} belongs to somebody else",
            "set XDG_RUNTIME_DIR to a folder of yours",
        )
        return
    yield ok(
        "socket", str(path) if path == wanted else f"{path}, because {wanted.parent} is too deep for a socket"
    )


def daemon(patient: Patient) -> Found:
    """Whether a daemon answers, and what its silence means."""
    from gpuwatch.client.blocking import Client
    from gpuwatch.client.errors import CallFailed

    try:
        with Client(patient.paths.socket, timeout=10, name="doctor") as client:
            version, pid = client.welcome.version, client.welcome.pid
    except CallFailed as error:
        yield _silent(patient, clean(str(error), 200))
        return
    patient.daemon = True
    if version != __version__:
        what = f"gpuwatch {clean(version, 40)} runs (pid {pid}), but {__version__} is installed"
        yield Check(
            "daemon", Level.WARN, what, "`gpuwatch stop && gpuwatch run`; machines and jobs go on meanwhile"
        )
    else:
        yield ok("daemon", f"gpuwatch {version} answers (pid {pid})")


def _silent(patient: Patient, why: str) -> Check:
    """What it means that no daemon answers."""
    holder = _lock_holder(patient.paths.lock)
    if holder is not None:
        what = f"a gpuwatch ({holder}) holds the lock and does not answer: {why}"
        return Check(
            "daemon", Level.FAIL, what, "look at its log; if it hangs, end that process and start it again"
        )
    if patient.open_labels:
        n = patient.open_labels
        what = (
            f"none runs, and {n} machine{'s' * (n != 1)} may be rented: nobody watches the cost or the files"
        )
        return Check("daemon", Level.FAIL, what, "start it: `gpuwatch run` (a terminal, tmux, or systemd)")
    return ok("daemon", "none runs; no machine is rented")


def _lock_holder(lock: Path) -> str | None:
    """Who holds the daemon's lock, None when nobody does."""
    from gpuwatch.daemon.lock import describe, read_holder

    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # held for this instant only
    except BlockingIOError:
        return describe(read_holder(lock))
    else:
        return None
    finally:
        os.close(descriptor)


def ssh_key(patient: Patient) -> Found:
    """Whether the key is private and whole."""
    key = patient.paths.keys / "id_ed25519"
    if not key.exists():
        yield ok("ssh-key", f"none yet; the first `gpuwatch run` makes {key}")
        return
    status = key.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        yield Check(
            "ssh-key",
            Level.FAIL,
            f"{key} has mode {mode:04o}: others can log in to your machines",
            f"chmod 600 {key}",
        )
    elif not os.access(key, os.R_OK):
        yield Check("ssh-key", Level.FAIL, f"{key} cannot be read", f"check the owner and the mode of {key}")
    elif not key.with_suffix(".pub").is_file():
        yield Check(
            "ssh-key",
            Level.FAIL,
            f"{key.with_suffix('.pub')} is missing",
            f"ssh-keygen -y -f {key} > {key}.pub",
        )
    else:
        yield ok("ssh-key", f"{key}, private")
