"""Keys of one's own: `keys.toml` in the config folder, `id = "key"`; what is wrong with it is told, never fatal.

The ids are those of `python -m gputui.keys --ids`. A key may be `ctrl+d`, `f5`, `D`, or several with commas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from textual.binding import Binding, BindingType

Chain = Iterable[tuple[str, Iterable[BindingType]]]
"""Contexts: what answers keys at the same time, by name."""

_SHORT = {
    "/": "slash", "?": "question_mark", ":": "colon", "!": "exclamation_mark", "&": "ampersand", "*": "asterisk",
    "[": "left_square_bracket", "]": "right_square_bracket", "+": "plus", "-": "minus", "=": "equals_sign",
    "esc": "escape",
}  # fmt: skip


def read(path: Path) -> tuple[dict[str, str], list[str]]:
    """The keys in `path` (none when there is no such file) and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"cannot read {path}: {error}"]
    import tomllib

    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, [f"{path}: {error}"]
    keys, problems = {}, []
    for name, key in found.items():
        if isinstance(key, str) and key.strip():
            keys[name] = (
                ",".join(_SHORT.get(part.strip(), part.strip()) for part in key.split(","))
                if key != ","
                else "comma"
            )
        else:
            problems.append(f'{path.name}: {name} wants a key in quotes, such as "D"')
    return keys, problems


def resolve(wanted: Mapping[str, str], contexts: Chain) -> tuple[dict[str, str], list[str]]:
    """The keys that can be had: unknown ids and keys that would then mean two things are left out and told. Pure."""
    everywhere = [(name, _named(bindings)) for name, bindings in contexts]
    known = {ident for _, bindings in everywhere for ident, _ in bindings}
    told = "keys.toml: there is no action {!r}; `python -m gputui.keys --ids` lists them"
    problems = [told.format(ident) for ident in wanted if ident not in known]
    good = {ident: key for ident, key in wanted.items() if ident in known}
    for context, bindings in everywhere:
        taken: dict[str, str] = {}
        # what was not remapped has the older right to its key
        for ident, default in sorted(bindings, key=lambda pair: pair[0] in good):
            for key in good.get(ident, default).split(","):
                other = taken.setdefault(key, ident)
                if other != ident and ident in good:
                    problems.append(
                        f"keys.toml: {ident} = {good.pop(ident)!r} is already {other} ({context})"
                    )
                    break
    return good, problems


def _named(bindings: Iterable[BindingType]) -> list[tuple[str, str]]:
    return [(b.id, b.key) for b in bindings if isinstance(b, Binding) and b.id is not None]
