"""Which rows of a log are on a screen, and where a step from there leads. Pure.

A position is a line (the byte where it begins) and how many rows of it are above the screen; `rows_of` says how
many rows a line takes, which is one unless long lines are wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gputui.logs.lens import Lens

Position = tuple[int, int]
RowsOf = Callable[[int], int]


def last(lens: Lens, start: int, end: int, height: int, rows_of: RowsOf) -> Position:
    """The position that shows the last `height` rows of the bytes `start`…`end`."""
    left = max(1, height)
    line = lens.near(end)
    if line is None:
        return start, 0
    while True:
        rows = rows_of(line)
        if rows >= left:
            return line, rows - left
        left -= rows
        before = lens.before(line)
        if before is None:
            return line, 0
        line = before


def moved(lens: Lens, at: Position, by: int, rows_of: RowsOf) -> Position | None:
    """The position `by` rows further on (or back); None when there is no line. It may be beyond the last screen."""
    line, skip = lens.near(at[0]), at[1]
    if line is None:
        return None
    skip += by
    while skip < 0:
        before = lens.before(line)
        if before is None:
            skip = 0
            break
        line = before
        skip += rows_of(line)
    while skip >= (rows := rows_of(line)):
        after = lens.after(line)
        if after is None:
            break
        line, skip = after, skip - rows
    return line, skip


def centred(lens: Lens, line: int, height: int) -> Position:
    """The position that has `line` in the middle of the screen."""
    top = line
    for _ in range(height // 2):
        before = lens.before(top)
        if before is None:
            break
        top = before
    return top, 0


def on_screen(lens: Lens, at: Position, height: int, rows_of: RowsOf) -> Iterator[tuple[int, int]]:
    """Line and row of the line, for each row of a screen that begins at `at`."""
    line, skip = lens.near(at[0]), at[1]
    while line is not None and height > 0:
        rows = rows_of(line)
        for row in range(min(skip, rows - 1), rows):
            if height == 0:
                return
            yield line, row
            height -= 1
        line, skip = lens.after(line), 0
