"""Which actions on a run are possible now, and if not, why: the key stays visible and says it. Pure.

The daemon decides anew when it is asked; this is only what its last snapshot lets one say at once.
"""

from __future__ import annotations

from gputui import wording as say
from gpuwatch.client import wire

NO_RUN = "there is no run here"
HOST_KEY = "host-key"
"""The hold of a box that shows another host key than at first contact."""


def why_no_destroy(run: wire.RunRow | None) -> str | None:
    """Why a run's machine cannot be destroyed, None when it can."""
    if run is None:
        return NO_RUN
    if run.state in say.ENDED:
        return f"{run.name} has no machine any more"
    if run.state == "destroying":
        return f"the destroy of {run.name} has been sent already"
    return None


def why_no_undo(run: wire.RunRow | None) -> str | None:
    """Why a destroy cannot be taken back, None when it can."""
    if run is None:
        return NO_RUN
    if run.state == "destroying":
        return "the destroy has been sent; it cannot be taken back"
    if run.state in say.ENDED:
        return f"the machine of {run.name} is gone"
    return None


def why_no_box(run: wire.RunRow | None) -> str | None:
    """Why nobody can reach into a run's box, None when it may be reachable."""
    if run is None:
        return NO_RUN
    if run.instance_id is None or run.state in say.ENDED:
        return f"{run.name} has no machine"
    if run.state in {"requested", "renting", "booting"}:
        return f"the machine of {run.name} is still {run.state}"
    if run.state == "paused":
        return f"the machine of {run.name} is stopped; `gputui start {run.name}` starts it"
    return None


def why_no_retry(run: wire.RunRow | None) -> str | None:
    """Why there is nothing to try again, None when there is."""
    if run is None:
        return NO_RUN
    if run.state == "failed" or run.state == "lost":
        return None
    if run.state == "gone":
        return f"the job of {run.name} ended well; l launches another" if run.exit_code == 0 else None
    return f"{run.name} is {run.state}, not failed"


def why_no_recover(run: wire.RunRow | None) -> str | None:
    """Why a run does not go on elsewhere, None when it may."""
    if run is None:
        return NO_RUN
    if run.state in say.ENDED:
        return f"{run.name} has ended; A tries it again"
    if run.state == "failed":
        return f"{run.name} waits for you; A tries it again"
    if run.instance_id is None or run.started_at is None:
        return f"the job of {run.name} has not run yet: there is nothing to go on from"
    if run.state not in {"running", "finished", "collecting", "preparing"}:
        return f"{run.name} is {run.state}: everything it promised is home, or a person decides"
    return None


STOPPABLE = frozenset({"running", "finished", "collecting", "verified", "failed"})


def why_no_stop(run: wire.RunRow | None) -> str | None:
    """Why a machine can neither be stopped nor started, None when one of them may be."""
    if run is None:
        return NO_RUN
    if run.state == "paused":
        return None
    if run.instance_id is None or run.state in say.ENDED:
        return f"{run.name} has no machine"
    if run.state not in STOPPABLE:
        return f"{run.name} is {run.state}; only a machine on which its job ran is stopped"
    return None


def why_no_key(run: wire.RunRow | None) -> str | None:
    """Why there is no host key to accept, None when there is."""
    if run is None:
        return NO_RUN
    if any(hold.name == HOST_KEY for hold in run.holds):
        return None
    return f"the box of {run.name} shows the host key that is known"
