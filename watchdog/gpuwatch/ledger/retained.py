"""What retention let go, as the ledger knows it: a part of `Ledger`, so that copy and removal are one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from gpuwatch.custody.facts import Copy
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.ledger import rows
from gpuwatch.ledger.writer import Statement
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run
from gpuwatch.mirror.known import Past
from gpuwatch.mirror.retention import BOX, VAULT


class Retained:
    """The ledger's methods about retention. What else they work with is the ledger's own."""

    runs: dict[str, Run]
    _now: Callable[[], float]
    _seq: int
    _copies: dict[str, dict[str, Copy]]
    _bad: dict[tuple[str, str], Scrubbed]
    _let_go: dict[str, set[str]]

    async def _durable(
        self, statements: Sequence[Statement], newest: dict[str, Statement] | None = None
    ) -> None:
        raise NotImplementedError

    async def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        raise NotImplementedError

    async def lets_go(self, run_id: str, event: e.LetGo, copies: Iterable[Copy]) -> None:
        """Write down that a checkpoint goes from a place, before it does; durable on return.

        What goes from the vault is no copy from here on, and nothing that could be missed.
        """
        at, event = self._now(), e.storable(event)
        self._seq += 1
        statements = [rows.event_row(self._seq, at, run_id, event)]
        for copy in copies if event.place != BOX else ():
            statements += rows.let_go_rows(run_id, event.place, copy, at)
            if run_id in self.runs:
                self._let_go.setdefault(run_id, set()).add(copy.path)
            if event.place == VAULT:
                self._copies.get(run_id, {}).pop(copy.path, None)
                self._bad.pop((run_id, copy.path), None)
        await self._durable(statements)

    async def removed(self, run_id: str, place: str, paths: Iterable[str]) -> None:
        """What was let go there has really been removed; durable on return."""
        await self._durable([rows.removed_row(run_id, place, path) for path in paths])

    async def let_go(self, run_id: str) -> list[Past]:
        """What retention let go of a run and has not come home anew."""
        return [rows.past_of(row) for row in await self._rows(rows.LET_GO_OF, (run_id,))]

    async def letting_go(self) -> list[str]:
        """Runs of which something was let go and is perhaps not removed yet."""
        return [str(row[0]) for row in await self._rows(rows.LET_GO_UNFINISHED)]

    def _keeps_again(self, run_id: str, paths: AbstractSet[str]) -> list[Statement]:
        """These files have come home anew: what retention did about their older copies counts no more."""
        known = self._let_go.get(run_id, set())
        again = paths & known
        known -= again
        return [rows.kept_again_row(run_id, path) for path in again]
