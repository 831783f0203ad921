"""What GPUs can do at best, for MFU and planning.

Dense bfloat16 tensor throughput with float32 accumulation and memory, from NVIDIA's data sheets
(the figures there are often with 2:4 sparsity: halved here).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from gputrain.errors import ConfigError


@dataclass(frozen=True)
class GPU:
    """One kind of card."""

    name: str
    peak_flops: float
    """Dense bfloat16 operations per second."""
    memory_bytes: int
    matches: tuple[str, ...]
    """Parts of the name that the driver reports."""


GIB = 1 << 30

GPUS: tuple[GPU, ...] = (
    GPU("B200", 2.25e15, 180 * GIB, ("B200",)),
    GPU("H200", 989e12, 141 * GIB, ("H200",)),
    GPU("H100 NVL", 835e12, 94 * GIB, ("H100 NVL",)),
    GPU("H100 PCIe", 756e12, 80 * GIB, ("H100 PCIe",)),
    GPU("H100", 989e12, 80 * GIB, ("H100",)),
    GPU("A100 80GB", 312e12, 80 * GIB, ("A100-SXM4-80GB", "A100 80GB")),
    GPU("A100", 312e12, 40 * GIB, ("A100",)),
    GPU("L40S", 362e12, 48 * GIB, ("L40S",)),
    GPU("A40", 149.7e12, 48 * GIB, ("A40",)),
    GPU("RTX 6000 Ada", 364.2e12, 48 * GIB, ("RTX 6000 Ada",)),
    GPU("RTX A6000", 154.8e12, 48 * GIB, ("RTX A6000",)),
    GPU("RTX 5090", 209.5e12, 32 * GIB, ("RTX 5090",)),
    GPU("RTX 4090", 165.2e12, 24 * GIB, ("RTX 4090",)),
    GPU("RTX 3090", 71e12, 24 * GIB, ("RTX 3090",)),
    GPU("A10G", 70e12, 24 * GIB, ("A10G",)),
    GPU("L4", 121e12, 24 * GIB, ("L4",)),
)


def find_gpu(name: str) -> GPU:
    """The card a person means. Raises ConfigError with the nearest names."""
    wanted = name.lower().replace("_", " ").removeprefix("nvidia ").strip()
    for gpu in GPUS:
        if wanted == gpu.name.lower():
            return gpu
    for gpu in GPUS:
        if any(part.lower() in wanted for part in (gpu.name, *gpu.matches)):
            return gpu
    names = [gpu.name for gpu in GPUS]
    near = difflib.get_close_matches(name.upper(), names, n=3, cutoff=0.3) or names
    raise ConfigError(f"The GPU {name!r} is not in the table; did you mean {', '.join(near)}?")


def peak_flops(device_name: str) -> float | None:
    """Peak of the card that the driver names so; None when it is not in the table."""
    try:
        return find_gpu(device_name).peak_flops
    except ConfigError:
        return None
