"""Write docs/man/gputui.1 and docs/json-schema.json from the command line itself: `python docs/make_cli.py`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import msgspec

from gputui import __version__
from gputui.cli import build_parser
from gputui.shapes import SHAPES

DOCS = Path(__file__).parent
MAN, SCHEMA = DOCS / "man" / "gputui.1", DOCS / "json-schema.json"


def _roff(text: str) -> str:
    """Text that roff does not obey."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.splitlines())


def _verbs(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _argument(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if isinstance(value, tuple):
        value = " ".join(value)
    if action.choices is not None:
        value = "|".join(map(str, action.choices))
    names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in action.option_strings)
    shown = f"\\fI{_roff(value)}\\fR" if value else ""
    return f"{names} {shown}".strip() if names else shown


def man() -> str:
    """The manual page."""
    os.environ["COLUMNS"] = "100"
    parser = build_parser()
    verbs = _verbs(parser)
    lines = [
        f'.TH GPUTUI 1 "" "gputui {__version__}" "User Commands"',
        ".SH NAME",
        f"gputui \\- {_roff(parser.description or '')}",
    ]
    lines += [
        ".SH SYNOPSIS",
        ".B gputui",
        ".br",
        ".B gputui",
        "\\fICOMMAND\\fR [\\fIoptions\\fR]",
        ".SH DESCRIPTION",
    ]
    lines += [
        "Without a command the terminal app opens. The commands ask the same daemon, for scripts.",
        ".SH COMMANDS",
    ]
    for choice in verbs._choices_actions:
        sub = verbs.choices[choice.dest]
        usage = sub.format_usage().removeprefix("usage: ").strip()
        lines += [
            f".SS {_roff(choice.dest)}",
            _roff(sub.description or choice.help or ""),
            ".PP",
            ".nf",
            _roff(usage),
            ".fi",
        ]
        for action in sub._actions:
            if action.dest != "help":
                lines += [".TP", _argument(action), _roff(action.help or "")]
    epilog, _, rest = (parser.epilog or "").partition("\n\n")
    lines += [
        ".SH EXIT STATUS",
        ".nf",
        _roff(epilog.removeprefix("exit status: ")),
        ".fi",
        ".SH NOTES",
        _roff(" ".join(rest.split())),
    ]
    lines += [
        ".SH ENVIRONMENT",
        ".TP",
        "\\fBNO_COLOR\\fR",
        "No colours.",
        ".TP",
        "\\fBGPUTUI_HOME\\fR",
        "One folder for everything instead of the XDG folders.",
    ]
    lines += [
        ".TP",
        "\\fBGPUTUI_THEME\\fR",
        "gputui, gputui\\-light, gputui\\-contrast, ansi\\-dark, ansi\\-light, \\&...",
        ".SH SEE ALSO",
        ".BR gpuwatch (1)",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def schema() -> str:
    """JSON Schema (2020-12) of what each command prints."""
    kinds = list(dict.fromkeys(kind for shapes in SHAPES.values() for kind in shapes))
    found, parts = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    by_kind = dict(zip(kinds, found, strict=True))
    commands = {
        name: by_kind[shapes[0]] if len(shapes) == 1 else {"anyOf": [by_kind[kind] for kind in shapes]}
        for name, shapes in SHAPES.items()
    }
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gputui --json, by command",
        "properties": commands,
        "$defs": parts,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    MAN.parent.mkdir(exist_ok=True)
    MAN.write_text(man(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
