"""Logs and disk commands, whose results are fetched from another origin."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import time
from pathlib import Path

from aiohttp import web

from gpucloudsim.engine.market import SECOND
from gpucloudsim.faces.http import answer, body_of
from gpucloudsim.faces.vast.answers import error
from gpucloudsim.faces.vast.desk import Desk

MISSING_XML = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message>'
    "<Key>{}</Key></Error>"
)


class ResultRoutes:
    """Requests whose result comes later and elsewhere."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    async def result(self, request: web.Request) -> web.Response:
        """A result object; 404 with XML until it is uploaded."""
        name = request.match_info["name"].removesuffix(".log")
        lag, text = self.desk.results.get(name, (1, ""))
        if lag > 0 or self.cloud.faults.take("logs_never") is not None:
            if name in self.desk.results:
                self.desk.results[name] = (lag - 1, text)
            return web.Response(
                body=MISSING_XML.format(name).encode(), status=404, content_type="application/xml"
            )
        return web.Response(body=text.encode(), content_type="text/plain")

    async def logs(self, request: web.Request) -> web.Response:
        """Have the container's log uploaded."""
        body = await body_of(request)
        instance = self.desk.instance(request)
        box = self.cloud.fleet.boxes.get(instance.id)
        if body.get("daemon_logs") in ("true", True):
            text = "".join(
                f"{time.strftime('%F %T', time.gmtime(at / SECOND))} {what}\n"
                for at, what in instance.history
            )
        else:
            text = box.log_text() if box else ""
        lines = text.splitlines(keepends=True)
        if body.get("filter"):
            lines = [line for line in lines if str(body["filter"]) in line]
        if str(body.get("tail") or "").isdigit():
            lines = lines[-int(str(body["tail"])) :]
        return answer(
            {"success": True, "result_url": self.desk.publish("".join(lines)), "msg": "log request sent"}
        )

    async def execute(self, request: web.Request) -> web.Response:
        """ls, rm and du on the disk of an instance (no shell)."""
        body = await body_of(request)
        instance = self.desk.instance(request)
        box = self.cloud.fleet.boxes.get(instance.id)
        text = str(body.get("command") or "")
        if (
            len(text) > 512
            or box is None
            or (output := await asyncio.to_thread(_disk_command, box.path, text)) is None
        ):
            return error("invalid_args", "only ls, rm and du are allowed", 400)
        path = "/var/lib/docker/overlay2/writeable"
        return answer(
            {
                "success": True,
                "writeable_path": path,
                "result_url": self.desk.publish(output),
                "msg": "Executing...",
            }
        )


def _disk_command(base: Path, command: str) -> str | None:
    """Run ls, rm or du on the box's directory; every path is taken inside it. None for anything else."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words or words[0] not in ("ls", "rm", "du"):
        return None
    argv = [words[0]]
    for word in words[1:]:
        parts = [part for part in word.split("/") if part not in ("", ".", "..")]
        argv.append(word if word.startswith("-") else str(base.joinpath(*parts)))
    done = subprocess.run(
        argv, cwd=base, capture_output=True, text=True, errors="replace", timeout=10, check=False
    )
    return (done.stdout + done.stderr).replace(str(base), "")
