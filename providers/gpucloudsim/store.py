"""The cloud's memory on disk: one JSON file, replaced atomically before an answer leaves.

It outlives a `kill -9` of the simulator at any moment (not a power cut: nothing is fsynced).
"""

from __future__ import annotations

import fcntl
from pathlib import Path

import msgspec

from gpucloudsim.engine.model import World
from gpucloudsim.faults import Fault


class Memory(msgspec.Struct):
    """What is kept."""

    world: World
    api_key: str
    cloud: str = "vast"
    """Whose API it speaks."""
    faults: list[Fault] = []
    port: int = 0
    results_port: int = 0


class StateInUseError(Exception):
    """Another simulator runs on the same directory."""


class ForeignStateError(Exception):
    """The state file cannot be read."""


class Store:
    """Reads and writes the memory of one state directory, which it holds for itself while the process lives."""

    def __init__(self, directory: Path) -> None:
        """Raises StateInUseError."""
        self._path = directory / "cloud.json"
        self._lock = (directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            self._lock.close()
            raise StateInUseError(
                f"another simulator runs on {directory}; end it or choose another --state"
            ) from problem

    def load(self) -> Memory | None:
        """The memory, or None in a new directory. Raises ForeignStateError."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(data, type=Memory)
        except msgspec.DecodeError as problem:
            raise ForeignStateError(
                f"{self._path} is not a simulated cloud of this version: {problem}"
            ) from problem

    def save(self, memory: Memory) -> None:
        """Replace the file."""
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(memory))
        fresh.replace(self._path)
