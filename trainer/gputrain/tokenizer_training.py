"""`gputrain tokenizer`: train a byte-level BPE, take over one that exists, or find that nothing changed.

Training is deterministic: the same documents and vocabulary give the same file byte for byte. The
manifest beside ``tokenizer.json`` says from what it was made; while that holds it is used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gputrain.errors import ConfigError, DataError
from gputrain.files import read_json, replace_file, to_json
from gputrain.tensorfile import hash_bytes, hash_file
from gputrain.tokenizer import END_OF_TEXT, open_tokenizer

FORMAT = "gputrain-tokenizer/1"
MIN_VOCAB = 257
"""All bytes and the end of a document."""


@dataclass(frozen=True)
class Made:
    """A tokenizer on disk."""

    path: Path
    vocab: int
    reused: bool


def train_tokenizer(documents: Iterable[str], out: Path, vocab: int, source: dict[str, Any]) -> Made:
    """Train on `documents` into ``out/tokenizer.json``, unless it is there already from the same source.

    `source` describes the documents. Raises ConfigError for a vocabulary below 257 or a missing
    library, DataError when there is no text.
    """
    if vocab < MIN_VOCAB:
        raise ConfigError(f"A byte-level vocabulary has at least {MIN_VOCAB} tokens, not {vocab}.")
    try:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise ConfigError("Training a tokenizer needs the library: pip install tokenizers.") from None
    made_from = {"source": source, "vocab_wanted": vocab, "tokenizers": tokenizers.__version__}
    if (found := reusable(out, made_from)) is not None:
        return found
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    seen = Counted(documents)
    model.train_from_iterator(seen, trainer)
    if not seen.characters:
        raise DataError("There is no text to train a tokenizer on.")
    return _keep(out, model.to_str(pretty=True).encode(), made_from)


def import_tokenizer(path: Path, out: Path) -> Made:
    """Take over a ``tokenizer.json``. Raises DataError when it cannot be used."""
    open_tokenizer(str(path))
    made_from = {"source": {"imported": hash_file(path).sha256}}
    return reusable(out, made_from) or _keep(out, path.read_bytes(), made_from)


def reusable(out: Path, made_from: dict[str, Any]) -> Made | None:
    """The tokenizer in `out` if its manifest says that it was made from the same and its hash holds."""
    manifest, path = read_json(out / "tokenizer.manifest.json"), out / "tokenizer.json"
    if manifest is None or not path.is_file():
        return None
    if manifest.get("made_from") != made_from or hash_file(path).sha256 != manifest.get("sha256"):
        return None
    return Made(path, int(manifest["vocab"]), reused=True)


def _keep(out: Path, content: bytes, made_from: dict[str, Any]) -> Made:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "tokenizer.json"
    replace_file(path, content)
    vocab = open_tokenizer(str(path)).vocab
    manifest = {
        "format": FORMAT,
        "made_from": made_from,
        "vocab": vocab,
        "sha256": hash_bytes(content).sha256,
    }
    replace_file(out / "tokenizer.manifest.json", to_json(manifest))
    return Made(path, vocab, reused=False)


def describe_sources(names: Iterable[str], **reading: Any) -> dict[str, Any]:
    """What makes two readings of documents the same: local files by content, others by name."""
    known = {}
    for name in names:
        path = Path(name)
        known[path.name if path.is_file() else name] = hash_file(path).sha256 if path.is_file() else ""
    return {"files": known, **reading}


class Counted:
    """Passes documents on and counts their characters."""

    def __init__(self, documents: Iterable[str]) -> None:
        self._documents = documents
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for document in self._documents:
            self.characters += len(document.strip())
            yield document
