"""How big, how much, how long: formulas that need neither torch nor a GPU.

The tests hold them against the real model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gputrain.config import Config, ModelConfig

LOSS_MIN_ROWS, LOSS_CHUNK = 256, 1 << 23
CHECKPOINT_OVERHEAD = 1 << 16
"""Headers, state and manifest of a checkpoint, in bytes; generous."""


def ffn_width(model: ModelConfig) -> int:
    """Hidden units of the MLP."""
    if model.ffn:
        return model.ffn
    exact = model.width * 8 / 3 if model.mlp == "swiglu" else model.width * 4
    return math.ceil(exact / 64) * 64


def padded_vocab(model: ModelConfig) -> int:
    """Rows of the embedding: the vocabulary padded to a multiple of 64 for fast matrix products."""
    return math.ceil(model.vocab / 64) * 64


@dataclass(frozen=True)
class Size:
    """Parameters by what they cost."""

    embedding: int
    head: int
    """0 when tied."""
    matrices: int
    """In the blocks: what Muon takes."""
    rest: int
    """Gains, biases, short convolutions, rates, starts of memories."""
    connections: int
    """Maps of hyper-connections."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.head + self.matrices + self.rest + self.connections


MEMORY_RANK, MEMORY_KERNEL = 32, 4


def count_parameters(model: ModelConfig) -> Size:
    """The parameters of a model, exactly."""
    width, hidden, heads = model.width, ffn_width(model), model.heads
    dim = width // heads
    kv_width = (model.kv_heads or heads) * dim
    block, rest = width * hidden * (3 if model.mlp == "swiglu" else 2), 2 * width
    if model.mixer == "attention":
        block += 2 * width * width + 2 * width * kv_width
        rest += 2 * dim if model.qk_norm else 0
    else:
        block += 5 * width * width
        rates = MEMORY_RANK * (width + 3 * heads) + 3 * heads
        starts = heads * dim * dim * (1 if model.memory == "matrix" else 8)
        rest += 3 * MEMORY_KERNEL * width + rates + starts + dim
    n = model.mhc_streams
    maps = 2 * n + n * n if model.residual == "mhc" else 0
    rest += 2 * (maps + 3) if maps else 0
    table = padded_vocab(model) * width
    layers = model.layers
    return Size(
        embedding=table,
        head=0 if model.tied else table,
        matrices=layers * block,
        rest=layers * rest + width,
        connections=layers * 2 * maps * n * width,
    )


def flops_per_token(model: ModelConfig) -> float:
    """Operations of forward and backward for one token (Chowdhery et al. 2022, PaLM, appendix B).

    6 for every parameter that takes part in a matrix product, 12 · layers · width · context for
    attention; looking up an embedding is free. A memory costs its products with every token and, within
    a chunk, those of every token with every earlier one; both three times.
    """
    size, dim, chunk = count_parameters(model), model.width // model.heads, model.memory_chunk
    multiplied = size.matrices + size.connections + (size.embedding if model.tied else size.head)
    if model.mixer == "attention":
        mixing = 12.0 * model.context
    elif model.memory == "matrix":
        mixing = 3.0 * (6 * dim + 4 * chunk)
    else:
        mixing = 3.0 * (56 * dim + 20 * chunk)
    return 6.0 * multiplied + mixing * model.layers * model.width


def optimiser_floats(config: Config) -> int:
    """Float32 values that the optimiser keeps."""
    size = count_parameters(config.model)
    if config.optim.name == "muon":
        return 2 * (size.total - size.matrices) + size.matrices
    return 2 * size.total


def checkpoint_bytes(config: Config) -> int:
    """Size of one checkpoint, to within `CHECKPOINT_OVERHEAD`."""
    return 4 * (count_parameters(config.model).total + optimiser_floats(config))


