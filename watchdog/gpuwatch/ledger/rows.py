"""Values ↔ rows: how runs, copies, re-reads and the register's entries stand in SQLite."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gpuwatch.custody.facts import Copy
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.ledger.writer import Statement
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.register import Alarm, Entry
from gpuwatch.lifecycle.run import Run
from gpuwatch.mirror.known import Past
from gpuwatch.mirror.retention import VAULT

_RUN = msgspec.json.Decoder(Run)
_COPY = "size, sha256, mtime_ns, ctime_ns, inode, boot_id, verified_at, step, home_mtime_ns, home_inode"
_COPY_OF_C = ", ".join(f"c.{column}" for column in _COPY.split(", "))
_ENTRY = (
    "label, run, provider, at, instance_id, gone_at, sent_at, rented_at, job_at, listed_at, buried_at, alarm, "
    "alarm_at, alarm_text, destroying"
)

LIVE_RUNS: Final = "SELECT doc FROM runs INDEXED BY runs_by_end WHERE ended_at IS NULL"
ENDED_RUNS: Final = (
    "SELECT doc FROM runs INDEXED BY runs_by_end WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT ?"
)
OLDER_RUNS: Final = "SELECT doc FROM runs INDEXED BY runs_by_end WHERE ended_at IS NOT NULL AND ended_at < ? ORDER BY ended_at DESC LIMIT ?"
COPIES_OF_LIVE: Final = (
    f"SELECT c.run, c.path, {_COPY_OF_C} FROM runs r INDEXED BY runs_by_end "  # noqa: S608
    "JOIN copies c ON c.run = r.id WHERE r.ended_at IS NULL"
)
COPIES_OF: Final = f"SELECT run, path, {_COPY} FROM copies WHERE run = ?"  # noqa: S608
COPY_OF: Final = f"SELECT run, path, {_COPY} FROM copies WHERE run = ? AND path = ?"  # noqa: S608
UNPROVED_LONGEST: Final = (
    f"SELECT c.run, c.path, {_COPY_OF_C}, s.at, s.problem FROM copies c "  # noqa: S608
    "LEFT JOIN scrubs s ON s.run = c.run AND s.path = c.path WHERE c.proved_at {} ORDER BY c.proved_at LIMIT ?"
)
BAD_COPIES: Final = (
    f"SELECT c.run, c.path, {_COPY_OF_C}, s.at, s.problem FROM scrubs s "  # noqa: S608
    "JOIN copies c ON c.run = s.run AND c.path = s.path WHERE s.problem IS NOT NULL"
)
SCRUBS_SINCE: Final = (
    f"SELECT c.run, c.path, {_COPY_OF_C}, s.at, s.problem FROM scrubs s "  # noqa: S608
    "JOIN copies c ON c.run = s.run AND c.path = s.path WHERE s.at >= ?"
)
LET_GO_OF: Final = "SELECT path, place, size, sha256, step, verified_at, removed FROM let_go WHERE run = ?"
LET_GO_OF_LIVE: Final = "SELECT l.run, l.path FROM runs r INDEXED BY runs_by_end JOIN let_go l ON l.run = r.id WHERE r.ended_at IS NULL"
LET_GO_UNFINISHED: Final = "SELECT DISTINCT run FROM let_go INDEXED BY let_go_unfinished WHERE removed = 0"
OPEN_ENTRIES: Final = f"SELECT {_ENTRY} FROM labels WHERE buried_at IS NULL OR alarm IS NOT NULL"  # noqa: S608
ENTRY_OF: Final = f"SELECT {_ENTRY} FROM labels WHERE label = ?"  # noqa: S608

_INSERT_EVENT = "INSERT INTO events (seq, at, run, kind, data) VALUES (?, ?, ?, ?, ?)"
_INSERT_RUN = (
    "INSERT INTO runs (id, seq, doc, name, state, created_at, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_REPLACE_RUN = _INSERT_RUN.replace("INSERT", "INSERT OR REPLACE", 1)
_INSERT_COPY = f"""INSERT OR REPLACE INTO copies (run, path, {_COPY}, proved_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""  # noqa: S608
_INSERT_ENTRY = f"INSERT INTO labels ({_ENTRY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_UPDATE_ENTRY = _INSERT_ENTRY.replace("INSERT", "INSERT OR REPLACE", 1)
_INSERT_SCRUB = "INSERT OR REPLACE INTO scrubs (run, path, at, problem) VALUES (?, ?, ?, ?)"
_PROVED = "UPDATE copies SET proved_at = ? WHERE run = ? AND path = ?"
_DELETE_SCRUB = "DELETE FROM scrubs WHERE run = ? AND path = ?"
_INSERT_LET_GO = """INSERT OR REPLACE INTO let_go (run, path, place, size, sha256, step, verified_at, at, removed)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)"""
_REMOVED = "UPDATE let_go SET removed = 1 WHERE run = ? AND path = ? AND place = ?"
_DELETE_LET_GO = "DELETE FROM let_go WHERE run = ? AND path = ?"
_DELETE_COPY = "DELETE FROM copies WHERE run = ? AND path = ?"
_INSERT_LAUNCH = "INSERT INTO launches (key, run) VALUES (?, ?)"
_INSERT_ACCOUNT = "INSERT OR REPLACE INTO accounts (provider, user, key_id, at) VALUES (?, ?, ?, ?)"
_INSERT_CLOCK = "INSERT OR REPLACE INTO clock (id, boot, offset) VALUES (1, ?, ?)"


def event_row(seq: int, at: float, run: str | None, event: e.Event) -> Statement:
    """One line of the log."""
    return (_INSERT_EVENT, (seq, at, run, str(type(event).__struct_config__.tag), e.ENCODER.encode(event)))


def clock_row(boot: str, offset: float) -> Statement:
    """Which clock the times are of."""
    return (_INSERT_CLOCK, (boot, offset))


def run_row(run: Run, seq: int, *, new: bool = False) -> Statement:
    """The run's state row, as of event `seq`; a new one must be new."""
    doc = msgspec.json.encode(run)
    return (
        _INSERT_RUN if new else _REPLACE_RUN,
        (run.id, seq, doc, run.name, run.state.value, run.created_at, run.ended_at),
    )


def launch_row(key: str, run_id: str) -> Statement:
    """A launch key, used once."""
    return (_INSERT_LAUNCH, (key, run_id))


def copy_row(run_id: str, copy: Copy) -> Statement:
    """A proved copy; it replaces the older version's row."""
    size, mtime_ns, ctime_ns, inode = copy.identity
    home_mtime_ns, home_inode = copy.home or (None, None)
    values = (
        run_id, os.fsencode(copy.path), size, copy.sha256, mtime_ns, ctime_ns, inode, copy.boot_id, copy.verified_at,
        copy.step, home_mtime_ns, home_inode, copy.verified_at,
    )  # fmt: skip
    return (_INSERT_COPY, values)


def scrub_rows(scrub: Scrubbed) -> list[Statement]:
    """The newest re-read of a copy."""
    key = (scrub.run, os.fsencode(scrub.copy.path))
    return [(_INSERT_SCRUB, (*key, scrub.at, scrub.problem)), (_PROVED, (scrub.at, *key))]


def unscrub_row(run_id: str, path: str) -> Statement:
    """A new copy ends what re-reads of the old one said."""
    return (_DELETE_SCRUB, (run_id, os.fsencode(path)))


def let_go_rows(run_id: str, place: str, copy: Copy, at: float) -> list[Statement]:
    """Retention lets a file go from a place; from the vault it is no copy any more."""
    path = os.fsencode(copy.path)
    values = (run_id, path, place, copy.size, copy.sha256, copy.step, copy.verified_at, at)
    statements: list[Statement] = [(_INSERT_LET_GO, values)]
    if place == VAULT:
        statements += [(_DELETE_COPY, (run_id, path)), (_DELETE_SCRUB, (run_id, path))]
    return statements


def removed_row(run_id: str, place: str, path: str) -> Statement:
    """What was let go has been removed there."""
    return (_REMOVED, (run_id, os.fsencode(path), place))


def kept_again_row(run_id: str, path: str) -> Statement:
    """A new copy ends what retention did about the old one."""
    return (_DELETE_LET_GO, (run_id, os.fsencode(path)))


def past_of(row: Sequence[Any]) -> Past:
    """What retention let go, from a row of LET_GO_OF. Of the box's file nothing is known any more."""
    copy = Copy(os.fsdecode(row[0]), row[2], row[3], (row[2], 0, 0, 0), "", row[5], row[4])
    return Past(row[1], copy, bool(row[6]))


def entry_row(entry: Entry, *, new: bool) -> Statement:
    """An entry of the register; a new one must be new (I2: a label is used once)."""
    alarm = None if entry.alarm is None else entry.alarm.value
    values = (
        entry.label, entry.run, entry.provider, entry.at, entry.instance_id, entry.gone_at, entry.sent_at,
        entry.rented_at, entry.job_at, entry.listed_at, entry.buried_at, alarm, entry.alarm_at, entry.alarm_text,
        int(entry.destroying),
    )  # fmt: skip
    return (_INSERT_ENTRY if new else _UPDATE_ENTRY, values)


def account_row(event: e.AccountSeen, at: float) -> Statement:
    """Who we are to a vendor."""
    return (_INSERT_ACCOUNT, (event.provider, event.user, event.key_id, at))


def run_of(row: Sequence[Any]) -> Run:
    """The run in a row that begins with its document."""
    return _RUN.decode(row[0])


def copy_of(row: Sequence[Any]) -> tuple[str, Copy]:
    """(run, copy) from a row that begins with run, path and a copy's columns."""
    home = None if row[10] is None else (row[10], row[11])
    copy = Copy(
        os.fsdecode(row[1]), row[2], row[3], (row[2], row[4], row[5], row[6]), row[7], row[8], row[9], home
    )
    return str(row[0]), copy


def scrub_of(row: Sequence[Any]) -> tuple[str, Copy, Scrubbed | None]:
    """(run, copy, its newest re-read) from a row with a copy and then the columns of a re-read."""
    run, copy = copy_of(row)
    at, problem = row[12], row[13]
    return run, copy, None if at is None else Scrubbed(run, copy, at, problem)


def entry_of(row: Sequence[Any]) -> Entry:
    """An entry of the register."""
    return Entry(
        label=row[0], run=row[1], provider=row[2], at=row[3], instance_id=row[4], gone_at=row[5], sent_at=row[6],
        rented_at=row[7], job_at=row[8], listed_at=row[9], buried_at=row[10],
        alarm=None if row[11] is None else Alarm(row[11]), alarm_at=row[12], alarm_text=row[13],
        destroying=bool(row[14]),
    )  # fmt: skip
