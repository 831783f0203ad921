"""The recording: a header line, then one line for each thing the daemon said, with its time.

Lines of JSON, so that it can be read, searched and edited. `what` names the kind: `runs`, `run`, `offers`,
`event`, `sample` (with `run`) or `log` (with `run`); `at` counts seconds from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from gpuwatch.client import wire

FORMAT = 1


class BadRecording(Exception):
    """The file is no recording that this version can play; the message says why."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """First line."""

    gputui: int = FORMAT
    started: float
    """Unix seconds."""
    version: str
    """Of the daemon that was recorded."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line."""

    at: float
    what: str
    run: str | None = None
    runs: wire.Runs | None = None
    detail: wire.RunDetail | None = None
    why: wire.Why | None = None
    offers: wire.Offers | None = None
    event: wire.EventRow | None = None
    sample: wire.Sample | None = None
    log: wire.LogChunk | None = None


def read(path: Path) -> tuple[Header, list[Record]]:
    """A recording. Raises BadRecording and OSError."""
    with path.open("rb") as file:
        return parse(file)


def parse(lines: Iterator[bytes]) -> tuple[Header, list[Record]]:
    """A recording from its lines; a last line that was cut off is left out."""
    try:
        header = msgspec.json.decode(next(iter(lines), b""), type=Header)
    except msgspec.DecodeError as error:
        raise BadRecording(f"this is no recording of gputui: {error}") from error
    if header.gputui != FORMAT:
        raise BadRecording(f"recorded in format {header.gputui}, this gputui plays format {FORMAT}")
    decoder, found, bad = msgspec.json.Decoder(Record), [], ""
    for number, line in enumerate(lines, 2):
        if bad:
            raise BadRecording(bad)
        try:
            found.append(decoder.decode(line))
        except (msgspec.DecodeError, RecursionError) as error:
            bad = f"line {number} cannot be read: {error}"
    return header, found
