"""The cloud's memory on disk: one JSON file, replaced atomically before an answer leaves.

It outlives a `kill -9` of the simulator at any moment (not a power cut: nothing is fsynced).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gpucloudsim.engine.model import World
from gpucloudsim.faults import Fault


class Memory(msgspec.Struct):
    """What is kept."""

    world: World
    api_key: str
    faults: list[Fault] = []
    port: int = 0
    results_port: int = 0


class Store:
    """Reads and writes the memory of one state directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "cloud.json"

    def load(self) -> Memory | None:
        """The memory, or None in a new directory. Raises msgspec.DecodeError on a foreign file."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(data, type=Memory)

    def save(self, memory: Memory) -> None:
        """Replace the file."""
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(memory))
        fresh.replace(self._path)
