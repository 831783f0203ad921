"""The named holds: every reason not to end a machine, what makes it, and what removes it alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gpuwatch.lifecycle.run import Run

PIN: Final = "pin"
SESSION: Final = "ssh-session"
DOWNLOADING: Final = "downloading"
HOST_KEY: Final = "host-key"


@dataclass(frozen=True, slots=True)
class Hold:
    """A named reason not to destroy. `by` and `at` (Unix seconds UTC) say who placed it, when a person did."""

    name: str
    reason: str
    by: str | None = None
    at: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Removal(Enum):
    """How a hold is removed alone."""

    RELEASE = "release"
    """`gputui release RUN NAME` with a reason."""
    WAIVE = "waive"
    """By giving up what it protects: the files by name, with the run's name typed and a reason."""
    WAIVE_ALL = "waive-all"
    """By giving up everything: what it protects is not known."""
    ITSELF = "itself"
    """It goes when the fact behind it does; there is nothing to remove."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One name of a hold: what it means and how it goes."""

    name: str
    meaning: str
    removal: Removal


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("artifacts", "promised files on the box are not proved at home", Removal.WAIVE),
        Kind("missing", "something promised does not exist on the box", Removal.WAIVE),
        Kind("too-small", "a promised file is smaller than promised", Removal.WAIVE),
        Kind("empty", "nothing that was promised exists", Removal.WAIVE),
        Kind("writing", "some process still writes a promised file", Removal.WAIVE),
        Kind("inventory", "the box could not list everything", Removal.RELEASE),
        Kind("name", "a promised file has a name that the vault cannot keep", Removal.WAIVE),
        Kind("link", "a promised name is a link to something that is not promised", Removal.WAIVE),
        Kind("transfer", "a promised file could not be brought home", Removal.WAIVE),
        Kind("unknown-state", "what is on the machine is not known well enough", Removal.WAIVE_ALL),
        Kind(PIN, "a person pinned the machine", Removal.RELEASE),
        Kind(SESSION, "somebody is logged in on the box", Removal.RELEASE),
        Kind(DOWNLOADING, "files are coming home", Removal.RELEASE),
        Kind(HOST_KEY, "the box shows another host key than at first contact", Removal.RELEASE),
        Kind("job", "the job is running; asking for the end stops it first", Removal.ITSELF),
        Kind("receipt", "the last collection has not proved everything yet", Removal.ITSELF),
        Kind("no-machine", "there is no machine", Removal.ITSELF),
    )
}
"""Every name that the daemon itself gives. People may place others (`gputui hold RUN --name …`)."""

WAIT: Final = frozenset({SESSION, DOWNLOADING})
"""Holds that a new collection does not remove: the destroy waits for them."""


def removal(name: str) -> Removal:
    """How a hold of this name goes; the names that people give go by release."""
    kind = KINDS.get(name)
    return Removal.RELEASE if kind is None else kind.removal


def placed(run: Run) -> tuple[Hold, ...]:
    """The holds that people placed on the run."""
    return tuple(Hold(p.name, p.reason or KINDS[PIN].meaning, p.by, p.at) for p in run.pins)


def passing(
    run: Run, *, sessions: int | None, transferring: bool, stranger: str | None = None
) -> tuple[Hold, ...]:
    """Holds that come and go: people logged in on the box, files on their way, another host key in its place.

    `sessions` are interactive logins, None when the box cannot tell: then there is no such hold. `stranger` is the
    fingerprint of the other key.
    """
    holds = []
    if stranger is not None:
        text = f"the box shows another host key ({stranger}) than at first contact; releasing this hold accepts that key"
        holds.append(Hold(HOST_KEY, text))
    if sessions and not run.has_released(SESSION):
        logged = "somebody is" if sessions == 1 else f"{sessions} people are"
        holds.append(Hold(SESSION, f"{logged} logged in on the box; log out, or release this hold"))
    if transferring and not run.has_released(DOWNLOADING):
        holds.append(Hold(DOWNLOADING, "files are coming home; the destroy waits for them"))
    return tuple(holds)
