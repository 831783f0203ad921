"""The command palette: every run by name, and what can be done to it and on this screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.markup import escape

from gputui import wording as say
from gputui.app import GpuTui
from gputui.screens import machines
from gputui.screens.offers import OffersScreen
from gputui.screens.place import Place

_OFFERS = 500
"""Offers that the palette knows: the cheapest."""


class Commands(Provider):
    """Runs and actions. Shown without a word typed, found by any part of their name."""

    def _all(self) -> Iterator[tuple[str, str, Callable[[], Any]]]:
        """Name, explanation, and what it does."""
        app = cast("GpuTui", self.app)
        screen = self.screen
        if isinstance(screen, Place):
            for node, binding, _, _ in screen.active_bindings.values():
                if node is screen and binding.description:
                    reason = screen.reason(binding.action.partition("(")[0])
                    run = partial(screen.run_action, binding.action)
                    yield binding.description, reason or binding.tooltip or "", run
        yield "Runs", "Go to the fleet", partial(app.action_place, "runs")
        yield "Offers", "Go to the market", partial(app.action_place, "offers")
        yield "Our machines", "What we have seen of machines ourselves", partial(machines.show, app)
        yield "Alarms", "What needs a person", partial(app.action_place, "alarms")
        yield "Money", "What it costs", partial(app.action_place, "money")
        for name, theme, text in (
            ("Dark theme", "gputui", "Blue is good, orange is bad"),
            ("Light theme", "gputui-light", "For bright rooms"),
            ("High contrast theme", "gputui-contrast", "Every word at 7:1 or better"),
            ("Terminal's own colours", "gputui-16", "The sixteen that you have chosen"),
        ):
            yield name, f"{text} (GPUTUI_THEME={theme})", partial(setattr, app, "theme", theme)
        yield "Tour", "Six pages, and the demo", app.action_tour
        yield "Help", "The keys of this screen", app.action_help
        yield "Call the daemon now", "Do not wait for the next attempt", app.action_reconnect
        yield "Quit", "The daemon goes on", app.action_quit
        if isinstance(screen, OffersScreen) and screen.answer is not None and not app.read_only:
            for offer in screen.answer.offers[:_OFFERS]:
                name = f"Launch on {say.gpus(offer.gpu, offer.gpu_count)} at {say.rate(offer.price)}"
                yield (
                    name,
                    f"{offer.provider} {offer.offer_id} · {offer.region}",
                    partial(screen.launch, offer),
                )
        runs = app.fleet.runs.runs if app.fleet.runs is not None else []
        for row in runs:
            yield f"Open {row.name}", f"{row.state} · {row.id}", partial(app.open_run, row.id)

    async def discover(self) -> Hits:
        """Everything, before a word is typed."""
        for name, text, command in self._all():
            yield DiscoveryHit(Content(name), command, text=name, help=escape(text) if text else None)

    async def search(self, query: str) -> Hits:
        """What matches."""
        matcher = self.matcher(query)
        for name, text, command in self._all():
            if (score := matcher.match(name)) > 0:
                # Content is never parsed; the help line would be, so it is escaped
                yield Hit(score, Content(name), command, text=name, help=escape(text) if text else None)
