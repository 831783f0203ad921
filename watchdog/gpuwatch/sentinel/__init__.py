"""The file that runs on the box. `source` reads it; nothing here imports it."""

from __future__ import annotations

from pathlib import Path


def source() -> bytes:
    """The sentinel's source, to be put on a box as it is."""
    return Path(__file__).with_name("sentinel.py").read_bytes()
