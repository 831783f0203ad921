"""Receipts read back, perhaps years later, perhaps after somebody edited them.

A receipt is believed when its bytes hash to its name and every field is what the format
says. Its paths are checked like a box's: none can lead out of the run's folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec

from gpuwatch.clean import clean
from gpuwatch.vault.layout import LOG, RECEIPTS, HostilePath, relative_parts
from gpuwatch.vault.receipt import FORMAT, sums_of
from gpuwatch.vault.reread import CHUNK, chunks, opened

MAX_RECEIPT = 64 << 20
"""Bytes of the longest receipt that is read: about 300,000 files."""
NAME = re.compile(r"([0-9a-f]{64})\.json")

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


class _Document(msgspec.Struct, frozen=True):
    format: str
    run: str
    written_at: Time
    files: list[_File]


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

    def twin(self) -> bytes:
        """What its `.sha256` file must hold."""
        return sums_of((p.sha256, p.path) for p in self.promises)


def load(folder: Path, digest: str) -> Proof:
    """The receipt of this name in a run's folder. Raises BadReceipt, UnknownReceipt, NotThere, OSError."""
    data = read_bounded(folder, f"{digest}.json", MAX_RECEIPT)
    if len(data) > MAX_RECEIPT:
        raise UnknownReceipt(f"longer than {MAX_RECEIPT >> 20} MiB, which no receipt of this format is")
    if hashlib.sha256(data).hexdigest() != digest:
        raise BadReceipt("its bytes do not hash to its name")
    return parse(data, digest)


def read_bounded(folder: Path, name: str, limit: int) -> bytes:
    """A file of `.receipts/`, of at most `limit` + some bytes when it is longer than that. Raises NotThere, OSError."""
    found = bytearray()
    with opened(folder, (RECEIPTS, name)) as descriptor:
        for chunk in chunks(descriptor, bytearray(CHUNK)):
            found += chunk
            if len(found) > limit:
                break
    return bytes(found)


def parse(data: bytes, digest: str) -> Proof:
    """A receipt's bytes, checked. Pure. Raises BadReceipt, UnknownReceipt."""
    try:
        # the standard library, because names that are no UTF-8 stand there as lone surrogates
        raw = json.loads(data.decode("ascii"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadReceipt(f"no JSON: {clean(str(error), 200)}") from error
    if isinstance(raw, dict) and isinstance(raw.get("format"), str) and raw["format"] != FORMAT:
        raise UnknownReceipt(f"format {clean(raw['format'], 60)!r}, this gpuwatch knows {FORMAT!r}: upgrade")
    try:
        document = msgspec.convert(raw, _Document)
    except msgspec.ValidationError as error:
        raise BadReceipt(clean(str(error), 200)) from error
    promises = tuple(_promise(file, digest) for file in document.files)
    if len({p.path for p in promises}) != len(promises):
        raise BadReceipt("it names a file twice")
    return Proof(digest, document.written_at, promises)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _promise(file: _File, digest: str) -> Promise:
    try:
        parts = (LOG,) if file.path == LOG else relative_parts(file.path)
    except HostilePath as error:
        raise BadReceipt(clean(str(error), 200)) from error
    return Promise(file.path, parts, file.bytes, file.sha256, file.mtime_ns, file.verified_at, digest)


def newest(proofs: Iterable[Proof]) -> dict[str, Promise]:
    """Path → what the newest receipt that names it says. Older receipts count where no newer one does. Pure."""
    promised: dict[str, Promise] = {}
    for proof in sorted(proofs, key=lambda p: (p.written_at, p.digest)):
        promised.update((p.path, p) for p in proof.promises)
    return promised
