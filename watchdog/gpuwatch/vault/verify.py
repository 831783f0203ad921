"""Prove a vault again from its receipts alone: no ledger, no daemon, no network.

First each run is surveyed (receipts read and checked, its folder listed), then every file
that a receipt names is read and hashed by several threads. What is wrong becomes a
Finding; nothing is ever written, moved or repaired here.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from itertools import chain
from pathlib import Path

from gpuwatch.vault import let_go
from gpuwatch.vault.layout import (
    LET_GO,
    LOG,
    LOG_CLOCK,
    LOGS,
    MARKER,
    MIRRORS,
    PARTIAL,
    RECEIPTS,
    REPLACED,
    RESUME,
)
from gpuwatch.vault.proofs import (
    NAME,
    PART,
    BadReceipt,
    Promise,
    Proof,
    UnknownReceipt,
    load,
    newest,
)
from gpuwatch.vault.reread import CHUNK, Kind, NotThere, Reread, Seen, chunks, judge, opened

DAMAGE = frozenset({Kind.DAMAGED, Kind.TRUNCATED, Kind.MISSING})
"""What exit status 1 means. Everything else that is found makes the answer partial."""
_SECOND = 1_000_000_000
"""Nanoseconds. Some file systems keep times to two seconds only."""
_NO_RUNS = frozenset({"lost+found"})
TICK = 0.2


class NoVault(Exception):
    """There is nothing at this path that could be verified; the message says what to do."""


class Verdict(IntEnum):
    """The answer, as `gpuwatch verify` exits with it."""

    GOOD = 0
    DAMAGE = 1
    PARTIAL = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One file that is not as proved. `expected` is what its receipt says, None when none names it."""

    kind: Kind
    path: str
    """Relative to the run's folder."""
    detail: str
    expected: Promise | None = None
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What is to be read again in one run, and what is known before reading."""

    run: str
    folder: Path
    receipts: int
    """Receipts that are whole."""
    promises: tuple[Promise, ...]
    findings: tuple[Finding, ...]
    let_go: tuple[let_go.LetGo, ...] = ()
    """What receipts name and retention let go, in that version: it is not missing here."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run, verified. `files` and `bytes` are those that were read again and found good."""

    run: str
    receipts: int
    files: int
    bytes: int
    findings: tuple[Finding, ...]
    let_go: tuple[let_go.LetGo, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Whether everything here is proved, something is damaged, or something is not known."""
        if any(f.kind in DAMAGE for f in self.findings):
            return Verdict.DAMAGE
        return Verdict.PARTIAL if self.findings or not self.receipts else Verdict.GOOD


@dataclass(frozen=True, slots=True)
class Report:
    """A vault, verified."""

    root: Path
    runs: tuple[RunReport, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of the runs; a vault without runs proves nothing and is not good."""
        verdicts = {r.verdict for r in self.runs} or {Verdict.PARTIAL}
        return next(v for v in (Verdict.DAMAGE, Verdict.PARTIAL, Verdict.GOOD) if v in verdicts)


@dataclass(slots=True)
class Progress:
    """Counters for whoever shows them; `stop` ends the reading early. Filled by several threads."""

    files_total: int = 0
    bytes_total: int = 0
    started: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    findings: int = 0
    _files: list[int] = field(default_factory=list)
    _bytes: list[int] = field(default_factory=list)

    def lane(self) -> int:
        """A pair of counters that only one thread adds to."""
        self._files.append(0)
        self._bytes.append(0)
        return len(self._files) - 1

    def add(self, lane: int, *, files: int = 0, size: int = 0) -> None:
        """Count what was read."""
        self._files[lane] += files
        self._bytes[lane] += size

    @property
    def files(self) -> int:
        """Files that are done."""
        return sum(self._files)

    @property
    def bytes(self) -> int:
        """Bytes that were read."""
        return sum(self._bytes)


# --- pure ----------------------------------------------------------------------------------------


def strangers(names: Iterable[str], promised: Mapping[str, Promise], *, receipts: int) -> Iterator[Finding]:
    """Files that no receipt names. In a run without receipt they are unproved, not extra. Pure."""
    kind, why = (
        (Kind.EXTRA, "in no receipt of this run")
        if receipts
        else (Kind.UNPROVED, "the run has no receipt yet: nothing proves it")
    )
    for name in names:
        if name not in promised and name not in {LOG, LOG_CLOCK}:
            yield Finding(kind, name, why)


def assess(promise: Promise, seen: Seen) -> Finding | None:
    """What is wrong with one file that was read again; None when it is as proved. Pure."""
    kind = judge(seen, size=promise.size, sha256=promise.sha256)
    if kind is None:
        return None
    proved = datetime.fromtimestamp(promise.verified_at, UTC).date()
    if seen.size != promise.size:
        what = f"{seen.size} bytes, but {promise.size} were proved on {proved}"
    else:
        what = f"its bytes differ from what was proved on {proved}"
    same_time = seen.mtime_ns == promise.mtime_ns or (
        seen.mtime_ns % _SECOND == 0 and abs(seen.mtime_ns - promise.mtime_ns) <= 2 * _SECOND
    )
    why = "its time stamp is unchanged: the disk, most likely" if same_time else "it was written to since"
    return Finding(kind, promise.path, f"{what}; {why}", promise, seen)


# --- reading -------------------------------------------------------------------------------------


def run_names(root: Path, wanted: Sequence[str] = ()) -> list[str]:
    """The runs of a vault, or those that are wanted. Raises NoVault, OSError."""
    if not root.is_dir():
        raise NoVault(f"there is no vault at {root}")
    found = sorted(
        e.name for e in os.scandir(root)
        if (e.is_dir() or e.is_symlink()) and not e.name.startswith(".") and e.name not in _NO_RUNS
    )  # fmt: skip
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        raise NoVault(f"no run {unknown[0]!r} in {root}")
    if not (root / MARKER).is_file() and not any((root / name / RECEIPTS).is_dir() for name in found):
        if (root / RECEIPTS).is_dir():
            raise NoVault(
                f"{root} is one run, not a vault: `gpuwatch verify {root.parent} --run {root.name}`"
            )
        raise NoVault(
            f"{root} is no vault: no {MARKER}, and no run with a receipt in it (is the disk mounted?)"
        )
    return sorted(set(wanted)) if wanted else found


def survey(root: Path, run: str) -> Survey:
    """Read one run's receipts and list its folder. What cannot be read becomes a finding."""
    folder = root / run
    if folder.is_symlink():
        found = Finding(Kind.UNREADABLE, "", "the run's folder is a symbolic link, which is not followed")
        return Survey(run, folder, 0, (), (found,))
    findings: list[Finding] = []
    names = sorted(_walk(folder, findings))
    proofs = list(_proofs(folder, findings))
    promised = newest(proofs)
    findings += strangers(names, promised, receipts=len(proofs))
    here, past = set(names), let_go.read(folder)
    gone = {
        p.path: past[p.path, p.sha256]
        for p in promised.values()
        if p.path not in here and (p.path, p.sha256) in past
    }
    left = tuple(p for p in promised.values() if p.path not in gone)
    return Survey(run, folder, len(proofs), left, tuple(findings), tuple(gone.values()))


def _walk(top: Path, findings: list[Finding]) -> Iterator[str]:
    """Everything in a run's folder that is no folder and not ours, as relative paths; links are not followed."""
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(top / prefix) as entries:
                for entry in entries:
                    name = f"{prefix}{entry.name}"
                    if name in (RECEIPTS, PARTIAL, MIRRORS, REPLACED, RESUME, LOGS, LET_GO):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{name}/")
                    else:
                        yield name
        except OSError as error:
            findings.append(
                Finding(Kind.UNREADABLE, prefix.rstrip("/"), f"cannot be listed: {error.strerror}")
            )


def _proofs(folder: Path, findings: list[Finding]) -> Iterator[Proof]:
    """The receipts of a run that are whole."""
    for name in _receipt_files(folder, findings):
        path = f"{RECEIPTS}/{name}"
        match = NAME.fullmatch(name)
        if match is None:
            whole = name.endswith(".sha256") and (folder / RECEIPTS / f"{name[:-7]}.json").exists()
            # a part is read with the receipt that names it; what a crash left of a receipt is no receipt
            if not whole and not name.endswith(".tmp") and not PART.fullmatch(name):
                findings.append(Finding(Kind.EXTRA, path, "no receipt has this name"))
            continue
        try:
            proof = load(folder, match[1])
            findings += _twin(folder, proof)
            yield proof
        except BadReceipt as error:
            findings.append(Finding(Kind.DAMAGED, path, f"the receipt is not believed: {error}"))
        except NotThere as error:
            findings.append(Finding(Kind.DAMAGED, path, f"the receipt is not believed: {error}"))
        except UnknownReceipt as error:
            findings.append(Finding(Kind.UNREADABLE, path, f"the receipt cannot be judged: {error}"))
        except OSError as error:
            findings.append(Finding(Kind.UNREADABLE, path, f"cannot be read: {error.strerror}"))


def _receipt_files(folder: Path, findings: list[Finding]) -> list[str]:
    try:
        if not stat.S_ISDIR((folder / RECEIPTS).lstat().st_mode):
            findings.append(Finding(Kind.DAMAGED, RECEIPTS, "no folder, but something else of that name"))
            return []
        return sorted(p.name for p in (folder / RECEIPTS).iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        findings.append(Finding(Kind.UNREADABLE, RECEIPTS, f"cannot be listed: {error.strerror}"))
        return []


def _twin(folder: Path, proof: Proof) -> Iterator[Finding]:
    """The list for `sha256sum -c` beside a receipt must say the same."""
    path = f"{RECEIPTS}/{proof.digest}.sha256"
    right, found = hashlib.sha256(), hashlib.sha256()
    for line in proof.twin():
        right.update(line)
    try:
        with opened(folder, (RECEIPTS, f"{proof.digest}.sha256")) as descriptor:
            for chunk in chunks(descriptor, bytearray(CHUNK)):
                found.update(chunk)
    except NotThere as error:
        yield Finding(Kind.MISSING, path, str(error))
    except OSError as error:
        yield Finding(Kind.UNREADABLE, path, f"cannot be read: {error.strerror}")
    else:
        if found.digest() != right.digest():
            yield Finding(Kind.DAMAGED, path, "it does not list what its receipt says")


def reread(
    folder: Path, promise: Promise, buffer: bytearray, *, count: Callable[[int], bool]
) -> Finding | None:
    """Read one file again. `count` is told of each chunk and says whether to go on."""
    try:
        with Reread(folder, promise.parts, size=promise.size, buffer=buffer) as file:
            while size := file.read():
                if not count(size):
                    return Finding(Kind.UNREADABLE, promise.path, "interrupted", promise)
            return assess(promise, file.seen())
    except NotThere as error:
        return Finding(Kind.MISSING, promise.path, str(error), promise)
    except OSError as error:
        return Finding(Kind.UNREADABLE, promise.path, f"cannot be read: {error.strerror}", promise)


def verify(
    root: Path,
    *,
    runs: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
    tick: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Verify a vault, or some of its runs, with `jobs` reading threads. Raises NoVault, OSError.

    `tick` is called in this thread every TICK seconds while others read.
    """
    began = time.monotonic()
    progress = progress or Progress()
    surveys = [survey(root, name) for name in run_names(root, runs)]
    progress.files_total = sum(len(s.promises) for s in surveys)
    progress.bytes_total = sum(p.size for s in surveys for p in s.promises)
    progress.findings = sum(len(s.findings) for s in surveys)
    progress.started = time.monotonic()
    work = _Work(surveys, progress)
    workers = jobs or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        futures = [pool.submit(work.run, progress.lane()) for _ in range(workers)]
        try:
            while (left := wait(futures, TICK, FIRST_EXCEPTION)).not_done and not any(
                f.exception() for f in left.done
            ):
                tick(progress)
        finally:  # an interrupt, or a fault of ours in one thread: the others end with it
            progress.stop.set()
        for future in futures:
            future.result()
    reports = tuple(_report(s, work.found.get(i, [])) for i, s in enumerate(surveys))
    return Report(root, reports, time.monotonic() - began)


class _Work:
    """The files to read, taken by several threads one after the other."""

    def __init__(self, surveys: Sequence[Survey], progress: Progress) -> None:
        self._todo = chain.from_iterable(
            ((i, s.folder, p) for p in s.promises) for i, s in enumerate(surveys)
        )
        self._lock = threading.Lock()
        self._progress = progress
        self.found: dict[int, list[Finding]] = {}

    def run(self, lane: int) -> None:
        """One thread's share."""
        progress, buffer = self._progress, bytearray(CHUNK)

        def count(size: int) -> bool:
            progress.add(lane, size=size)
            return not progress.stop.is_set()

        while not progress.stop.is_set():
            with self._lock:
                item = next(self._todo, None)
            if item is None:
                return
            index, folder, promise = item
            finding = reread(folder, promise, buffer, count=count)
            progress.add(lane, files=1)
            if finding is not None:
                with self._lock:
                    self.found.setdefault(index, []).append(finding)
                    progress.findings += 1


def _report(survey: Survey, found: Sequence[Finding]) -> RunReport:
    bad = {f.path for f in found}
    good = [p for p in survey.promises if p.path not in bad]
    findings = sorted((*survey.findings, *found), key=lambda f: (f.kind not in DAMAGE, os.fsencode(f.path)))
    return RunReport(
        survey.run, survey.receipts, len(good), sum(p.size for p in good), tuple(findings), survey.let_go
    )
