"""RunPod's answers: problem+json, request ids, rate-limit headers."""

from __future__ import annotations

import json
import secrets
import time

from aiohttp import web

TITLES = {
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 409: "Conflict", 410: "Gone", 413: "Content Too Large", 422: "Unprocessable Entity",
    429: "Too Many Requests", 500: "Internal Server Error",
}  # fmt: skip
WINDOWS: tuple[tuple[str, int, int], ...] = (
    ("minute", 60, 60),
    ("hour", 3600, 3000),
    ("day", 86_400, 50_000),
)
"""(name, seconds, quota): the values of the OpenAPI file's example."""
LOOSE = 1000
"""How many times larger the quotas are while limits are not enforced."""


def problem(
    status: int, detail: str, errors: list[str] | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    """A failure in RunPod's words."""
    body: dict[str, object] = {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return web.Response(
        body=json.dumps(body).encode(),
        status=status,
        content_type="application/problem+json",
        headers=headers,
    )


def bare(status: int, text: str) -> web.Response:
    """A failure without the fields of a problem, as some actions answer."""
    return web.Response(
        body=json.dumps({"error": text}).encode(), status=status, content_type="application/json"
    )


def throttled(endpoint: str, kind: str, retry_after: float | None) -> web.Response:
    """429, with Retry-After unless `kind` is `text` (a body of plain text, no header)."""
    if kind == "text":
        return web.Response(body=b"error code: 1015", status=429, content_type="text/plain")
    wait = 2 if retry_after is None else retry_after
    spent = f'"minute";r=0;t={round(wait)}, "hour";r=2871;t=1724, "day";r=31839;t=23324'
    headers = {"Retry-After": f"{wait:g}", "RateLimit": spent, "RateLimit-Policy": policy(1)}
    return problem(429, "rate limit exceeded for the minute window", None, headers)


def policy(factor: int) -> str:
    """The RateLimit-Policy header."""
    return ", ".join(f'"{name}";q={quota * factor};w={seconds}' for name, seconds, quota in WINDOWS)


class Limits:
    """Requests of one account, counted in three windows."""

    def __init__(self, *, enforced: bool) -> None:
        self._factor = 1 if enforced else LOOSE
        self._enforced = enforced
        self._begun: dict[str, float] = {}
        self._used: dict[str, int] = {}

    def count(self, *, strict: bool = False) -> tuple[dict[str, str], str | None]:
        """Count one request, `strict` by the documented quotas. Returns (headers, the window that rejects it, if any)."""
        now = time.monotonic()
        factor, enforced = 1 if strict else self._factor, strict or self._enforced
        parts: list[str] = []
        rejected: tuple[str, float] | None = None
        for name, seconds, quota in WINDOWS:
            if now - self._begun.get(name, -1e9) >= seconds:
                self._begun[name], self._used[name] = now, 0
            left = quota * factor - self._used[name]
            ends = max(1, round(self._begun[name] + seconds - now))
            if left <= 0:
                rejected = rejected or (name, ends)
            else:
                self._used[name] += 1
                left -= 1
            parts.append(f'"{name}";r={max(0, left)};t={ends}')
        headers = {"RateLimit": ", ".join(parts), "RateLimit-Policy": policy(factor)}
        if rejected is not None and enforced:
            headers["Retry-After"] = str(rejected[1])
            return headers, rejected[0]
        return headers, None


def request_id() -> str:
    """For the x-request-id header."""
    return secrets.token_hex(12)
