"""What runs on the box: `sentinel.py` and its parts, put together to one file by `source`. Nothing here imports it."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"^from gpuwatch\.sentinel\.(\w+) import .*\n", re.MULTILINE)
_HEADER = re.compile(r'\A"""[\s\S]*?"""\n\s*from __future__ import annotations\n')


def source() -> bytes:
    """The sentinel as one program of the standard library: each part stands where it was imported."""
    folder = Path(__file__).parent
    program = (folder / "sentinel.py").read_text(encoding="utf-8")

    def part(match: re.Match[str]) -> str:
        return _HEADER.sub("", (folder / f"{match[1]}.py").read_text(encoding="utf-8"))

    return _PART.sub(part, program).encode()
