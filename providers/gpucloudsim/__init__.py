"""A simulated GPU cloud: one market engine, real boxes, and the vendors' own APIs in front of them.

`python -m gpucloudsim --state DIR` serves it on loopback; `main(argv)` is the same as a function. The
simulator serves three masters: the demo (no account, no cost), the tests, and fault injection.
"""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Run the simulator until it is told to stop. Returns the exit code."""
    from gpucloudsim.server import main as serve

    return serve(argv)


__all__ = ["main"]
