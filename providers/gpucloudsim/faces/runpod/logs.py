"""Logs of pods as server-sent events: what the host says and what the container writes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime

from aiohttp import web

from gpucloudsim.engine.market import SECOND
from gpucloudsim.engine.model import Instance
from gpucloudsim.faces.runpod.answers import problem
from gpucloudsim.faces.runpod.desk import Desk
from gpucloudsim.faces.runpod.pods import invalid
from gpucloudsim.faces.runpod.rows import iso, system_lines

POLL_S = 0.2
Line = tuple[str, str, str]
"""(event id, source, text); ids sort by time."""


class LogRoutes:
    """Log streams."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud
        self._seen: dict[int, list[Line]] = {}
        self._read: dict[int, tuple[int, int]] = {}
        """How many system lines and how much of the container's log is among the lines seen."""

    def lines(self, instance: Instance) -> list[Line]:
        """Everything so far, in the order in which it was first seen; that order is in the ids."""
        seen = self._seen.setdefault(instance.id, [])
        told, read = self._read.get(instance.id, (0, 0))
        system = system_lines(instance)
        box = self.cloud.fleet.boxes.get(instance.id)
        text = box.log_text() if box else ""
        whole, end, _ = text[read if read <= len(text) else 0 :].rpartition("\n")
        fresh = [(at, "system", line) for at, line in system[told:]]
        now = time.time_ns() // 1000
        fresh += [(now, "container", line) for line in whole.split("\n")] if end else []
        for at, source, line in fresh:
            stamp = max(iso(at), seen[-1][0].partition("/")[0] if seen else "")
            seen.append((f"{stamp}/{len(seen):012d}", source, line))
        self._read[instance.id] = (len(system), (read if read <= len(text) else 0) + len(whole) + len(end))
        return seen

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/pods/{id}/logs: first what is there, then what comes, until the client leaves."""
        instance = self.desk.pod(request)
        source = request.query.get("source")
        since = request.headers.get("Last-Event-ID") or request.query.get("since")
        try:
            tail = int(request.query.get("tail", "100"))
        except ValueError:
            tail = -1
        if not 0 <= tail <= 5000 or source not in (None, "container", "system"):
            raise invalid(["tail or source is not valid"])
        if since is not None and _moment(since) is None:
            raise invalid(["since is not a timestamp"])
        if self.cloud.faults.take("logs_never") is not None:
            return problem(404, "pod not found")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        found = [x for x in self.lines(instance) if source in (None, x[1])]
        found = (
            [x for x in found if x[0] > since]
            if since is not None
            else found[len(found) - min(tail, len(found)) :]
        )
        with contextlib.suppress(ConnectionResetError):
            await self._send(response, request, instance, found)
        return response

    async def _send(
        self, response: web.StreamResponse, request: web.Request, instance: Instance, found: list[Line]
    ) -> None:
        sent, source = "", request.query.get("source")
        while True:
            for event, where, text in found:
                data = json.dumps({"ts": event.partition("/")[0], "source": where, "line": text})
                await response.write(f"id: {event}\ndata: {data}\n\n".encode())
                sent = max(sent, event)
                if self.cloud.faults.take("logs_cut") is not None and request.transport is not None:
                    request.transport.abort()
                    return
            if not instance.exists:
                return
            await asyncio.sleep(POLL_S)
            found = [x for x in self.lines(instance) if x[0] > sent and source in (None, x[1])]


def _moment(text: str) -> int | None:
    """Microseconds of an RFC 3339 time, with or without an event's number behind it."""
    try:
        return round(datetime.fromisoformat(text.partition("/")[0]).replace(tzinfo=UTC).timestamp() * SECOND)
    except ValueError:
        return None
