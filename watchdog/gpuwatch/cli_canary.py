"""`gpuwatch canary`: rent the cheapest machine of a real account, check what is assumed of the vendor, write a report."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from gpuproviders import keys
from gpuproviders.errors import ProviderError
from gpuproviders.money import format_usd
from gpuwatch.canary.judge import Finding, Seen, Verdict, judge
from gpuwatch.canary.report import report
from gpuwatch.canary.walk import CALL_SECONDS, Order, TooDear, Walk
from gpuwatch.clean import clean
from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import CallFailed, DaemonUnreachable
from gpuwatch.config import ConfigError, load
from gpuwatch.daemon.main import providers_of
from gpuwatch.paths import discover

DOC = """\
Rents the cheapest suitable machine of a real account through the daemon, walks the whole path (label, list, boot, job,
a stop by the box's own key, start, collection, destroy, confirmed gone), and checks one by one what gputui assumes of the
vendor. It costs at most --max-cost, usually a few cents. The report names no key, no address and no account, so it can
be attached to a bug."""


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="gpuwatch canary", description=DOC)
    options(parser)
    return run(parser.parse_args(argv))


def options(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("vendor", choices=("vast", "runpod"))
    parser.add_argument(
        "--max-cost", type=_usd, required=True, metavar="USD", help="what it may cost at most, e.g. 0.25"
    )
    parser.add_argument(
        "--query",
        default="gpus=1",
        metavar="QUERY",
        help="which offers will do (gpus=1), see `gputui offers --help`",
    )
    parser.add_argument(
        "--image", default=None, metavar="IMAGE", help="the container image; it needs python3"
    )
    parser.add_argument("--no-stop", action="store_true", help="leave out that the box stops itself")
    parser.add_argument(
        "--report",
        type=Path,
        default=None,
        metavar="FILE",
        help="where the report goes (canary-VENDOR-DATE.md)",
    )
    parser.add_argument(
        "--interval", type=float, default=5.0, metavar="SECONDS", help="between two looks at the vendor (5)"
    )
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask before spending money")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0 everything held, 1 something differs, 2 not asked or too dear, 5 the daemon or the account is out of reach."""
    if not options.yes and not _consent(options):
        return 2
    try:
        walk, seen = asyncio.run(_walk(options))
    except TooDear as error:
        print(f"gpuwatch: nothing was rented: {error}", file=sys.stderr)
        return 2
    except (DaemonUnreachable, ProviderError, ConfigError) as error:
        print(f"gpuwatch: nothing was rented: {clean(str(error), 300)}", file=sys.stderr)
        return 5
    findings = judge(seen)
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    path = options.report or Path(f"canary-{options.vendor}-{time.strftime('%Y%m%d-%H%M', time.gmtime())}.md")
    path.write_text(report(seen, findings, date=date, timeline=walk.timeline), encoding="utf-8")
    _print(findings)
    print(f"the report is in {path}")
    if seen.rented_at is not None and seen.state not in ("gone", "lost"):
        print(
            f"gpuwatch: the machine is not gone yet (run {seen.state}): `gputui ls` shows it, the daemon keeps at it",
            file=sys.stderr,
        )
        return 1
    return 1 if any(f.verdict is Verdict.DIFFERS for f in findings) or seen.rented_at is None else 0


async def _walk(options: argparse.Namespace) -> tuple[Walk, Seen]:
    paths = discover()
    config = load(paths.config_file)
    found = providers_of(config)
    provider = found.pop(options.vendor, None)
    for other in found.values():
        await other.close()
    if provider is None:
        raise ConfigError(f"there is no account of {options.vendor}: {keys.missing(options.vendor)}")
    try:
        settings = config.providers.vast if options.vendor == "vast" else config.providers.runpod
        variable, usual = _ADDRESSES[options.vendor]
        order = Order(
            vendor=options.vendor, max_cost=options.max_cost, query=options.query, stop=not options.no_stop, interval=options.interval,
            **({"image": options.image} if options.image else {}),
        )  # fmt: skip
        key = keys.vast() if options.vendor == "vast" else keys.runpod()
        walk = Walk(
            order, lambda: Client(paths.socket, timeout=CALL_SECONDS, name="canary"), provider,
            url=settings.url or os.environ.get(variable) or usual, mark=keys.fingerprint(key or ""),
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
        try:
            return walk, await walk.go()
        except CallFailed as error:
            raise ConfigError(str(error)) from error
    finally:
        await provider.close()


_ADDRESSES = {
    "vast": ("VAST_URL", "https://console.vast.ai"),
    "runpod": ("RUNPOD_API_BASE_URL", "https://api.runpod.io"),
}


def _consent(options: argparse.Namespace) -> bool:
    if not sys.stdin.isatty():
        print(
            "gpuwatch: this rents a machine; add --yes to say so where nobody can be asked", file=sys.stderr
        )
        return False
    answer = input(
        f"Rent the cheapest machine of {options.vendor} for up to {format_usd(options.max_cost)}? [y/N] "
    )
    return answer.strip().lower() in ("y", "yes")


def _print(findings: list[Finding]) -> None:
    marks = {Verdict.HOLDS: "✓", Verdict.DIFFERS: "✗", Verdict.NOT_SEEN: "·"}
    for finding in findings:
        print(f"{marks[finding.verdict]} {finding.assumption}: {clean(finding.seen, 160)}")


def _usd(text: str) -> int:
    from gpuproviders.money import parse_usd

    amount = parse_usd(text.removeprefix("$"))
    if amount is None or not 0 < amount <= 100_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of dollars up to 100; try 0.25")
    return amount
