"""The register against one complete listing: what each listed machine is, and what is missing. Pure; nothing is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuproviders.model import Account, Instance
from gpuwatch.clean import clean
from gpuwatch.lifecycle.events import AccountSeen
from gpuwatch.lifecycle.register import Alarm, Entry

LABEL_PREFIX = "gputui-"
"""Every label of ours begins so."""
RECHECKS = (60.0, 600.0, 3600.0)
"""Seconds after a machine's end at which the account is listed again; after the last it is off the books."""


@dataclass(frozen=True, slots=True)
class Sighted:
    """A machine of ours is listed for the first time."""

    entry: Entry
    instance: Instance


@dataclass(frozen=True, slots=True)
class Back:
    """A machine that counted as gone, or as never made, is listed."""

    entry: Entry
    instance: Instance


@dataclass(frozen=True, slots=True)
class Orphan:
    """A machine with our label that no run drives: an alarm, and nothing is done to it (I2)."""

    provider: str
    instance_id: str
    label: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.provider} instance {self.instance_id} (label {self.label or 'none'}) {self.why}; "
            "it bills: look what is on it, then destroy it at the provider"
        )


@dataclass(frozen=True, slots=True)
class Foreign:
    """A machine that is not ours: listed, never touched."""

    instance: Instance


Finding = Sighted | Back | Orphan | Foreign


def carries_our_label(instance: Instance) -> bool:
    """Whether the label is one that a gputui wrote."""
    return instance.label is not None and instance.label.startswith(LABEL_PREFIX)


def judge(instances: Iterable[Instance], entries: Mapping[str, Entry]) -> list[Finding]:
    """What each listed machine is to us. `entries` are those of the labels and ids in the listing, by label."""
    by_id = {e.instance_id: e for e in entries.values() if e.instance_id is not None}
    found: list[Finding] = []
    for instance in instances:
        finding = _judge(instance, by_id.get(instance.instance_id) or entries.get(instance.label or ""))
        if finding is not None:
            found.append(finding)
    return found


def _judge(instance: Instance, entry: Entry | None) -> Finding | None:
    if entry is None:
        if not carries_our_label(instance):
            return Foreign(instance)
        return _orphan(instance, "is in no run of this ledger")
    if entry.instance_id not in (None, instance.instance_id):
        return _orphan(instance, f"is a second machine beside {entry.instance_id}")
    if instance.label not in (entry.label, None):
        # somebody gave it another label, or the vendor its number: nobody can tell whose it is
        why = f"has the number of {entry.label}"
        return _orphan(instance, why) if entry.gone_at is not None else None
    if entry.gone_at is not None:
        return Back(entry, instance)
    if entry.listed_at is None and entry.instance_id is not None:
        return Sighted(entry, instance)
    return None


def _orphan(instance: Instance, why: str) -> Orphan:
    return Orphan(instance.provider, instance.instance_id, clean(instance.label or "", 100), why)


def unlisted(entries: Iterable[Entry], listed: Iterable[Instance]) -> list[Entry]:
    """Machines that the vendor said it made, that were never listed, and are not in this listing either."""
    ids = {i.instance_id for i in listed}
    return [
        e
        for e in entries
        if e.instance_id is not None
        and e.gone_at is None
        and e.listed_at is None
        and e.alarm is None
        and e.instance_id not in ids
    ]


def to_bury(entries: Iterable[Entry], listed: Iterable[Instance], now: float) -> list[Entry]:
    """Machines whose last check is due and that this listing does not show."""
    present = {i.instance_id for i in listed} | {i.label for i in listed}
    return [
        e
        for e in entries
        if e.gone_at is not None
        and e.buried_at is None
        and now - e.gone_at >= RECHECKS[-1]
        and e.instance_id not in present
        and e.label not in present
    ]


def next_check(entries: Iterable[Entry], now: float) -> float | None:
    """Seconds until the next check of a machine that has ended, None when there is none to check."""
    waits = [
        e.gone_at + after - now
        for e in entries
        if e.gone_at is not None and e.buried_at is None
        for after in RECHECKS
        if e.gone_at + after > now
    ]
    return min(waits, default=None)


def strays(entries: Iterable[Entry]) -> list[Entry]:
    """Machines that came back and on which nothing ever ran: custody lets them be destroyed again."""
    return [e for e in entries if e.alarm is Alarm.RETURNED and e.gone_at is None and e.job_at is None]


def caps(entries: Iterable[Entry], provider: str) -> list[Entry]:
    """Machines that exist by the vendor's word and that nobody has seen: while there is one, none is ordered."""
    return [e for e in entries if e.provider == provider and e.alarm is Alarm.UNSEEN]


def cap_reason(entry: Entry) -> str:
    """Why nothing is rented on this account, and how that is resolved."""
    return (
        f"nothing more is rented on {entry.provider}: it said that it made instance {entry.instance_id} "
        f"(label {entry.label}) and no listing has ever shown it. Look for it in the provider's console and destroy it "
        f'there if it is, then `gputui resolve {entry.label} --reason "…"`; it is resolved by itself once a listing shows it'
    )


def alarm_of(entry: Entry) -> str | None:
    """The alarm about one machine, with what to do; None when there is none."""
    match entry.alarm:
        case Alarm.UNSEEN:
            return cap_reason(entry)
        case Alarm.RETURNED:
            what = (
                "nothing ever ran on it, so it is being destroyed again"
                if entry.job_at is None
                else f"a job ran on it, so its run {entry.run} drives it again: `gputui why {entry.run}`"
            )
            return (
                f"{entry.provider} instance {entry.instance_id} of run {entry.run} counted as gone and is listed again: "
                f"it bills; {what}"
            )
        case None:
            return None


def same_account(known: AccountSeen, account: Account) -> bool:
    """Whether the account is surely the known one."""
    return account.same_as(Account(known.provider, known.user, None, key_id=known.key_id))


def stranger(account: Account, known: AccountSeen | None, entries: Iterable[Entry]) -> str | None:
    """Why listings of this account say nothing about our machines; None when they do (I3).

    Another account than the one known is taken as ours only when nothing of the old one is open.
    """
    if known is None or same_account(known, account):
        return None
    ours = [e for e in entries if e.provider == account.provider and e.sent_at is not None]
    if not ours:
        return None
    other = clean(account.user_id, 60) if account.user_id is not None else "the vendor does not say which"
    return (
        f"the key belongs to another account ({other}) than the one our machines are of ({known.user or 'known by its key'}): "
        f"nothing it lists counts for {ours[0].label}{f' and {len(ours) - 1} more' if len(ours) > 1 else ''}. "
        "Put that account's key back; a machine that is over is checked for an hour after its end"
    )
