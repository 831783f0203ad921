"""What every face needs around its routes: call log, fault switches, answers, query decoding."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gpucloudsim.cloud import Cloud

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FOREVER_S = 3600.0

PROXY_PAGE = (
    "<html>\r\n<head><title>{0} {1}</title></head>\r\n<body>\r\n<center><h1>{0} {1}</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
REASONS = {
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
}


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer. The content type is bare, as the real service sends it (a client compares it)."""
    return web.Response(
        body=json.dumps(body).encode(), status=status, content_type="application/json", headers=headers
    )


def page(status: int) -> web.Response:
    """What a reverse proxy says."""
    text = PROXY_PAGE.format(status, REASONS.get(status, "Error"))
    return web.Response(body=text.encode(), status=status, content_type="text/html")


class Stop(Exception):
    """Ends a handler with this answer."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


@web.middleware
async def stops(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A handler that ended with `Stop` has answered."""
    try:
        return await handler(request)
    except Stop as stop:
        return stop.response


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request; {} when there is none. Raises Stop(400) for anything else."""
    raw = await request.read()
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Stop(answer({"success": False, "error": "bad_request", "msg": "Invalid JSON"}, 400))
    return body


def query_value(request: web.Request, name: str) -> Any:
    """A query parameter, JSON-decoded where it is JSON; None when absent."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


class Gate:
    """Wraps handlers: counts and logs each call and applies the general fault switches."""

    def __init__(self, cloud: Cloud, throttled: Callable[[str, str, float | None], web.Response]) -> None:
        self._cloud = cloud
        self._throttled = throttled

    async def pass_through(self, request: web.Request, endpoint: str, handler: Handler) -> web.StreamResponse:
        """Serve one call with everything that may go wrong."""
        cloud = self._cloud
        cloud.calls[endpoint] += 1
        entry: dict[str, Any] = {
            "at": time.time(),
            "endpoint": endpoint,
            "method": request.method,
            "path": request.path,
            "status": None,
        }
        cloud.log.append(entry)
        early = await self._before(request, endpoint)
        response = early if early is not None else await self._do(request, endpoint, handler)
        entry["status"] = response.status
        return response

    async def _before(self, request: web.Request, endpoint: str) -> web.Response | None:
        take = self._cloud.faults.take
        if (delay := take("slow", endpoint)) is not None:
            await asyncio.sleep(float(delay or 1))
        if take("hang_before", endpoint) is not None:
            await asyncio.sleep(FOREVER_S)
        if take("reset_before", endpoint) is not None:
            return _cut(request)
        if (code := take("status_before", endpoint)) is not None:
            return page(int(code or 500))
        if (how := take("throttle", endpoint)) is not None:
            kind, _, retry = how.partition(":")
            return self._throttled(endpoint, kind or "json", float(retry) if retry else None)
        if take("html", endpoint) is not None:
            return web.Response(
                body=b"<!doctype html><html><body>Just a moment...</body></html>", content_type="text/html"
            )
        if take("empty_object", endpoint) is not None:
            return answer({})
        if take("empty_array", endpoint) is not None:
            return answer([])
        if (error := take("refuse", endpoint)) is not None:
            return answer({"success": False, "error": error or "internal_error", "msg": "try again later"})
        return None

    async def _do(self, request: web.Request, endpoint: str, handler: Handler) -> web.StreamResponse:
        take = self._cloud.faults.take
        try:
            response = await handler(request)
        except Stop as stop:
            return stop.response
        if take("hang_after", endpoint) is not None:
            await asyncio.sleep(FOREVER_S)
        if take("reset_after", endpoint) is not None:
            return _cut(request)
        if (code := take("status_after", endpoint)) is not None:
            return page(int(code or 502))
        if (
            isinstance(response, web.Response)
            and take("truncate", endpoint) is not None
            and isinstance(response.body, bytes)
        ):
            return web.Response(
                body=response.body[: len(response.body) // 2],
                status=response.status,
                content_type="application/json",
            )
        return response


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
