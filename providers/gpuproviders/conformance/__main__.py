"""`python -m gpuproviders.conformance vast|runpod|ssh`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import time
import traceback

from gpuproviders.conformance.checks import CHECKS, Broken, Check
from gpuproviders.conformance.ground import Ground, OncePermit, own_machines, simulated
from gpuproviders.errors import ProviderError

CHECK_SECONDS = 150.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m gpuproviders.conformance",
        description="Check a provider against everything that the rest of gputui relies on.",
        epilog="The checks run on a simulated account that is thrown away. Exit code: 0 all kept, 1 something broken.",
    )
    top.add_argument("provider", choices=("vast", "runpod", "ssh"))
    top.add_argument(
        "--fault", action="append", default=[], metavar="NAME[=ARG]",
        help="leave this fault of the simulator on all the time: the checks must then fail (repeatable)",
    )  # fmt: skip
    top.add_argument("--only", metavar="TEXT", help="only promises that contain this text")
    return top


class _Ear(logging.Handler):
    """Hears whether a secret is logged."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self.secret = secret
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.secret in record.getMessage():
            self.heard.append(record.name)


async def _one(check: Check, ground: Ground) -> str | None:
    """What is broken, None when the promise was kept."""
    said: str | None = None
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check.run(ground)
    except Broken as broken:
        said = str(broken)
    except ProviderError as error:
        said = f"{type(error).__name__}: {error}"
    except TimeoutError:
        said = f"took longer than {CHECK_SECONDS:.0f} s"
    except Exception:  # noqa: BLE001 - a provider that raises anything else breaks the contract
        said = traceback.format_exc(limit=-3)
    if said is not None and ground.key in said:
        return "a message holds the account's key"
    return said


async def _tidy(ground: Ground) -> None:
    """What a broken check left behind must not break the next one."""
    with contextlib.suppress(ProviderError):
        for one in (await ground.provider.instances()).instances:
            with contextlib.suppress(ProviderError):
                await ground.provider.destroy(OncePermit(one.instance_id))


async def run(options: argparse.Namespace) -> int:
    """All checks; returns the exit code."""
    broken = 0
    place = own_machines() if options.provider == "ssh" else simulated(options.provider, options.fault)
    async with place as ground:
        ear = _Ear(ground.key)
        logging.getLogger().addHandler(ear)
        logging.getLogger().setLevel(logging.DEBUG)
        for check in CHECKS:
            if (check.needs_faults and ground.url is None) or (
                check.needs_keys and options.provider == "ssh"
            ):
                continue  # own machines have neither a simulator nor an account
            if options.only and options.only not in check.promise:
                continue
            started = time.monotonic()
            said = await _one(check, ground)
            broken += said is not None
            mark = "kept  " if said is None else "BROKEN"
            print(f"{mark} {time.monotonic() - started:5.1f} s  {check.promise}", flush=True)
            if said is not None:
                await _tidy(ground)
                print("".join(f"         {line}\n" for line in said.splitlines()), end="", flush=True)
        if ear.heard:
            broken += 1
            print(f"BROKEN          the account's key is in no log: {', '.join(sorted(set(ear.heard)))}")
    print(f"{options.provider}: {'conforms' if not broken else f'{broken} promises broken'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(parser().parse_args())))
