"""Training windows from memory-mapped tokens.

A corpus is a list of token arrays cut into windows of ``context`` tokens (each window also reads
the one token after it, as the last target). Which window is sample number ``n`` of the run is a
function of the seed (see `gputrain.order`), so there is no loader state to save.
"""

from __future__ import annotations

import glob
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gputrain.config import DataConfig
from gputrain.errors import DataError
from gputrain.order import Indices, permute
from gputrain.shards import Tokens, open_shards

Batch = tuple[torch.Tensor, torch.Tensor]

MIX_BLOCK = 1024
"""Samples over which the weights of a mixture are met exactly (to one sample)."""


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
    tokenizer: str = "raw bytes"
    """Identity of the tokenizer: corpora can be mixed only if it is the same."""


@dataclass(frozen=True)
class Mixture:
    """All corpora of a run; `weights` are empty when everything is simply read once per epoch."""

    corpora: tuple[Corpus, ...]
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        """What a person calls it."""
        return ", ".join(corpus.name for corpus in self.corpora)

    @property
    def vocab(self) -> int:
        """Number of different token ids."""
        return self.corpora[0].vocab

    @property
    def bytes_per_token(self) -> float:
        """Of the validation tokens of all corpora together."""
        sizes = [max(1, sum(len(a) for a in corpus.val)) for corpus in self.corpora]
        texts = [s * c.bytes_per_token for s, c in zip(sizes, self.corpora, strict=True)]
        return sum(texts) / sum(sizes)

    @property
    def val(self) -> tuple[Tokens, ...]:
        """Validation tokens of all corpora."""
        return tuple(array for corpus in self.corpora for array in corpus.val)

    @property
    def sha256(self) -> str:
        """Identity of the data and its mixture."""
        if len(self.corpora) == 1:
            return self.corpora[0].sha256
        parts = [corpus.sha256 for corpus in self.corpora] + [repr(weight) for weight in self.weights]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def open_data(config: DataConfig, *, full: bool = True) -> Mixture:
    """Open and check everything the configuration names; with `full` shards are hashed too.

    Raises DataError when something is missing, damaged, empty or does not fit together.
    """
    if config.path:
        paths = [Path(name) for pattern in config.path for name in _expand(pattern)]
        corpora = tuple(_open_corpus(path, config, full=full) for path in paths)
    else:
        corpora = (_text_corpus("the help topics of Python", _python_text(), config.val_fraction),)
    if not any(len(array) for corpus in corpora for array in corpus.train):
        raise DataError(f"{', '.join(corpus.name for corpus in corpora)} has no documents to train on.")
    if config.weights and len(config.weights) != len(corpora):
        raise DataError(f"data.weights has {len(config.weights)} values for {len(corpora)} corpora.")
    if config.weights and min(config.weights) <= 0:
        raise DataError("data.weights must all be above 0.")
    if len({corpus.tokenizer for corpus in corpora}) > 1:
        names = "; ".join(f"{c.name}: {c.tokenizer}" for c in corpora)
        raise DataError(f"The corpora were made with different tokenizers ({names}).")
    return Mixture(corpora, config.weights)


