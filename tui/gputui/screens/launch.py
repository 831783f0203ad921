"""Launch: a spec's path, what is wrong with it or what it would do, and the last word before money is spent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar, cast
from uuid import uuid4

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.suggester import SuggestFromList
from textual.widgets import Button, Input

from gputui import wording as say
from gputui.app import GpuTui
from gputui.guard import run_guarded
from gputui.launching import read_spec
from gputui.screens.dialog import Dialog
from gputui.widgets.lines import Line, Lines, wrap
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_WIDTH = 70
_PAUSE = 0.15
"""Seconds without a key before what was typed is checked."""
_MAX_SUGGESTED = 200


def _specs_here() -> list[str]:
    """Run specs near by: TOML files here and in `examples`, nearest first."""
    here = Path()
    found = [*sorted(here.glob("*.toml")), *sorted(here.glob("examples/*.toml"))]
    return [str(path) for path in found if path.name not in {"pyproject.toml", "uv.lock"}][:_MAX_SUGGESTED]


class LaunchDialog(Dialog[wire.Launched | None]):
    """Returns the new run, or None. With `offer` exactly that one is rented."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Back")]

    def __init__(self, offer: wire.OfferRow | None = None) -> None:
        super().__init__()
        self._offer = offer
        self._key = uuid4().hex  # one dialog launches one run, however often it has to ask
        self._spec: wire.SpecText | None = None
        self._sending = False

    def compose(self) -> ComposeResult:
        """Path, verdict, buttons."""
        head: list[Line] = [[("Launch a run", "title")]]
        if self._offer is not None:
            offer = self._offer
            text = f"on {say.gpus(offer.gpu, offer.gpu_count)} at {say.rate(offer.price)}  ({offer.provider} {offer.offer_id})"
            head.append([(text, "bold")])
        with Vertical(classes="dialog"):
            with VerticalScroll(classes="body", can_focus=False):
                yield Lines([*head, [], [("run spec (TOML)", "dim")]])
                yield Input(placeholder="path/to/run.toml", id="path", compact=True)
                yield Lines([[]], id="verdict")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Launch", id="go", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Offer what lies here."""
        run_guarded(self, self._suggest(), what="Looking for specs", group="suggest")

    async def _suggest(self) -> None:
        names = await asyncio.to_thread(_specs_here)
        entry = self.query_one("#path", Input)
        entry.suggester = SuggestFromList(names)
        if len(names) == 1 and not entry.value:
            entry.value = names[0]
            entry.cursor_position = len(names[0])

    @on(Input.Changed, "#path")
    def _typed(self, event: Input.Changed) -> None:
        self._spec = None
        self.query_one("#go", Button).disabled = True
        run_guarded(self, self._check(event.value.strip(), _PAUSE), what="Checking the spec", group="check")

    @on(Input.Submitted, "#path")
    def _entered(self, event: Input.Submitted) -> None:
        if self._spec is not None:
            self.query_one("#go", Button).focus()
        else:
            run_guarded(
                self, self._check(event.value.strip(), 0, move=True), what="Checking the spec", group="check"
            )

    async def _check(self, name: str, pause: float, *, move: bool = False) -> None:
        verdict = self.query_one("#verdict", Lines)
        if not name:
            verdict.set_lines([[]])
            return
        await asyncio.sleep(pause)
        try:
            spec = await asyncio.to_thread(read_spec, name)
        except FileNotFoundError:
            verdict.set_lines([[], [("there is no such file (yet)", "dim")]])
            return
        except (OSError, ValueError) as error:
            verdict.set_lines([[], *wrap(f"✗ {error}", _WIDTH, "bad")])
            return
        try:
            answer = await cast("GpuTui", self.app).link.call("spec.check", spec, wire.SpecCheck)
        except CallFailed as error:
            verdict.set_lines([[], *wrap(f"✗ {error}", _WIDTH, "bad")])
            return
        verdict.set_lines(self._verdict(answer))
        if not answer.problems:
            self._spec = spec
            go = self.query_one("#go", Button)
            go.disabled = False
            if move:
                go.focus()

    @staticmethod
    def _verdict(answer: wire.SpecCheck) -> list[Line]:
        lines: list[Line] = [[]]
        for problem in answer.problems[:6]:
            lines += wrap(f"✗ {problem.key}: {problem.message}", _WIDTH, "bad", indent="  ")
            if problem.found or problem.expected:
                text = f"  found {problem.found or 'nothing'}, expected {problem.expected}"
                lines += wrap(text, _WIDTH, "dim", indent="  ")
        if len(answer.problems) > 6:
            lines.append([(f"… and {len(answer.problems) - 6} more", "dim")])
        if not answer.problems:
            lines.append([("✓ ", "good"), (answer.name or "", "bold"), (" would", "")])
            for text in answer.plan:
                lines += wrap("· " + text, _WIDTH, indent="  ")
        return lines

    @on(Button.Pressed, "#cancel")
    def action_close(self) -> None:
        """Back, nothing done."""
        self.dismiss(None)

    @on(Button.Pressed, "#go")
    def _go(self) -> None:
        if self._spec is not None and not self._sending:
            self._sending = True
            run_guarded(self, self._launch(self._spec), what="Launch", group="launch")

    async def _launch(self, spec: wire.SpecText) -> None:
        offer = self._offer
        order = wire.Launch(
            spec=spec,
            key=self._key,
            provider=offer.provider if offer is not None else None,
            offer_id=offer.offer_id if offer is not None else None,
        )
        try:
            launched = await cast("GpuTui", self.app).link.call("launch", order, wire.Launched)
        except CallFailed as error:
            self._sending = False
            self.query_one("#verdict", Lines).set_lines([[], *wrap(f"✗ {error}", _WIDTH, "bad")])
            return
        self.dismiss(launched)
