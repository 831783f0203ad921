"""Alarms as messages to a person: each once when it comes and once when it is over, a few an hour at most.

`Teller` is pure: standing alarms and a time go in, messages come out. Numbers in an alarm's words change all
the time ("full in 40 min"); it is the same alarm as long as the words between them are.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from gpuwatch.clean import clean

log = structlog.get_logger()

LOOK_EVERY = 15.0
SETTLE = 45.0
"""Seconds that an alarm must stand before it is told: what mends itself at once wakes nobody."""
REMIND = 6 * 3600.0
MOST_PER_HOUR = 12
ENVIRONMENT = "GPUWATCH_NOTIFY_URLS"
_NUMBERS = re.compile(r"[$]?\d+(?:[.,]\d+)*")


@dataclass(slots=True)
class _Known:
    since: float
    text: str
    told: float | None = None


@dataclass(slots=True)
class Teller:
    """Decides what is told. Times are seconds of one clock."""

    _known: dict[str, _Known] = field(default_factory=dict)
    _sent: deque[float] = field(default_factory=deque)
    _held: int = 0

    def tell(self, standing: Iterable[str], now: float) -> list[str]:
        """Messages that are due, oldest alarm first."""
        alarms = {_NUMBERS.sub("#", text): text for text in standing}
        over = [known for key, known in self._known.items() if key not in alarms and known.told is not None]
        self._known = {k: v for k, v in self._known.items() if k in alarms}
        due = [f"over: {known.text}" for known in over]
        for key, text in alarms.items():
            known = self._known.setdefault(key, _Known(now, text))
            known.text = text
            fresh = known.told is None and now - known.since >= SETTLE
            if fresh or (known.told is not None and now - known.told >= REMIND):
                due.append(text if fresh else f"still: {text}")
                known.told = now
        return self._limited(due, now)

    def _limited(self, due: list[str], now: float) -> list[str]:
        while self._sent and self._sent[0] <= now - 3600:
            self._sent.popleft()
        room = max(0, MOST_PER_HOUR - len(self._sent))
        out, self._held = due[:room], self._held + len(due[room:])
        if self._held and len(out) < room:
            out.append(f"{self._held} more messages were held back; `gpuwatch status` shows what stands")
            self._held = 0
        self._sent.extend([now] * len(out))
        return out


def urls(configured: Iterable[str]) -> tuple[str, ...]:
    """Where messages go: the settings' URLs and those of the environment (which may hold tokens)."""
    return tuple(dict.fromkeys([*configured, *os.environ.get(ENVIRONMENT, "").split()]))


def send(targets: Iterable[str], title: str, body: str) -> bool:
    """Hand a message to every target; whether all took it. Blocking. Never raises, never logs a URL."""
    import logging
    import warnings

    try:
        with warnings.catch_warnings():
            # its plugins are imported as they are needed, and some import what Python has deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            import apprise

            logging.getLogger("apprise").setLevel(logging.CRITICAL)
            sender = apprise.Apprise()
            added = [sender.add(url) for url in targets]
            return bool(sender.notify(title=title, body=body)) and all(added)
    except Exception as error:  # noqa: BLE001 - a hundred services' plugins: none may end the daemon
        log.warning("message not sent", problem=type(error).__name__)
        return False


async def keep_telling(alarms: Callable[[], list[str]], targets: tuple[str, ...]) -> None:
    """Look at the alarms every so often, for ever; what could not be sent is sent with the next."""
    if not targets:
        return
    teller, waiting = Teller(), deque[str](maxlen=50)
    loop = asyncio.get_running_loop()
    while True:
        waiting.extend(clean(text, 500) for text in teller.tell(alarms(), loop.time()))
        if waiting:
            try:
                async with asyncio.timeout(120):
                    body = "\n".join(waiting)
                    if await asyncio.to_thread(send, targets, "gpuwatch", body):
                        waiting.clear()
                    else:
                        log.warning("messages wait", count=len(waiting))
            except TimeoutError:
                log.warning("messages wait", count=len(waiting))
        await asyncio.sleep(LOOK_EVERY)
