"""What a recording must not carry out of the house. Pure.

Removed: credentials in any text, addresses of machines and accounts, mail addresses, home folders, values of
the spec's `env`. Kept: names of runs and files, numbers, and the log's words. It is a filter for what is
likely, not a proof: look into a recording before you publish it (it is lines of JSON).
"""

from __future__ import annotations

import re
from typing import Any

GONE = "[removed]"
_SECRETS = (
    re.compile(
        r"(?i)\b((?:[a-z0-9_]*(?:api[_-]?key|token|secret|passw(?:or)?d|credential)s?)[\"']?\s*[:=]\s*)[\"']?[^\s\"',;]+"
    ),
    re.compile(r"(?i)(\b(?:authorization|bearer)\b[\"']?\s*:?\s+(?:bearer\s+)?)[^\s\"',;]+"),
    re.compile(r"()\b(?:hf_|sk-|rpa_|ghp_|gho_|github_pat_|xox[abp]-|AKIA|wandb_)[A-Za-z0-9_-]{8,}"),
    re.compile(r"()\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_.-]+"),
    re.compile(r"()\b(?:[0-9a-f]{40,}|[0-9A-F]{40,})\b"),
)
_ADDRESSES = (
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "192.0.2.1"),
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "someone@example.org"),
    (re.compile(r"(/(?:home|Users)/)[^/\s\"']+"), r"\1someone"),
)
_ENV = re.compile(r"(?ms)^(\s*(?:env|secrets)\s*=\s*)(?:\{.*?\}|\[.*?\]|\S.*?)$")
_ENV_TABLE = re.compile(r"(?ms)^(\s*\[[^\]\n]*env\]\s*?\n)(.*?)(?=^\s*\[|\Z)")
_DROPPED: dict[str, Any] = {
    "ssh": [],
    "user": None,
    "log_path": None,
    "state_dir": "/state",
    "vault": "/vault",
    "socket": "/socket",
    "pid": 0,
}
_DIGESTS = frozenset({"sha256", "receipt"})


def redact_text(text: str) -> str:
    """Text without what looks like a secret or an address."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<1>{GONE}", text)
    for pattern, instead in _ADDRESSES:
        text = pattern.sub(instead, text)
    return text


def redact(value: Any, field: str = "") -> Any:
    """A message as plain values, redacted."""
    if field in _DROPPED:
        return _DROPPED[field]
    if isinstance(value, str):
        if field in _DIGESTS:
            return value
        if field == "spec":
            value = _ENV_TABLE.sub(rf"\1# {GONE}\n", _ENV.sub(rf'\1"{GONE}"', value))
        return redact_text(value)
    if isinstance(value, dict):
        return {key: redact(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return value
