"""The ledger, read beside a daemon that may be writing it."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpuwatch.clean import clean
from gpuwatch.spec.units import format_size

if TYPE_CHECKING:
    import sqlite3
from gpuwatch.doctor.finding import Check, Found, Level, Patient, ok


def ledger(patient: Patient) -> Found:
    """Integrity, holes in the log, unreadable runs, the format."""
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
def _read_only(path: Path) -> Generator[sqlite3.Connection, None, None]:
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
