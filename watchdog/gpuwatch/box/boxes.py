"""Real boxes: SSH with pinned host keys, and the sentinel behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gpuproviders.model import Endpoint
from gpuwatch.box.hostkeys import HostKeys
from gpuwatch.box.pace import Pace
from gpuwatch.box.ports import Agent, Connection
from gpuwatch.box.sentinel import Facts, Sentinel, install
from gpuwatch.box.ssh import Box


@dataclass(frozen=True, slots=True)
class SshBoxes:
    """See `gpuwatch.box.ports.Boxes`."""

    key: Path
    hostkeys: HostKeys
    pace: Pace = field(default_factory=Pace)
    """The bandwidth cap that all transfers share."""

    async def connect(self, endpoint: Endpoint, *, alias: str) -> Connection:
        """Over SSH, with our key."""
        return await Box.connect(endpoint, alias=alias, key=self.key, hostkeys=self.hostkeys, pace=self.pace)

    async def install(self, connection: Connection) -> Facts:
        """Over the open connection."""
        return await install(_ssh(connection))

    def agent(self, connection: Connection, workspace: str, run_id: str) -> Agent:
        """The sentinel of one run on this connection."""
        return Sentinel(_ssh(connection), workspace, run_id)


def _ssh(connection: Connection) -> Box:
    if not isinstance(connection, Box):
        raise TypeError("a connection that SshBoxes did not make")
    return connection
