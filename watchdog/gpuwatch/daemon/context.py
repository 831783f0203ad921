"""What every part of the daemon works with. One object, made once, passed down; no globals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gpuwatch.box.hostkeys import HostKeys
from gpuwatch.box.ports import Boxes
from gpuwatch.config import Config
from gpuwatch.ledger import Ledger
from gpuwatch.spec import RunSpec
from gpuwatch.vault.layout import Vault

if TYPE_CHECKING:
    import asyncio

    from gpuwatch.daemon.fleet import Fleet
    from gpuwatch.daemon.retained import Retained
    from gpuwatch.experience.book import Experience
    from gpuwatch.mirror.standing import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The daemon's parts. `now` is wall time for records; durations use the event loop's clock."""

    config: Config
    ledger: Ledger
    vault: Vault
    boxes: Boxes
    hostkeys: HostKeys
    key: Path
    """The daemon's private SSH key."""
    public_key: str
    fleets: Mapping[str, Fleet]
    """One per provider account, by provider name."""
    trainer: Path | None
    """The trainer's source folder that `[train]` runs are given; None when it is not installed."""
    experience: Experience | None = None
    """What we have seen of machines; None where nothing is kept of it."""
    private: Path = Path()
    """A folder of ours for keys that rclone needs as files."""
    now: Callable[[], float] = time.time
    specs: dict[str, RunSpec] = field(default_factory=dict)
    """Run id → its checked spec, parsed once."""
    mirrored: dict[tuple[str, str], Standing] = field(default_factory=dict)
    """(run id, remote) → what is known to stand there; absent until it was compared."""
    remotes: dict[str, asyncio.Lock] = field(default_factory=dict)
    """Remote → held by whoever copies to it or deletes from it."""
    retained: dict[tuple[str, str], Retained] = field(default_factory=dict)
    """(run id, place) → what retention last found there."""
