"""Receipts as they lie in the vault of this machine: read in place, and hashed, because their name is their hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gputui import wording as say
from gputui.clean import clean
from gputui.widgets.lines import Line, Para

_MOST = 20
"""Receipts that are read: the newest."""
_LARGEST = 64 << 20
"""Bytes above which a file is no receipt."""


class _File(msgspec.Struct):
    bytes: int = 0


class _Part(msgspec.Struct):
    files: int = 0
    bytes: int = 0


class _Content(msgspec.Struct):
    """What is shown of a receipt; everything else in it is left alone."""

    instance: str | None = None
    boot_id: str | None = None
    written_at: float = 0.0
    waived: list[str] = []
    waiver_reason: str = ""
    files: list[_File] = []
    parts: list[_Part] = []


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt. `whole`: its content hashes to its name. The rest is unknown when it cannot be read."""

    digest: str
    whole: bool
    written_at: float | None = None
    instance: str | None = None
    boot_id: str | None = None
    files: int = 0
    bytes: int = 0
    waived: tuple[str, ...] = ()
    reason: str = ""


def read(digest: str, text: bytes) -> Receipt:
    """What a receipt says, and whether it is the one that its name promises. Pure."""
    whole = hashlib.sha256(text).hexdigest() == digest
    try:
        found = msgspec.json.decode(text, type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Receipt(digest, whole=False)
    return Receipt(
        digest, whole, found.written_at, found.instance, found.boot_id,
        len(found.files) + sum(part.files for part in found.parts),
        sum(one.bytes for one in found.files) + sum(part.bytes for part in found.parts),
        tuple(clean(path, 300) for path in found.waived[:50]), clean(found.waiver_reason, 300),
    )  # fmt: skip


def of_run(log_path: str) -> list[Receipt]:
    """The receipts beside a run's captured log, the newest first. Blocking. Raises OSError."""
    folder = Path(log_path).parent / ".receipts"
    if not folder.is_dir():
        return []
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [
        read(path.stem, path.read_bytes())
        if path.stat().st_size <= _LARGEST
        else Receipt(path.stem, whole=False)
        for path in files[:_MOST]
    ]


def told(found: list[Receipt], log_path: str) -> list[Line | Para]:
    """Receipts as text, and how to check them without gputui. Pure."""
    if not found:
        return [
            Para("No receipt yet. The first is written when every promised file stands verified here; until then the machine stays."),
        ]  # fmt: skip
    lines: list[Line | Para] = []
    for one in found:
        mark = ("✓ ", "good") if one.whole else ("✗ ", "bad")
        lines.append(
            [mark, (one.digest[:16], "bold"), (f"  {say.when(one.written_at if one.whole else None)}", "dim")]
        )
        if not one.whole:
            lines.append(
                Para(
                    "  its content is not what its name promises, or cannot be read: it proves nothing",
                    "bad",
                    "  ",
                )
            )
            continue
        lines.append([(f"  {say.plural(one.files, 'file')}, {say.size(one.bytes)}", "")])
        lines.append(
            Para(
                f"  machine {clean(one.instance or say.UNKNOWN, 80)}, boot {clean(one.boot_id or say.UNKNOWN, 80)}",
                "dim",
                "  ",
            )
        )
        if one.waived:
            lines.append(Para(f"  △ given up: {', '.join(one.waived)}: {one.reason}", "warn", "  "))
    lines += [
        [],
        [("to check it without gputui", "dim")],
        Para(f"cd {clean(str(Path(log_path).parent), 400)}", "", "  "),
        Para(f"sha256sum -c .receipts/{found[0].digest[:8]}*.sha256", "", "  "),
    ]
    return lines
