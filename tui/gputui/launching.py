"""Run specs as files: finding them, reading one for the daemon, a first one to begin with, writing it back."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from gpuwatch.client import wire

MAX_SPEC = 1 << 20
"""A run spec longer than this is not one (somebody named a checkpoint by mistake)."""
_MAX_SUGGESTED = 200
_NOT_SPECS = frozenset({"pyproject.toml", "uv.lock", "Cargo.toml", "keys.toml"})

TEMPLATE = """\
# A run: what to rent, what to run, what must come home. All keys: docs/run-spec.md
name = "first-run"

[gpu]
name = "{gpu}"            # any spelling; a list takes the cheapest
count = {count}
max_price = {price:.2f}          # dollars per hour, all-in

[upload]
paths = ["train.py"]       # relative to this file

[job]
command = "python train.py"

[checkpoints]
path = "ckpt"              # brought home and proved while the job runs

[[artifacts]]
path = "model.pt"          # the machine stays until this is proved at home

[budget]
max_cost = 5.00            # then: stop the job, bring everything home, destroy
"""


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


def whence(text: str | None) -> str | None:
    """What a person wants to begin from, with a path of this machine made absolute: the daemon works elsewhere."""
    text = (text or "").strip()
    if not text or text == "latest" or text.isdigit():
        return text or None
    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() or text.startswith((".", "/", "~")) else text


def base_of(name: str) -> str:
    """The folder that the paths of a spec at path `name` are relative to."""
    return str(Path(name).expanduser().absolute().parent)


def specs_here() -> list[str]:
    """Run specs near by: TOML files here and in `examples`, nearest first."""
    here = Path()
    found = [*sorted(here.glob("*.toml")), *sorted(here.glob("examples/*.toml"))]
    return [str(path) for path in found if path.name not in _NOT_SPECS][:_MAX_SUGGESTED]


def template(offer: wire.OfferRow | None = None) -> str:
    """A first spec, for the GPU of `offer` at a tenth above its price. Pure."""
    if offer is None:
        return TEMPLATE.format(gpu="RTX 4090", count=1, price=0.60)
    gpu = re.sub(r"[^A-Za-z0-9 ._+-]", "", offer.gpu)[:60]
    return TEMPLATE.format(gpu=gpu, count=max(1, offer.gpu_count), price=max(0.01, offer.price / 1e6 * 1.1))


def line_of(text: str, key: str) -> int | None:
    """Line number (from 1) of a spec's `key` as problems name it (`gpu.max_price`), None when it is not there. Pure."""
    table, _, last = re.sub(r"\[\d+\]", "", key).rpartition(".")
    here, found = "", None
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("["):
            here = bare.strip("[]").split("#")[0].strip().strip("[]")
            if here == key:
                found = found or number
        elif here == table and re.match(rf'"?{re.escape(last)}"?\s*(=|\.)', bare):
            return number
    return found


def write_spec(name: str, text: str, before: str | None) -> None:
    """Write `text` to path `name`, which held `before` (None: it did not exist) when it was read.

    Raises OSError; FileExistsError when it holds something else by now.
    """
    path = Path(name).expanduser()
    now = path.read_text(encoding="utf-8") if path.exists() else None
    if now != before:
        raise FileExistsError(f"{name} is not what was read from it; nothing was written")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
