"""`gpuwatch login`: an account's key is asked for, checked with the account, and kept in the keyring or a 0600 file."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys

from gpuproviders import keys
from gpuproviders.errors import ProviderError, Unauthorized
from gpuproviders.model import Account, Provider
from gpuproviders.money import format_usd
from gpuwatch.clean import clean
from gpuwatch.config import Config, ConfigError, load
from gpuwatch.paths import discover

_SECONDS = 60.0
_LONGEST = 4096


def run(vendor: str, *, forget: bool, file: bool = False) -> int:
    """Returns the exit code: 0 kept, 1 the key is not good, 2 no key given, 5 the account is out of reach."""
    if forget:
        for problem in (problems := keys.forget(vendor)):
            print(f"gpuwatch: {problem}", file=sys.stderr)
        if not problems:
            print(f"no key of {vendor} is kept any more")
        return 1 if problems else 0
    key = _ask(vendor)
    if not key or len(key) > _LONGEST or not key.isprintable() or " " in key:
        print("gpuwatch: that is no key", file=sys.stderr)
        return 2
    try:
        account = asyncio.run(_check(vendor, key, load(discover().config_file)))
    except Unauthorized as error:
        print(f"gpuwatch: not kept: {clean(str(error), 300)}", file=sys.stderr)
        return 1
    except (ProviderError, TimeoutError, ConfigError) as error:
        print(
            f"gpuwatch: not kept, because it could not be checked: {clean(str(error), 300)}", file=sys.stderr
        )
        return 5
    place = keys.keep(vendor, key, file=file)
    who = f"user {clean(account.user_id, 60)}" if account.user_id else "the account answers"
    money = f", {format_usd(account.credit)} of credit" if account.credit is not None else ""
    print(f"{vendor}: {who}{money}; the key is kept in {place}")
    if os.environ.get(keys.VARIABLES[vendor]):
        print(f"note: {keys.VARIABLES[vendor]} is set and goes before the kept key")
    print(
        "a daemon that runs already takes it at its next call; an account that is new to it at its next start"
    )
    return 0


def _ask(vendor: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"API key of {vendor} (not shown): ").strip()
    return sys.stdin.readline(_LONGEST + 2).strip()


async def _check(vendor: str, key: str, config: Config) -> Account:
    """The account behind the key. Raises ProviderError."""
    provider = _provider(vendor, key, config)
    try:
        async with asyncio.timeout(_SECONDS):
            return await provider.account()
    finally:
        await provider.close()


def _provider(vendor: str, key: str, config: Config) -> Provider:
    if vendor == "vast":
        from gpuproviders.vast import VastProvider

        return VastProvider(key=lambda: key, url=config.providers.vast.url)
    from gpuproviders.runpod import RunpodProvider

    return RunpodProvider(key=lambda: key, url=config.providers.runpod.url)
