"""How far one run is on one remote, as far as this process knows. What stands is in the vault."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuwatch.custody.facts import Copy
from gpuwatch.mirror import plan, proof
from gpuwatch.mirror.rclone import Progress


@dataclass(slots=True)
class Standing:
    """What is known of one run on one remote."""

    run: str
    remote: str
    stands: dict[str, proof.Stands]
    required: bool = False
    """The machine is not destroyed before this remote has everything."""
    complete: bool = False
    """The run is over and nothing is missing; written down so."""
    due: plan.Due | None = None
    """What is missing, None before it was compared with the vault."""
    looked: tuple[object, float] | None = None
    """What the run's copies looked like when nothing was missing, and when that was (event-loop time)."""
    behind_since: float | None = None
    """Unix seconds since which something was not verified there."""
    problem: str | None = None
    progress: Progress | None = None
    copying: str | None = None
    """The checkpoint that is being copied there."""
    ours: set[str] = field(default_factory=set)
    """Names that we put there ourselves and that turned out not to be equal: these may be written over."""
    let_go: frozenset[tuple[str, str]] = frozenset()
    """(path, SHA-256) of what retention let go there: it is not copied again."""
    pointed: tuple[int, str] | None = None
    """(step, name) that the remote's pointer names, as far as we wrote it since the start."""

    def lacks(self, copies: Iterable[Copy]) -> int:
        """How many of these files are not verified there in this version."""
        return sum(1 for c in copies if (s := self.stands.get(c.path)) is None or s.sha256 != c.sha256)
