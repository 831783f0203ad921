"""The README's animation: a person's whole story, typed into a real terminal, drawn as one SVG.

`python tests/integration/story.py docs/img/story.svg` runs simulator, daemon and app as real processes and
takes a picture of the terminal after each thing the person does. The test plays the same story.
"""

from __future__ import annotations

import html
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.color import Color
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from integration.terminal import Terminal
from integration.world import SCRIPT_SPEC, World, world

SIZE = (110, 30)
JOB = (
    "mkdir -p ckpt; echo loading data; i=0; while :; do i=$((i+1)); printf 'INFO step %d | loss 2.%03d | 184.2k tok/s\\n' $i $((900-i%%900)); "
    "[ $((i%25)) = 13 ] && echo 'WARN dataloader: worker 3 was slow'; [ $((i%20)) = 0 ] && head -c 200000 /dev/urandom > ckpt/step-$i.bin; sleep 0.1; done"
).replace("%%", "%")
SPEC = SCRIPT_SPEC.format(name="story", top="", job=JOB, boot="60s", rest='[checkpoints]\npath = "ckpt"')

Beat = tuple[str, float]
"""What the person has just done, and seconds to look at it in the animation."""


def story(terminal: Terminal) -> Iterator[Beat]:
    """Find an offer, launch, watch, read the log, search it, see the proof, destroy. A beat after each."""
    terminal.until("Runs", "Offers", "No runs yet")
    yield "an empty fleet", 1.6
    terminal.type("2")
    terminal.until("offers", "on-demand", "$0.")
    yield "what can be rented now", 1.6
    terminal.type("/")
    terminal.write("4090")
    terminal.until("\n 4090", "RTX 4090")
    yield "only this GPU", 1.6
    terminal.type("Enter")  # the keys after it are commands again at once, however fast they come
    terminal.type("1")
    terminal.type("l")
    terminal.until("run spec", "story.toml", "rent 1 × RTX 4090", "the market now")
    yield "what a launch would do, and on what", 2.8
    terminal.type("Enter")
    terminal.until("enter rents")
    yield "nothing is rented before a second enter", 1.6
    terminal.type("Enter")
    terminal.until("story", "overview")
    yield "rented: its own screen", 1.2
    terminal.until("story", "running", "INFO step")
    yield "it runs", 1.6
    terminal.until("WARN dataloader")
    yield "the log follows", 1.6
    terminal.type("/")
    terminal.until("regular expression")
    terminal.write("worker 3")
    terminal.until("match 1 of")
    yield "a search", 2.2
    terminal.type("Escape")
    terminal.until("G follows again")
    terminal.type("c")
    terminal.until("ckpt/step-", "✓ verified")
    yield "proved on this disk while it trains", 2.4
    terminal.type("d")
    terminal.until("Cancel", "Collect, verify")
    yield "the focus is on cancel", 2.8
    terminal.type("Right")
    terminal.type("Enter")
    terminal.until("collecting")
    yield "everything comes home first", 1.4
    terminal.until("✓ gone")
    yield "proved, then destroyed", 3.0


# --- drawing -------------------------------------------------------------------------------------

_W, _H, _PAD, _BAR = 8.4, 17.0, 12.0, 30.0
_FG, _BG = "#d3d7df", "#14171c"


def _hex(color: Color | None, default: str) -> str:
    if color is None or color.is_default:
        return default
    return "#{:02x}{:02x}{:02x}".format(*color.get_truecolor())


def _row(segments: list[Segment], y: float) -> Iterator[str]:
    x = _PAD
    for text, style, _ in segments:
        style = style or Style()
        front, back = _hex(style.color, _FG), _hex(style.bgcolor, _BG)
        if style.reverse:
            front, back = back, front
        width = len(text) * _W
        if back != _BG:
            yield f'<rect x="{x:.1f}" y="{y - 13:.1f}" width="{width + 0.3:.1f}" height="{_H:.1f}" fill="{back}"/>'
        bare = text.strip(" ")
        if bare:
            at = x + (len(text) - len(text.lstrip(" "))) * _W
            weight = ' font-weight="700"' if style.bold else ""
            yield (
                f'<text x="{at:.1f}" y="{y:.1f}" fill="{front}" textLength="{len(bare) * _W:.1f}" xml:space="preserve"{weight}>'
                f"{html.escape(bare)}</text>"
            )
        x += width


def animation(frames: list[tuple[str, str, float]]) -> str:
    """One SVG that shows each (screen with escapes, caption, seconds) in turn, for ever."""
    console = Console(width=SIZE[0], color_system="truecolor", force_terminal=True)
    total = sum(seconds for _, _, seconds in frames)
    width, height = SIZE[0] * _W + 2 * _PAD, SIZE[1] * _H + _BAR + 2 * _PAD
    style, groups, at = [], [], 0.0
    for number, (screen, caption, seconds) in enumerate(frames):
        begin, end = at / total * 100, (at + seconds) / total * 100
        at += seconds
        style.append(
            f"@keyframes f{number}{{0%,{begin:.3f}%{{visibility:hidden}}{begin + 0.001:.3f}%,{end:.3f}%{{visibility:visible}}"
            f"{min(100, end + 0.001):.3f}%,100%{{visibility:{'visible' if number == len(frames) - 1 else 'hidden'}}}}}"
            f"#f{number}{{animation:f{number} {total:.1f}s step-end infinite;visibility:hidden}}"
        )
        rows = []
        for line, text in enumerate(screen.split("\n")[: SIZE[1]]):
            segments = list(Text.from_ansi(text, no_wrap=True).render(console))
            rows += _row([s for s in segments if s.text != "\n"], _BAR + _PAD + 13 + line * _H)
        title = f'<text x="{width / 2:.0f}" y="20" fill="#767e8c" text-anchor="middle">{html.escape(caption)}</text>'
        groups.append(f'<g id="f{number}">{title}{"".join(rows)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace,Menlo,Consolas,monospace" '
        f'font-size="14"><style>{"".join(style)}</style><rect width="100%" height="100%" rx="8" fill="{_BG}"/>'
        f'<circle cx="18" cy="15" r="5" fill="#ff5f57"/><circle cx="36" cy="15" r="5" fill="#febc2e"/><circle cx="54" cy="15" r="5" fill="#28c840"/>'
        f"{''.join(groups)}</svg>\n"
    )


def film(home: Path) -> str:
    """Play the story and draw it."""
    frames = []
    with world(home) as here:
        assert isinstance(here, World)
        (here.home / "story.toml").write_text(SPEC)
        terminal = Terminal(
            here.home,
            [sys.executable, "-m", "gputui"],
            here.environment | {"COLORTERM": "truecolor"},
            size=SIZE,
        )
        try:
            for caption, seconds in story(terminal):
                frames.append((terminal.colours(), caption, seconds))
            terminal.type("q")
        finally:
            terminal.close()
    return animation(frames)


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img/story.svg")
    with tempfile.TemporaryDirectory(prefix="gputui-") as folder:
        picture = film(Path(folder))
    out.write_text(picture, encoding="utf-8")
    print(f"{out}: {len(picture) / 1000:.0f} kB")
