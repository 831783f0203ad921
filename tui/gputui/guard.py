"""Work beside the screen that may fail: it becomes a toast and a log entry, never a crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from textual.dom import DOMNode
from textual.worker import Worker

from gpuwatch.client.errors import CallFailed

LOG = logging.getLogger("gputui")


def run_guarded(
    node: DOMNode, work: Coroutine[Any, Any, None], *, what: str, group: str, exclusive: bool = True
) -> Worker[None]:
    """Run `work` as a worker of `node`; `what` says in a toast what went wrong.

    Groups are per node and named: an exclusive worker ends only its own kind.
    """

    async def guarded() -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except CallFailed as error:
            LOG.warning("%s: %s: %s", what, error.code, error)
            node.app.notify(str(error), title=what, severity="error", timeout=8, markup=False)
        except Exception as error:
            LOG.exception("%s", what)
            text = f"{type(error).__name__}: {error}"
            node.app.notify(text, title=f"{what} (a bug; see the log)", severity="error", markup=False)

    return node.run_worker(guarded(), group=group, exclusive=exclusive, exit_on_error=False)
