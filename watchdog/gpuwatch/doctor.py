"""`gpuwatch doctor`: is everything here that the daemon needs, and if not, what is to be done.

Each check looks at one thing, says what it found and what to do; none repairs anything.
They work whether a daemon runs or not, and one that breaks does not end the others. No
secret is ever part of what is said.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuwatch import __version__
from gpuwatch.clean import clean, clean_bytes
from gpuwatch.config import Config, ConfigError, load, vault_folder
from gpuwatch.paths import Paths, discover
from gpuwatch.spec.units import format_duration, format_size

if TYPE_CHECKING:
    import sqlite3

FORMAT = "gputui-doctor/1"
OLDEST_PYTHON = (3, 11)
_NEEDED = ("asyncssh", "aiosqlite", "msgspec", "structlog", "platformdirs", "psutil")
_SUN_PATH = {"darwin": 104}
_FIRST_YEAR, _LAST_YEAR = 2026, 2100
_SKEW = 2.0
_AHEAD = 300.0
"""Seconds that a record may lie in the future before the clock is suspected."""
_ONLINE_SECONDS = 60.0


class Level(Enum):
    """How bad it is. Only FAIL makes the command exit with 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was found, and what to do about it (empty when nothing)."""

    name: str
    level: Level
    found: str
    todo: str = ""


@dataclass(slots=True)
class Patient:
    """What is examined. Checks that find something others need note it here."""

    paths: Paths
    config: Config = field(default_factory=Config)
    started: tuple[float, float] = field(default_factory=lambda: (time.time(), time.monotonic()))
    """Wall time and monotonic time of the same moment."""
    daemon: bool = False
    """Whether a daemon answered."""
    open_labels: int = 0
    """Machines that may exist, by the ledger."""
    last_event: float | None = None
    """Unix time of the ledger's newest event."""


Found = Iterator[Check]


def ok(name: str, found: str) -> Check:
    """A check that found nothing to do."""
    return Check(name, Level.OK, found)


def examine(patient: Patient, *, online: bool = False) -> Found:
    """All checks, in the order in which they are best mended."""
    for name, check in _CHECKS:
        yield from _guarded(name, check, patient)
    if online:
        yield from _guarded("account", _accounts, patient)


def _guarded(name: str, check: Callable[[Patient], Found], patient: Patient) -> Found:
    try:
        yield from check(patient)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding; the others go on
        what = f"the check itself failed: {type(error).__name__}: {clean(str(error), 200)}"
        yield Check(name, Level.FAIL, what, "please report this line")


# --- the programs --------------------------------------------------------------------------------


def _python(_: Patient) -> Found:
    what = f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Check("python", Level.FAIL, what, "install Python 3.11 or newer")
    elif sys.platform not in ("linux", "darwin"):
        yield Check("python", Level.WARN, what, "only Linux and macOS are tested; on Windows use WSL 2")
    else:
        yield ok("python", what)


def _packages(_: Patient) -> Found:
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


def _config(patient: Patient) -> Found:
    path = patient.paths.config_file
    try:
        patient.config = load(path)
    except ConfigError as error:
        yield Check("config", Level.FAIL, str(error), f"mend {path}, or move it away for the defaults")
    else:
        yield ok("config", str(path) if path.exists() else f"no {path}: the defaults")


def _rclone(_: Patient) -> Found:
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


def _open_files(_: Patient) -> Found:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    what = f"{soft} open files allowed" + ("" if soft == hard else f" (up to {hard} on request)")
    todo = "`ulimit -n 4096` before starting gpuwatch, or LimitNOFILE=4096 in its systemd unit"
    yield _by_floor("open-files", what, todo, soft if soft >= 0 else sys.maxsize, warn=512, fail=128)


def _by_floor(name: str, what: str, todo: str, value: int, *, warn: int, fail: int) -> Check:
    """Judge a value that should be large. Pure."""
    if value >= warn:
        return ok(name, what)
    return Check(name, Level.FAIL if value < fail else Level.WARN, what, todo)


# --- state and ledger ----------------------------------------------------------------------------


