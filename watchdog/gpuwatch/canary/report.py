"""The canary's report: Markdown that can be attached to a bug. No key, no address, no account. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gpuproviders.money import format_usd
from gpuwatch.canary.judge import Finding, Seen, Verdict
from gpuwatch.clean import clean


def report(seen: Seen, findings: Sequence[Finding], *, date: str, timeline: Sequence[str]) -> str:
    """The whole report."""
    count = {verdict: sum(f.verdict is verdict for f in findings) for verdict in Verdict}
    price = "" if seen.price is None else f" at {format_usd(seen.price)}/h"
    ended = f"the run ended {seen.state or 'before it began'}"
    cost = "unknown" if seen.cost is None else format_usd(seen.cost)
    lines = [
        f"# Canary on {seen.vendor}, {date}",
        "",
        f"gpuwatch {seen.version}; {seen.gpu or 'no machine'}{price}; {ended}; reckoned cost {cost}.",
        "",
        f"{count[Verdict.HOLDS]} assumptions hold, {count[Verdict.DIFFERS]} differ, {count[Verdict.NOT_SEEN]} were not seen.",
        "",
        "| | assumption | what was seen | rests on it |",
        "|---|---|---|---|",
        *(
            f"| {f.verdict.value} | {_cell(f.assumption)} | {_cell(f.seen)} | {_cell(f.where)} |"
            for f in sorted(
                findings,
                key=lambda f: list(Verdict).index(f.verdict) if f.verdict is not Verdict.DIFFERS else -1,
            )
        ),
        "",
        "## Timeline",
        "",
        *(f"- {_cell(line)}" for line in timeline),
    ]
    if seen.trouble:
        lines += ["", "## Trouble on the way", "", *(f"- {_cell(line)}" for line in seen.trouble[:40])]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return clean(text, 300).replace("|", "/").replace("\n", " ")
