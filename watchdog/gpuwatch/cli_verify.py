"""`gpuwatch verify`: what it shows while it reads, and how it says what it found."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from gpuwatch.clean import clean, show_path
from gpuwatch.custody.rules import spoken
from gpuwatch.spec.units import format_duration, format_size
from gpuwatch.vault.reread import Kind
from gpuwatch.vault.verify import DAMAGE, Finding, NoVault, Progress, Report, RunReport, Verdict, verify

FORMAT = "gputui-verify/1"
SHOWN = 20
"""Lines per run for files that are merely extra or unproved; damage is always listed in full."""
PLAIN_SECONDS = 30.0


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    try:
        root = Path(options.vault).expanduser().absolute() if options.vault is not None else _own_vault()
        shown = _Shown(sys.stderr)
        try:
            report = verify(root, runs=options.run, jobs=options.jobs, tick=shown)
        finally:
            shown.clear()
    except NoVault as error:
        print(f"gpuwatch: {clean(str(error), 2000)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gpuwatch: the vault cannot be read: {clean(str(error), 2000)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("gpuwatch: interrupted; nothing was changed and nothing is proved", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(document(report), indent=2))
    else:
        print("\n".join(text(report)))
    return int(report.verdict)


def _own_vault() -> Path:
    """The vault of this user's daemon. Raises NoVault."""
    from gpuwatch.config import ConfigError, load, vault_folder
    from gpuwatch.paths import discover

    paths = discover()
    try:
        return vault_folder(paths, load(paths.config_file))
    except ConfigError as error:
        raise NoVault(f"{error}; or name the vault: `gpuwatch verify VAULT`") from error


# --- what was found ------------------------------------------------------------------------------


def text(report: Report) -> Iterable[str]:
    """The report for people."""
    for run in report.runs:
        yield from _run_lines(run)
    good = sum(r.files for r in report.runs)
    rate = sum(r.bytes for r in report.runs) / max(report.seconds, 1e-6)
    counts = _counts(report)
    yield (
        f"{good} file{'s' * (good != 1)} ({format_size(sum(r.bytes for r in report.runs))}) as proved"
        f" in {len(report.runs)} run{'s' * (len(report.runs) != 1)},"
        f" read in {_brief(report.seconds)} ({format_size(int(rate))}/s)"
    )
    match report.verdict:
        case Verdict.GOOD:
            yield "all good"
        case Verdict.DAMAGE:
            yield f"DAMAGE: {_told(counts)}. Restore these files from another copy, then verify again"
        case Verdict.PARTIAL if not report.runs:
            yield "nothing is proved: the vault has no runs"
        case Verdict.PARTIAL:
            bare = sum(1 for r in report.runs if not r.receipts)
            also = f"; {bare} run{'s' * (bare != 1)} without receipt" if bare else ""
            yield f"no damage, but not everything is proved: {_told(counts) or 'no file'}{also}"


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else format_duration(seconds)


def _run_lines(run: RunReport) -> Iterable[str]:
    state = {Verdict.GOOD: "good", Verdict.DAMAGE: "DAMAGE", Verdict.PARTIAL: "partial"}[run.verdict]
    proofs = f"{run.receipts} receipt{'s' * (run.receipts != 1)}" if run.receipts else "no receipt"
    yield f"{state:<8}{show_path(spoken(run.run))}: {run.files} files as proved, {proofs}"
    if run.let_go:
        where = ", ".join(sorted({place for f in run.let_go for place in f.stands}))
        size = format_size(sum(f.size for f in run.let_go))
        yield f"  let go     {len(run.let_go)} files ({size}) by retention; verified then on {clean(where, 200)}"
    shown: Counter[Kind] = Counter()
    for finding in run.findings:
        shown[finding.kind] += 1
        if finding.kind in DAMAGE or shown[finding.kind] <= SHOWN:
            name = show_path(spoken(finding.path), 1000) or "(the whole run)"
            yield f"  {finding.kind.value:<11}{name}: {clean(finding.detail, 300)}"
    for kind, number in shown.items():
        if kind not in DAMAGE and number > SHOWN:
            yield f"  … and {number - SHOWN} more {kind.value} (--json lists all)"


def _counts(report: Report) -> Counter[Kind]:
    return Counter(f.kind for r in report.runs for f in r.findings)


def _told(counts: Counter[Kind]) -> str:
    return ", ".join(f"{counts[k]} {k.value}" for k in Kind if counts[k])


def document(report: Report) -> dict[str, Any]:
    """The report for programs; the shape is documented in docs/operations.md and only grows."""
    counts = _counts(report)
    return {
        "format": FORMAT,
        "vault": str(report.root),
        "exit": int(report.verdict),
        "verdict": report.verdict.name.lower(),
        "seconds": round(report.seconds, 3),
        "files": sum(r.files for r in report.runs),
        "bytes": sum(r.bytes for r in report.runs),
        "counts": {kind.value: counts[kind] for kind in Kind},
        "runs": [
            {
                "run": r.run,
                "verdict": r.verdict.name.lower(),
                "receipts": r.receipts,
                "files": r.files,
                "bytes": r.bytes,
                "let_go": [
                    {"path": f.path, "bytes": f.size, "sha256": f.sha256, "stands": list(f.stands)}
                    for f in r.let_go
                ],
                "findings": [_row(f) for f in r.findings],
            }
            for r in report.runs
        ],
    }


def _row(finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": finding.kind.value, "path": finding.path, "detail": finding.detail}
    if finding.expected is not None:
        row |= {
            "receipt": finding.expected.receipt,
            "expected": {"bytes": finding.expected.size, "sha256": finding.expected.sha256},
        }
    if finding.seen is not None:
        row["found"] = {"bytes": finding.seen.size, "sha256": finding.seen.sha256}
    return row


# --- while it reads ------------------------------------------------------------------------------


class _Shown:
    """Progress on a stream: one line that renews itself on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._next = time.monotonic() + (0.0 if self._live else PLAIN_SECONDS)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        line = progress_line(progress, now - progress.started)
        if self._live:
            self._stream.write(f"\r\x1b[K{line}")
        else:
            self._next = now + PLAIN_SECONDS
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Leave the terminal's line empty."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def progress_line(progress: Progress, seconds: float) -> str:
    """How far it is, how fast, how long it will take, and what was found so far. Pure."""
    done, total = progress.bytes, progress.bytes_total
    rate = done / seconds if seconds > 0 else 0.0
    left = f", {format_duration((total - done) / rate)} left" if rate > 0 and total > done else ""
    found = f", {progress.findings} found" if progress.findings else ""
    return (
        f"{format_size(done)} of {format_size(total)}, {progress.files} of {progress.files_total} files,"
        f" {format_size(int(rate))}/s{left}{found}"
    )
