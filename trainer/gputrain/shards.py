"""Token shards: ``*.bin`` files of little-endian ids behind a 256-byte JSON header, and a manifest.

``manifest.json`` lists every shard with its counts and SHA-256 and is replaced after each one, so a
shard that it does not name does not exist. They are written by `gputrain.sharding`.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gputrain.errors import DataError
from gputrain.files import read_json
from gputrain.tensorfile import hash_file

FORMAT = "gputrain-data/1"
HEADER_BYTES = 256
DEFAULT_SHARD_TOKENS = 100_000_000

Tokens = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Shard:
    """One file of tokens as the manifest lists it."""

    name: str
    split: str
    tokens: int
    docs: int
    text_bytes: int
    """UTF-8 bytes of the text behind the tokens."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardSet:
    """A directory of shards that was checked against its manifest."""

    path: Path
    shards: tuple[Shard, ...]
    vocab: int
    tokenizer_sha256: str
    manifest_sha256: str

    def arrays(self, split: str) -> tuple[Tokens, ...]:
        """The tokens of a split, memory-mapped."""
        dtype = token_dtype(self.vocab)
        return tuple(
            np.memmap(
                self.path / shard.name, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(shard.tokens,)
            )
            for shard in self.shards
            if shard.split == split and shard.tokens
        )

    def bytes_per_token(self) -> float:
        """Text bytes behind an average token of the validation split, or of all if it is empty."""
        chosen = [s for s in self.shards if s.split == "val" and s.tokens] or list(self.shards)
        return sum(s.text_bytes for s in chosen) / max(1, sum(s.tokens for s in chosen))


def token_dtype(vocab: int) -> type[np.uint16 | np.uint32]:
    """The narrowest type that holds the ids."""
    return np.uint16 if vocab <= 1 << 16 else np.uint32


def split_of(document: str, val_ratio: float) -> str:
    """``val`` or ``train`` by the hash of the document: stable under any order or sharding."""
    digest = hashlib.sha256(document.encode("utf-8", "surrogateescape")).digest()
    return "val" if int.from_bytes(digest[:8], "little") < val_ratio * 2**64 else "train"


def open_shards(path: Path, *, full: bool = True) -> ShardSet:
    """Open a directory of shards after checking that every file is what the manifest says.

    With `full` the content is hashed too; without, presence, size and header are checked.
    Raises DataError naming each shard and what is wrong with it.
    """
    manifest = read_json(path / "manifest.json")
    if manifest is None:
        raise DataError(f"{path} has no readable manifest.json; make one with gputrain shard.")
    try:
        if manifest["format"] != FORMAT:
            raise DataError(f"{path}/manifest.json has the unknown format {manifest['format']!r}.")
        shards = tuple(Shard(**shard) for shard in manifest["shards"])
        vocab, tokenizer_sha256 = int(manifest["tokenizer"]["vocab"]), str(manifest["tokenizer"]["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}/manifest.json is malformed: {error!r}.") from error
    if not manifest.get("complete"):
        raise DataError(f"{path} is not complete: sharding was interrupted. Run gputrain shard again.")
    if not any(shard.tokens for shard in shards):
        raise DataError(f"{path} has no documents to train on.")
    found = ShardSet(path, shards, vocab, tokenizer_sha256, hash_file(path / "manifest.json").sha256)
    with ThreadPoolExecutor(max_workers=4) as pool:
        problems = [p for p in pool.map(lambda s: _problem(found, s, full=full), shards) if p]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(shards)} shards in {path} cannot be used: {'; '.join(problems[:5])}. "
            "Copy them again or run gputrain shard."
        )
    return found


def _problem(found: ShardSet, shard: Shard, *, full: bool) -> str | None:
    path = found.path / shard.name
    if "/" in shard.name or not path.is_file():
        return f"{shard.name} is missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"{shard.name} has {size} bytes instead of {shard.bytes}"
    with path.open("rb") as file:
        try:
            header = json.loads(file.read(HEADER_BYTES))
        except ValueError:
            return f"{shard.name} has an unreadable header"
    expected = {
        "dtype": token_dtype(found.vocab).__name__,
        "tokens": shard.tokens,
        "tokenizer_sha256": found.tokenizer_sha256,
    }
    wrong = [key for key, value in expected.items() if header.get(key) != value]
    if wrong:
        return f"{shard.name} disagrees with the manifest about {', '.join(wrong)}"
    if full and hash_file(path).sha256 != shard.sha256:
        return f"{shard.name} does not have the SHA-256 of the manifest"
    return None
