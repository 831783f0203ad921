"""Lines are found from both sides alike, bytes are shown exactly once, and a search sees what a person sees."""

import asyncio
import struct
from array import array
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gputui import ansi
from gputui.logs.lens import Every, Matching
from gputui.logs.marks import Mark, mark_of
from gputui.logs.pattern import TROUBLE, Finder, NotAPattern
from gputui.logs.save import save
from gputui.logs.scan import scan
from gputui.logs.search import AT_ONCE, Search
from gputui.logs.store import MAX_LINE, FileLog, Gap, WindowLog, line_at, line_before, next_line, raw_line


def window(data: bytes, offset: int = 0) -> WindowLog:
    log = WindowLog()
    log.reset(offset)
    log.append(offset, data)
    return log


def begins(log: WindowLog | FileLog) -> list[int]:
    at, found = log.start, []
    while at < log.end:
        found.append(at)
        at = next_line(log, at)
    return found


LINES = st.lists(
    st.one_of(st.binary(max_size=30), st.integers(0, 3 * MAX_LINE).map(lambda n: b"x" * n)), max_size=8
)


@given(LINES)
@example([b"x" * (3 * MAX_LINE)])
@example([b"ab", b"x" * (2 * MAX_LINE), b"", b"y" * MAX_LINE])
def test_lines_are_the_same_forwards_backwards_and_from_any_byte(parts: list[bytes]) -> None:
    log = window(b"\n".join(parts))
    found = begins(log)
    back, at = [], log.end
    while at > log.start:
        at = line_before(log, at)
        back.append(at)
    assert back[::-1] == found
    for begin, end in pairwise([*found, log.end]):
        assert line_at(log, begin) == line_at(log, end - 1) == begin
        assert end - begin <= 2 * MAX_LINE


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_any_chunking_with_repeats_holds_the_same_bytes(data: bytes, cuts: list[int]) -> None:
    log = WindowLog()
    for cut in [*sorted(cuts), len(data)]:
        begin = max(0, log.end - 7)
        log.append(begin, data[begin : max(cut, begin)])
    assert log.read(0, len(data)) == data


def test_missing_bytes_are_noticed_and_nothing_is_added() -> None:
    log = window(b"abc\n")
    with pytest.raises(Gap):
        log.append(9, b"later")
    assert log.end == 4


def test_a_window_forgets_the_oldest_whole_lines_and_keeps_its_offsets() -> None:
    log = WindowLog(max_bytes=100)
    data = b"".join(b"line %03d\n" % i for i in range(100))
    for at in range(0, len(data), 7):
        log.append(at, data[at : at + 7])
    assert log.end == len(data)
    assert log.end - log.start <= 125
    assert log.read(log.start, log.end) == data[log.start :]
    assert data[log.start - 1 : log.start] == b"\n"


def test_older_pages_join_seamlessly_and_only_with_whole_lines() -> None:
    log = window(b"three\nfour\n", 100)
    assert log.prepend(90, b"ne\ntwo\nzz\n") == 7
    assert [raw_line(log, at) for at in begins(log)] == ["two", "zz", "three", "four"]
    assert log.prepend(50, b"not adjacent") == 0


def test_a_progress_bar_is_shown_as_it_ended_up() -> None:
    assert raw_line(window(b"10%\r50%\r100% done\r\n"), 0) == "100% done"


def test_a_captured_file_is_read_in_place_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    log = FileLog(path)
    assert not log.refresh()
    path.write_bytes(b"one\ntw")
    assert log.refresh()
    assert [raw_line(log, at) for at in begins(log)] == ["one", "tw"]
    with path.open("ab") as file:
        file.write(b"o\nthree\n" + b"x" * 200_000)
    assert log.refresh()
    assert raw_line(log, 4) == "two"
    assert log.read(100_000, 100_003) == b"xxx"
    path.write_bytes(b"cut\n")  # shrinks: an empty answer, no crash
    assert log.refresh()
    assert log.read(0, 1000) == b"cut\n"
    log.close()


