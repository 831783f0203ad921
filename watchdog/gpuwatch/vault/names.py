"""Which names of a listing the vault can keep, and why not the others. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from gpuwatch.vault.layout import HostilePath, relative_parts


def refusals(paths: Iterable[str], *, folds: bool) -> dict[str, str]:
    """Path → why it cannot be a file of the vault beside the others, for those that cannot.

    `folds`: the vault's disk takes names for one that differ only in case. Of several
    names that would become one file, the first in order is kept.
    """
    refused: dict[str, str] = {}
    kept: dict[str, str] = {}
    """key → path of each file that stays."""
    folders: dict[str, str] = {}
    """key → path of a file below that folder."""
    for path in sorted(paths):
        try:
            parts = relative_parts(path)
        except HostilePath as error:
            refused[path] = str(error)
            continue
        keys = _keys(parts, folds=folds)
        whole, above = keys[-1], keys[:-1]
        if (other := kept.get(whole)) is not None:
            refused[path] = (
                f"it differs from {_shown(other)} only in case or accents, which this disk cannot keep"
            )
        elif (other := folders.get(whole)) is not None:
            refused[path] = f"it is a file, and {_shown(other)} makes it a folder"
        elif (other := next((kept[k] for k in above if k in kept), None)) is not None:
            refused[path] = f"{_shown(other)}, which it lies in, is a file"
        else:
            kept[whole] = path
            folders.update((key, path) for key in above if key not in folders)
    return refused


def _keys(parts: tuple[str, ...], *, folds: bool) -> list[str]:
    """Of the path and each folder above it: what the disk tells apart."""
    keys, prefix = [], ""
    for part in parts:
        prefix += "/" + (unicodedata.normalize("NFC", part).casefold() if folds else part)
        keys.append(prefix)
    return keys


def _shown(path: str) -> str:
    return ascii(path[:120])
