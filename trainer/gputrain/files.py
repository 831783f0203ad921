"""Durable small files: replaced whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def fsync_dir(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durable(path: Path, content: bytes) -> None:
    """Write a new file and fsync it (the directory is the caller's)."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` atomically; with `durable` it also survives a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if durable:
        write_durable(temporary, content)
    else:
        temporary.write_bytes(content)
    temporary.replace(path)
    if durable:
        fsync_dir(path.parent)


def clean(value: Any) -> Any:
    """The value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list | tuple) else value


def to_json(value: Any) -> bytes:
    """Readable JSON with a final newline."""
    return (json.dumps(clean(value), indent=1, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None when it is absent, torn or not an object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


class LineLog:
    """An append-only JSON-lines file; a torn last line (a kill in mid-write) is cut off on opening."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self.durable = durable
        self._file = path.open("ab")
        size = self._file.tell()
        if size:
            tail = path.read_bytes()
            complete = tail.rfind(b"\n") + 1
            if complete != size:
                self._file.truncate(complete)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record as one line; it is on disk on return when the log is durable."""
        self._file.write(json.dumps(clean(record), separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        if self.durable:
            os.fsync(self._file.fileno())

    def last(self) -> dict[str, Any] | None:
        """The last record that parses."""
        for line in reversed(self.path.read_bytes().splitlines()):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                return record
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