def _expand(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return [pattern]
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns too
    if not found:
        raise DataError(f"No file matches {pattern}.")
    return found


def _open_corpus(path: Path, config: DataConfig, *, full: bool) -> Corpus:
    if path.is_dir():
        shards = open_shards(path, full=full)
        return Corpus(
            str(path),
            shards.arrays("train"),
            shards.arrays("val"),
            shards.vocab,
            shards.bytes_per_token(),
            shards.manifest_sha256,
            shards.tokenizer_sha256,
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"The data file {path} is empty.")
        text = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise DataError(f"Cannot read the data {path}: {error.strerror}.") from error
    return _text_corpus(str(path), text, config.val_fraction)


def _text_corpus(name: str, text: npt.NDArray[np.uint8], val_fraction: float) -> Corpus:
    cut = len(text) - int(len(text) * val_fraction)
    return Corpus(name, (text[:cut],), (text[cut:],), 256, 1.0, hashlib.sha256(text.data).hexdigest())


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

    def __init__(self, data: Mixture, context: int, seed: int) -> None:
        self.seed = seed
        self.context = context
        weighted = bool(data.weights)
        parts = [c.train for c in data.corpora]
        # Without weights all arrays form one pool, so that an epoch sees every window exactly once.
        pools = parts if weighted else [tuple(array for part in parts for array in part)]
        self._pools = [Windows(pool, context) for pool in pools]
        for pool in self._pools:
            if len(pool) == 0:
                size = sum(len(array) for array in pool.arrays)
                raise DataError(
                    f"The data ({data.name}) has {size} tokens, too few for one window of {context} tokens. "
                    "Use more text or a smaller model.context."
                )
        self._slots = block_slots(data.weights) if weighted else np.array([MIX_BLOCK])

    @property
    def windows_per_epoch(self) -> int:
        """Windows in all corpora together."""
        return sum(len(pool) for pool in self._pools)

    def locate(self, samples: Indices) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Corpus and window of each sample number."""
        corpus = np.zeros(len(samples), dtype=np.int64)
        place = samples.copy()
        if len(self._slots) > 1:
            block = samples // np.uint64(MIX_BLOCK)
            slot = _permute_groups(samples % np.uint64(MIX_BLOCK), block, MIX_BLOCK, (self.seed, -1))
            ends = np.cumsum(self._slots).astype(np.uint64)
            corpus = np.searchsorted(ends, slot, side="right").astype(np.int64)
            begins = (ends - self._slots.astype(np.uint64))[corpus]
            place = block * self._slots.astype(np.uint64)[corpus] + slot - begins
        windows = np.zeros(len(samples), dtype=np.int64)
        for number, pool in enumerate(self._pools):
            chosen = corpus == number
            size = np.uint64(len(pool))
            inside, epoch = place[chosen] % size, place[chosen] // size
            windows[chosen] = _permute_groups(inside, epoch, int(size), (self.seed, number))
        return corpus, windows

    def batch(self, first: int, count: int) -> Batch:
        """Inputs and targets of samples ``first`` … ``first + count - 1``: int64 (count, context)."""
        corpus, windows = self.locate(np.arange(first, first + count, dtype=np.uint64))
        rows = zip(corpus, windows, strict=True)
        return as_batch([self._pools[int(c)].read(int(w)) for c, w in rows])


def _permute_groups(indices: Indices, groups: Indices, size: int, key: tuple[int, ...]) -> Indices:
    """Permute each index by the permutation of its group."""
    result = np.empty_like(indices)
    for group in np.unique(groups):
        chosen = groups == group
        result[chosen] = permute(indices[chosen], size, (*key, int(group)))
    return result


def block_slots(weights: tuple[float, ...]) -> npt.NDArray[np.int64]:
    """Samples of each corpus in a block, by largest remainder; every corpus gets at least one."""
    exact = np.array(weights) / sum(weights) * MIX_BLOCK
    slots = np.maximum(1, np.floor(exact).astype(np.int64))
    for index in np.argsort(np.floor(exact) - exact, kind="stable")[: max(0, MIX_BLOCK - slots.sum())]:
        slots[index] += 1
    slots[np.argmax(slots)] += MIX_BLOCK - slots.sum()
    return slots


def as_batch(windows: list[npt.NDArray[np.int64]]) -> Batch:
    """Stack windows into (inputs, targets), the targets shifted by one token."""
    stacked = torch.from_numpy(np.stack(windows))
    return stacked[:, :-1].contiguous(), stacked[:, 1:].contiguous()


class Prefetcher:
    """Prepares the batch after the one that is asked for on a thread, in pinned memory for CUDA."""

    def __init__(self, sampler: Sampler, device: torch.device) -> None:
        self._sampler, self._device = sampler, device
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gputrain-data")
        self._ahead: tuple[tuple[int, int], Future[Batch]] | None = None

    def batch(self, first: int, count: int, next_first: int) -> Batch:
        """Samples ``first`` … on the device; starts to prepare those from `next_first`."""
        if self._ahead is not None and self._ahead[0] == (first, count):
            inputs, targets = self._ahead[1].result()
        else:
            inputs, targets = self._prepare(first, count)
        self._ahead = ((next_first, count), self._pool.submit(self._prepare, next_first, count))
        return inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def _prepare(self, first: int, count: int) -> Batch:
        inputs, targets = self._sampler.batch(first, count)
        if self._device.type == "cuda":
            return inputs.pin_memory(), targets.pin_memory()
        return inputs, targets

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)
