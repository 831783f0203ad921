"""From documents to shards, committed one by one, so that an interrupted run goes on without a gap.

Each split remembers behind which document its last shard ended. A run that goes on reads again from
the earlier of the two places and leaves out what is committed; the files come out byte for byte as
without the interruption. Which split a document belongs to is decided by its hash.
"""

from __future__ import annotations

import gzip
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gputrain.errors import ConfigError
from gputrain.files import fsync_dir, read_json, replace_file, to_json
from gputrain.shards import DEFAULT_SHARD_TOKENS, FORMAT, HEADER_BYTES, Shard, split_of, token_dtype
from gputrain.tensorfile import FileHash, write_hashed
from gputrain.tokenizer import Tokenizer

SPLITS = ("train", "val")
BATCH_BYTES = 4 << 20
"""Text that is tokenised at a time: enough for all cores."""
BATCH_DOCUMENTS = 8192
REPORT_SECONDS = 5.0


class Form(Protocol):
    """What a shard holds: tokens or text."""

    @property
    def limit(self) -> int:
        """Tokens or documents after which a shard is full."""

    @property
    def documents(self) -> int:
        """Documents after which it is full too; 0 means any number."""

    def describe(self) -> dict[str, Any]:
        """For the manifest; part of the identity of the set."""

    def suffix(self) -> str:
        """Of the file names."""

    def convert(self, documents: Sequence[str]) -> list[Any]:
        """Each document as it is kept until its shard is written."""

    def size(self, item: Any) -> int:
        """What the item counts towards the limit."""

    def write(self, path: Path, items: Sequence[Any]) -> FileHash:
        """Write a shard."""


@dataclass(frozen=True)
class TokenForm:
    """``.bin`` files of token ids, which `gputrain train` reads."""

    tokenizer: Tokenizer
    limit: int = DEFAULT_SHARD_TOKENS
    documents: int = 0
    """Documents after which a shard is full too; 0 means any number."""

    def describe(self) -> dict[str, Any]:
        tokenizer = self.tokenizer
        known = {"kind": tokenizer.kind, "vocab": tokenizer.vocab, "sha256": tokenizer.sha256}
        by_documents = {"shard_documents": self.documents} if self.documents else {}
        return {"tokenizer": known, "shard_tokens": self.limit, **by_documents}

    def suffix(self) -> str:
        return ".bin"

    def convert(self, documents: Sequence[str]) -> list[npt.NDArray[Any]]:
        dtype, end = token_dtype(self.tokenizer.vocab), self.tokenizer.end_of_text
        return [
            np.append(ids, np.uint32(end)).astype(dtype) for ids in self.tokenizer.encode_batch(documents)
        ]

    def size(self, item: npt.NDArray[Any]) -> int:
        return len(item)

    def write(self, path: Path, items: Sequence[npt.NDArray[Any]]) -> FileHash:
        ids = np.concatenate(items)
        header = {
            "format": "gputrain-shard/1",
            "dtype": ids.dtype.name,
            "tokens": len(ids),
            "tokenizer_sha256": self.tokenizer.sha256,
        }
        return write_hashed(path, pad_header(header), ids.view(np.uint8).data)


@dataclass(frozen=True)
class TextForm:
    """``.jsonl`` files, with `zipped` as reproducible gzip (no time stamp); input of a later `shard`."""

    limit: int = 250_000
    zipped: bool = False
    documents: int = 0

    def describe(self) -> dict[str, Any]:
        return {"form": "jsonl.gz" if self.zipped else "jsonl", "lines_per_shard": self.limit}

    def suffix(self) -> str:
        return ".jsonl.gz" if self.zipped else ".jsonl"

    def convert(self, documents: Sequence[str]) -> list[bytes]:
        return [json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in documents]

    def size(self, item: bytes) -> int:
        return 1

    def write(self, path: Path, items: Sequence[bytes]) -> FileHash:
        content = b"".join(items)
        if self.zipped:
            packed = io.BytesIO()
            with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0, compresslevel=6) as file:
                file.write(content)
            content = packed.getvalue()
        return write_hashed(path, content, memoryview(b""))


def pad_header(header: dict[str, Any]) -> bytes:
    """A shard header: JSON, spaces, and a newline at byte 255."""
    return json.dumps(header).encode().ljust(HEADER_BYTES - 1) + b"\n"


@dataclass
class Pending:
    """The shard of one split that is being filled."""

    items: list[Any] = field(default_factory=list)
    size: int = 0
    docs: int = 0
    text_bytes: int = 0


