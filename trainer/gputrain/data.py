"""Training windows from memory-mapped tokens.

A corpus is a list of token arrays cut into windows of ``context`` tokens (each window also reads
the one token after it, as the last target). Sample number ``n`` of a run is window
``permutation(n)`` of epoch ``n // windows``: see `gputrain.order`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gputrain.config import DataConfig
from gputrain.errors import DataError
from gputrain.order import permute

Tokens = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Corpus:
    """Tokens that are drawn from together."""

    name: str
    train: tuple[Tokens, ...]
    val: tuple[Tokens, ...]
    vocab: int
    """Number of different token ids."""
    bytes_per_token: float
    """Bytes of text behind one token, for bits per byte."""
    sha256: str


def open_corpus(config: DataConfig) -> Corpus:
    """Open the text named in the configuration, one byte per token.

    Raises DataError when a file is missing, unreadable or empty.
    """
    if config.path:
        texts = [_map_bytes(Path(path)) for path in config.path]
        name = ", ".join(config.path)
    else:
        texts, name = [_python_text()], "the help topics of Python"
    digest = hashlib.sha256()
    train: list[Tokens] = []
    val: list[Tokens] = []
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text.data)
        held_out = int(len(text) * config.val_fraction)
        train.append(text[: len(text) - held_out])
        val.append(text[len(text) - held_out :])
    return Corpus(name, tuple(train), tuple(val), 256, 1.0, digest.hexdigest())


def _map_bytes(path: Path) -> npt.NDArray[np.uint8]:
    if path.is_dir():
        raise DataError(f"The data {path} is a directory; name a text file.")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"The data file {path} is empty.")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise DataError(f"Cannot read the data file {path}: {error.strerror}.") from error


def _python_text() -> npt.NDArray[np.uint8]:
    """About 0.7 MB of English: the help topics that ship with CPython."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode(), dtype=np.uint8)


class Windows:
    """Random access to the windows of a list of token arrays."""

    def __init__(self, arrays: tuple[Tokens, ...], context: int) -> None:
        self.arrays = arrays
        self.context = context
        counts = [max(0, (len(array) - 1) // context) for array in arrays]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, window: int) -> npt.NDArray[np.int64]:
        """Tokens of one window and the target after it: shape (context + 1,)."""
        array = int(np.searchsorted(self._starts, window, side="right")) - 1
        begin = (window - int(self._starts[array])) * self.context
        return self.arrays[array][begin : begin + self.context + 1].astype(np.int64)


class Sampler:
    """Sample ``n`` of the run, for every ``n``, whoever asks."""

    def __init__(self, corpus: Corpus, context: int, seed: int) -> None:
        self.windows = Windows(corpus.train, context)
        self.seed = seed
        if len(self.windows) == 0:
            size = sum(len(array) for array in corpus.train)
            raise DataError(
                f"The data ({corpus.name}) has {size} tokens, too few for one window of "
                f"{context} tokens. Use more text or a smaller model.context."
            )

    @property
    def windows_per_epoch(self) -> int:
        """Samples after which every window was seen once."""
        return len(self.windows)

    def batch(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of samples ``first`` … ``first + count - 1``: int64 (count, context)."""
        samples = np.arange(first, first + count, dtype=np.uint64)
        size = np.uint64(len(self.windows))
        rows = []
        for epoch in np.unique(samples // size):
            inside = samples[samples // size == epoch] % size
            rows += list(permute(inside, int(size), (self.seed, int(epoch))))
        return as_batch([self.windows.read(int(row)) for row in rows])


def as_batch(windows: list[npt.NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack windows into (inputs, targets), the targets shifted by one token."""
    stacked = torch.from_numpy(np.stack(windows))
    return stacked[:, :-1].contiguous(), stacked[:, 1:].contiguous()
