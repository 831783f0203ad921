"""Where a network volume answers, and what of its listing is taken. Pure.

Source: docs.runpod.io, "S3-compatible API": one address for each data centre, the bucket is the volume's id, the region
the data centre; keys of their own (`user_…` and `rps_…`), made in the console.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gpuwatch.vault.names import refusals

PLACES: Final = (
    "EU-CZ-1", "EU-RO-1", "EUR-IS-1", "EUR-NO-1", "US-CA-2", "US-GA-2", "US-IL-1", "US-KS-2", "US-MD-1", "US-MO-1", "US-MO-2", "US-NC-1",
    "US-NC-2", "US-NE-1", "US-WA-1",
)  # fmt: skip
"""Data centres whose volumes have an S3 address."""
KEYS: Final = ("RUNPOD_S3_ACCESS_KEY_ID", "RUNPOD_S3_SECRET_ACCESS_KEY")
"""Environment variables with the S3 key; it is another one than the account's."""
MOST_FILES: Final = 1_000_000
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class NoRescue(Exception):
    """It cannot be begun; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A volume, or a folder of it."""

    volume: str
    place: str
    folder: str = ""
    endpoint: str = ""
    """The S3 address; by default the one of its data centre."""

    def __post_init__(self) -> None:
        if not _VOLUME.fullmatch(self.volume):
            raise NoRescue(f"{self.volume[:60]!r} is no volume's id; `gputui rescue` lists yours")
        if not self.endpoint and self.place not in PLACES:
            raise NoRescue(
                f"volumes in {self.place[:20]!r} have no S3 address; there is one in {', '.join(PLACES)}: start a pod instead"
            )
        parts = self.folder.split("/") if self.folder else []
        if any(part in ("", ".", "..") for part in parts) or not self.folder.isprintable():
            raise NoRescue(
                f"{self.folder[:60]!r} is no folder of a volume: write it as it lies there, e.g. runs/big/ckpt"
            )

    @property
    def remote(self) -> str:
        """What rclone is asked for; nothing of it is secret."""
        return f":s3:{self.volume}" + (f"/{self.folder}" if self.folder else "")

    def environment(self, access: str, secret: str) -> dict[str, str]:
        """rclone's settings; they travel in the environment, so that no key is in a command line."""
        return {
            "RCLONE_S3_PROVIDER": "Other",
            "RCLONE_S3_ENDPOINT": self.endpoint or f"https://s3api-{self.place.lower()}.runpod.io/",
            "RCLONE_S3_REGION": self.place,
            "RCLONE_S3_FORCE_PATH_STYLE": "true",
            "RCLONE_S3_NO_CHECK_BUCKET": "true",
            "RCLONE_S3_ACCESS_KEY_ID": access,
            "RCLONE_S3_SECRET_ACCESS_KEY": secret,
            "RCLONE_CONFIG": "",
        }


def key_of(environment: Mapping[str, str]) -> tuple[str, str]:
    """The S3 key. Raises NoRescue."""
    access, secret = (environment.get(name, "").strip() for name in KEYS)
    if not access or not secret:
        raise NoRescue(
            f"an S3 key is needed, which is another one than the account's: make it in RunPod's console (Settings, S3 API keys) "
            f"and set {' and '.join(KEYS)}"
        )
    return access, secret


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a listing holds: path -> size in bytes, and what cannot be kept here, with the reason."""

    files: dict[str, int]
    refused: dict[str, str]


def read_listing(data: bytes, *, folds: bool) -> Wanted:
    """rclone's `lsjson`. Raises NoRescue when it is no whole listing."""
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NoRescue("the volume's listing cannot be read; try again") from error
    if not isinstance(rows, list) or len(rows) > MOST_FILES:
        raise NoRescue("the volume's listing is none, or has more than a million files: name a folder")
    sizes: dict[str, int] = {}
    for row in rows:
        path, size = (row.get("Path"), row.get("Size")) if isinstance(row, dict) else (None, None)
        if not isinstance(path, str) or isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise NoRescue(
                "the volume's listing has a row that cannot be read; nothing is taken for whole that is not"
            )
        sizes[path] = size
    refused = refusals(sizes, folds=folds)
    refused |= {
        path: "its name holds a line break, which no list can hold"
        for path in sizes
        if "\n" in path or "\r" in path
    }
    return Wanted({path: size for path, size in sizes.items() if path not in refused}, refused)
