"""What RunPod's request schemas demand, as a small checker that words its errors like the service.

The OpenAPI file is the source; the tests hold the simulator's *answers* against that file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any, str], list[str]]
_CUDA = re.compile(r"\d+\.\d+")
_KEY = re.compile(r"(ssh|ecdsa|sk)-[^\s]+ [^\s]+([ \t][^\n\r]*)?")


def text(least: int = 0, pattern: re.Pattern[str] | None = None) -> Check:
    """A string."""

    def check(value: Any, at: str) -> list[str]:
        if not isinstance(value, str):
            return [f"{at}: got {_kind(value)}, want string"]
        if len(value) < least:
            return [f"{at}: minLength: got {len(value)}, want {least}"]
        if pattern is not None and not pattern.fullmatch(value):
            return [f"{at}: '{value}' does not match pattern"]
        return []

    return check


def whole(low: int, high: int | None = None) -> Check:
    """An integer."""

    def check(value: Any, at: str) -> list[str]:
        if isinstance(value, bool) or not isinstance(value, int):
            return [f"{at}: got {_kind(value)}, want integer"]
        if value < low:
            return [f"{at}: minimum: got {value}, want {low}"]
        if high is not None and value > high:
            return [f"{at}: maximum: got {value}, want {high}"]
        return []

    return check


def flag(value: Any, at: str) -> list[str]:
    """A boolean."""
    return [] if isinstance(value, bool) else [f"{at}: got {_kind(value)}, want boolean"]


def either(*words: str) -> Check:
    """One of some words."""

    def check(value: Any, at: str) -> list[str]:
        return [] if value in words else [f"{at}: value must be one of {', '.join(map(repr, words))}"]

    return check


def many(item: Check, most: int | None = None) -> Check:
    """An array."""

    def check(value: Any, at: str) -> list[str]:
        if not isinstance(value, list):
            return [f"{at}: got {_kind(value)}, want array"]
        if most is not None and len(value) > most:
            return [f"{at}: maxItems: got {len(value)}, want {most}"]
        return [problem for i, one in enumerate(value) for problem in item(one, f"{at}[{i}]")]

    return check


def values(item: Check) -> Check:
    """An object with any keys."""

    def check(value: Any, at: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{at}: got {_kind(value)}, want object"]
        return [problem for key, one in value.items() for problem in item(one, f"{at}.{key}")]

    return check


def record(needed: tuple[str, ...], known: dict[str, Check]) -> Check:
    """An object with these keys and no others."""

    def check(value: Any, at: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{at}: got {_kind(value)}, want object"]
        missing = [f"'{name}'" for name in needed if name not in value]
        found = [f"{at}: missing properties {', '.join(missing)}"] if missing else []
        strange = [f"'{name}'" for name in value if name not in known]
        if strange:
            found.append(f"{at}: additional properties {', '.join(strange)} not allowed")
        for name, one in value.items():
            if name in known:
                found += known[name](one, f"{at}.{name}")
        return found

    return check


def maybe(item: Check) -> Check:
    """Null, or the other."""

    def check(value: Any, at: str) -> list[str]:
        return [] if value is None else item(value, at)

    return check


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


_CONTAINER: dict[str, Check] = {
    "args": text(), "disk": whole(1), "env": values(text()), "image": text(), "ports": many(text()),
    "registry": maybe(text()),
}  # fmt: skip
NEWER: dict[str, Check] = {"cmd": many(text()), "entrypoint": many(text())}
"""Fields that later deployments take and the published file lacks."""
_MOUNTS = record((), {
    "persistent": record(("size", "path"), {"size": whole(10), "path": text()}),
    "network": many(record(("volumeId", "path"), {"volumeId": text(), "path": text()}), 1),
})  # fmt: skip
_CREATE: dict[str, Check] = _CONTAINER | {
    "name": text(1), "cloud": either("SECURE", "COMMUNITY"), "dataCenterIds": many(text()), "globalNetworking": flag,
    "cpu": values(lambda value, at: []), "mounts": _MOUNTS, "startJupyter": flag, "startSsh": flag, "templateId": text(1),
    "gpu": record(("id",), {"id": text(), "count": whole(1), "minCudaVersion": text(0, _CUDA),
                            "allowedCudaVersions": many(text(0, _CUDA))}),
}  # fmt: skip


def create(body: dict[str, Any], *, newer: bool) -> list[str]:
    """What is wrong with a create."""
    needed = ("name",) if "templateId" in body else ("name", "image")
    return record(needed, _CREATE | (NEWER if newer else {}))(body, "$")


def update(body: dict[str, Any], *, newer: bool) -> list[str]:
    """What is wrong with a change of a pod."""
    known = _CONTAINER | (NEWER if newer else {})
    known |= {
        "globalNetworking": flag,
        "locked": flag,
        "mounts": _MOUNTS,
        "name": text(1),
        "templateId": text(),
    }
    return record((), known)(body, "$")  # fmt: skip


action = record(("action",), {"action": either("start", "stop", "restart", "terminate")})
ssh_keys = record(("keys",), {"keys": many(text(0, _KEY))})
_SIZE = whole(10, 4096)
new_volume = record(("name", "size", "dataCenter"), {
    "name": text(1), "size": _SIZE, "dataCenter": text(1), "type": either("STANDARD", "HIGH_PERFORMANCE"),
})  # fmt: skip


def changed_volume(body: dict[str, Any]) -> list[str]:
    """What is wrong with a change of a volume."""
    if not body:
        return ["$: minProperties: got 0, want 1"]
    return record((), {"name": text(1), "size": _SIZE})(body, "$")
