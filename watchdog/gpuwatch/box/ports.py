"""What the daemon needs of a box, as types: SSH and the sentinel implement it, the simulation too."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from gpuproviders.model import Endpoint
from gpuwatch.box.fetch import Fetched, NotFetched, Progress, Wanted
from gpuwatch.box.sentinel import Facts, Report, StageState
from gpuwatch.custody.facts import BoxFile, Inventory


class Connection(Protocol):
    """An open way into a box."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it answered."""

    @property
    def fingerprint(self) -> str:
        """Of the host key that it showed."""

    @property
    def closed(self) -> bool:
        """Whether it is gone."""

    async def close(self) -> None:
        """Hang up."""


class Agent(Protocol):
    """The sentinel on one box. See `gpuwatch.box.sentinel.Sentinel` for what each method promises and raises."""

    @property
    def folder(self) -> str:
        """The run's state folder on the box."""

    @property
    def work(self) -> str:
        """The run's work folder on the box."""

    async def stage(
        self, stage: str, *, command: str, env: dict[str, str], again: bool = False
    ) -> StageState:
        """Start a supervised stage once, or report it."""

    async def state(self, stage: str) -> StageState:
        """How far a stage is."""

    async def stop(self, stage: str, *, grace: float = 30) -> StageState:
        """End a stage's processes."""

    async def inventory(
        self, globs: Sequence[str], instance_id: str, *, root: str | None = None
    ) -> Inventory:
        """A complete listing of the promised files."""

    async def put(self, name: str, data: bytes) -> None:
        """Write one small file."""

    async def upload(
        self, files: Sequence[tuple[str, Path]], *, root: str | None = None, progress: Progress | None = None
    ) -> int:
        """Put local files on the box."""

    def fetch(
        self,
        wanted: Sequence[Wanted],
        *,
        partial: Path,
        boot_id: str,
        progress: Progress,
        root: str | None = None,
    ) -> AsyncGenerator[Fetched | NotFetched, None]:
        """Bring files home, proved."""

    def watch(
        self, *, globs: Sequence[str], interval: float, metrics: str | None, status: str | None
    ) -> AsyncIterator[Report]:
        """Reports, one per interval."""

    async def guard(self, *, provider: str, url: str, term: float) -> None:
        """Start the dead-man switch on the box, or find it started."""

    async def forget(self, folder: str, name: str, files: Sequence[BoxFile]) -> str | None:
        """Remove one checkpoint that is proved at home; why it stays, None when it is gone."""

    def tail(self, offset: int) -> AsyncIterator[bytes]:
        """The log from a byte on."""


class Boxes(Protocol):
    """How boxes are reached."""

    async def connect(self, endpoint: Endpoint, *, alias: str) -> Connection:
        """Connect and log in; the host key is pinned under `alias`. Raises BoxUnreachable, BoxAuth, HostKeyChanged."""

    async def install(self, connection: Connection) -> Facts:
        """Put the sentinel there and ask what the box is. Raises NoPython, BoxFault, BoxUnreachable."""

    def agent(self, connection: Connection, workspace: str, run_id: str) -> Agent:
        """The sentinel of one run."""
