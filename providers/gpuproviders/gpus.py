"""GPU names: one canonical spelling across vendors, nominal memory, and a helpful "did you mean".

Canonical names are Vast's (spaces, no vendor words). What is known of each card stands in `gpus.toml`,
with the maker's document it is from; drivers report a few per cent less memory.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What the maker says about one kind of card."""

    name: str
    """Canonical."""
    memory_gb: int
    """Nominal, per GPU."""
    tflops: float | None
    """Peak dense bfloat16 tensor throughput with float32 accumulation, 10^12 per second; None: not known, or none."""
    source: str
    """URL of the maker's document."""
    how: str
    """How `tflops` follows from the source when it is not printed there."""
    also: tuple[str, ...]
    """Other spellings, without spaces and in lower case."""


def _load() -> dict[str, GpuFacts]:
    text = resources.files("gpuproviders").joinpath("gpus.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    sources = data["sources"]
    return {
        row["name"]: GpuFacts(
            row["name"], row["memory_gb"], row.get("tflops"), sources[row["source"]], row.get("how", ""),
            tuple(row.get("also", ())),
        )
        for row in data["gpu"]
    }  # fmt: skip


GPUS: Mapping[str, GpuFacts] = _load()
"""Canonical name -> facts, from `gpus.toml`, which names the source of each."""

MEMORY_GB: Mapping[str, int] = {name: facts.memory_gb for name, facts in GPUS.items()}
"""Canonical name -> nominal GB of memory per GPU."""

_ALIASES: dict[str, str] = {other: facts.name for facts in GPUS.values() for other in facts.also}
"""Other spellings: what the driver (and RunPod, whose type ids are the driver's names) calls a product."""

_FAMILIES: dict[str, tuple[str, ...]] = {
    "h100": ("H100 SXM", "H100 PCIE", "H100 NVL"),
    "h200": ("H200", "H200 NVL"),
    "a100": ("A100 SXM4", "A100 PCIE"),
    "gh200": ("GH200 SXM",),
    "v100": ("Tesla V100",),
    "t4": ("Tesla T4",),
    "p100": ("Tesla P100",),
    "rtx6000ada": ("RTX 6000Ada",),
    "6000ada": ("RTX 6000Ada",),
    "rtxpro6000": ("RTX PRO 6000 WS", "RTX PRO 6000 S"),
}


def _key(name: str) -> str:
    text = re.sub(r"\b(nvidia|geforce|amd|instinct|generation)\b", "", name.lower())
    text = re.sub(r"\b\d+\s*gb\b", "", text)
    return re.sub(r"[^a-z0-9]", "", text)


_BY_KEY = {_key(name): name for name in MEMORY_GB}
_BY_KEY |= {
    _key(name.removeprefix("RTX ")): name for name in MEMORY_GB if name.startswith("RTX ") and len(name) > 6
}
_BY_KEY |= _ALIASES


class UnknownGpu(ValueError):
    """No GPU of that name; `near` are the closest known names."""

    def __init__(self, name: str, near: tuple[str, ...]) -> None:
        self.name = name
        self.near = near
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"no GPU is called {name!r}{hint}")


def resolve(name: str) -> tuple[str, ...]:
    """Canonical names that `name` stands for: `h100` is all three H100s, `rtx_4090` is `RTX 4090`.

    Raises UnknownGpu with the nearest names.
    """
    key = _key(name)
    if key in _FAMILIES:
        return _FAMILIES[key]
    if key in _BY_KEY:
        return (_BY_KEY[key],)
    near = difflib.get_close_matches(key, [*_BY_KEY, *_FAMILIES], n=6, cutoff=0.6)
    names = dict.fromkeys(n for k in near for n in _FAMILIES.get(k, (_BY_KEY.get(k, ""),)) if n)
    raise UnknownGpu(name, tuple(names)[:3])


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """A vendor's spelling as the canonical one; an unknown name is kept as the vendor wrote it."""
    return _BY_KEY.get(_key(name), name)


def nominal_memory(name: str, reported: int) -> int:
    """Nominal bytes per GPU for a reported size: the table's when within 15 %, else what was reported.

    Cards of one name come in several sizes (A100 40/80 GB), so the report decides.
    """
    known = MEMORY_GB.get(name)
    if known is not None and abs(reported - known * 10**9) <= 0.15 * known * 10**9:
        return known * 10**9
    return reported


def tflops(name: str, count: int = 1) -> float | None:
    """Peak dense bfloat16 TFLOPS of `count` cards of this canonical name; None when it is not known."""
    facts = GPUS.get(name)
    return None if facts is None or facts.tflops is None else facts.tflops * count
