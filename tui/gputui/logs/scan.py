"""A process that searches pieces of a log file: `python -m gputui.logs.scan PATH`.

Standard input: the pattern as one JSON string, then `START STOP` lines. Standard output, for each: a
count (8 bytes, little endian) and as many offsets of matching lines. A process of its own, because a
search must not hold up the keys, and because cancelling one is killing it.
"""

from __future__ import annotations

import json
import os
import struct
import sys

from gputui.logs.pattern import Finder

TAIL = 1 << 20
"""Bytes after a piece that are looked at for the end of its last line."""


def scan(handle: int, finder: Finder, start: int, stop: int) -> bytes:
    """The matching lines that begin in `start`…`stop`, packed."""
    data = os.pread(handle, stop - start + TAIL, start)
    head = 0
    if start > 0 and os.pread(handle, 1, start - 1) != b"\n":
        head = data.find(b"\n", 0, stop - start) + 1
        if head == 0:  # one line without an end: it belongs to the piece where it began
            return struct.pack("<Q", 0)
    if stop - start < len(data):
        cut = data.find(b"\n", max(0, stop - start - 1)) + 1
        data = data[: cut or len(data)]
    found = finder.lines(data[head:] if head else data, start + head)
    if sys.byteorder == "big":
        found.byteswap()
    return struct.pack("<Q", len(found)) + found.tobytes()


def main() -> int:
    """Answer until standard input ends."""
    os.nice(5)
    handle = os.open(sys.argv[1], os.O_RDONLY)
    finder = Finder(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        start, stop = map(int, line.split())
        sys.stdout.buffer.write(scan(handle, finder, start, stop))
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
