"""Reading a run spec for the daemon: its text, and the folder that its paths are relative to."""

from __future__ import annotations

import sys
from pathlib import Path

from gpuwatch.client import wire

MAX_SPEC = 1 << 20
"""A run spec longer than this is not one (somebody named a checkpoint by mistake)."""


def read_spec(name: str) -> wire.SpecText:
    """The spec at path `name`, `-` for standard input (then relative to the current folder).

    Raises OSError, UnicodeDecodeError, or ValueError when it is too long to be a spec.
    """
    if name == "-":
        text = sys.stdin.read(MAX_SPEC + 1)
        file, base = "<stdin>", Path.cwd()
    else:
        path = Path(name).expanduser()
        with path.open("rb") as source:
            text = source.read(MAX_SPEC + 1).decode("utf-8")
        file, base = str(path), path.absolute().parent
    if len(text) > MAX_SPEC:
        raise ValueError(f"it is longer than {MAX_SPEC // 1024} kB, so it is no run spec")
    return wire.SpecText(text=text, file=file, base=str(base))
