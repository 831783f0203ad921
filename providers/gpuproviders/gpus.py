"""GPU names: one canonical spelling across vendors, nominal memory, and a helpful "did you mean".

Canonical names are Vast's (spaces, no vendor words). Memory is nominal GB per GPU,
from the makers' data sheets; drivers report a few per cent less.
"""

from __future__ import annotations

import difflib
import re

MEMORY_GB: dict[str, int] = {
    "B300": 288, "B200": 192, "GH200 SXM": 96, "H200": 141, "H200 NVL": 141,
    "H100 SXM": 80, "H100 PCIE": 80, "H100 NVL": 94,
    "A100 SXM4": 80, "A100 PCIE": 80, "A100X": 80, "A800 PCIE": 80, "MI300X": 192,
    "L40S": 48, "L40": 48, "L4": 24, "A40": 48, "A30": 24, "A16": 16, "A10": 24, "A10G": 24,
    "RTX PRO 6000 WS": 96, "RTX PRO 6000 S": 96, "RTX PRO 5000": 48, "RTX PRO 4500": 32, "RTX PRO 4000": 24,
    "RTX 6000Ada": 48, "RTX 5880Ada": 48, "RTX 5000Ada": 32, "RTX 4500Ada": 24, "RTX 4000Ada": 20, "RTX 2000Ada": 16,
    "RTX A6000": 48, "RTX A5500": 24, "RTX A5000": 24, "RTX A4500": 20, "RTX A4000": 16, "RTX A2000": 12,
    "RTX 5090": 32, "RTX 5080": 16, "RTX 5070 Ti": 16, "RTX 5070": 12, "RTX 5060 Ti": 16, "RTX 5060": 8,
    "RTX 4090": 24, "RTX 4090D": 24, "RTX 4080S": 16, "RTX 4080": 16, "RTX 4070S Ti": 16, "RTX 4070 Ti": 12,
    "RTX 4070S": 12, "RTX 4070": 12, "RTX 4060 Ti": 16, "RTX 4060": 8,
    "RTX 3090": 24, "RTX 3090 Ti": 24, "RTX 3080 Ti": 12, "RTX 3080": 10, "RTX 3070 Ti": 8, "RTX 3070": 8,
    "RTX 3060 Ti": 8, "RTX 3060": 12,
    "Q RTX 8000": 48, "Q RTX 6000": 24, "Titan RTX": 24, "Tesla V100": 32, "Tesla T4": 16, "Tesla P100": 16,
    "Tesla P40": 24, "RTX 2080 Ti": 11,
}  # fmt: skip
"""Canonical name -> nominal GB of memory per GPU."""

_ALIASES: dict[str, str] = {
    "h100hbm3": "H100 SXM", "h100sxm5": "H100 SXM", "h200sxm": "H200", "a100sxm": "A100 SXM4", "gh200": "GH200 SXM",
    "rtxpro6000blackwellworkstationedition": "RTX PRO 6000 WS", "rtxpro6000blackwellserveredition": "RTX PRO 6000 S",
    "rtxpro6000blackwellmaxqworkstationedition": "RTX PRO 6000 WS", "rtxpro5000blackwell": "RTX PRO 5000",
    "rtxpro4500blackwell": "RTX PRO 4500", "rtxpro4000blackwell": "RTX PRO 4000",
    "rtx4070tisuper": "RTX 4070S Ti", "rtx4070super": "RTX 4070S", "rtx4080super": "RTX 4080S", "rtx4090d": "RTX 4090D",
    "mi300xoam": "MI300X", "v100sxm2": "Tesla V100", "teslav100sxm2": "Tesla V100", "v100fhhl": "Tesla V100",
    "teslav100fhhl": "Tesla V100", "teslav100pcie": "Tesla V100", "v100pcie": "Tesla V100",
}  # fmt: skip
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
