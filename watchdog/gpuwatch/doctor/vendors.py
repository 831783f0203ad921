"""Keys, and with leave the accounts behind them."""

from __future__ import annotations

from typing import Any

from gpuwatch.clean import clean
from gpuwatch.doctor.finding import Check, Found, Level, Patient, ok

_ONLINE_SECONDS = 60.0


def credentials(patient: Patient) -> Found:
    """Which vendors have a key; keys are not shown."""
    if not patient.config.providers.vast.enabled:
        yield ok("credentials", "vast is switched off in the settings")
        return
    from gpuproviders import keys

    if keys.vast() is None:
        todo = f"{keys.missing('vast')}; to try it without an account: `gputui demo`"
        yield Check("credentials", Level.WARN, "no key for vast", todo)
    else:
        yield ok("credentials", "vast has a key (not shown)")
    if patient.config.providers.runpod.enabled is not False and keys.runpod() is not None:
        yield ok("credentials", "runpod has a key (not shown)")


def accounts(patient: Patient) -> Found:
    """Ask each account, with a time limit."""
    import asyncio

    from gpuproviders.errors import ProviderError
    from gpuproviders.money import format_usd
    from gpuwatch.daemon.main import providers_of

    async def ask(provider: Any) -> Any:
        async with asyncio.timeout(_ONLINE_SECONDS):
            try:
                return await provider.account()
            finally:
                await provider.close()

    for name, provider in providers_of(patient.config).items():
        try:
            account = asyncio.run(ask(provider))
        except ProviderError as error:
            yield Check(
                "account", Level.FAIL, f"{name}: {clean(str(error), 300)}", "check the key and the network"
            )
        except TimeoutError:
            yield Check(
                "account",
                Level.FAIL,
                f"{name} did not answer in {_ONLINE_SECONDS:.0f} s",
                "check the network",
            )
        else:
            credit = (
                "credit not told" if account.credit is None else f"{format_usd(account.credit)} of credit"
            )
            yield ok("account", f"{name} answers: user {clean(account.user_id or 'not told', 60)}, {credit}")
