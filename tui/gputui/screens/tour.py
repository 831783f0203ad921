"""The first-run tour: six pages, and at their end the demo, which costs nothing."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll

from gputui.screens.dialog import Dialog
from gputui.widgets.lines import Line, Para, Paragraphs

Page = tuple[str, list[Line | Para]]


def _key(key: str, text: str) -> Line:
    return [(f"  {key:<7}", "key"), (text, "")]


PAGES: tuple[Page, ...] = (
    (
        "Rent, train, lose nothing",
        [
            Para("gputui shows and asks; gpuwatch, a daemon on this machine, owns what is rented. It goes on when this is closed."),
            [],
            Para("A machine is destroyed only after every promised file is proved to be on your disk: hashed on the box, "
                 "hashed again here after it was written. There is no other door but your own typed consent."),
        ],
    ),
    (
        "The line at the top",
        [
            _key("burn", "what is paid each hour, now"),
            _key("at risk", "bytes that exist only on rented disks"),
            _key("credit", "what the accounts hold, and how long that lasts"),
            _key("● live", "how fresh this is; when the daemon is away, how old"),
            [],
            Para("A number that is not known is shown as –, never as zero.", "dim"),
        ],
    ),
    (
        "Find a machine, launch",
        [
            _key("2", "what can be rented now; / filters, s sorts"),
            _key("l", "launch: a spec says what to rent, to run, to bring home"),
            _key("ctrl+n", "there begins a spec from a commented template"),
            [],
            Para("It is checked as you type, and shows what it would rent. Money is spent only by a second, deliberate enter.", "dim"),
        ],
    ),
    (
        "Watch it",
        [
            _key("1 enter", "the fleet, then one run: GPUs, curves, the live log"),
            _key("/", "searches the log, however long; e finds what went wrong"),
            _key("c", "custody: each file, and how far its proof has come"),
            _key("w", "why does this machine still exist?"),
            _key("3 4", "what needs you; where the money goes"),
        ],
    ),
    (
        "End it",
        [
            _key("d", "destroy: shows what would be lost, and the way that loses nothing"),
            _key("u", "takes it back until it is sent"),
            _key("P H", "pins a machine; lists what holds it"),
            _key("E", "brings everything home and ends every machine"),
            [],
            Para("A key that cannot do its work now is faint; press it and it says why. ? shows the keys, esc backs out.", "dim"),
        ],
    ),
    (
        "Now for real, or for free",
        [
            Para("With an account: `gputui login vast` or `gputui login runpod` checks a key and keeps it in the keyring."),
            [],
            Para("Without: the demo plays all of it on simulated clouds, with real boxes, real SSH and a real training job. No account, "
                 "no key, no cost."),
            [],
            [("enter", "key"), (" plays the demo now   ", ""), ("esc", "key"), (" begins here", "")],
        ],
    ),
)  # fmt: skip


class TourDialog(Dialog[bool]):
    """Returns True when the person wants the demo."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,right,space,l,j", "turn(1)", "Next"),
        Binding("left,backspace,h,k", "turn(-1)", "Back"),
        Binding("escape,q", "close", "Close"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.page = 0
        """The page that is open, from 0."""

    def compose(self) -> ComposeResult:
        """One page."""
        with Vertical(classes="dialog"), VerticalScroll(classes="body", can_focus=False):
            yield Paragraphs(id="page")

    def on_mount(self) -> None:
        """The first page."""
        self._show()

    def _show(self) -> None:
        title, lines = PAGES[self.page]
        dots = "".join("●" if i == self.page else "○" for i in range(len(PAGES)))
        foot: Line = [(dots, "accent"), ("   enter goes on, ← back, esc ends; : Tour shows it again", "dim")]
        self.query_one("#page", Paragraphs).set_paras([[(title, "title")], [], *lines, [], foot])

    def action_turn(self, by: int) -> None:
        """The next page; after the last the demo."""
        if self.page + by >= len(PAGES):
            self.dismiss(True)
            return
        self.page = max(0, self.page + by)
        self._show()

    def action_close(self) -> None:
        """Begin here."""
        self.dismiss(False)
