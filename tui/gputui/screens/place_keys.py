"""The keys of every place: one mnemonic each, the same everywhere."""

from __future__ import annotations

from textual.binding import Binding, BindingType

KEYS: list[BindingType] = [
    Binding("enter", "open", "Open", id="open"),
    Binding("l", "launch", "Launch", id="launch", tooltip="Start a run from a spec"),
    Binding("d", "destroy", "Destroy", id="destroy", tooltip="Collect, verify, then destroy"),
    Binding("u", "undo", "Undo destroy", show=False, id="undo"),
    Binding("w", "why", "Why", id="why", tooltip="Why does this machine exist?"),
    Binding(
        "P",
        "pin",
        "Pin",
        show=False,
        id="pin",
        tooltip="Keep this machine until P again; it costs meanwhile",
    ),
    Binding(
        "H",
        "holds",
        "Holds",
        show=False,
        id="holds",
        tooltip="What keeps the machine; release or place one",
    ),
    Binding(
        "A",
        "retry",
        "Again",
        show=False,
        id="retry",
        tooltip="Try a failed run once more: collect again, or rent again",
    ),
    Binding(
        "Z",
        "stop",
        "Sleep",
        show=False,
        id="stop",
        tooltip="Collect, then stop the machine and keep its disk; Z again starts it",
    ),
    Binding(
        "C", "recover", "Recover", show=False, id="recover", tooltip="Leave this machine and go on elsewhere"
    ),
    Binding(
        "K",
        "accept_key",
        "Accept host key",
        show=False,
        id="accept-key",
        tooltip="The box shows another key, and you know why",
    ),
    Binding("x", "shell", "SSH", show=False, id="shell", tooltip="A shell on the box; the app waits"),
    Binding("y", "copy_ssh", "Copy SSH command", show=False, id="copy-ssh"),
    Binding(
        "f",
        "forward",
        "Forward port",
        show=False,
        id="forward",
        tooltip="TensorBoard's port of the box here (6006); again ends it",
    ),
    Binding(
        "F",
        "forward_other",
        "Forward another port",
        show=False,
        id="forward-other",
        tooltip="Which port is asked for",
    ),
    Binding(
        "exclamation_mark",
        "command",
        "Run command",
        show=False,
        id="command",
        tooltip="One command on the box, and what it says",
    ),
    Binding(
        "E",
        "evacuate",
        "Evacuate all",
        show=False,
        id="evacuate",
        tooltip="Bring everything home, then end every machine",
    ),
    Binding("slash", "filter", "Filter", id="filter", priority=True),
    Binding("escape", "back", "Back", show=False, id="back"),
]