def test_the_clock_beside_the_log_says_when_a_line_arrived(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_bytes(b"a\nb\nc\n")
    log = FileLog(path)
    log.refresh()
    assert log.arrived(0) is None
    (tmp_path / "job.log.times").write_bytes(struct.pack("<QQQQ", 0, 5_000, 4, 9_500))
    assert [log.arrived(at) for at in (0, 2, 4, 5)] == [5.0, 5.0, 9.5, 9.5]
    log.close()


# --- searching -----------------------------------------------------------------------------------

PATTERNS = (
    "loss 2",
    "ab+c",
    "^a",
    "c$",
    r"\d{2}",
    "[^a]b",
    r"a.c",
    "a|c",
    r"\bnan\b",
    r"(?i)B",
    r"\Wx",
    r"a\s+b",
    "32",
    "m",
    r"[\W]c",
    "é",
)
_TEXT = st.lists(
    st.one_of(
        st.text("abcx 24nloséB-", max_size=6), st.sampled_from(["\x1b[32m", "\x1b[0m", "\x1b[1;38;5;196m", "\x1b]0;t\x07", "\r", "nan", "loss 2"])
    ),
    max_size=8,
).map("".join)  # fmt: skip


@given(st.lists(_TEXT, max_size=6), st.sampled_from(PATTERNS))
@example(["\x1b[32mloss\x1b[0m 2", "x\x1b[32m"], "loss 2")
@example(["a\x1b[32m", "b"], "32")
@example(["10%\r24", "ab\rxx"], "ab+c")
@example(["\x1b[32mnan", "xnan", "nan\x1b[0mx", "xnan nan"], r"\bnan\b")
@example(["\x1b[32mnan", "xnan"], r"\Bnan")
def test_a_search_of_raw_bytes_finds_the_lines_that_match_as_shown(lines: list[str], pattern: str) -> None:
    log = window("\n".join(lines).encode())
    finder = Finder(pattern)
    expected = [at for at in begins(log) if finder.spans(ansi.strip(raw_line(log, at)))]
    assert list(finder.lines(log.read(0, log.end))) == expected


@pytest.mark.parametrize("wrong", ["(", "[a", "\\", "(?=x)", r"(a)\1", r"\Qa"])
def test_what_is_no_pattern_is_refused_with_a_reason(wrong: str) -> None:
    with pytest.raises(NotAPattern, match=r"\w"):
        Finder(wrong)


def test_a_pattern_that_would_explode_elsewhere_is_linear_here() -> None:
    assert list(Finder("(a*)*b").lines(b"a" * 50_000)) == []


def test_small_letters_match_both_cases_capitals_only_themselves() -> None:
    data = b"Error\nerror\n"
    assert list(Finder("error").lines(data)) == [0, 6]
    assert list(Finder("Error").lines(data)) == [0]


def numbered(tmp_path: Path, count: int) -> FileLog:
    path = tmp_path / "job.log"
    path.write_bytes(
        b"".join(
            b"line %07d %s\n" % (i, b"NaN" if i % 1000 == 7 else b"ok " + b"." * 30) for i in range(count)
        )
    )
    log = FileLog(path)
    log.refresh()
    return log


@pytest.mark.parametrize("count", [1_000, 120_000])
async def test_a_search_finds_every_line_once_however_it_is_cut_up(tmp_path: Path, count: int) -> None:
    log = numbered(tmp_path, count)
    assert (log.end > AT_ONCE) == (count > 1_000)
    search = Search(log, Finder("NaN"), lambda: None)
    await search.run()
    assert search.done
    assert search.scanned == log.end
    assert [raw_line(log, at)[5:12] for at in search.matches] == [f"{i:07}" for i in range(7, count, 1000)]
    with log.path.open("ab") as file:
        file.write(b"more NaN\nand Na")
    log.refresh()
    await search.more()
    assert search.count == count // 1000 + 1
    with log.path.open("ab") as file:
        file.write(b"N\n")
    log.refresh()
    await search.more()
    assert raw_line(log, search.matches[-1]) == "and NaN"
    log.close()


async def test_a_cancelled_search_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = numbered(tmp_path, 120_000)
    made = []
    start = asyncio.create_subprocess_exec

    async def note(*words: object, **options: object) -> asyncio.subprocess.Process:
        made.append(await start(*words, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", note)
    search = Search(log, Finder("NaN"), lambda: None)
    task = asyncio.create_task(search.run())
    while not made:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(process.returncode is not None for process in made)
    assert not search.done
    log.close()


@given(st.integers(1, 400), st.binary(max_size=300))
def test_pieces_searched_apart_find_each_line_exactly_once(size: int, data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        finder = Finder("[a-z]")
        found: list[int] = []
        for at in range(0, len(data), size):
            answer = scan(file.fileno(), finder, at, min(len(data), at + size))
            found += struct.unpack(f"<{(len(answer) - 8) // 8}Q", answer[8:])
    whole = list(finder.lines(data))
    assert found == whole


def test_walking_only_through_matches() -> None:
    log = window(b"a\nb\nc\nd\n")
    lens = Matching(lambda: array("Q", [2, 6]))
    assert (lens.near(8), lens.near(5), lens.near(0)) == (6, 2, 2)
    assert (lens.before(6), lens.before(2), lens.after(2), lens.after(6)) == (2, None, 6, None)
    every = Every(log)
    assert (every.near(99), every.before(6), every.after(6), every.before(0)) == (6, 4, None, None)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Traceback (most recent call last):", Mark.TROUBLE),
        ("torch.OutOfMemoryError: CUDA out of memory.", Mark.TROUBLE),
        ("step 7 | loss nan", Mark.TROUBLE),
        ("WARN dataloader: worker 3 was slow", Mark.WARNING),
        ("ckpt/step-500 written in 2.1 s", Mark.CHECKPOINT),
        ("step 500 | loss 2.41", Mark.STEP),
        ("loading the banana tokenizer", Mark.NONE),
    ],
)
def test_marks(text: str, mark: Mark) -> None:
    assert mark_of(text) is mark
    assert bool(Finder(TROUBLE).spans(text)) == (mark is Mark.TROUBLE)


def test_saving_writes_plain_text_and_never_over_a_file(tmp_path: Path) -> None:
    log = window(b"\x1b[32mgreen\x1b[0m\nplain\x1b]0;t\x07\nlast")
    out = tmp_path / "out.txt"
    assert save(log, out) == 3
    assert out.read_text() == "green\nplain\nlast\n"
    with pytest.raises(FileExistsError):
        save(log, out)
    assert save(log, tmp_path / "some.txt", [begins(log)[1]]) == 1
