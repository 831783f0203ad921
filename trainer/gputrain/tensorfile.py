"""The safetensors format with the standard library alone, hashed while it is written.

Layout (huggingface/safetensors, "Format"): 8 bytes little-endian header length, a JSON header padded
with spaces to a multiple of 8, then the tensors without gaps.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import queue
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CHUNK = 8 << 20
"""Bytes per write and per hash update: large, so that both run without the interpreter lock."""

BLOCK = 4096
"""Alignment of direct I/O: of file offsets, lengths and memory."""

MAX_HEADER = 100 << 20
"""Longest header accepted, in bytes; the limit of the safetensors library."""

_libc = ctypes.CDLL(None)

ITEM_SIZE: Mapping[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class TensorFileError(ValueError):
    """The file is not a valid safetensors file."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the start of the data."""
    end: int


@dataclass(frozen=True)
class FileHash:
    """Size in bytes and SHA-256 of a file as it was written."""

    bytes: int
    sha256: str


def plan_layout(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Entry]:
    """Place tensors (name, dtype, shape) one after the other, widest items first so all align."""
    entries: list[Entry] = []
    offset = 0
    for name, dtype, shape in sorted(tensors, key=lambda t: (-ITEM_SIZE[t[1]], t[0])):
        size = ITEM_SIZE[dtype]
        for extent in shape:
            size *= extent
        entries.append(Entry(name, dtype, shape, offset, offset + size))
        offset += size
    return entries


def encode_header(entries: Iterable[Entry], metadata: Mapping[str, str], *, align: int = 8) -> bytes:
    """The bytes in front of the data, padded so that the data begins at a multiple of `align`."""
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    for entry in entries:
        table[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text


def read_header(path: Path) -> tuple[list[Entry], dict[str, str], int]:
    """Entries, metadata and the offset of the data in the file.

    Raises TensorFileError when the header is torn, absurd or does not match the file's size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise TensorFileError(f"{path}: header of {length} bytes in a file of {size}")
        try:
            table = json.loads(file.read(length))
            metadata = dict(table.pop("__metadata__", {}))
            entries = [
                Entry(name, str(e["dtype"]), tuple(e["shape"]), *map(int, e["data_offsets"]))
                for name, e in table.items()
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TensorFileError(f"{path}: unreadable header ({error})") from error
    entries.sort(key=lambda entry: entry.begin)
    offset = 0
    for entry in entries:
        expected = ITEM_SIZE.get(entry.dtype, 0)
        for extent in entry.shape:
            expected *= extent
        if entry.begin != offset or entry.end - entry.begin != expected or not expected >= 0:
            raise TensorFileError(f"{path}: tensor {entry.name!r} has impossible offsets")
        offset = entry.end
    if 8 + length + offset != size:
        raise TensorFileError(f"{path}: {size} bytes, expected {8 + length + offset}")
    return entries, metadata, 8 + length


def write_hashed(path: Path, header: bytes, data: memoryview) -> FileHash:
    """Write header and data to a new file, fsync it, and hash the same bytes on a second thread.

    Past the page cache when header and data are aligned to `BLOCK` and the file system can: that
    costs the processor almost nothing and leaves the cache to the training data.
    Raises OSError (disk full and the like); the torn file is left for the caller to remove.
    """
    digest = hashlib.sha256(header)
    chunks: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()

    def hash_chunks() -> None:
        while (chunk := chunks.get()) is not None:
            digest.update(chunk)

    hasher = threading.Thread(target=hash_chunks, name="gputrain-hash")
    hasher.start()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        _write_all(descriptor, memoryview(header))
        direct = len(header) % BLOCK == 0 and set_direct(descriptor, on=True)
        for begin in range(0, len(data), CHUNK):
            chunk = data[begin : begin + CHUNK]
            chunks.put(chunk)
            if direct and not _write_direct(descriptor, chunk):
                direct = set_direct(descriptor, on=False)
            if not direct:
                at = os.lseek(descriptor, 0, os.SEEK_CUR)
                _write_all(descriptor, data[at - len(header) : begin + len(chunk)])
                start_writeback(descriptor, at, len(header) + begin + len(chunk) - at)
        os.fsync(descriptor)
    finally:
        chunks.put(None)
        hasher.join()
        os.close(descriptor)
    return FileHash(len(header) + len(data), digest.hexdigest())


def set_direct(descriptor: int, *, on: bool) -> bool:
    """Turn direct I/O of an open file on or off; returns whether it is on."""
    if not hasattr(os, "O_DIRECT"):
        return False
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags)
    except OSError:
        return False
    return on


def _write_direct(descriptor: int, chunk: memoryview) -> bool:
    """Write what is whole blocks of a chunk; False if something is left for a buffered write."""
    whole = len(chunk) - len(chunk) % BLOCK
    try:
        _write_all(descriptor, chunk[:whole])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False  # the memory or this file system does not allow it
    return whole == len(chunk)


_SYNC_FILE_RANGE_WRITE = 2


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Let the disk begin with these bytes, so that fsync finds little left to do (Linux only)."""
    call = getattr(_libc, "sync_file_range", None)
    if call is not None:
        call(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def _write_all(descriptor: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(descriptor, data) :]


def hash_bytes(content: bytes) -> FileHash:
    """Size and SHA-256 of what will be a file."""
    return FileHash(len(content), hashlib.sha256(content).hexdigest())


def hash_file(path: Path) -> FileHash:
    """Size and SHA-256 of a file on disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileHash(size, digest.hexdigest())
