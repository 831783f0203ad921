"""What a person does inside a box from any place: a shell, the command for one, a port, a command."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported

from gputui import ansi, boxes
from gputui import wording as say
from gputui.guard import run_guarded
from gputui.screens.ask import Prompt, Reading
from gputui.widgets.lines import Line, wrap
from gpuwatch.client import wire

if TYPE_CHECKING:
    from gputui.screens.place import Place

_WIDTH = 70
_SHOWN = 400
"""Lines of a command's output that are shown: the newest."""


async def _argv(place: Place, run: wire.RunRow) -> list[str]:
    detail = await place.tui.link.call("run", wire.RunRef(run=run.id), wire.RunDetail)
    if not detail.ssh:
        raise boxes.NoBox(f"{run.name} has no machine that SSH reaches now")
    return detail.ssh


def shell(place: Place, run: wire.RunRow) -> None:
    """Suspend the app and be on the box."""

    async def go() -> None:
        try:
            argv = await _argv(place, run)
            with place.app.suspend():
                status = place.tui.shell(argv)
        except boxes.NoBox as error:
            place.notify(f"{error}.", severity="warning")
        except SuspendNotSupported:
            place.notify("There is no terminal to lend here; y copies the command.", severity="warning")
        else:
            if status == 255:
                place.notify(
                    "ssh could not connect; y copies the command to look closer.", severity="warning"
                )

    run_guarded(place, go(), what="SSH", group="shell")


def copy_command(place: Place, run: wire.RunRow) -> None:
    """The SSH command into the clipboard."""

    async def go() -> None:
        try:
            command = shlex.join(await _argv(place, run))
        except boxes.NoBox as error:
            place.notify(f"{error}.", severity="warning")
            return
        place.app.copy_to_clipboard(command)
        place.notify(command, title="Copied (if the terminal lets us)", timeout=8)

    run_guarded(place, go(), what="SSH command", group="copy")


def _port(text: str) -> str | None:
    good = text.isascii() and text.isdigit() and 0 < int(text) < 65_536
    return None if good else "a port is a number from 1 to 65535"


def forward(place: Place, run: wire.RunRow) -> None:
    """TensorBoard's port of the box on this machine; asked again, whatever is forwarded ends."""
    forwards = place.tui.forwards
    if (port := forwards.port_of(run.id)) is not None:

        async def stop() -> None:
            await forwards.stop(run.id)
            place.notify(f"Port {port} of {run.name} is not forwarded any more.")

        run_guarded(place, stop(), what="Port", group="forward")
        return
    _forward(place, run, boxes.TENSORBOARD)


def forward_other(place: Place, run: wire.RunRow) -> None:
    """Ask for the port; it takes the place of one that is forwarded."""

    def chosen(text: str | None) -> None:
        if text:
            _forward(place, run, int(text))

    place.app.push_screen(
        Prompt(f"Forward which port of {run.name}?", "6006 is TensorBoard, 8888 Jupyter. It is bound to this machine's loopback only.",
               str(boxes.TENSORBOARD), check=_port),
        chosen,
    )  # fmt: skip


def _forward(place: Place, run: wire.RunRow, port: int) -> None:
    forwards = place.tui.forwards

    async def start(remote: int) -> None:
        try:
            argv = await _argv(place, run)
        except boxes.NoBox as error:
            place.notify(f"{error}.", severity="warning")
            return
        local = remote if remote >= 1024 else remote + 8000
        await forwards.start(run.id, argv, remote, local)
        place.notify(
            f"http://127.0.0.1:{local} is port {remote} of {run.name}; f again ends it.",
            title="Forwarded (F: another port)",
            timeout=8,
        )
        run_guarded(place.app, watch(), what="Port", group=f"forward {run.id}")

    async def watch() -> None:
        said = await forwards.why_ended(run.id)
        if said:
            place.app.notify(said, title=f"The forward to {run.name} ended", severity="warning")

    run_guarded(place, start(port), what="Port", group="forward")


def command(place: Place, run: wire.RunRow) -> None:
    """Run one command on the box and show what it says."""

    async def go(text: str) -> None:
        try:
            argv = await _argv(place, run)
        except boxes.NoBox as error:
            place.notify(f"{error}.", severity="warning")
            return
        said = await boxes.execute(argv, text)
        place.app.push_screen(Reading(f"{run.name}: {text}", output(said)))

    def chosen(text: str | None) -> None:
        if text:
            run_guarded(place, go(text), what="Command", group="command")

    place.app.push_screen(
        Prompt(
            f"Run a command on the box of {run.name}",
            f"With the box's own shell; what it prints is shown. It has {boxes.PATIENCE:.0f} seconds.",
            "nvidia-smi",
        ),
        chosen,
    )


def output(said: boxes.Said) -> list[Line]:
    """What a command printed, as lines without anything that a terminal would obey. Pure."""
    rows = said.output.decode("utf-8", "replace").splitlines()
    lines: list[Line] = [line for row in rows[-_SHOWN:] for line in wrap(ansi.strip(row), _WIDTH)]
    if len(rows) > _SHOWN:
        lines.insert(0, [(f"… {len(rows) - _SHOWN} lines before", "dim")])
    if said.status is None:
        lines.append([(f"△ ended after {say.duration(boxes.PATIENCE)}", "warn")])
    elif said.status:
        lines.append([(f"✗ exit status {said.status}", "bad")])
    return lines or [[("it printed nothing", "dim")]]
