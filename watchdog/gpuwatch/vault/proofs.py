"""Receipts read back, perhaps years later, perhaps after somebody edited them.

A receipt is believed when its bytes hash to its name and every field is what the format
says. Its paths are checked like a box's: none can lead out of the run's folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec

from gpuwatch.clean import clean
from gpuwatch.vault.layout import LOG, RECEIPTS, HostilePath, relative_parts
from gpuwatch.vault.receipt import FORMAT, PARTED, sum_line
from gpuwatch.vault.reread import CHUNK, chunks, opened

MAX_RECEIPT = 64 << 20
"""Bytes of the longest document that is read, receipt or part of one."""
MAX_FILES = 4_000_000
"""Files that one receipt may name, over all its parts."""
NAME = re.compile(r"([0-9a-f]{64})\.json")
PART = re.compile(r"[0-9a-f]{64}\.part")

Time = Annotated[float, msgspec.Meta(ge=0, le=95_617_584_000)]  # to the year 5000, so that it can be shown
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class BadReceipt(Exception):
    """A receipt that is not what was written: damaged, or edited by hand."""


class UnknownReceipt(Exception):
    """A receipt that cannot be judged here: too large, or of a format that this gpuwatch does not know."""


class _File(msgspec.Struct, frozen=True):
    path: str
    bytes: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    sha256: Sha256
    mtime_ns: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    verified_at: Time


class _Part(msgspec.Struct, frozen=True):
    sha256: Sha256
    files: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILES)]


class _Files(msgspec.Struct, frozen=True):
    files: list[_File]


class _Document(msgspec.Struct, frozen=True):
    format: str
    run: str
    written_at: Time
    files: list[_File] = []
    parts: list[_Part] = []


@dataclass(frozen=True, slots=True)
class Promise:
    """One file that a receipt says stood verified. `size` in bytes, times as in the receipt."""

    path: str
    parts: tuple[str, ...]
    size: int
    sha256: str
    mtime_ns: int
    verified_at: float
    receipt: str
    """The digest of the receipt that says so."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One receipt that is whole."""

    digest: str
    written_at: float
    promises: tuple[Promise, ...]

    def twin(self) -> Iterator[bytes]:
        """What its `.sha256` file must hold, line by line."""
        return (sum_line(p.sha256, p.path) for p in self.promises)


def load(folder: Path, digest: str) -> Proof:
    """The receipt of this name in a run's folder. Raises BadReceipt, UnknownReceipt, NotThere, OSError."""
    return parse(
        _read(folder, f"{digest}.json", digest),
        digest,
        lambda sha256: _read(folder, f"{sha256}.part", sha256),
    )


def _read(folder: Path, name: str, sha256: str) -> bytes:
    data = read_bounded(folder, name, MAX_RECEIPT)
    if len(data) > MAX_RECEIPT:
        raise UnknownReceipt(f"longer than {MAX_RECEIPT >> 20} MiB, which no receipt of this format is")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadReceipt("its bytes do not hash to its name")
    return data


def read_bounded(folder: Path, name: str, limit: int) -> bytes:
    """A file of `.receipts/`, of at most `limit` + some bytes when it is longer than that. Raises NotThere, OSError."""
    found = bytearray()
    with opened(folder, (RECEIPTS, name)) as descriptor:
        for chunk in chunks(descriptor, bytearray(CHUNK)):
            found += chunk
            if len(found) > limit:
                break
    return bytes(found)


def _no_parts(_sha256: str) -> bytes:
    raise BadReceipt("its parts are not at hand")


def parse(data: bytes, digest: str, part: Callable[[str], bytes] = _no_parts) -> Proof:
    """A receipt's bytes, checked; `part` gives the checked bytes of a part. Raises BadReceipt, UnknownReceipt."""
    raw = _json(data)
    found = raw.get("format") if isinstance(raw, dict) else None
    if isinstance(found, str) and found not in (FORMAT, PARTED):
        raise UnknownReceipt(f"format {clean(found, 60)!r}, this gpuwatch knows {PARTED!r}: upgrade")
    document = _convert(raw, _Document)
    if (document.format == PARTED) != bool(document.parts) or (document.parts and document.files):
        raise BadReceipt("it does not hold what its format says")
    if sum(p.files for p in document.parts) > MAX_FILES:
        raise UnknownReceipt(f"it names more than {MAX_FILES} files")
    promises = [_promise(file, digest) for file in document.files]
    for named in document.parts:
        files = _convert(_json(part(named.sha256)), _Files).files
        if len(files) != named.files:
            raise BadReceipt("a part has not as many files as the receipt says")
        promises += [_promise(file, digest) for file in files]
    if len({p.path for p in promises}) != len(promises):
        raise BadReceipt("it names a file twice")
    return Proof(digest, document.written_at, tuple(promises))


def _json(data: bytes) -> Any:
    try:
        # the standard library, because names that are no UTF-8 stand there as lone surrogates
        return json.loads(data.decode("ascii"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadReceipt(f"no JSON: {clean(str(error), 200)}") from error


_T = TypeVar("_T")


def _convert(raw: Any, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise BadReceipt(clean(str(error), 200)) from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _promise(file: _File, digest: str) -> Promise:
    try:
        parts = (LOG,) if file.path == LOG else relative_parts(file.path)
    except HostilePath as error:
        raise BadReceipt(clean(str(error), 200)) from error
    return Promise(file.path, parts, file.bytes, file.sha256, file.mtime_ns, file.verified_at, digest)


def newest(proofs: Iterable[Proof]) -> dict[str, Promise]:
    """Path → what the newest receipt that names it says. Older receipts count where no newer one does. Pure.

    A file that a newer receipt made a folder of, or a folder that it made a file of, is
    replaced like one of the same name.
    """
    promised: dict[str, Promise] = {}
    ordered = sorted(proofs, key=lambda p: (p.written_at, p.digest))
    for proof in ordered:
        if promised:
            fresh = {p.path for p in proof.promises}
            above = {folder for p in proof.promises for folder in _folders(p.parts)}
            promised = {
                path: p
                for path, p in promised.items()
                if path not in above and fresh.isdisjoint(_folders(p.parts))
            }
        promised.update((p.path, p) for p in proof.promises)
    return promised


def _folders(parts: tuple[str, ...]) -> Iterator[str]:
    """The folders above a path."""
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))
