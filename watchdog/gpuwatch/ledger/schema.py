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
)
