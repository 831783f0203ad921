"""Text to token ids. Bytes need nothing; BPE reads a Hugging Face ``tokenizer.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gputrain.errors import ConfigError, DataError

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """What sharding needs of a tokenizer."""

    @property
    def kind(self) -> str:
        """``bytes`` or ``bpe``."""

    @property
    def vocab(self) -> int:
        """Number of token ids, the end-of-text token included."""

    @property
    def end_of_text(self) -> int:
        """Id written after every document."""

    @property
    def sha256(self) -> str:
        """Identity of the mapping."""

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """Token ids of a document, without the end-of-text token."""

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """`encode` for many documents, on all cores."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what is not UTF-8 becomes U+FFFD."""


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes are the ids 0 … 255; 256 ends a document."""

    kind: str = "bytes"
    vocab: int = 257
    end_of_text: int = 256
    sha256: str = hashlib.sha256(b"gputrain bytes/1").hexdigest()

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8).astype(np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(t for t in tokens if t < 256).decode("utf-8", "replace")


@dataclass(frozen=True)
class BPETokenizer:
    """A tokenizer of the Hugging Face `tokenizers` library."""

    model: Any
    vocab: int
    end_of_text: int
    sha256: str
    kind: str = "bpe"

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        return np.asarray(self.model.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        found = self.model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.uint32) for encoding in found]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.model.decode(list(tokens), skip_special_tokens=False))


def open_tokenizer(name: str) -> Tokenizer:
    """``bytes``, or the path of a ``tokenizer.json``.

    Raises ConfigError if the `tokenizers` library is absent, DataError if the file is unusable.
    """
    if name == "bytes":
        return ByteTokenizer()
    try:
        import tokenizers
    except ImportError:
        raise ConfigError("A BPE tokenizer needs the library: pip install tokenizers.") from None
    path = Path(name)
    try:
        content = path.read_bytes()
        model = tokenizers.Tokenizer.from_buffer(content)
    except OSError as error:
        raise DataError(f"Cannot read the tokenizer {path}: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not a tokenizer.json: {error}.") from error
    end = model.token_to_id(END_OF_TEXT)
    if end is None:
        raise DataError(f"{path} has no {END_OF_TEXT} token, which ends every document.")
    return BPETokenizer(model, model.get_vocab_size(), end, hashlib.sha256(content).hexdigest())
