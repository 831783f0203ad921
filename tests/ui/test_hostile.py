"""Hostile strings in every field, shown on every screen: no escape reaches the terminal, no markup acts."""

import re

import msgspec
import pytest
from rich.segment import Segment
from textual.color import Color
from ui.conftest import Clock, running, screen_text, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import NOW, World, artifact, offer_row, run_row

from gputui.app import StripControl
from gputui.screens.run import RunScreen
from gpuwatch.client import wire

EVIL = {
    "escapes": "\x1b]52;c;cm0gLXJm\x07a\x1b[2J\x1b[?1049lb\x9b31mc\x9d0;t\x9cd\x1b]0;never ends",
    "text": "[red]x[/foo] [link=http://e]y[/link][@click=app.quit]z[/] abc\u202egpj\u200b\u200d\ufeff a\nb\r\nc\td",
    "size": "日本語" * 40 + "e\u0301" * 10 + "x" * 10_000,
}
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff]")


def evil_world(text: str) -> World:
    """One run and one offer with `text` in every field that holds text."""
    hold = wire.HoldRow(name=text, reason=text)
    run = run_row(
        "r1", text, "running", attention="warn", reason=text, next=text, provider=text, instance_id=text, gpu=text,
        gpu_count=2, holds=[hold],
        gpus=[wire.GpuRow(index=0, name=text, utilisation=0.5, memory_used=1, memory_total=2, power=None, temperature=None)],
        exposure=wire.Exposure(bytes=5, seconds=5.0, files=1),
        transfer=wire.TransferRow(path=text, files_done=0, files_total=1, bytes_done=1, bytes_total=2, rate=1.0, eta=None),
    )  # fmt: skip
    world = World(
        runs=[run],
        offers=[
            msgspec.structs.replace(offer_row(1, text, 1, 24, 0.5), region=text, cuda=text, machine_id=text)
        ],
    )
    world.offer_problems = [text]
    world.accounts = [
        wire.AccountRow(provider=text, user=text, credit=None, age=None, problem=text, foreign=0)
    ]
    world.custody["r1"] = wire.CustodyReport(
        run="r1", allowed=False, summary=text, holds=[hold], verified=[artifact(text, 1, "verified")],
        unsafe=[artifact(text + "2", 1, text)], exposure=run.exposure, receipt=text,
    )  # fmt: skip
    world.specs["r1"] = text
    world.logs["r1"] = bytearray(
        text.encode("utf-8", "surrogatepass") + b"\n\xff\xfe\x1b[31mred\x1b]0;t\x07\n"
    )
    world.events = [wire.EventRow(seq=1, time=NOW, run="r1", kind=text, text=text, data={text: text})]
    return world


@pytest.mark.parametrize("kind", sorted(EVIL))
async def test_every_screen_shows_it_and_obeys_nothing(daemon: FakeDaemon, clock: Clock, kind: str) -> None:
    daemon.world = evil_world(EVIL[kind])

    def checked(app: object) -> None:
        text = screen_text(app)  # type: ignore[arg-type]
        assert not OBEYED.search(text.replace("\n", "")), "something got through"

    async with running(daemon, clock, (120, 40)) as (app, pilot):
        checked(app)
        for key in ("w", "d", "l", "H", "question_mark"):
            await pilot.press(key)
            await until(pilot, lambda: len(app.screen_stack) == 2)
            await pilot.pause()
            checked(app)
            await pilot.press("escape")
            await until(pilot, lambda: len(app.screen_stack) == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
        for tab in ("t", "c", "b", "dollar_sign", "p", "o"):
            await pilot.press(tab)
            await pilot.pause()
            checked(app)
        await pilot.press("escape", "2")
        await daemon.called("offers")
        await pilot.pause()
        checked(app)
        await pilot.press("colon")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        await pilot.pause()
        checked(app)
        assert app.is_running


async def test_a_failure_with_markup_in_it_is_a_toast(daemon: FakeDaemon, clock: Clock) -> None:
    from ui.conftest import toasts
    from ui.fake_daemon import Fault

    def fail(params: wire.RunRef) -> wire.Why:
        raise Fault(wire.Code.INTERNAL, "[/b] \x1b]0;t\x07oops")

    daemon.hooks["why"] = fail
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("w")
        await until(pilot, lambda: "[/b] oops" in toasts(app))


def test_the_last_gate_strips_what_slipped_through() -> None:
    kept = Segment("plain"), Segment("\x1b[2J", None, [(1, 2)])  # the second is Textual's own control code
    out = StripControl().apply([*kept, Segment("a\x1b]0;t\x07b\x9bc")], Color(0, 0, 0))
    assert [segment.text for segment in out] == ["plain", "\x1b[2J", "a]0;tbc"]
    assert out[0] is kept[0]
