"""Questions to RunPod's GraphQL through the official package, each in a process of its own.

REST v2 has no balance and no spot pods. Importing `runpod` takes 1.5 s and 60 MB, sets up logging on stderr and starts
processes, so it is imported only in a child that lives for one question: key and query go in by a pipe, one line of JSON
comes out, and a child that does not answer in time is killed. What it had sent by then may have been carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from gpuproviders.checked import text
from gpuproviders.errors import scrub

CHILD = "gpuproviders.runpod.sdk_child"
DEADLINE_SECONDS = 30.0
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `data`, or why there is none (the package's word for the error, and the vendor's text)."""

    data: dict[str, Any] | None = None
    error: str = "no answer"
    text: str = ""


async def ask(
    key: str, url: str, query: str, *, seconds: float = DEADLINE_SECONDS, module: str = CHILD
) -> Answer:
    """Send one query, once. Never raises for what the vendor or the package does."""
    with tempfile.TemporaryDirectory(prefix="gputui-sdk-") as home:
        # a home of its own: the package reads ~/.runpod/config.toml at import and stumbles over what it finds there
        environment = {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": home, "RUNPOD_API_BASE_URL": url, "PYTHONWARNINGS": "ignore",
            **{name: value for name, value in os.environ.items() if name.lower() in ("http_proxy", "https_proxy", "no_proxy")},
        }  # fmt: skip
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-s", "-m", module, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, env=environment, cwd=home, start_new_session=True, limit=_LARGEST,
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds):
                line = json.dumps({"key": key, "query": query}).encode() + b"\n"
                out, _ = await child.communicate(line)
        except TimeoutError:
            return Answer(error="timeout", text=f"no answer within {seconds:.0f} s")
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
    try:
        answer = json.loads(out[:_LARGEST])
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return Answer()
    data = answer.get("data")
    if isinstance(data, dict):
        return Answer(data, "")
    said = scrub(text(answer.get("text"), 300) or "", key)
    return Answer(error=text(answer.get("error"), 80) or "no answer", text=said)
