"""What the rest of the simulator must know about a vendor: its name, its ids, what its boxes are like."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gpucloudsim.boxes.box import BoxSpec
from gpucloudsim.engine.model import Instance


class Vendor(Protocol):
    """One vendor's manners."""

    @property
    def name(self) -> str:
        """Short lower-case name, as in `--cloud`."""

    def public_id(self, instance: Instance) -> str:
        """The id under which the vendor's API knows an instance."""

    def box(self, instance: Instance, api_url: str, state: Path) -> BoxSpec:
        """What the inside of an instance is like. `state` is the simulator's directory."""
