"""Signs of life to who watches the watcher: systemd's watchdog, and a URL elsewhere whose silence raises an alarm.

A sign is only given when the event loop turns, a thread can be had, and the ledger's writer lives: a hung
daemon is silent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import urllib.request

import structlog

from gpuwatch.clean import clean

log = structlog.get_logger()

URL_TIMEOUT = 20.0


def notify(state: str) -> bool:
    """Tell systemd, when it asked to be told (`NOTIFY_SOCKET`). Never raises."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def watchdog_seconds(environment: dict[str, str]) -> float | None:
    """How often systemd wants to hear of this process, None when it does not. Pure."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID")
    if not text.isdecimal() or int(text) == 0 or (pid is not None and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


async def feed_watchdog(writer: asyncio.Task[None]) -> None:
    """Tell systemd three times in each of its periods that work goes on; returns when it does not ask."""
    period = watchdog_seconds(dict(os.environ))
    if period is None:
        return
    while not writer.done():
        await asyncio.to_thread(notify, "WATCHDOG=1")
        await asyncio.sleep(period / 3)


async def ping(url: str, every: float, writer: asyncio.Task[None]) -> None:
    """Ask `url` every so many seconds, as a sign of life; an answer that fails is logged and changes nothing."""
    while not writer.done():
        try:
            await asyncio.to_thread(_get, url)
        except (OSError, ValueError) as error:
            log.warning("heartbeat not taken", problem=clean(str(error), 200))
        await asyncio.sleep(every)


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=URL_TIMEOUT) as answer:  # noqa: S310 - checked in the settings
        answer.read(1024)
