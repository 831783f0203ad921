"""The tables, as migrations. `PRAGMA user_version` is the number of migrations applied.

A migration that was released is never edited; tests upgrade a stored ledger of every
earlier version.
"""

from __future__ import annotations

from typing import Final

PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # a launch or destroy intent must survive a power cut
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=5000",
    "PRAGMA journal_size_limit=67108864",
    "PRAGMA trusted_schema=OFF",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            run TEXT,
            kind TEXT NOT NULL,
            data BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX events_by_run ON events (run, seq)",
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY,
            seq INTEGER NOT NULL,
            doc BLOB NOT NULL
        ) STRICT, WITHOUT ROWID""",
        "CREATE TABLE launches (key TEXT PRIMARY KEY, run TEXT NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE labels (
            label TEXT PRIMARY KEY,
            run TEXT NOT NULL,
            provider TEXT NOT NULL,
            at REAL NOT NULL,
            instance_id TEXT,
            gone_at REAL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE copies (
            run TEXT NOT NULL,
            path BLOB NOT NULL,
            size INTEGER NOT NULL,
            sha256 TEXT NOT NULL,
            mtime_ns INTEGER NOT NULL,
            ctime_ns INTEGER NOT NULL,
            inode INTEGER NOT NULL,
            boot_id TEXT NOT NULL,
            verified_at REAL NOT NULL,
            step INTEGER,
            PRIMARY KEY (run, path)
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        # the newest re-read of a copy at home; `problem` is NULL when it was as proved. A new copy ends its row
        """CREATE TABLE scrubs (
            run TEXT NOT NULL,
            path BLOB NOT NULL,
            at REAL NOT NULL,
            problem TEXT,
            PRIMARY KEY (run, path)
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        # what a start and a listing ask of runs, without reading their documents: ended runs stay on the disk
        "ALTER TABLE runs ADD COLUMN name TEXT",
        "ALTER TABLE runs ADD COLUMN state TEXT",
        "ALTER TABLE runs ADD COLUMN created_at REAL",
        "ALTER TABLE runs ADD COLUMN ended_at REAL",
        """UPDATE runs SET
            name = json_extract(CAST(doc AS TEXT), '$.name'),
            state = json_extract(CAST(doc AS TEXT), '$.state'),
            created_at = json_extract(CAST(doc AS TEXT), '$.created_at'),
            ended_at = json_extract(CAST(doc AS TEXT), '$.ended_at')""",
        "CREATE INDEX runs_by_end ON runs (ended_at, created_at)",
        "CREATE INDEX runs_by_name ON runs (name, created_at)",
        "CREATE INDEX runs_by_state ON runs (state)",
        # the register of machines. Of those before this format nobody knows whether a job ran: so one did
        "ALTER TABLE labels ADD COLUMN sent_at REAL",
        "ALTER TABLE labels ADD COLUMN rented_at REAL",
        "ALTER TABLE labels ADD COLUMN job_at REAL",
        "ALTER TABLE labels ADD COLUMN listed_at REAL",
        "ALTER TABLE labels ADD COLUMN buried_at REAL",
        "ALTER TABLE labels ADD COLUMN alarm TEXT",
        "ALTER TABLE labels ADD COLUMN alarm_at REAL",
        "ALTER TABLE labels ADD COLUMN alarm_text TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE labels ADD COLUMN destroying INTEGER NOT NULL DEFAULT 0",
        """UPDATE labels SET sent_at = at, job_at = at, buried_at = gone_at,
            rented_at = CASE WHEN instance_id IS NULL THEN NULL ELSE at END,
            listed_at = CASE WHEN instance_id IS NULL THEN NULL ELSE at END""",
        "CREATE INDEX labels_open ON labels (label) WHERE buried_at IS NULL OR alarm IS NOT NULL",
        # who we are to each vendor
        "CREATE TABLE accounts (provider TEXT PRIMARY KEY, user TEXT, key_id TEXT, at REAL NOT NULL) STRICT, WITHOUT ROWID",
        # when each copy was last proved, so that the longest unread are found without reading all
        "ALTER TABLE copies ADD COLUMN proved_at REAL",
        """UPDATE copies SET proved_at = COALESCE(
            (SELECT at FROM scrubs WHERE scrubs.run = copies.run AND scrubs.path = copies.path), verified_at)""",
        "CREATE INDEX copies_by_proof ON copies (proved_at)",
        "CREATE INDEX scrubs_bad ON scrubs (run) WHERE problem IS NOT NULL",
        "CREATE INDEX scrubs_by_time ON scrubs (at)",
    ),
    (
        # how a copy stood in the vault when it was read back: what has not changed since need not be read again
        "ALTER TABLE copies ADD COLUMN home_mtime_ns INTEGER",
        "ALTER TABLE copies ADD COLUMN home_inode INTEGER",
    ),
    (
        # which clock the recorded times are of: within one boot of the computer, time is counted on from here
        """CREATE TABLE clock (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            boot TEXT NOT NULL,
            offset REAL NOT NULL
        ) STRICT""",
    ),
    (
        # what retention let go from a place, so that nobody calls it lost. `removed` is 0 until it has been done.
        # A new copy of the file ends its rows
        """CREATE TABLE let_go (
            run TEXT NOT NULL,
            path BLOB NOT NULL,
            place TEXT NOT NULL,
            size INTEGER NOT NULL,
            sha256 TEXT NOT NULL,
            step INTEGER,
            verified_at REAL NOT NULL,
            at REAL NOT NULL,
            removed INTEGER NOT NULL,
            PRIMARY KEY (run, path, place)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX let_go_unfinished ON let_go (run) WHERE removed = 0",
    ),
    (
        # machines that are stopped and started again: events that an older gpuwatch cannot read, and no new tables
    ),
)
