"""Write docs/protocol.md from gpuwatch.client.wire, so that the page cannot drift from the code."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import msgspec

from gpuwatch.client import wire

PAGE = Path(__file__).with_name("protocol.md")


def type_name(kind: Any) -> str:
    """A field's type as it reads in the source."""
    return inspect.formatannotation(kind).replace("gpuwatch.client.wire.", "").replace("typing.", "")


def table(struct: type[msgspec.Struct]) -> list[str]:
    """One struct as a Markdown section."""
    lines = [f"### {struct.__name__}", "", inspect.getdoc(struct) or "", ""]
    fields = msgspec.structs.fields(struct)
    if fields:
        lines += ["| field | type | default |", "|---|---|---|"]
        for field in fields:
            default = "" if field.default is msgspec.NODEFAULT else f"`{field.default!r}`"
            if field.default_factory is not msgspec.NODEFAULT:
                default = f"`{field.default_factory()!r}`"
            lines.append(f"| {field.name} | `{type_name(field.type)}` | {default} |")
        lines.append("")
    return lines


def page() -> str:
    """The whole page."""
    lines = [
        "# The daemon's protocol",
        "",
        "<!-- made by docs/make_protocol.py -->",
        "",
        inspect.getdoc(wire) or "",
        "",
    ]
    lines += ["## Calls", "", "| method | parameters | result |", "|---|---|---|"]
    for method, (params, result) in wire.METHODS.items():
        lines.append(
            f"| `{method}` | [{params.__name__}](#{params.__name__.lower()}) | [{result.__name__}](#{result.__name__.lower()}) |"
        )
    codes = [v for k, v in vars(wire.Code).items() if k.isupper() and isinstance(v, str)]
    lines += ["", 'Subscriptions answer with notifications `{"method": "notice", "params": Notice}`.', ""]
    lines += ["## Error codes", "", "| code | exit status of the CLI |", "|---|---|"]
    lines += [f"| `{code}` | {wire.Code.EXIT[code]} |" for code in codes]
    lines += ["", "## Messages", ""]
    structs = [
        kind
        for _, kind in inspect.getmembers(wire, inspect.isclass)
        if issubclass(kind, wire.Struct) and kind is not wire.Struct
    ]
    for struct in sorted(structs, key=lambda kind: inspect.getsourcelines(kind)[1]):
        lines += table(struct)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
