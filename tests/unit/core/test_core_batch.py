"""A batch that is closed while it is being flushed: the flush ends, and so does its thread."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from gpuwatch.vault.batch import Batch, Landed, Outcome
from gpuwatch.vault.layout import MARKER

DATA = b"small"


def test_a_flush_returns_although_the_batch_is_closed_as_soon_as_its_files_are_told(tmp_path: Path) -> None:
    told: dict[int, Outcome] = {}
    closers: list[threading.Thread] = []

    def done(outcomes: Mapping[int, Outcome]) -> None:
        """Whoever hears the last outcome closes, while the flush still waits for the queue."""
        told.update(outcomes)
        closer = threading.Thread(target=batch.close, daemon=True)
        closer.start()
        closer.join(0.2)  # it cannot end before the flush; it must have begun
        closers.append(closer)

    (tmp_path / MARKER).touch()
    batch = Batch(tmp_path / "run" / ".partial", done, most=1 << 20)
    target = tmp_path / "run" / "file"
    batch.add(7, target, memoryview(DATA), hashlib.sha256(DATA).hexdigest(), 1)
    flusher = threading.Thread(target=batch.flush, daemon=True)
    flusher.start()
    flusher.join(20)
    assert not flusher.is_alive(), "the flush waits for ever"
    closers[0].join(20)
    assert not closers[0].is_alive()
    assert isinstance(told[7], Landed)
    assert target.read_bytes() == DATA
    with pytest.raises(OSError, match="closed"):
        batch.add(8, tmp_path / "run" / "late", memoryview(DATA), hashlib.sha256(DATA).hexdigest(), 1)
