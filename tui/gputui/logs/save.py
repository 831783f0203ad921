"""A log, or what is shown of it, into a file: text without anything that a terminal would obey."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gputui import ansi
from gputui.logs.store import FileLog, LogStore, next_line, raw_line


def save(store: LogStore, path: Path, lines: Iterable[int] | None = None) -> int:
    """Write all lines, or those that begin at `lines`, to the new file `path`; returns how many.

    For a thread: a captured file is opened anew. Raises OSError, FileExistsError when there is such a file.
    """
    if isinstance(store, FileLog):
        store = FileLog(store.path)
        store.refresh()
    written = 0
    with path.expanduser().open("x", encoding="utf-8") as out:
        for at in _all(store) if lines is None else lines:
            out.write(ansi.strip(raw_line(store, at)) + "\n")
            written += 1
    if isinstance(store, FileLog):
        store.close()
    return written


def _all(store: LogStore) -> Iterable[int]:
    at = store.start
    while at < store.end:
        yield at
        at = next_line(store, at)
