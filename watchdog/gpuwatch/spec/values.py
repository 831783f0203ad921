"""The values of a run spec: each reader takes what TOML gave and raises ValueError(what is expected)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from gpuproviders.gpus import UnknownGpu, resolve
from gpuwatch.clean import clean
from gpuwatch.mirror.names import check_remote
from gpuwatch.spec.units import parse_duration, parse_size

PROVIDERS = ("vast", "runpod", "ssh")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def show(value: object) -> str:
    try:
        text = repr(value) if not isinstance(value, str) else value if value == "nothing" else f'"{value}"'
    except (ValueError, RecursionError):  # thousands of digits; tables a thousand deep
        text = f"a huge {type(value).__name__}"
    return clean(text, 80)


def mapping(value: object) -> Mapping[str, Any] | None:
    if not isinstance(value, dict):
        raise ValueError("a table: [section] with keys below it")  # noqa: TRY004 - one kind of error
    return value


def matching(pattern: re.Pattern[str], expected: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(expected)
        return value

    return read


def one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return str(value)

    return read


def whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return read


def window(value: object) -> float:
    seconds = parse_duration(value)
    if seconds < 60:
        raise ValueError('at least "1m": a shorter silence is no evidence')
    return seconds


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - one kind of error for the reader
    return value


def fraction(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return float(value)


def positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ValueError("a number above 0")
    return float(value)


def strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise ValueError("a list of strings")
    return tuple(value)


def word(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ValueError("a short name")
    return value


def names(value: object) -> tuple[str, ...]:
    names = strings(value)
    if not all(_ENV.fullmatch(n) for n in names):
        raise ValueError("names of environment variables")
    return names


def settings(value: object) -> tuple[str, ...]:
    if not isinstance(value, dict) or not all(
        isinstance(v, str | int | float | bool) for v in value.values()
    ):
        raise ValueError('a table of settings, e.g. set = { "optim.lr" = 3e-4 }')
    return tuple(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in value.items())


def environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        _ENV.fullmatch(k) and isinstance(v, str | int | float) and "\0" not in str(v)
        for k, v in value.items()
    ):
        raise ValueError('a table of environment variables, e.g. env = { RUN_NAME = "x" }')
    return {k: str(v) for k, v in value.items()}


def command(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > 32_768:
        raise ValueError("a shell command")
    return value


def command_lines(value: object) -> tuple[str, ...]:
    """One command line, or several, that a shell could split into words."""
    expected = 'a gputrain command or a list of them, e.g. command = "sft --base …"'
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not lines:
        raise ValueError(expected)
    found = []
    for line in lines:
        try:
            words = shlex.split(command(line))
        except ValueError:
            raise ValueError(expected) from None
        if not words:
            raise ValueError(expected)
        found.append(str(line))
    return tuple(found)


def relative(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value or len(value) > 1024:
        raise ValueError("a path relative to the work folder")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("~") or not path.parts:
        raise ValueError("a path inside the work folder (no /, ~ or ..)")
    return str(path)


def folder(value: object) -> str:
    path = relative(value)
    if any(c in path for c in "*?["):
        raise ValueError("a folder inside the work folder, without wildcards (*, ?, [)")
    return path


def paths(value: object) -> tuple[str, ...]:
    return tuple(relative(v) for v in strings(value))


def remotes(value: object) -> tuple[str, ...]:
    remotes = strings(value)
    for remote in remotes:
        check_remote(remote)
    return tuple(dict.fromkeys(remotes))


def rate(value: object) -> int:
    try:
        found = parse_size(value)
    except ValueError as error:
        raise ValueError('bytes per second such as "20MB"') from error
    if found < 10_000:
        raise ValueError('at least "10kB" (per second)')
    return found


def providers(value: object) -> tuple[str, ...]:
    names = strings(value)
    if not names or not all(n in PROVIDERS for n in names):
        raise ValueError("one or more of " + ", ".join(PROVIDERS))
    return tuple(dict.fromkeys(names))


def disk(value: object) -> int | None:
    """Bytes; None for "auto"."""
    if value == "auto":
        return None
    try:
        size = parse_size(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "auto"') from None
    if size < 8_000_000_000:
        raise ValueError('a size of at least "8GB"')
    return size


def gpu_names(value: object) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for name in strings(value):
        try:
            names.update(dict.fromkeys(resolve(name)))
        except UnknownGpu as error:
            near = f": did you mean {', '.join(error.near)}?" if error.near else ""
            raise ValueError(f"names of known GPUs; {clean(name, 40)!r} is none{near}") from error
    return tuple(names)


def artifact_list(value: object) -> tuple[Mapping[str, Any], ...] | None:
    """The [[artifacts]] tables; None for the word "none"."""
    if value == "none":
        return None
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise ValueError('[[artifacts]] tables, or artifacts = "none"')
    return tuple(value)