def block_activation_bytes(model: ModelConfig, item: int) -> float:
    """Bytes kept for the backward pass by one block for one token, without recomputation.

    `item` is the size of an activation value: 2 for bfloat16. Counted are the tensors that autograd
    saves: two inputs of norms and their outputs, queries, keys and values around the rotation, the
    attention's output, the MLP's inner values.
    """
    width, hidden = model.width, ffn_width(model)
    if model.residual == "mhc":
        plain = replace(model, residual="plain")
        return block_activation_bytes(plain, item) + 2 * _connection_bytes(model, item)
    kv_width = (model.kv_heads or model.heads) * (width // model.heads)
    norms = 4 * width * item + 2 * 4
    inner = (4 if model.mlp == "swiglu" else 2) * hidden * item
    if model.mixer != "attention":
        return norms + _memory_bytes(model, item) + inner
    attention = (2 * width + 2 * kv_width) * item + model.heads * 4
    normed_heads = (width + kv_width) * item + (model.heads + kv_width * model.heads // width) * 4
    return norms + attention + (normed_heads if model.qk_norm else 0) + inner


def _connection_bytes(model: ModelConfig, item: int) -> float:
    """What one hyper-connection keeps for a token: streams, branch, and every round of Sinkhorn."""
    n, width = model.mhc_streams, model.width
    return (n + 2) * width * item + model.mhc_iterations * (2 * n * n + 2 * n) * 4 + 7 * (n * n + 2 * n)


KEPT_BY_MEMORIES = {
    ("moneta", "matrix"): (24, 4, 4), ("yaad", "matrix"): (20, 2, 4), ("memora", "matrix"): (15, 3, 0),
    ("moneta", "mlp"): (84, 32, 8), ("yaad", "mlp"): (74, 16, 8), ("memora", "mlp"): (64, 24, 0),
}  # fmt: skip
"""Counted on the real model: values per channel (11 of them activations, the others float32), copies of
the state per chunk, and values per token of the chunk."""


def _memory_bytes(model: ModelConfig, item: int) -> float:
    wide, copies, pairs = KEPT_BY_MEMORIES[model.mixer, model.memory]
    dim, chunk = model.width // model.heads, model.memory_chunk
    per_head = 4 * (copies * dim * dim / chunk + pairs * chunk)
    return model.width * (11 * item + (wide - 11) * 4) + model.heads * per_head


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step."""

    weights: int
    gradients: int
    optimiser: int
    casts: int
    """Bfloat16 copies of the weights that the backward pass needs."""
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum((self.weights, self.gradients, self.optimiser, self.casts, self.activations, self.loss))


def step_memory(config: Config, batch_size: int, *, item: int = 2, shards: int = 1) -> Memory:
    """Memory of a training step with `batch_size` windows, states divided over `shards` devices."""
    model, size = config.model, count_parameters(config.model)
    tokens = batch_size * model.context
    block = block_activation_bytes(model, item)
    per_token = model.layers * model.width * item + block if config.system.recompute else model.layers * block
    rows = min(tokens, max(LOSS_MIN_ROWS, LOSS_CHUNK // padded_vocab(model)))
    logits = rows * padded_vocab(model) * (4 + 4 + item)
    cast_blocks = 1 if config.system.recompute else model.layers
    casts = size.matrices // model.layers * cast_blocks + padded_vocab(model) * model.width
    return Memory(
        weights=4 * size.total // shards,
        gradients=4 * size.total // shards,
        optimiser=4 * optimiser_floats(config) // shards,
        casts=casts * item if item < 4 else 0,
        activations=int(tokens * (per_token + 2 * model.width * item)),
        loss=int(logits + tokens * model.width * item + 4 * padded_vocab(model) * model.width),
    )


def largest_batch(config: Config, memory_bytes: int, *, shards: int = 1, reserve: float = 0.08) -> int:
    """Most windows per micro-batch that fit, keeping `reserve` for the driver and fragmentation; may be 0."""
    usable = memory_bytes * (1 - reserve)
    batch = 0
    while step_memory(config, batch + 1, shards=shards).total <= usable and batch < 4096:
        batch += 1
    return batch


def expected_mfu(parameters: int) -> float:
    """Share of peak that compact code reaches on a Hopper card; an expectation, not a measurement.

    From published figures: 41 % at 124M, 45 to 50 % from 1B on (nanochat and TinyLlama logs); below
    100M launching kernels dominates and the share falls about with the root of the size.
    """
    scale = parameters / 1e8
    return min(0.47, 0.38 + 0.07 * math.log10(scale)) if scale >= 1 else 0.38 * math.sqrt(scale)


def disk_bytes(config: Config, hours: float) -> int:
    """Disk that the checkpoints of a run of `hours` need under its retention, one being written included."""
    policy, seconds = config.checkpoint, hours * 3600
    regular = seconds / policy.every_seconds if policy.every_seconds else policy.keep_last
    milestones = seconds / policy.milestone_seconds if policy.milestone_seconds else 0
    kept = min(policy.keep_last, math.ceil(regular)) + min(policy.keep_milestones, math.floor(milestones))
    # The newest two always stay, one is being written, one is being deleted.
    return checkpoint_bytes(config) * (max(2, kept) + 2) + policy.min_free_bytes
