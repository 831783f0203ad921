"""The ring shows the log's bytes exactly once and in order, however they arrive, in bounded memory."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gputui.logring import MAX_LINE, Gap, LogRing


def lines(ring: LogRing) -> list[str]:
    return [ring.raw(number) for number in range(ring.first, ring.last)]


@given(
    st.binary(max_size=400).map(lambda b: b.replace(b"\r", b"")), st.lists(st.integers(0, 400), max_size=8)
)
def test_any_chunking_with_repeats_shows_the_same_lines(log: bytes, cuts: list[int]) -> None:
    whole = LogRing()
    whole.append(0, log)
    ring = LogRing()
    for cut in sorted(cuts):
        ring.append(max(0, ring.end - 7), log[max(0, ring.end - 7) : cut])
    ring.append(max(0, ring.end - 3), log[max(0, ring.end - 3) :])
    assert lines(ring) == lines(whole)
    assert (ring.start, ring.end) == (0, len(log))


def test_missing_bytes_are_noticed_and_nothing_is_added() -> None:
    ring = LogRing()
    ring.append(0, b"one\n")
    with pytest.raises(Gap):
        ring.append(10, b"later\n")
    assert lines(ring) == ["one"]
    assert ring.end == 4


def test_a_line_without_its_end_is_shown_and_grows() -> None:
    ring = LogRing()
    ring.append(0, b"done\nstep 1")
    assert lines(ring) == ["done", "step 1"]
    assert ring.whole == 1
    ring.append(11, b"2 ok\n")
    assert lines(ring) == ["done", "step 12 ok"]


def test_a_progress_bar_shows_its_last_state() -> None:
    ring = LogRing()
    ring.append(0, b"  1%\r 50%\r100%\r\nnext\n")
    assert lines(ring) == ["100%", "next"]


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=60))
def test_memory_is_bounded_and_line_numbers_stay_with_their_lines(chunks: list[bytes]) -> None:
    ring = LogRing(max_bytes=200, max_lines=12)
    everything = LogRing()
    for chunk in chunks:
        ring.append(ring.end, chunk)
        everything.append(everything.end, chunk)
        assert len(ring) <= 12 * 5 // 4 + 1 + len(chunk)
        for number in range(ring.first, ring.last):
            assert ring.raw(number) == everything.raw(number)


def test_a_line_that_never_ends_is_cut() -> None:
    ring = LogRing()
    ring.append(0, b"x" * (3 * MAX_LINE + 5))
    assert [len(line) for line in lines(ring)] == [MAX_LINE, MAX_LINE, MAX_LINE, 5]


@given(
    st.lists(
        st.binary(max_size=20).map(lambda b: b.replace(b"\n", b" ").replace(b"\r", b"")),
        min_size=2,
        max_size=12,
    ),
    st.data(),
)
def test_older_pages_join_without_seam(parts: list[bytes], data: st.DataObject) -> None:
    log = b"\n".join(parts) + b"\n"
    cut = data.draw(st.integers(0, len(log)))
    ring = LogRing()
    ring.reset(cut)
    ring.append(cut, log[cut:])
    ring.prepend(0, log[:cut])
    whole = LogRing()
    whole.append(0, log)
    assert lines(ring) == lines(whole)
    assert ring.start == 0


def test_an_older_page_that_starts_within_a_line_leaves_that_line_out() -> None:
    ring = LogRing()
    ring.reset(10)
    ring.append(10, b"three\n")
    assert ring.prepend(2, b"e\ntwo\n..") == 1
    assert ring.start == 4
    assert lines(ring) == ["two", "..three"]


def test_older_pages_never_push_out_newer_lines() -> None:
    ring = LogRing(max_bytes=20)
    ring.reset(100)
    ring.append(100, b"0123456789\n")
    assert ring.prepend(50, b"x\n" * 25) is None
    assert lines(ring) == ["0123456789"]


def test_search_sees_text_not_escapes() -> None:
    ring = LogRing()
    ring.append(0, b"a \x1b[31mloss\x1b[0m 3\nb\nloss 31m\n")
    assert list(ring.search(re.compile("loss 3$"))) == [0]
    assert list(ring.search(re.compile("31m"))) == [2]
