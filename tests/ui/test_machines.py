"""Our own machines: seen, avoided with an end, and taken back, from their list and from an offer."""

import msgspec
import pytest
from textual.widgets import Input
from ui.conftest import Clock, running, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon

from gputui.app import GpuTui
from gputui.screens.confirm import Confirm
from gputui.screens.machines import MachinesScreen, wanted
from gputui.screens.offers import OffersScreen
from gpuwatch.client import wire


def shown(app: GpuTui) -> bool:
    return isinstance(app.screen, MachinesScreen) and bool(app.screen.table.model.order)


async def test_what_we_know_of_machines_is_one_key_from_the_offers(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (160, 40)) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        await pilot.press("O")
        await until(pilot, lambda: shown(app))
        text = screen_text(app)
        assert "3 machines that we have tried · 1 avoided" in text
        assert "SSH never answered" in text
        await pilot.press("d")
        await until(pilot, lambda: "These are machines; runs are on 1." in toasts(app))
        await pilot.press("slash", *"h100", "enter")
        assert app.screen.table.model.order == ["vast:417"]  # type: ignore[attr-defined]
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen))


async def test_a_machine_is_avoided_for_a_time_and_taken_back(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        app.person = "ada (app)"
        await pilot.press("2", "O")
        await until(pilot, lambda: shown(app))
        await pilot.press("U")
        assert (await daemon.called("machine.forgive")).machine == "vast:8812"
        await until(pilot, lambda: "may be rented like any other" in toasts(app))
        await pilot.press("j", "j", "U")
        await until(pilot, lambda: "Nothing speaks against runpod:A100 SXM4." in toasts(app))
        await pilot.press("X")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        entry = app.screen.query_one("#entry", Input)
        entry.value = "soon"
        await pilot.pause()
        assert app.screen.query_one("#go").disabled
        entry.value = "30d it was slow"
        await pilot.pause()
        await pilot.press("enter", "enter")
        asked = await daemon.called("machine.avoid")
        assert asked == wire.MachineAvoid(
            machine="runpod:A100 SXM4", seconds=30 * 86_400.0, reason="it was slow", by="ada (app)"
        )
        await daemon.called("machines", 3)
        assert daemon.counts["machine.forgive"] == 1


async def test_the_machine_of_an_offer_is_avoided_and_forgiven_where_it_is_seen(
    daemon: FakeDaemon, clock: Clock
) -> None:
    first = daemon.world.offers[0]
    seen = wire.SeenRow(tries=1, duds=1, trouble="no SSH")
    daemon.world.offers = [
        msgspec.structs.replace(first, machine_id="417", seen=seen),
        *daemon.world.offers[1:],
    ]
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        screen = app.screen
        assert isinstance(screen, OffersScreen)
        screen.table.move_to(f"vast:{first.offer_id}")
        await pilot.press("X")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("enter", "enter")
        asked = await daemon.called("machine.avoid")
        assert (asked.machine, asked.seconds) == ("vast:417", 90 * 86_400.0)
        await daemon.called("offers", 2)
        await until(pilot, lambda: isinstance(app.screen, OffersScreen))
        screen.table.move_to(f"vast:{first.offer_id}")
        await pilot.press("U")
        assert (await daemon.called("machine.forgive")).machine == "vast:417"


def test_a_time_and_a_reason_are_typed_as_one_line() -> None:
    assert wanted("12h") == (12 * 3600.0, "")
    assert wanted(" 30d  it was slow ") == (30 * 86_400.0, "it was slow")
    with pytest.raises(ValueError, match="is no time"):
        wanted("it was slow")
