"""Which window of the data is seen when: a function, not a state.

The order of an epoch is a keyed permutation computed from (seed, corpus, epoch) by a Feistel
network with cycle walking, so nothing needs to be stored to resume and any process can compute
its part for any world size or batch size.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint64]

_ROUNDS = 6


def _round_keys(key: tuple[int, ...]) -> list[np.uint64]:
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8 * _ROUNDS).digest()
    return [np.uint64(word) for word in struct.unpack(f"<{_ROUNDS}Q", digest)]


def _mix(values: Indices) -> Indices:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit in affects every bit out."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(indices: Indices, size: int, key: tuple[int, ...]) -> Indices:
    """Map each index below `size` to its place in the permutation named by `key`.

    The map is one-to-one on ``range(size)``. Takes and returns uint64 arrays of one shape.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = _round_keys(key)
    result = indices.astype(np.uint64)
    pending = np.ones(result.shape, dtype=bool)
    # The network permutes 2^(2*half) values, fewer than four times `size`; walking the cycle
    # until the value falls below `size` makes it a permutation of range(size).
    while pending.any():
        left, right = result[pending] >> shift, result[pending] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        walked = (left << shift) | right
        result[pending] = walked
        pending[pending] = walked >= np.uint64(size)
    return result


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from integers, the same on every machine."""
    digest = hashlib.blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
