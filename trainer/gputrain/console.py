"""What a person sees: plain lines into a pipe and the log file, a progress line on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any


class Console:
    """Prints lines and keeps a copy in a log file; with `tee` off only the copy.

    A terminal or reader that goes away, or a log that cannot be written, never stops the run.
    """

    def __init__(self, log: Path, *, tee: bool, total_steps: int) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a", encoding="utf-8")
        self._tee = tee
        self._progress: Any = None
        self._task: Any = None
        if tee and sys.stdout.isatty():
            self._start_progress(total_steps)

    def _start_progress(self, total_steps: int) -> None:
        try:
            from rich import progress
        except ImportError:
            return
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[figures]}"),
            progress.TimeRemainingColumn(),
            transient=True,
            # No thread of its own: an error of the terminal must surface here, where it is handled.
            auto_refresh=False,
        )
        self._task = self._progress.add_task("training", total=total_steps, figures="")
        self._progress.start()

    def say(self, text: str) -> None:
        """One line."""
        try:
            self._log.write(text + "\n")
            self._log.flush()
        except OSError:
            self._tee = True
        if not self._tee:
            return
        try:
            if self._progress is not None:
                self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, flush=True)
        except OSError:
            self._go_silent()

    def advance(self, step: int, figures: str) -> None:
        """Move the progress line, where there is one."""
        if self._progress is None:
            return
        try:
            self._progress.update(self._task, completed=step, figures=figures, refresh=True)
        except OSError:
            self._go_silent()

    def _go_silent(self) -> None:
        """The reader of our output has gone; for the rest of the process it goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

    def close(self) -> None:
        """End the progress line and the log."""
        if self._progress is not None:
            with contextlib.suppress(OSError):
                self._progress.stop()
        self._log.close()
