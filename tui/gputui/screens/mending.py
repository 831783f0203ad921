"""What a person does about a run that went wrong, from any place: again, elsewhere, a box with another host key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

from gputui import possible
from gputui import wording as say
from gputui.screens.confirm import Confirm
from gputui.widgets.lines import Para
from gpuwatch.client import wire

if TYPE_CHECKING:
    from gputui.screens.place import Place


def retry(place: Place, run: wire.RunRow) -> None:
    """Collect again what could not be proved, or rent again for the same spec."""
    key = uuid4().hex  # one dialog begins one run, however often it has to ask
    collects = run.state == "failed" and run.instance_id is not None
    if collects:
        text = "Its machine is still there: everything it promised is copied and proved once more. Nothing is rented by it."
        button = "Collect again"
    else:
        begin = "from its newest checkpoint at home" if run.checkpoints else "from the beginning"
        text = f"The same spec is launched as another run, {begin}: a machine is rented, with the spec's budget counted anew."
        button = "Rent again"

    begun: list[wire.Retried] = []

    async def act(_: str) -> None:
        begun.append(await place.tui.link.call("run.retry", wire.Retry(run=run.id, key=key), wire.Retried))

    def done(_: bool | None) -> None:
        for answer in begun:
            place.notify(f"{answer.text}.", title=f"{run.name}: again")
            if answer.run != run.id:
                place.tui.open_run(answer.run)

    place.app.push_screen(Confirm(f"Try {run.name} again?", [Para(text)], go=button, act=act), done)


def recover(place: Place, run: wire.RunRow) -> None:
    """Leave the machine and go on elsewhere."""
    lost = say.exposure(run.exposure.bytes, run.exposure.seconds)
    now = "nothing" if run.exposure.bytes == 0 else lost
    text = [
        Para(
            "Another machine is rented and the job goes on there from its newest checkpoint that is proved at home. "
            "What is on this one is another run's: it is collected and proved, and then the machine is ended. Until then both cost."
        ),
        Para(f"Work since that checkpoint is done again: {now} is on the machine only.", "warn" if run.exposure.bytes else "dim"),
    ]  # fmt: skip

    async def act(reason: str) -> None:
        order = wire.Recover(run=run.id, reason=reason, by=place.tui.person)
        answer = await place.tui.link.call("run.recover", order, wire.Retried)
        place.notify(f"{answer.text[0].upper()}{answer.text[1:]}.", title=f"{run.name} goes on elsewhere")

    place.app.push_screen(
        Confirm(
            f"Leave the machine of {run.name}?",
            text,
            go="Go on elsewhere",
            act=act,
            entry="why? It stays in the ledger (may be empty)",
        )
    )


def accept_key(place: Place, run: wire.RunRow) -> None:
    """Take the key that the box shows for its own, after a person has said why it may."""
    shown = next((hold.reason for hold in run.holds if hold.name == possible.HOST_KEY), "")
    text = [
        Para(f"{shown[:1].upper()}{shown[1:]}.", "warn"),
        Para(
            "Accept it only when something explains it: the vendor restarted the container, or its console shows this very key. "
            "Otherwise somebody else may be answering, and would get what is sent to the box."
        ),
    ]

    async def act(reason: str) -> None:
        order = wire.HoldRelease(run=run.id, hold=possible.HOST_KEY, reason=reason, by=place.tui.person)
        await place.tui.link.call("hold.release", order, wire.CustodyReport)
        place.notify(f"The box of {run.name} is spoken to again.", title="Host key accepted")

    place.app.push_screen(
        Confirm(
            f"Accept another host key for {run.name}?",
            text,
            go="Accept this key",
            act=act,
            entry="what explains it? It stays in the ledger",
            wrong=lambda said: None if said else "say what explains it",
        )
    )


def stop(place: Place, run: wire.RunRow) -> None:
    """Stop the machine and keep its disk, or start it again."""
    if run.state == "paused":
        _start(place, run)
        return
    text = [
        Para(
            "A job that runs is ended (it may write a last checkpoint), everything promised is brought home and proved, and then "
            "the machine is stopped. Its disk is kept and billed. Z again starts the machine under the same run, without its job."
        ),
        Para("Its GPU may be let to somebody else meanwhile: then it cannot start until that ends.", "warn"),
    ]  # fmt: skip

    async def act(reason: str) -> None:
        order = wire.Stop(run=run.id, reason=reason, by=place.tui.person)
        answer = await place.tui.link.call("run.stop", order, wire.Retried)
        place.notify(f"{answer.text[0].upper()}{answer.text[1:]}.", title=f"{run.name} is stopped")

    place.app.push_screen(
        Confirm(
            f"Stop the machine of {run.name}?",
            text,
            go="Collect, verify, stop",
            act=act,
            entry="why? It stays in the ledger (may be empty)",
        )
    )


def _start(place: Place, run: wire.RunRow) -> None:
    async def act(reason: str) -> None:
        order = wire.Start(run=run.id, reason=reason, by=place.tui.person)
        answer = await place.tui.link.call("run.start", order, wire.Retried)
        place.notify(f"{answer.text[0].upper()}{answer.text[1:]}.", title=run.name)

    text = (
        f"It costs {say.rate(run.price)} again from the moment at which it runs. Its job is not started: log in with x; "
        "to have the job go on from its newest checkpoint, destroy this one and try it again (A)."
    )
    place.app.push_screen(
        Confirm(
            f"Start the machine of {run.name}?",
            [Para(text)],
            go="Start",
            act=act,
            entry="why? It stays in the ledger (may be empty)",
        )
    )


ACTIONS: dict[str, Callable[[Place, wire.RunRow], None]] = {
    "retry": retry,
    "recover": recover,
    "accept_key": accept_key,
    "stop": stop,
}
