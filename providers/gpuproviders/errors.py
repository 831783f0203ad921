"""What can go wrong between us and a vendor, sorted by what it allows us to conclude.

    ProviderError
     ├─ Refused         the vendor said no and nothing happened
     │   └─ OfferGone   … because the offer was taken: try the next one
     ├─ Ambiguous       we cannot know whether it happened: reconcile by label, never repeat
     ├─ Throttled       not now; nothing happened; `retry_after` seconds when the vendor said so
     ├─ Unauthorized    the key is missing, wrong or not allowed
     └─ Unavailable     no usable answer to a read: unknown, not "empty"

A message never holds a key: adapters build it from parsed fields and `scrub` it.
"""

from __future__ import annotations


class ProviderError(Exception):
    """Any failure of a vendor call. `code` is the vendor's short code when it gave one."""

    kind = "error"

    def __init__(self, message: str, *, provider: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.provider = provider
        self.code = code


class Refused(ProviderError):
    """The vendor definitely did not do it."""

    kind = "refused"


class OfferGone(Refused):
    """The offer was rented by someone else between listing and create."""

    kind = "offer-gone"


class Ambiguous(ProviderError):
    """It may or may not have happened (timeout, reset, 5xx, unreadable answer to a write).

    `instance_id` is set when the answer named a machine that therefore exists.
    """

    kind = "ambiguous"

    def __init__(
        self, message: str, *, provider: str = "", code: str | None = None, instance_id: str | None = None
    ) -> None:
        super().__init__(message, provider=provider, code=code)
        self.instance_id = instance_id


class Throttled(ProviderError):
    """Too many requests; nothing happened. `retry_after` is in seconds, None when not said."""

    kind = "throttled"

    def __init__(
        self, message: str, *, provider: str = "", code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, provider=provider, code=code)
        self.retry_after = retry_after


class Unauthorized(ProviderError):
    """The key is missing, wrong, or lacks the permission."""

    kind = "unauthorized"


class Unavailable(ProviderError):
    """A read gave no usable answer (network, HTML, short page, wrong shape). Unknown is not evidence."""

    kind = "unavailable"


def scrub(text: str, *secrets: str | None) -> str:
    """`text` without any of `secrets`, bounded to 500 characters, control characters shown as `?`."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[key]")
    if len(text) <= 500 and text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" if c not in "\n\t" else " " for c in text[:500])
