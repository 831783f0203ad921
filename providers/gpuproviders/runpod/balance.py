"""The account's balance, spend and limit: GraphQL through the official package, in a process of its own.

REST v2 does not have them. Importing `runpod` takes 1.5 s and 60 MB, sets up logging on stderr and starts
processes, so it is imported only in a child that lives for one question: the key goes in by a pipe, one line
of JSON comes out, and a child that does not answer in time is killed. Whatever goes wrong (410 after the
retirement included) is "unknown".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuproviders.checked import price, text
from gpuproviders.money import MicroUsd, parse_usd

CHILD = "gpuproviders.runpod.sdk_child"
DEADLINE_SECONDS = 30.0
_LARGEST = 64 << 10
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Money:
    """What the account's owner has and spends; each None when it was not said."""

    user_id: str | None = None
    balance: MicroUsd | None = None
    spending: MicroUsd | None = None
    """Micro-dollars per hour."""
    limit: MicroUsd | None = None
    """Micro-dollars per hour."""


UNKNOWN = Money()


async def ask(key: str, url: str, *, seconds: float = DEADLINE_SECONDS, module: str = CHILD) -> Money:
    """Ask once. Never raises for what the vendor or the package does: the answer is then UNKNOWN."""
    answer = await _ask(key, url, seconds, module)
    return UNKNOWN if answer is None else read(answer)


def read(answer: Mapping[str, Any]) -> Money:
    """The child's line. Pure."""
    me = answer.get("myself")
    if not isinstance(me, dict):
        return UNKNOWN
    balance = parse_usd(me.get("clientBalance"))
    return Money(
        user_id=text(me.get("id"), 100),
        balance=None if balance is None else MicroUsd(balance),
        spending=price(me.get("currentSpendPerHr")),
        limit=price(me.get("spendLimit")),
    )


async def _ask(key: str, url: str, seconds: float, module: str) -> Mapping[str, Any] | None:
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
                out, _ = await child.communicate(json.dumps({"key": key}).encode() + b"\n")
        except TimeoutError:
            log.info("the balance was not told within %.0f s", seconds)
            return None
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
        return None
    if problem := text(answer.get("error"), 80):
        log.info("the balance is not told: %s", problem)
    return answer
