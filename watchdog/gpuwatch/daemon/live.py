"""What is known about a run right now and need not survive a restart: telemetry, transfers, log size."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from gpuwatch.box.fetch import Progress
from gpuwatch.box.sentinel import Report
from gpuwatch.custody.facts import BoxFile
from gpuwatch.custody.facts import Link as BoxLink
from gpuwatch.idle.timers import Due
from gpuwatch.idle.verdict import Verdict
from gpuwatch.telemetry.watching import Watching


@dataclass(slots=True)
class Live:
    """The live side of one run. `bump` tells the app that something changed."""

    report: Report | None = None
    report_at: float | None = None
    """Event-loop time of `report`."""
    files: tuple[BoxFile, ...] = ()
    """The promised files as last reported."""
    links: tuple[BoxLink, ...] = ()
    """The symbolic links among them, as the last collection listed them."""
    boot_id: str | None = None
    watching: Watching = field(default_factory=Watching)
    """The box's telemetry: history and alarms."""
    files_version: int = 0
    """Changes whenever the promised files do."""
    idle: Due | None = None
    """What the idle timers say; None while they do not apply."""
    idle_verdict: Verdict | None = None
    transfer: Progress | None = None
    trouble: str | None = None
    """What keeps the current step from going on, for people; None while it goes on."""
    stranger: str | None = None
    """The host key that the box's address showed in place of the pinned one; None while that is not so."""
    log_size: int = 0
    log_complete: bool = False
    log_torn: bool = False
    """Whether the captured log turned out not to be the beginning of the box's."""
    bringing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one download of this run: two of the same file would write into one part."""
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    logged: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def logins(self) -> int | None:
        """People with a terminal on the box by the newest report, None when nobody can tell."""
        processes = self.report.vitals.processes if self.report is not None else None
        if processes is None or processes.sessions is None:
            return None
        return sum(1 for session in processes.sessions if session.kind != "command")

    def observe(self, report: Report, at: float, wall: float) -> None:
        """Take in one report that came at `at` (event-loop time), `wall` in Unix seconds."""
        if report.files is not None and report.files != self.files:
            self.files = report.files
            self.files_version += 1
        # the listing is kept once, not with every report
        self.report, self.report_at = replace(report, files=None), at
        self.watching.observe(
            wall, report.vitals, report.progress, cpu=report.cpu, running=report.job.phase == "running"
        )
        self.boot_id = report.boot_id
        event, self.reported = self.reported, asyncio.Event()
        event.set()
        self.bump()

    def forget_box(self) -> None:
        """The run has left its machine: what was heard of that one says nothing of the next."""
        self.report = self.report_at = self.boot_id = self.idle = self.idle_verdict = self.stranger = None
        self.files, self.links, self.log_torn = (), (), False
        self.files_version += 1
        self.watching = Watching()
        self.log_size, self.log_complete = 0, False
        self.bump()

    def logged_to(self, size: int, *, complete: bool) -> None:
        """The captured log has grown."""
        self.log_size, self.log_complete = size, complete
        event, self.logged = self.logged, asyncio.Event()
        event.set()

    def say(self, trouble: str | None) -> None:
        """Set or clear what hinders."""
        if trouble != self.trouble:
            self.trouble = trouble
            self.bump()

    def bump(self) -> None:
        """Something that the app shows has changed."""
        event, self.changed = self.changed, asyncio.Event()
        event.set()
