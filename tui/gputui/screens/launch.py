"""Launch: a run spec that is checked as it is typed, what it would do, what it would rent, and the last word.

Nothing is rented before *Launch* has the focus and is pressed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, cast
from uuid import uuid4

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.suggester import SuggestFromList
from textual.widgets import Button, Input, TextArea

from gputui import wording as say
from gputui.app import GpuTui
from gputui.clean import clean_lines
from gputui.guard import run_guarded
from gputui.launching import base_of, line_of, read_spec, specs_here, template, whence, write_spec
from gputui.screens.dialog import Dialog
from gputui.widgets.choice import Choice
from gputui.widgets.entry import Entry
from gputui.widgets.lines import Line, Lines, Para, Paragraphs
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_PAUSE = 0.15
"""Seconds without a key before what was typed is checked."""
_MARKET = 0.6
"""Seconds without a key before vendors are asked what fits."""
_SHOWN = 6
"""Problems, and candidates, that are shown."""
_NEW = "run.toml"


class LaunchDialog(Dialog[wire.Launched | None]):
    """Returns the new run, or None. With `offer` exactly that one is rented."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Back"),
        Binding("ctrl+n", "new", "New spec"),
        Binding("ctrl+s", "save", "Save"),
    ]

    def __init__(self, offer: wire.OfferRow | None = None) -> None:
        super().__init__()
        self._offer = offer
        self._key = uuid4().hex  # one dialog launches one run, however often it has to ask
        self._good: wire.SpecText | None = None
        """What was checked last, when it was good."""
        self._disk: str | None = None
        """What the file held when it was read; None: it does not exist."""
        self._candidates: list[wire.OfferRow] = []
        self._warned = False
        self._sending = False

    def compose(self) -> ComposeResult:
        """Path, text, verdict, candidates, buttons."""
        head: list[Line] = [[("Launch a run", "title")]]
        if self._offer is not None:
            offer = self._offer
            text = f"on {say.gpus(offer.gpu, offer.gpu_count)} at {say.rate(offer.price)}  ({offer.provider} {offer.offer_id})"
            head.append([(text, "bold")])
        with Vertical(classes="dialog", id="launch"):
            yield Lines([*head, [], [("run spec (TOML)", "dim")]])
            yield Entry(
                kept=self._entered, placeholder="path/to/run.toml   (ctrl+n begins a new one)", id="path"
            )
            yield Input(
                placeholder="begin from: empty is the start; latest, a step, RUN:STEP, a path, a remote",
                id="whence",
                compact=True,
            )
            with Container(id="halves"):
                yield TextArea(
                    "", id="text", show_line_numbers=True, compact=True, soft_wrap=False, tab_behavior="focus"
                )
                with VerticalScroll(id="told", can_focus=False):
                    yield Paragraphs(id="verdict")
                    yield Choice(id="candidates", brief=True)
            with Horizontal(classes="buttons"):
                yield Lines([[]], id="hint")
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Launch", id="go", compact=True, disabled=True)

    @property
    def _path(self) -> Input:
        return self.query_one("#path", Input)

    @property
    def _text(self) -> TextArea:
        return self.query_one("#text", TextArea)

    @property
    def edited(self) -> bool:
        """Whether the text is not what the file holds."""
        return self._text.display and self._text.text != (self._disk or "")

    def on_mount(self) -> None:
        """Offer what lies here."""
        self._text.display = False
        self.query_one("#candidates").display = False
        self._path.focus()
        run_guarded(self, self._suggest(), what="Looking for specs", group="suggest")

    def on_resize(self, event: events.Resize) -> None:
        """Two halves side by side where there is room, else one above the other."""
        super().on_resize(event)
        self._fit()

    def _fit(self) -> None:
        most = max(6, min(34, self.size.height - 13))
        self.query_one("#halves").styles.height = most if self._text.display else min(most, 8)

    async def _suggest(self) -> None:
        names = await asyncio.to_thread(specs_here)
        self._path.suggester = SuggestFromList(names)
        if self._path.value:
            return
        if len(names) == 1:
            self._path.value = names[0]
            self._path.cursor_position = len(names[0])
        elif names:
            count = say.plural(len(names), "spec")
            shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
            self._say([[], Para(f"{count} here: {shown}  (→ completes)", "dim")])
        else:
            self._say([[], Para("No spec lies here. ctrl+n begins one from a commented template.", "dim")])

    # --- what is typed ---------------------------------------------------------------------------

    @on(Input.Changed, "#path")
    def _path_typed(self, event: Input.Changed) -> None:
        if not event.value.strip() and self._disk is None:
            return
        self._not_good()
        run_guarded(self, self._open(event.value.strip(), _PAUSE), what="Reading the spec", group="check")

    @on(Input.Submitted, "#whence")
    def _begin_typed(self) -> None:
        """Enter goes on to what comes next."""
        go = self.query_one("#go", Button)
        self.set_focus(self._path if go.disabled else go)

    @on(TextArea.Changed, "#text")
    def _text_typed(self) -> None:
        if self._text.display and (self._good is None or self._good.text != self._text.text):
            self._not_good()
            run_guarded(self, self._check(_PAUSE), what="Checking the spec", group="check")

    def _entered(self) -> None:
        """Enter on the path: on to *Launch* when this very text was found good, else look at it first."""
        path = self._path
        if self._good is not None and path.value.strip() == self._good.file and not path.message_queue_size:
            self.set_focus(self.query_one("#go", Button))
        elif (name := path.value.strip()) and not self.edited:
            run_guarded(self, self._open(name, 0, move=True), what="Reading the spec", group="check")

    def _not_good(self) -> None:
        self._good = None
        self._candidates = []
        self.query_one("#candidates").display = False
        self.query_one("#go", Button).disabled = True

    async def _open(self, name: str, pause: float, *, move: bool = False) -> None:
        if not name:
            self._say([[]])
            return
        await asyncio.sleep(pause)
        area = self._text
        try:
            spec = await asyncio.to_thread(read_spec, name)
        except FileNotFoundError:
            if self.edited and self._disk is None:
                await self._check(0, move=move)  # a new one that gets its name
                return
            area.display = False
            self._disk = None
            hint = "  ctrl+n begins it from a template"
            self._say([[], [("there is no such file (yet)", "dim")], [(hint, "dim")]])
            return
        except (OSError, ValueError) as error:
            area.display = False
            self._say([[], Para(f"✗ {error}", "bad")])
            return
        self._disk = spec.text
        with self.prevent(TextArea.Changed):
            area.text = spec.text
        area.display = True
        await self._check(0, move=move)

    async def _check(self, pause: float, *, move: bool = False) -> None:
        """What the daemon says of the text; when it is good, what the market has for it."""
        await asyncio.sleep(pause)
        name = self._path.value.strip() or _NEW
        text = self._text.text
        spec = wire.SpecText(text=text, file=name, base=base_of(name))
        call = cast("GpuTui", self.app).link.call
        try:
            answer = await call("spec.check", spec, wire.SpecCheck)
        except CallFailed as error:
            self._say([[], Para(f"✗ {error}", "bad")])
            return
        self._say(self._of(answer, text))
        if answer.problems:
            return
        self._good = spec
        go = self.query_one("#go", Button)
        go.disabled = False
        if move and self.focused is self._path:
            self.set_focus(go)
        if self._offer is not None:
            return
        await asyncio.sleep(_MARKET)
        question = wire.SpecText(text=text, file=name, base=spec.base, market=True)
        try:
            market = await call("spec.check", question, wire.SpecCheck, timeout=90)
        except CallFailed as error:
            self._say([*self._of(answer, text), [], Para(f"△ the market: {error}", "warn")])
            return
        self._show_market(answer, market, text)

    # --- what is said ----------------------------------------------------------------------------

    def _say(self, lines: Sequence[Line | Para]) -> None:
        self.query_one("#verdict", Paragraphs).set_paras(lines)
        self._fit()
        self._hint()

    def _of(self, answer: wire.SpecCheck, text: str) -> list[Line | Para]:
        lines: list[Line | Para] = [[]]
        for problem in answer.problems[:_SHOWN]:
            at = line_of(text, problem.key)
            where = f"line {at}, " if at is not None else ""
            lines.append(Para(f"✗ {where}{problem.key}: {problem.message}", "bad", "  "))
            if problem.found or problem.expected:
                said = f"  found {problem.found or 'nothing'}, expected {problem.expected}"
                lines.append(Para(said, "dim", "  "))
        if len(answer.problems) > _SHOWN:
            lines.append([(f"… and {len(answer.problems) - _SHOWN} more", "dim")])
        if not answer.problems:
            lines.append([("✓ ", "good"), (answer.name or "", "bold"), (" would", "")])
            lines += [Para("· " + said, indent="  ") for said in answer.plan]
        return lines

    def _show_market(self, answer: wire.SpecCheck, market: wire.SpecCheck, text: str) -> None:
        """Candidates in the order in which they would be tried; the first choice leaves it to the daemon."""
        lines = self._of(answer, text)
        self._candidates = market.candidates
        chooser = self.query_one("#candidates", Choice)
        chooser.display = bool(market.candidates)
        if not market.candidates:
            said = [line.strip() for line in market.plan if line.startswith("  ")] or ["no offer fits now"]
            self._say([*lines, [], *(Para(f"△ {line}", "warn") for line in said)])
            return
        best = market.candidates[0]
        options = [
            (
                f"the cheapest that fits, now {say.rate(best.price)}",
                f"{say.gpus(best.gpu, best.gpu_count)} of {best.provider}; when it is gone, the next one",
            )
        ]
        for offer in market.candidates[:_SHOWN]:
            trust = "" if offer.reliability is None else f", {say.percent(offer.reliability)} reliable"
            options.append(
                (
                    f"{say.rate(offer.price):<9} {say.gpus(offer.gpu, offer.gpu_count)}  {offer.provider} {offer.offer_id}",
                    f"exactly this one: {offer.region or 'region unknown'}{trust}",
                )
            )
        more = len(market.candidates) - _SHOWN
        head = "the market now" + (f" ({more} more fit)" if more > 0 else "")
        self._say([*lines, [], [(head, "dim")]])
        chooser.set_options(options)

    @on(events.DescendantFocus)
    def _hint(self) -> None:
        """What the next key does."""
        go = self.query_one("#go", Button)
        if self._sending:
            line: Line = [("launching …", "busy")]
        elif self.focused is go and not go.disabled:
            line = [("enter rents", "bold"), ("  esc: nothing was rented", "dim")]
        elif self.edited:
            line = [("△ edited", "warn"), ("  ctrl+s saves", "dim")]
        else:
            line = [("tab goes on, esc backs out", "dim")]
        self.query_one("#hint", Lines).set_lines([line])

    # --- what is done ----------------------------------------------------------------------------

    def action_new(self) -> None:
        """Begin a spec from a template, unless there is a text already."""
        if self._text.display and self._text.text.strip():
            self.notify("There is a text already; empty it first.", severity="warning", timeout=4)
            return
        area = self._text
        self._disk = None
        if not self._path.value.strip():
            with self.prevent(Input.Changed):
                self._path.value = _NEW
        with self.prevent(TextArea.Changed):
            area.text = clean_lines(template(self._offer))
        area.display = True
        self.set_focus(area)
        run_guarded(self, self._check(0), what="Checking the spec", group="check")

    def action_save(self) -> None:
        """Write the text to its file."""
        name, text, before = self._path.value.strip() or _NEW, self._text.text, self._disk
        if not self.edited:
            return

        async def save() -> None:
            try:
                await asyncio.to_thread(write_spec, name, text, before)
            except FileExistsError as error:
                self.notify(str(error), severity="warning")
            except OSError as error:
                self.notify(f"Cannot write {name}: {error.strerror}.", severity="error")
            else:
                self._disk = text
                self.notify(name, title="Saved", timeout=4)
                self._hint()

        run_guarded(self, save(), what="Save", group="save")

    @on(Button.Pressed, "#cancel")
    def action_close(self) -> None:
        """Back, nothing done; a text that would be lost is said first."""
        if self.edited and not self._warned and not self._sending:
            self._warned = True
            self.notify(
                "The text is not saved: ctrl+s saves, esc again leaves.", severity="warning", timeout=6
            )
            return
        self.dismiss(None)

    @on(Button.Pressed, "#go")
    def _go(self) -> None:
        if self._good is not None and not self._sending:
            self._sending = True
            self.workers.cancel_group(self, "check")  # the market, arriving late, would hide a refusal
            self._hint()
            run_guarded(self, self._launch(self._good), what="Launch", group="launch")

    def _picked(self) -> wire.OfferRow | None:
        """The offer that must be it, None: the cheapest."""
        if self._offer is not None:
            return self._offer
        chosen = self.query_one("#candidates", Choice).chosen
        return self._candidates[chosen - 1] if 0 < chosen <= len(self._candidates) else None

    async def _launch(self, spec: wire.SpecText) -> None:
        offer = self._picked()
        begin = await asyncio.to_thread(whence, self.query_one("#whence", Input).value)
        order = wire.Launch(
            spec=spec,
            key=self._key,
            provider=offer.provider if offer is not None else None,
            offer_id=offer.offer_id if offer is not None else None,
            resume_from=begin,
        )
        try:
            launched = await cast("GpuTui", self.app).link.call("launch", order, wire.Launched)
        except CallFailed as error:
            self._sending = False
            self._say([[], Para(f"✗ {error}", "bad")])
            return
        self.dismiss(launched)
