"""CLI streams: a log, the timeline, a run until its end. They resume where they were when the daemon restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from gputui import wording as say
from gputui.clean import cleaned
from gputui.console import Console
from gputui.exits import DAMAGE, OK
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import DaemonUnreachable
from gpuwatch.paths import discover

PATIENCE = 30.0
"""Seconds without a daemon after which a stream gives up."""
_PAGE = 1 << 18
_MAX_LINE = 1 << 20


def notices(topic: str, run: str | None, since: int) -> Iterator[wire.Notice]:
    """Notices of a stream; after a lost connection it goes on behind the last one, no gap, no repeat.

    Raises DaemonUnreachable when no daemon has answered for PATIENCE seconds, and CallFailed.
    """
    lost_at: float | None = None
    while True:
        try:
            with Client(discover().socket, timeout=30.0) as client:
                for notice in client.notices(wire.Subscribe(topic=topic, run=run, since=since)):
                    lost_at = None
                    if notice.lost is not None:
                        break
                    if notice.event is not None:
                        since = notice.event.seq
                    elif notice.log is not None:
                        since = notice.log.offset + len(notice.log.data)
                    yield notice
        except DaemonUnreachable:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE:
                raise
            time.sleep(0.25)


class _Lines:
    """Bytes in, whole lines out: the piece of a line at the end of a chunk waits for the rest."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        return [self._text(line) for line in lines]

    def end(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [self._text(rest)] if rest else []

    @staticmethod
    def _text(line: bytes) -> str:
        text = line.decode("utf-8", "replace").rstrip("\r")
        return text.rpartition("\r")[2]  # a progress bar redraws its line: the last state is the line


def print_log(run: str, console: Console, *, tail: int | None, follow: bool, raw: bool) -> int:
    """Print the captured log, whole or its last `tail` lines, and go on when following."""
    lines = _Lines()

    def put(chunk: wire.LogChunk) -> None:
        if console.json:
            console.write_json(chunk)
        elif raw:
            console.raw(chunk.data)
        else:
            for line in lines.feed(chunk.data):
                console.log_line(line)
            console.flush()

    with Client(discover().socket) as client:
        # by id from here on: a newer run of the same name must not continue this one's log
        ident = client.call("run", wire.RunRef(run=run), wire.RunDetail).run.id
        end = client.call("log.read", wire.LogRead(run=ident, offset=-1, limit=1), wire.LogChunk)
        offset = 0 if tail is None else _tail_offset(client, ident, end.size, tail)
        complete = end.complete
        while True:
            chunk = client.call(
                "log.read", wire.LogRead(run=ident, offset=offset, limit=_PAGE), wire.LogChunk
            )
            complete = chunk.complete
            if not chunk.data:
                break
            put(chunk)
            offset = chunk.offset + len(chunk.data)
    if follow and not complete:
        for notice in notices("log", ident, offset):
            if notice.log is not None:
                put(notice.log)
                if notice.log.complete and notice.log.offset + len(notice.log.data) >= notice.log.size:
                    break
    if not (console.json or raw):
        for line in lines.end():
            console.log_line(line)
    return OK


def _tail_offset(client: Client, run: str, size: int, lines: int) -> int:
    """The byte where the last `lines` lines begin, found by reading backwards in pages."""
    if lines == 0:
        return size
    end, wanted = size, lines
    at_end = True
    while end > 0:
        start = max(0, end - _PAGE)
        data = client.call(
            "log.read", wire.LogRead(run=run, offset=start, limit=end - start), wire.LogChunk
        ).data
        stop = len(data) - 1 if at_end and data.endswith(b"\n") else len(data)
        at_end = False
        while (cut := data.rfind(b"\n", 0, stop)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + cut + 1
            stop = cut
        end = start
    return 0


def print_events(run: str | None, console: Console, *, since: int, follow: bool) -> int:
    """Print the timeline after event number `since`, and go on when following."""
    ident: str | None = None
    with Client(discover().socket) as client:
        if run is not None:
            ident = client.call("run", wire.RunRef(run=run), wire.RunDetail).run.id
        while True:
            page = cleaned(client.call("events", wire.EventsRead(since=since, run=ident), wire.Events))
            for event in page.events:
                put_event(event, console, named=run is None)
            if not page.events:
                break
            since = page.next
    if follow:
        console.flush()
        for notice in notices("events", ident, since):
            if notice.event is not None:
                put_event(cleaned(notice.event), console, named=run is None)
    return OK


def put_event(event: wire.EventRow, console: Console, *, named: bool = False) -> None:
    """One line of the timeline; with the run's id when several runs are mixed."""
    if console.json:
        console.write_json(event)
        return
    who = f"{(event.run or '')[:16]:<16}  " if named else ""
    console.line(f"{say.clock(event.time)}  {who}{event.kind:<18} {event.text}")
    console.flush()


def follow_run(run: str, console: Console, *, with_log: bool = False, want_gone: bool = False) -> int:
    """Print a run's timeline until it has ended; 0 when it ended well, 1 when the job failed or was lost.

    With `want_gone` (a destroy) only what happens from now on is printed, and any confirmed end is a good one.
    """
    since = 0
    if want_gone:
        detail = _detail(run)
        if _has_ended(detail.run, want_gone=True):
            return _verdict(detail.run, console, want_gone=True)
        since = _newest(detail)
    if with_log and not console.json:
        threading.Thread(target=_log_beside, args=(run, console), daemon=True, name="log").start()
    for notice in notices("events", run, since):
        if notice.event is None:
            continue
        event = cleaned(notice.event)
        put_event(event, console)
        detail = _detail(run)
        if _has_ended(detail.run, want_gone=want_gone) and event.seq >= _newest(detail):
            return _verdict(detail.run, console, want_gone=want_gone)
    return DAMAGE


def _detail(run: str) -> wire.RunDetail:
    with Client(discover().socket) as client:
        return cleaned(client.call("run", wire.RunRef(run=run), wire.RunDetail))


def _newest(detail: wire.RunDetail) -> int:
    return max((event.seq for event in detail.events), default=0)


def _has_ended(row: wire.RunRow, *, want_gone: bool) -> bool:
    return row.state in say.ENDED or (row.state == "failed" and not want_gone)


def _verdict(row: wire.RunRow, console: Console, *, want_gone: bool) -> int:
    good = row.state == "gone" and (want_gone or row.exit_code == 0)
    if not console.json:
        mark, tone = say.state_mark(row.state)
        exit_text = "" if row.exit_code is None else f", the job's exit status was {row.exit_code}"
        console.line(f"{mark} {row.name} is {row.state}{exit_text}; cost {say.money(row.cost)}", tone)
    return OK if good else DAMAGE


def _log_beside(run: str, console: Console) -> None:
    """Print the log between the events; losing it must not end the command."""
    try:
        print_log(run, console, tail=None, follow=True, raw=False)
    except Exception as error:  # noqa: BLE001 - a helper beside the timeline
        console.note(f"gputui: the log stopped: {error}")
