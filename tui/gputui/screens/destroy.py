"""The custody dialog: what is verified, what is not, and what each choice means.

The default loses nothing: collect, verify, then destroy. To lose files they must be seen
listed, the run's name typed, and a reason given that stays in the ledger.
"""

from __future__ import annotations

from typing import ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Input

from gputui import wording as say
from gputui.app import GpuTui
from gputui.guard import run_guarded
from gputui.screens.dialog import Dialog
from gputui.widgets.choice import Choice
from gputui.widgets.lines import Line, Lines, wrap
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_WIDTH = 70
_SHOWN = 7
"""Files listed by name; the rest is counted (the custody tab lists all)."""
_ALL = 5000
"""Files listed by name once they are to be lost."""


class DestroyDialog(Dialog[wire.CustodyReport | None]):
    """Returns custody's answer once the destroy was asked, None when it was not."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Back"),
        Binding("left", "app.focus_previous", "Previous", show=False),
        Binding("right", "app.focus_next", "Next", show=False),
    ]

    def __init__(self, run: wire.RunRow) -> None:
        super().__init__()
        self._run = run
        self._report: wire.CustodyReport | None = None
        self._ready = False
        self._sending = False

    def compose(self) -> ComposeResult:
        """Title and facts; the rest when custody has answered."""
        with Vertical(classes="dialog"):
            with VerticalScroll(classes="body", can_focus=False):
                yield Lines([[(f"Destroy the machine of {self._run.name}?", "title")]])
                yield Lines([[], [("asking custody …", "dim")]], id="facts")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Destroy", id="go", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Ask custody; nothing changes by that."""
        run_guarded(self, self._preview(), what="Destroy", group="preview")

    async def _preview(self) -> None:
        question = wire.Destroy(run=self._run.id, preview=True)
        try:
            report = await cast("GpuTui", self.app).link.call("destroy", question, wire.CustodyReport)
        except Exception:
            self.dismiss(None)
            raise
        self._report = report
        self.query_one("#facts", Lines).set_lines(_facts(report))
        await self.query_one(".body").mount(*self._choices(report))
        self._ready = True
        self._adapt()
        loses = bool(report.unsafe) or not report.allowed
        self.query_one("#cancel" if loses else "#go", Button).focus()

    def _choices(self, report: wire.CustodyReport) -> list[Lines | Input]:
        parts: list[Lines | Input] = []
        if report.unsafe:
            price = f" at {say.rate(self._run.price)}" if self._run.price is not None else ""
            running = "ends the job, " if self._run.state == "running" else ""
            count = say.plural(len(report.unsafe), "file")
            collect = (
                f"gpuwatch {running}brings the {count} home, proves each by SHA-256, and only then destroys. "
                f"Until then the machine stays{price}."
            )
            lose = (
                f"The {count} above {'are' if len(report.unsafe) > 1 else 'is'} lost for good. "
                "It needs the run's name and a reason; both stay in the ledger."
            )
            options = [("Collect, verify, then destroy", collect), (f"Lose {count} and destroy now", lose)]
            parts += [
                Lines([[]]),
                Choice(options, id="choice"),
                Input(placeholder=f"type the run's name: {self._run.name}", id="name", compact=True),
                Input(placeholder="why may these files be lost?", id="reason", compact=True),
            ]
        for part in parts:
            part.display = not isinstance(part, Input)
        return [*parts, Lines([], id="problem")]

    @property
    def _losing(self) -> bool:
        return any(choice.chosen == 1 for choice in self.query(Choice))

    @on(Choice.Changed)
    @on(Input.Changed)
    def _adapt(self) -> None:
        """Show what the choice needs; the button only works when all of it is there."""
        if not self._ready:
            return
        losing = self._losing
        if self._report is not None:
            # who gives files up sees each of them
            self.query_one("#facts", Lines).set_lines(_facts(self._report, _ALL if losing else _SHOWN))
        for entry in self.query(Input):
            entry.display = losing
        go = self.query_one("#go", Button)
        go.label = (
            "Lose and destroy" if losing else "Collect, verify, destroy" if self._has_unsafe else "Destroy"
        )
        go.refresh(layout=True)  # a longer label alone does not make the button wider
        go.set_class(losing, "-danger")
        named = not losing or (
            self.query_one("#name", Input).value == self._run.name
            and bool(self.query_one("#reason", Input).value.strip())
        )
        go.disabled = not named

    @property
    def _has_unsafe(self) -> bool:
        return self._report is not None and bool(self._report.unsafe)

    @on(Input.Submitted, "#name")
    def _named(self) -> None:
        self.query_one("#reason", Input).focus()

    @on(Input.Submitted, "#reason")
    def _reasoned(self) -> None:
        go = self.query_one("#go", Button)
        if not go.disabled:
            go.focus()

    @on(Button.Pressed, "#cancel")
    def action_close(self) -> None:
        """Back, nothing done."""
        self.dismiss(None)

    @on(Button.Pressed, "#go")
    def _go(self) -> None:
        if self._report is None or self._sending:
            return
        order = wire.Destroy(run=self._run.id)
        if self._losing:
            order = wire.Destroy(
                run=self._run.id,
                waive=[row.path for row in self._report.unsafe],
                confirm=self.query_one("#name", Input).value,
                by="a person (app)",
                reason=self.query_one("#reason", Input).value.strip(),
            )
        self._sending = True
        run_guarded(self, self._send(order), what="Destroy", group="send")

    async def _send(self, order: wire.Destroy) -> None:
        try:
            report = await cast("GpuTui", self.app).link.call("destroy", order, wire.CustodyReport)
        except CallFailed as error:
            self._sending = False
            self.query_one("#problem", Lines).set_lines([[], *wrap(f"✗ {error}", _WIDTH, "bad")])
            return
        self.dismiss(report)


def _facts(report: wire.CustodyReport, shown: int = _SHOWN) -> list[Line]:
    """What custody says; files that are not safe by name and size, at most `shown`."""
    lines: list[Line] = [[], *wrap(report.summary, _WIDTH, "good" if report.allowed else "warn"), []]
    held = sum(row.size for row in report.verified)
    lines.append(
        [("✓ ", "good"), (f"{say.plural(len(report.verified), 'file')} verified here, {say.size(held)}", "")]
    )
    for row in report.unsafe[:shown]:
        glyph, tone = say.ARTIFACTS.get(row.state, ("?", "warn"))
        tail = f"  {say.size(row.size)}  {row.state}"
        path = row.path if len(row.path) + len(tail) < _WIDTH else "…" + row.path[-(_WIDTH - len(tail) - 4) :]
        lines.append([(glyph + " ", tone), (path, ""), (tail, "dim")])
    if len(report.unsafe) > shown:
        rest = sum(row.size for row in report.unsafe[shown:])
        lines.append([(f"△ … and {len(report.unsafe) - shown} more, {say.size(rest)}", "warn")])
    for hold in report.holds:
        lines += wrap(f"△ hold {hold.name}: {hold.reason}", _WIDTH, "warn", indent="  ")
    return lines
