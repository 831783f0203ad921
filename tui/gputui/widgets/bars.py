"""The top line with the fleet's numbers, the banner when the daemon is away, the bottom line with the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.app import App
from textual.binding import Binding

from gputui import wording as say
from gputui.fleet import Fleet, LinkStatus, totals
from gputui.table import Piece
from gputui.widgets.lines import Line, Lines

RUNWAY_SHORT = 2 * 3600.0
"""Seconds of runway below which it is a warning."""
_ROOMY = 108
"""Cells from which all places are named; below only the one that is open."""
PLACES = (("1", "Runs"), ("2", "Offers"), ("3", "Alarms"), ("4", "Money"))
_SEPARATOR: Piece = ("   ", "")


def _width(pieces: Sequence[Piece]) -> int:
    return sum(cell_len(text) for text, _ in pieces)


def top_line(
    fleet: Fleet,
    now: float,
    place: str,
    places: Sequence[tuple[str, str]],
    width: int,
    *,
    looks: bool = False,
) -> list[Piece]:
    """The header: where we are, what it costs, what is at risk, how fresh this is. Least important goes first."""
    left: list[Piece] = [(" gputui ", "title"), *([("read-only ", "warn")] if looks else [])]
    for key, name in places:
        here = name.lower() == place
        if here or width >= _ROOMY:
            left += [(f" {key} ", "key"), (name, "bold" if here else "dim")]
        else:
            left.append((f" {key}", "key"))
    items: list[tuple[int, list[Piece]]] = []
    if fleet.runs is not None:
        sums = totals(fleet.runs)
        alarms = max(sums.alarms, len(fleet.runs.alarms))
        if alarms:
            items.append((1, [(f"▲ {say.plural(alarms, 'alarm')}", "bad")]))
        elif sums.warnings:
            items.append((1, [(f"△ {say.plural(sums.warnings, 'warning')}", "warn")]))
        items.append((2, [("burn ", "dim"), (say.rate(sums.burn), "bold")]))
        if sums.exposed_bytes or sums.exposure_unknown:
            amount = say.size(sums.exposed_bytes) + ("+?" if sums.exposure_unknown else "")
            items.append((3, [("at risk ", "dim"), (amount, "warn")]))
        else:
            items.append((3, [("at risk ", "dim"), ("nothing", "good")]))
        if sums.credit is not None:
            short = sums.runway is not None and sums.runway < RUNWAY_SHORT
            items.append((4, [("credit ", "dim"), (say.money(sums.credit), "")]))
            if sums.runway is not None:
                items.append(
                    (
                        5,
                        [
                            ("runway ", "dim"),
                            (("△ " if short else "") + say.duration(sums.runway), "warn" if short else ""),
                        ],
                    )
                )
    items.append((0, [_link_piece(fleet, now), (" ", "")]))
    keep = len(items)
    while keep > 1:
        right: list[Piece] = []
        for priority, pieces in items:
            if priority < keep or priority == 0:
                right += [_SEPARATOR, *pieces]
        gap = width - _width(left) - _width(right)
        if gap >= 0:
            return [*left, (" " * gap, ""), *right]
        keep -= 1
    return [*left[:1], _SEPARATOR, _link_piece(fleet, now)]


def _link_piece(fleet: Fleet, now: float) -> Piece:
    status = fleet.link.status
    age = fleet.age(now)
    if status is LinkStatus.UP:
        if fleet.stale(now):
            return (f"△ {say.duration(age)} old", "warn")
        return ("▶ replay", "busy") if fleet.link.version.endswith("(replay)") else ("● live", "good")
    if status is LinkStatus.CONNECTING:
        return ("◌ connecting", "busy")
    if status is LinkStatus.STARTING:
        return ("◌ starting gpuwatch", "busy")
    return (f"✗ {say.duration(age)} old" if age is not None else "✗ no daemon", "bad")


class TopBar(Lines):
    """The header of every place."""

    FIXED = True
    DEFAULT_CSS = "TopBar { dock: top; height: 1; background: $panel; }"

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place
        self._fleet = Fleet()
        self._now = 0.0

    def show(self, fleet: Fleet, now: float) -> None:
        """New numbers, or only a later `now`."""
        self._fleet, self._now = fleet, now
        self.changed()

    def make(self, width: int) -> Sequence[Line]:
        """One line."""
        return [
            top_line(
                self._fleet,
                self._now,
                self._place,
                PLACES,
                width,
                looks=getattr(self.app, "read_only", False),
            )
        ]

    async def on_click(self, event: events.Click) -> None:
        """A click on a place goes there; one on the alarms shows them."""
        at, number = 0, ""
        for text, _ in self._lines(self.size.width)[0]:
            begin, at = at, at + cell_len(text)
            if text.strip() in {key for key, _ in PLACES}:
                number = text.strip()
            elif text.strip() not in {name for _, name in PLACES}:
                number = "3" if "alarm" in text or "warning" in text else ""
            if begin <= event.x < at and number:
                name = dict(PLACES)[number].lower()
                await self.run_action(f"app.place('{name}')")
                return


class Banner(Lines):
    """Says that the daemon is away and what is done about it; takes no room while all is well."""

    DEFAULT_CSS = "Banner { display: none; padding: 0 1; background: $bad 18%; }"

    def show(self, fleet: Fleet, now: float) -> None:
        """Appear or go away."""
        link = fleet.link
        away = link.status in {LinkStatus.DOWN, LinkStatus.OTHER_VERSION}
        self.display = away
        if not away:
            return
        seconds = None if link.retry_at is None else max(0.0, link.retry_at - now)
        lines: list[list[Piece]] = []
        first, *rest = link.reason.splitlines() or [""]
        lines.append([("✗ ", "bad"), (first, "")])
        lines += [[("  " + line.strip(), "dim")] for line in rest[:4]]
        again = f"trying again in {say.duration(seconds)}" if seconds else "trying again"
        kept = ""
        if fleet.runs is not None:
            kept = f"; below is what was true {say.ago(now - link.heard)}"
        lines.append([("  " + again + " (R: now)" + kept, "dim")])
        self.set_lines(lines)


class KeyBar(Lines):
    """The keys that do something here. One that cannot do it now is faint; pressing it says why."""

    FIXED = True
    DEFAULT_CSS = "KeyBar { dock: bottom; height: 1; background: $panel; }"
    NAMES: ClassVar[dict[str, str]] = {
        "question_mark": "?",
        "slash": "/",
        "colon": ":",
        "escape": "esc",
        "enter": "enter",
    }

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[tuple[int, int, str]] = []

    def on_mount(self) -> None:
        """Keys follow the focus."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.changed())

    def make(self, width: int) -> Sequence[Line]:
        """One line of keys, as many as there is room for."""
        if not self.is_attached:
            return [[]]
        why_not = getattr(self.screen, "reason", lambda _action: None)
        pieces: list[Piece] = [(" ", "")]
        self._spans = []
        seen: set[str] = set()
        at = 1
        for node, binding, enabled, _ in self.screen.active_bindings.values():
            if not binding.show or binding.action in seen:
                continue
            seen.add(binding.action)
            key = self.key_name(binding, self.app)
            long = f"{key} {binding.description}"
            if at + len(long) + 2 > width:
                continue
            off = not enabled or why_not(binding.action.partition("(")[0]) is not None
            pieces += [(key, "dim" if off else "key"), (f" {binding.description}  ", "dim" if off else "")]
            action = binding.action
            if "." not in action.partition("(")[0]:
                action = f"app.{action}" if node is self.app else f"screen.{action}"
            self._spans.append((at, at + len(long), action))
            at += len(long) + 2
        return [pieces]

    @classmethod
    def key_name(cls, binding: Binding, app: App[object]) -> str:
        """How the key is written on screens and in the help."""
        return binding.key_display or cls.NAMES.get(binding.key) or app.get_key_display(binding)

    async def on_click(self, event: events.Click) -> None:
        """A click is the key."""
        for start, end, action in self._spans:
            if start <= event.x < end:
                await self.run_action(action)
