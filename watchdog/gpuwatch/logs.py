"""The daemon's own log: structured, on stderr or in a file that rotates itself, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET = re.compile(r"key$|token|authorization|password|secret", re.IGNORECASE)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the value of every field whose name sounds like a secret."""
    for name in event:
        if _SECRET.search(name):
            event[name] = "[redacted]"
    return event


def configure(*, as_json: bool, stream: Any = None) -> None:
    """Set up structlog and the standard library's logging for the daemon process. `stream`: stderr when None."""
    stream = sys.stderr if stream is None else stream
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=stream, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