def _state(patient: Patient) -> Found:
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
    elif (problem := _not_writable(folder)) is not None:
        yield Check(
            name, Level.FAIL, f"{folder} cannot be written: {problem}", "check its permissions and its disk"
        )
    elif mode & 0o077:
        yield Check(
            name, Level.WARN, f"{folder} has mode {mode:04o}: others can look in", f"chmod 700 {folder}"
        )
    else:
        yield ok(name, f"{folder}, private and writable")


def _not_writable(folder: Path) -> str | None:
    """Why nothing can be written and synced here, None when it can. Leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".gpuwatch-doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return str(error.strerror)
    return None


def _ledger(patient: Patient) -> Found:
    import sqlite3

    path = patient.paths.ledger
    if not path.exists():
        yield ok("ledger", "none yet; the first `gpuwatch run` makes it")
        return
    todo = (
        f"stop gpuwatch, move {path} aside and start it again: it finds its machines by their labels;"
        " `gpuwatch verify` proves the files without it"
    )
    try:
        with _read_only(path) as db:
            damage = [str(row[0]) for row in db.execute("PRAGMA integrity_check(5)")]
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if damage == ["ok"]:
                damage = list(_contradictions(db, patient)) if version else []
    except sqlite3.OperationalError as error:
        what = f"{path} cannot be read now: {clean(str(error), 200)}"
        yield Check(
            "ledger", Level.FAIL, what, "check its permissions and that its disk is mounted; nothing is lost"
        )
        return
    except sqlite3.DatabaseError as error:
        damage, version = [clean(str(error), 200)], 0
    if damage:
        yield Check("ledger", Level.FAIL, f"{path} is damaged: {clean('; '.join(damage), 300)}", todo)
    else:
        yield ok("ledger", f"{path} is whole ({format_size(path.stat().st_size)})")
        yield _ledger_format(version)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield Check(
            "ledger", Level.WARN, f"{path} has mode {mode:04o}: others can read it", f"chmod 600 {path}"
        )


@contextlib.contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """The ledger without a way to change it; a daemon may be writing meanwhile. Raises sqlite3.DatabaseError."""
    import sqlite3

    db = sqlite3.connect(f"{path.absolute().as_uri()}?{_mode(path)}", uri=True, timeout=5)
    try:
        yield db
    finally:
        db.close()


def _mode(path: Path) -> str:
    """How to open the ledger: as a mere file when it was closed in good order, so that not even a -shm is made."""
    import sqlite3

    if path.with_name(path.name + "-wal").exists():
        return "mode=ro"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
    try:
        whole = db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.DatabaseError:
        whole = False
    finally:
        db.close()
    # a daemon that starts right now looks like damage from here: then look with its locks
    return "immutable=1" if whole else "mode=ro"


def _contradictions(db: sqlite3.Connection, patient: Patient) -> Iterator[str]:
    """What SQLite calls whole and a ledger is not: holes in the log, states ahead of it, unreadable runs."""
    import msgspec

    from gpuwatch.lifecycle.run import Run

    count, last, at = db.execute(
        "SELECT COUNT(*), COALESCE(MAX(seq), 0), (SELECT at FROM events ORDER BY seq DESC LIMIT 1) FROM events"
    ).fetchone()
    patient.last_event = at
    patient.open_labels = int(db.execute("SELECT COUNT(*) FROM labels WHERE gone_at IS NULL").fetchone()[0])
    if count != last:
        yield f"{last - count} events are missing from the log"
    for run, seq, doc in db.execute("SELECT id, seq, doc FROM runs"):
        try:
            known = msgspec.json.decode(doc, type=Run).id
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield f"the state of run {clean(str(run), 80)} cannot be read: {clean(str(error), 120)}"
            continue
        if known != run or seq > last:
            yield f"the state of run {clean(str(run), 80)} does not fit the log"


def _ledger_format(version: int) -> Check:
    from gpuwatch.ledger.schema import MIGRATIONS

    known = len(MIGRATIONS)
    if version > known:
        return Check(
            "ledger-format", Level.FAIL, f"format {version}; this gpuwatch knows {known}", "upgrade gputui"
        )
    if version < known:
        return ok(
            "ledger-format", f"format {version}; the next start upgrades it to {known} and keeps a backup"
        )
    return ok("ledger-format", f"format {version}, the newest")


# --- the daemon ----------------------------------------------------------------------------------


def _socket(patient: Patient) -> Found:
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


def _daemon(patient: Patient) -> Found:
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


def _ssh_key(patient: Patient) -> Found:
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


# --- the vault -----------------------------------------------------------------------------------


def _vault(patient: Patient) -> Found:
    from gpuwatch.vault.layout import MARKER

    root = vault_folder(patient.paths, patient.config)
    if not root.exists():
        if patient.paths.ledger.exists():
            yield Check(
                "vault", Level.FAIL, f"{root} is not there", "mount its disk; or `vault = …` in the settings"
            )
        else:
            yield ok("vault", f"{root} does not exist yet; the first `gpuwatch run` makes it")
        return
    if not (root / MARKER).is_file():
        empty = not any(root.iterdir())
        todo = "mount its disk" if empty else f"if it is the right disk: touch {root / MARKER}"
        yield Check("vault", Level.FAIL, f"{root} has no {MARKER}{' and is empty' if empty else ''}", todo)
        return
    problem = _not_writable(root)
    if problem is not None:
        yield Check(
            "vault",
            Level.FAIL,
            f"{root} cannot be written: {problem}",
            "check its permissions, its disk and its quota",
        )
        return
    yield ok("vault", f"{root}, marked and writable")
    yield from _space(root)
    yield from _one_disk(root)


def _space(root: Path) -> Found:
    disk = os.statvfs(root)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    what = f"{format_size(free)} of {format_size(total)} free"
    yield _by_floor(
        "vault-space", what, "make room, or move the vault (`vault = …`)", free, warn=20 * 10**9, fail=10**9
    )
    if disk.f_files and disk.f_favail < 10_000:
        yield Check(
            "vault-space",
            Level.WARN,
            f"room for {disk.f_favail} more files only",
            "this disk runs out of inodes",
        )


def _one_disk(root: Path) -> Found:
    """Downloads are renamed into place, which only works within one file system."""
    from gpuwatch.vault.layout import PARTIAL

    apart = [
        run.name for run in sorted(root.iterdir())
        if (run / PARTIAL).is_dir() and (run / PARTIAL).stat().st_dev != run.stat().st_dev
    ]  # fmt: skip
    if apart:
        what = f"{PARTIAL} lies on another disk than its run: {clean(', '.join(apart[:3]), 200)}"
        yield Check(
            "vault-partial", Level.FAIL, what, "put both on one file system: files are renamed into place"
        )
    else:
        yield ok("vault-partial", "downloads and files lie on one file system")


# --- accounts ------------------------------------------------------------------------------------


def _credentials(patient: Patient) -> Found:
    if not patient.config.providers.vast.enabled:
        yield ok("credentials", "vast is switched off in the settings")
        return
    from gpuproviders import keys

    if keys.vast() is None:
        todo = "set VAST_API_KEY, or `vastai set api-key`; to try it without an account: `gputui demo`"
        yield Check("credentials", Level.WARN, "no key for vast", todo)
    else:
        yield ok("credentials", "vast has a key (not shown)")
    if patient.config.providers.runpod.enabled is not False and keys.runpod() is not None:
        yield ok("credentials", "runpod has a key (not shown)")


def _accounts(patient: Patient) -> Found:
    import asyncio

    from gpuproviders.errors import ProviderError
    from gpuproviders.money import format_usd
    from gpuwatch.daemon.main import providers_of

    async def ask(provider: Any) -> Any:
        async with asyncio.timeout(_ONLINE_SECONDS):
            try:
                return await provider.account()
            finally:
                await provider.close()

    for name, provider in providers_of(patient.config).items():
        try:
            account = asyncio.run(ask(provider))
        except ProviderError as error:
            yield Check(
                "account", Level.FAIL, f"{name}: {clean(str(error), 300)}", "check the key and the network"
            )
        except TimeoutError:
            yield Check(
                "account",
                Level.FAIL,
                f"{name} did not answer in {_ONLINE_SECONDS:.0f} s",
                "check the network",
            )
        else:
            credit = (
                "credit not told" if account.credit is None else f"{format_usd(account.credit)} of credit"
            )
            yield ok("account", f"{name} answers: user {clean(account.user_id or 'not told', 60)}, {credit}")


# --- time ----------------------------------------------------------------------------------------


def _clock(patient: Patient) -> Found:
    wall, steady = time.time(), time.monotonic()
    stepped = (wall - patient.started[0]) - (steady - patient.started[1])
    folder = patient.paths.state if patient.paths.state.is_dir() else Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".gpuwatch-doctor-") as file:
        disk = Path(file.name).stat().st_mtime - time.time()
    problems = clock_problems(wall, stepped=stepped, disk=disk, records=_records(patient))
    if problems:
        todo = "switch on time synchronisation (`timedatectl set-ntp true`, or chrony)"
        yield Check("clock", Level.WARN, "; ".join(problems), todo)
    else:
        yield ok("clock", f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S} UTC, no contradictions")


def _records(patient: Patient) -> Iterator[tuple[str, float]]:
    """Times that were once now: none of them should be in the future."""
    if patient.last_event is not None:
        yield "the ledger's newest event", patient.last_event
    for path in (patient.paths.ledger, patient.paths.lock, patient.paths.config_file):
        with contextlib.suppress(OSError):
            yield str(path), path.stat().st_mtime


def clock_problems(
    wall: float,
    *,
    stepped: float,
    disk: float,
    records: Iterator[tuple[str, float]] | Sequence[tuple[str, float]],
) -> list[str]:
    """What speaks against the system clock. Pure; seconds, `wall` and the records are Unix times."""
    problems = []
    # what the year is can be said without a time zone table, for any float
    year = 1970 + wall / (365.2425 * 86400)
    if not _FIRST_YEAR <= year < _LAST_YEAR:
        problems.append(f"the year {year:.0f} is not plausible")
    if abs(stepped) > _SKEW:
        problems.append(f"the clock jumped by {stepped:+.0f} s while this was running")
    if abs(disk) > _SKEW:
        problems.append(f"the disk's clock is {disk:+.0f} s off (a network disk?)")
    ahead = [(name, at - wall) for name, at in records if at - wall > _AHEAD]
    if ahead:
        name, seconds = max(ahead, key=lambda pair: pair[1])
        problems.append(f"{name} is {format_duration(seconds)} in the future: the clock went back")
    return problems


_CHECKS: tuple[tuple[str, Callable[[Patient], Found]], ...] = (
    ("python", _python),
    ("packages", _packages),
    ("config", _config),
    ("state", _state),
    ("ledger", _ledger),
    ("socket", _socket),
    ("daemon", _daemon),
    ("ssh-key", _ssh_key),
    ("vault", _vault),
    ("credentials", _credentials),
    ("clock", _clock),
    ("rclone", _rclone),
    ("open-files", _open_files),
)

# --- what is shown -------------------------------------------------------------------------------

_URL = re.compile(r"(?i)(key|token|secret)=[^&\s]+")


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """The answer for people."""
    width = max((len(c.name) for c in checks), default=0)
    for check in checks:
        yield f"{check.level.value:<5} {check.name:<{width}}  {_shown(check.found)}"
        if check.todo:
            yield f"      {'':<{width}}  → {_shown(check.todo)}"
    bad = {level: sum(c.level is level for c in checks) for level in (Level.FAIL, Level.WARN)}
    told = [f"{n} {level.value}{'s' * (n != 1)}" for level, n in bad.items() if n]
    yield ", ".join(told) if told else "all is well"


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """The answer for programs; documented in docs/operations.md."""
    return {
        "format": FORMAT,
        "version": __version__,
        "ok": healthy(checks),
        "checks": [
            {"name": c.name, "level": c.level.value, "found": _shown(c.found), "do": _shown(c.todo)}
            for c in checks
        ],
    }


def healthy(checks: Sequence[Check]) -> bool:
    """Whether no check failed; warnings do not count."""
    return all(c.level is not Level.FAIL for c in checks)


def _shown(text: str) -> str:
    return _URL.sub(r"\1=…", clean(text, 600))


def run(*, as_json: bool, online: bool) -> int:
    """Examine this machine and print the answer; returns the exit code."""
    checks = list(examine(Patient(discover()), online=online))
    out = json.dumps(document(checks), indent=2) if as_json else "\n".join(lines(checks))
    sys.stdout.write(out + "\n")
    return 0 if healthy(checks) else 1