class ShardWriter:
    """Writes the shards of one directory, or goes on with them.

    Raises ConfigError when the directory holds shards of other sources or settings.
    """

    def __init__(
        self, out: Path, form: Form, *, val_ratio: float = 0.0, source: Mapping[str, Any] = {}
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._form, self._val_ratio = out, form, val_ratio
        self._identity = {**form.describe(), "val_ratio": val_ratio, "source": dict(source)}
        self._pending = {split: Pending() for split in SPLITS}
        self.shards: list[Shard] = []
        self.committed = dict.fromkeys(SPLITS, 0)
        """Documents of the source, of any split, behind which each split is on disk."""
        self.complete = False
        self._take_up()

    def _take_up(self) -> None:
        known = read_json(self._out / "manifest.json")
        if known is None:
            return
        now = json.loads(json.dumps(self._identity))
        changed = [f"{key}: {known.get(key)} → {now[key]}" for key in now if known.get(key) != now[key]]
        if changed or "committed" not in known:
            raise ConfigError(
                f"{self._out} holds shards that were made otherwise:\n  "
                + "\n  ".join(changed)
                + "\nGive another --out."
            )
        self.shards = [Shard(**shard) for shard in known["shards"]]
        self.committed, self.complete = dict(known["committed"]), bool(known["complete"])

    @property
    def begin(self) -> int:
        """The first document of the source that is still needed."""
        return min(self.committed.values())

    def add(self, documents: Sequence[str], first: int) -> None:
        """Take documents number `first` … of the source; empty ones are ignored."""
        wanted = []
        for number, text in enumerate(documents, first):
            split = split_of(text, self._val_ratio)
            if text.strip() and number >= self.committed[split]:
                wanted.append((number, split, text))
        items = self._form.convert([text for _, _, text in wanted])
        for (number, split, text), item in zip(wanted, items, strict=True):
            pending = self._pending[split]
            pending.items.append(item)
            pending.size += self._form.size(item)
            pending.docs += 1
            pending.text_bytes += len(text.encode())
            if pending.size >= self._form.limit or 0 < self._form.documents <= pending.docs:
                self._commit(split, number + 1)

    def close(self, count: int) -> dict[str, Any]:
        """Commit what is left of a source of `count` documents; returns the manifest of the complete set."""
        for split in SPLITS:
            if self._pending[split].items:
                self._commit(split, count)
            self.committed[split] = count
        self.complete = True
        return self._write_manifest()

    def _commit(self, split: str, behind: int) -> None:
        pending, self._pending[split] = self._pending[split], Pending()
        number = sum(shard.split == split for shard in self.shards)
        name = f"{split}-{number:05d}{self._form.suffix()}"
        temporary = self._out / f".tmp-{name}"
        temporary.unlink(missing_ok=True)
        written = self._form.write(temporary, pending.items)
        temporary.rename(self._out / name)
        fsync_dir(self._out)
        tokens = pending.size if isinstance(self._form, TokenForm) else 0
        self.shards.append(
            Shard(name, split, tokens, pending.docs, pending.text_bytes, written.bytes, written.sha256)
        )
        self.committed[split] = behind
        self._write_manifest()

    def _write_manifest(self) -> dict[str, Any]:
        totals = {
            split: {
                key: sum(getattr(s, key) for s in self.shards if s.split == split)
                for key in ("tokens", "docs", "text_bytes")
            }
            for split in SPLITS
        }
        manifest = {
            "format": FORMAT,
            **self._identity,
            "shards": [asdict(shard) for shard in self.shards],
            "totals": totals,
            "committed": self.committed,
            "complete": self.complete,
        }
        replace_file(self._out / "manifest.json", to_json(manifest))
        return manifest


def write_shards(
    documents: Callable[[int], Iterator[str]],
    writer: ShardWriter,
    *,
    total_bytes: int = 0,
    say: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Shard everything that ``documents(skip)`` gives after the first `skip`; returns the manifest.

    `total_bytes`, the size of the text if it is known, gives the time left.
    """
    began = reported = now()
    count, read = writer.begin, 0
    for batch in batches(documents(writer.begin)):
        writer.add(batch, count)
        count += len(batch)
        read += sum(len(text) for text in batch)
        if now() - reported >= REPORT_SECONDS:
            reported = now()
            rate = read / max(1e-9, reported - began)
            left = f", {max(0.0, total_bytes - read) / rate:,.0f} s left" if total_bytes else ""
            say(
                f"{count:,} documents, {read / 1e6:,.1f} MB, {rate / 1e6:.2f} MB/s, {len(writer.shards)} shards{left}"
            )
    return writer.close(count)


def batches(documents: Iterator[str]) -> Iterator[list[str]]:
    """Documents together, about `BATCH_BYTES` at a time."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
