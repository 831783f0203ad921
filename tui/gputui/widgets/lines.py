"""A panel made of lines of (text, tone) pieces. There is no markup in it to inject anything into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from gputui.table import Piece
from gputui.widgets import tones

Line = Sequence[Piece]


def wrap(text: str, width: int, tone: str = "", indent: str = "") -> list[Line]:
    """Words of `text` as lines of at most `width` cells; later lines begin with `indent`."""
    from textwrap import wrap as split

    parts = split(text, max(8, width), subsequent_indent=indent, break_on_hyphens=False) or [""]
    return [[(part, tone)] for part in parts]


class Lines(Widget):
    """Subclasses say what the lines are; `set_lines` does for those that are given them."""

    DEFAULT_CSS = "Lines { height: auto; width: 1fr; }"
    FIXED = False
    """Its height never changes, so nothing needs to be made before it is drawn."""

    def __init__(
        self,
        lines: Sequence[Line] = (),
        *,
        id: str | None = None,  # noqa: A002
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._given: Sequence[Line] = lines
        self._base = Style()
        self._made: tuple[int, Sequence[Line]] | None = None

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Show these lines."""
        self._given = lines
        self.changed()

    def changed(self) -> None:
        """What `make` would say may differ from what is shown: draw the lines that do, lay out when there are more or less."""
        if self._made is None:
            self.refresh(layout=not self.FIXED)
            return
        width, before = self._made
        lines = self.make(width)
        self._made = (width, lines)
        if len(lines) != len(before):
            self.refresh(layout=not self.FIXED)
            return
        differ = [y for y, (old, new) in enumerate(zip(before, lines, strict=True)) if list(old) != list(new)]
        if differ:
            self.refresh(*(Region(0, y, width, 1) for y in differ))

    def render_lines(self, crop: Region) -> list[Strip]:
        """All lines stand on the same style: it is worked out once."""
        self._base = self.rich_style
        return super().render_lines(crop)

    def make(self, width: int) -> Sequence[Line]:
        """The lines for this width."""
        return self._given

    def _lines(self, width: int) -> Sequence[Line]:
        if self._made is None or self._made[0] != width:
            self._made = (width, self.make(width))
        return self._made[1]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many rows as lines."""
        return len(self._lines(width))

    def render_line(self, y: int) -> Strip:
        """Line `y` of the content."""
        lines = self._lines(self.size.width)
        base = self._base
        if y >= len(lines):
            return Strip.blank(self.size.width, base)
        return tones.draw(self, lines[y], self.size.width, base)


@dataclass(frozen=True, slots=True)
class Para:
    """Text that is wrapped to whatever width there is; later lines begin with `indent`."""

    text: str
    tone: str = ""
    indent: str = ""


class Paragraphs(Lines):
    """Lines as they are, and paragraphs wrapped."""

    def __init__(
        self,
        paras: Sequence[Line | Para] = (),
        *,
        id: str | None = None,  # noqa: A002
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._paras = paras

    def set_paras(self, paras: Sequence[Line | Para]) -> None:
        """Show these."""
        self._paras = paras
        self.changed()

    def make(self, width: int) -> Sequence[Line]:
        """Wrapped to `width`."""
        lines: list[Line] = []
        for one in self._paras:
            lines += wrap(one.text, width, one.tone, one.indent) if isinstance(one, Para) else [one]
        return lines
