"""What can go wrong with a box."""

from __future__ import annotations


class BoxError(Exception):
    """Any failure to do something on a box."""


class BoxUnreachable(BoxError):
    """SSH does not answer or the connection broke: unknown, not "gone"; try again later."""


class BoxAuth(BoxUnreachable):
    """SSH answers and does not take our key (yet: keys arrive late on fresh machines)."""


class HostKeyChanged(BoxError):
    """The machine shows another host key than the pinned one. Nothing is sent to it.

    `key` is what it showed: OpenSSH's two words of a public key, which a person may accept; None when not known.
    """

    def __init__(self, text: str, key: str | None = None) -> None:
        super().__init__(text)
        self.key = key


class BoxFault(BoxError):
    """A command failed or answered with nonsense."""


class NoPython(BoxFault):
    """The image has no Python that can run the sentinel."""
