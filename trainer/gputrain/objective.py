"""What a run learns. The loop over steps is one; pre-training, SFT and DPO differ only in this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from gputrain.build import Built
from gputrain.config import Config
from gputrain.progress import Plan
from gputrain.rundir import RunDir


class Objective(Protocol):
    """A model, samples in a fixed order, and a loss.

    Sample ``n`` of the run is the same for every number of processes and every micro-batch, so that
    the number of samples read is the whole state of the data.
    """

    config: Config
    """The settings as they hold, with what the data decides filled in."""
    name: str
    """The data, for people."""
    data_sha256: str
    plan: Plan
    identity: Mapping[str, Any]
    """What may not change on resume."""
    warm: str
    """Checkpoint or run whose weights a new run begins with; empty for none."""

    def prepare(self, run: RunDir) -> None:
        """Put into the run directory what belongs to it beside the records; called once it is held."""

    def build(self, *, initialise: bool) -> Built:
        """The model and its optimisers; initialised unless a checkpoint will overwrite everything."""

    def batch(self, first: int, count: int, next_first: int) -> tuple[Tensor, ...]:
        """Samples ``first`` … on the device, as arguments of the runner; `next_first` is asked for next.

        The runner returns a loss whose mean over all micro-batches of a step, on all processes, is the
        loss of the step.
        """

    def tokens(self, samples: int) -> int:
        """Tokens in the first `samples` samples."""

    def evaluate(self, built: Built) -> dict[str, float] | None:
        """``loss`` and whatever else is measured on what is held out; None if nothing is."""

    def close(self) -> None:
        """End threads."""
