"""The parts of the run screen: its state lines, meters, tabs, and the tables of timeline and custody."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gputui import panels
from gputui import wording as say
from gputui.fleet import mean_utilisation
from gputui.table import Column, TableModel
from gputui.widgets.lines import Line, Lines
from gpuwatch.client import wire

TABS = (
    ("overview", "o"),
    ("metrics", "m"),
    ("timeline", "t"),
    ("custody", "c"),
    ("files", "b"),
    ("spec", "p"),
    ("cost", "dollar_sign"),
)


KEYS = {"dollar_sign": "$"}
"""How keys are written that have a name of their own."""


class State(Lines):
    """The lines at the top: what it is, what is wrong, what comes next."""

    run: wire.RunRow | None = None
    age: float | None = None

    def show(self, run: wire.RunRow | None, age: float | None) -> None:
        """Another state of the run, or only later."""
        self.run, self.age = run, age
        self.changed()

    def make(self, width: int) -> Sequence[Line]:
        """As many lines as there is to say."""
        if self.run is None:
            return [[("…", "dim")]]
        lines = [
            panels.heading(self.run, self.age),
            *panels.outlook(self.run),
            *panels.transfer(self.run, width),
        ]
        if self.run.instance_id is not None and self.run.state not in say.ENDED:
            lines.append(panels.safety(self.run))
        return lines


class Meters(Lines):
    """GPU bars and the curves of loss and speed."""

    gpus: Sequence[wire.GpuRow] = ()
    run: wire.RunRow | None = None
    tall: bool = True

    def __init__(self, samples: deque[wire.Sample], *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._samples = samples

    def show(self, run: wire.RunRow | None, *, tall: bool) -> None:
        """Another sample, or another state of the run."""
        self.run, self.tall = run, tall
        self.changed()

    def make(self, width: int) -> Sequence[Line]:
        """Bars first; curves when there is something to draw."""
        run, samples = self.run, self._samples
        newest = samples[-1] if samples else None
        gpus = newest.gpus if newest is not None and newest.gpus else (run.gpus if run is not None else [])
        if run is not None and run.state in say.ENDED:
            gpus = []  # the machine is someone else's now
        lines = panels.gpu_lines(gpus, width, limit=8 if self.tall else 4)
        losses = [s.loss for s in samples]
        speeds = [s.tokens_per_second for s in samples]
        if any(v is not None for v in losses):
            step = say.steps(run.step if run is not None else None, run.steps if run is not None else None)
            now = say.loss(run.loss if run is not None else None)
            if self.tall:
                lines += [[], *panels.chart("loss", f"{now}   step {step}", losses, width, 6, "accent")]
            else:
                lines += panels.chart("loss", f"{now}   step {step}", losses, width, 2, "accent")
        if self.tall and any(v is not None for v in speeds):
            text = say.count(run.tokens_per_second if run is not None else None)
            lines += [[], *panels.chart("tokens/s", text, speeds, width, 3, "busy", say.count)]
        if self.tall and any(s.gpus for s in samples):
            use = [mean_utilisation(s.gpus) for s in samples]
            chart = panels.chart(
                "gpu use", say.percent(use[-1]), use, width, 3, "good", say.percent, (0.0, 1.0)
            )
            lines += [[], *chart]
        if lines and not lines[0]:
            del lines[0]
        return lines or [
            [("no telemetry yet" if run is None or run.state not in say.ENDED else "no telemetry", "dim")]
        ]


class Tabs(Lines):
    """Names of the tabs and the keys that open them."""

    current = "overview"

    def make(self, width: int) -> Sequence[Line]:
        """One line."""
        line: Line = []
        for name, key in TABS:
            here = name == self.current
            line = [*line, (f"{KEYS.get(key, key)} ", "key"), (name, "title" if here else "dim"), ("   ", "")]
        return [line]


def timeline() -> TableModel[wire.EventRow]:
    """Events as a table, in the order they are loaded."""
    return TableModel(
        columns=(
            Column("time", "TIME", 8, lambda e: (say.clock(e.time), "dim"), lambda e: e.seq, descending=True),
            Column("kind", "WHAT", 14, lambda e: (e.kind, "accent"), lambda e: e.kind),
            Column("text", "", 20, lambda e: e.text, flex=1),
        ),
        key=lambda event: str(event.seq),
        text=lambda event: f"{event.kind} {event.text}",
    )


def artifacts() -> TableModel[wire.ArtifactRow]:
    """Promised files as a table."""

    def state(row: wire.ArtifactRow) -> tuple[str, str]:
        glyph, tone = say.ARTIFACTS.get(row.state, ("?", "warn"))
        return (f"{glyph} {row.state}", tone)

    return TableModel(
        columns=(
            Column("state", "STATE", 13, state, lambda r: r.state),
            Column("path", "FILE", 20, lambda r: r.path, lambda r: r.path, flex=1),
            Column("size", "SIZE", 8, lambda r: say.size(r.size), lambda r: r.size, right=True, descending=True),
            Column("step", "STEP", 7, lambda r: say.steps(r.step, None), lambda r: r.step, right=True, descending=True),
            Column("sha", "SHA-256", 12, lambda r: ((r.sha256 or say.UNKNOWN)[:12], "dim"), wide=90),
            Column("when", "VERIFIED", 8, lambda r: (say.clock(r.verified_at), "dim"), lambda r: r.verified_at, wide=90),
        ),
        key=lambda row: row.path,
        text=lambda row: f"{row.path} {row.state}",
        fields={"size": lambda r: r.size / 1e9, "step": lambda r: r.step},
    )  # fmt: skip


def spec_line(text: str) -> Line:
    """A line of TOML: comments faint, tables bold, keys in colour."""
    bare = text.strip()
    if bare.startswith("#"):
        return [(text, "dim")]
    if bare.startswith("["):
        return [(text, "bold")]
    key, equals, value = text.partition("=")
    return [(key, "accent"), (equals + value, "")] if equals else [(text, "")]
