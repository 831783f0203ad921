"""The download stream: read right in any split, and never believed beyond what it announced."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field

import pytest
from core_lives import harmless
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.box.frames import (
    MAX_FRAME,
    MAX_LINE,
    Content,
    FrameError,
    FrameParser,
    Header,
    Missing,
    Trailer,
)

SHA = "ab" * 32


@dataclass
class File:
    """One file as the reference encoder sends it."""

    data: bytes
    offset: int = 0
    gone: bool = False
    chunk: int = 7
    after: list[int] | None = None
    error: str | None = None
    frames: list[int] = field(default_factory=list)

    @property
    def identity(self) -> list[int]:
        return [len(self.data), 10, 20, 30]


def encode(files: list[File]) -> bytes:
    out = bytearray()

    def line(value: object) -> None:
        out.extend(json.dumps(value).encode() + b"\n")

    for index, file in enumerate(files):
        if file.gone:
            line({"i": index, "error": "No such file", "gone": True})
            continue
        line({"i": index, "id": file.identity, "offset": file.offset})
        body = file.data[file.offset :]
        for at in range(0, len(body), file.chunk):
            piece = body[at : at + file.chunk]
            out += len(piece).to_bytes(4, "big") + piece
        out += (0).to_bytes(4, "big")
        trailer = {"i": index, "id": file.after or file.identity, "sha256": SHA}
        line(trailer | ({"error": file.error} if file.error else {}))
    return bytes(out)


def parse(parser: FrameParser, pieces: list[bytes]) -> list[object]:
    """Items with their content copied, neighbouring contents joined."""
    items: list[object] = []
    for piece in pieces:
        for item in parser.feed(piece):
            if not isinstance(item, Content):
                items.append(item)
            elif items and isinstance(items[-1], bytes):
                items[-1] += bytes(item.data)
            else:
                items.append(bytes(item.data))
    return items


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(marks)]


FILES = st.lists(
    st.builds(File, st.binary(max_size=40), gone=st.booleans(), chunk=st.integers(1, 50)),
    min_size=1,
    max_size=4,
)
CUTS = st.lists(st.integers(min_value=0, max_value=10**6), max_size=12)


@given(FILES, CUTS)
def test_what_was_sent_is_what_is_read_in_any_split(files: list[File], cuts: list[int]) -> None:
    parser = FrameParser(len(files))
    expected: list[object] = []
    for index, file in enumerate(files):
        if file.gone:
            expected.append(Missing(index, "No such file", True))
            continue
        identity = (len(file.data), 10, 20, 30)
        expected.append(Header(index, identity, 0))
        expected += [file.data] if file.data else []
        expected.append(Trailer(index, identity, SHA, None))
    assert parse(parser, split(encode(files), cuts)) == expected
    assert parser.complete


def outcome(stream: bytes, pieces: list[bytes], expect: int) -> object:
    """Items and whether it was complete, or the error."""
    parser = FrameParser(expect)
    items: list[object] = []
    try:
        for piece in pieces:
            items += parse(parser, [piece])
    except FrameError as error:
        return str(error)
    return parser.complete


@given(FILES, CUTS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_a_damaged_stream_is_read_or_refused_whatever_the_split(
    files: list[File], cuts: list[int], flips: list[tuple[int, int]]
) -> None:
    stream = bytearray(encode(files))
    for at, value in flips:
        stream[at % len(stream)] = value
    damaged = bytes(stream)
    assert outcome(damaged, split(damaged, cuts), len(files)) == outcome(damaged, [damaged], len(files))


@given(st.lists(st.binary(max_size=60), max_size=5), st.integers(0, 3))
def test_nonsense_is_a_frame_error_and_nothing_else(pieces: list[bytes], expect: int) -> None:
    outcome(b"", pieces, expect)


HOSTILE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([0, 1, -1, 2**62, 2**63, 2**64, 10**400, [0, 0, 0, 0], [1] * 4, [2**62, 0, 0, 0], [1, 2, 3], SHA, SHA.upper()]),
    st.lists(st.integers(), max_size=5),
)  # fmt: skip


@given(st.sampled_from(["i", "id", "offset", "error", "gone"]), HOSTILE)
def test_any_value_in_a_header_is_checked(key: str, value: object) -> None:
    head = {"i": 0, "id": [5, 1, 2, 3], "offset": 0} | {key: value}
    try:
        items = parse(FrameParser(1), [json.dumps(head).encode() + b"\n"])
    except FrameError:
        return
    for item in items:
        if isinstance(item, Header):
            assert item.index == 0
            assert all(-(2**63) < n < 2**63 for n in item.identity), "the ledger's integers are signed 64-bit"
            assert 0 <= item.offset <= item.identity[0]


@given(st.sampled_from(["i", "id", "sha256", "error"]), HOSTILE)
def test_any_value_in_a_trailer_is_checked(key: str, value: object) -> None:
    tail = {"i": 0, "id": [0, 1, 2, 3], "sha256": SHA} | {key: value}
    stream = encode([File(b"")]).splitlines(keepends=True)[0] + bytes(4) + json.dumps(tail).encode() + b"\n"
    try:
        items = parse(FrameParser(1), [stream])
    except FrameError:
        return
    trailer = items[-1]
    assert isinstance(trailer, Trailer)
    assert (trailer.index, trailer.sha256) == (0, SHA)
    assert trailer.error is None or harmless(trailer.error)


def test_more_content_than_announced_is_refused_before_it_is_handed_on() -> None:
    parser = FrameParser(1)
    head = b'{"i":0,"id":[5,0,0,0],"offset":3}\n'
    assert parse(parser, [head + (2).to_bytes(4, "big") + b"xy"]) == [Header(0, (5, 0, 0, 0), 3), b"xy"]
    with pytest.raises(FrameError, match="more content"):
        list(parser.feed((1).to_bytes(4, "big") + b"z"))


@given(st.integers(0, 200), st.lists(st.integers(0, 300), max_size=6))
def test_never_more_bytes_come_out_than_the_file_has(size: int, frames: list[int]) -> None:
    parser, got = FrameParser(1), 0
    stream = json.dumps({"i": 0, "id": [size, 0, 0, 0], "offset": 0}).encode() + b"\n"
    for length in frames:
        stream += length.to_bytes(4, "big") + bytes(length)
    try:
        for item in parser.feed(stream):
            got += len(item.data) if isinstance(item, Content) else 0
    except FrameError:
        pass
    assert got <= size


def test_less_content_than_announced_is_an_error_of_the_file() -> None:
    short = (
        b'{"i":0,"id":[5,0,0,0],"offset":0}\n'
        + bytes(4)
        + json.dumps({"i": 0, "id": [5, 0, 0, 0], "sha256": SHA}).encode()
        + b"\n"
    )
    trailer = parse(FrameParser(1), [short])[-1]
    assert isinstance(trailer, Trailer)
    assert trailer.error == "the box sent less than the file has"


@pytest.mark.parametrize(
    "stream",
    [
        b'{"i":1,"id":[0,0,0,0],"offset":0}\n',
        b'{"i":0}\n',
        b'{"i":true,"error":"x"}\n',
        b"[]\n", b"\n", b"null\n", b"\xff\xfe\n", b"[" * 60_000 + b"\n", b'{"i":' + b"9" * 5000 + b"}\n",
        b'{"i":0,"id":[1,0,0,0],"offset":2}\n', b'{"i":0,"id":[1,0,0,0],"offset":-1}\n', b'{"i":0,"id":[1,0,0,0],"offset":true}\n',
        b'{"i":0,"id":[9999999,0,0,0],"offset":0}\n' + (MAX_FRAME + 1).to_bytes(4, "big"),
    ],
    ids=range(13),
)  # fmt: skip
def test_known_nonsense(stream: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameParser(1).feed(stream))


def test_an_answer_beyond_the_last_question_is_refused() -> None:
    parser = FrameParser(1)
    parse(parser, [encode([File(b"a")])])
    with pytest.raises(FrameError, match="not asked"):
        list(parser.feed(b'{"i":1,"error":"x"}\n'))


@pytest.mark.parametrize("step", [1000, MAX_LINE * 3])
def test_a_line_without_end_is_cut_off_whatever_the_split(step: int) -> None:
    parser = FrameParser(1)
    with pytest.raises(FrameError, match="without end"):
        for _ in range(MAX_LINE * 3 // step):
            list(parser.feed(b" " * step))
    with pytest.raises(FrameError, match="without end"):
        list(FrameParser(1).feed(b'{"i":0,"error":"' + b"x" * MAX_LINE + b'"}\n'))


def test_memory_stays_bounded_while_a_large_file_streams() -> None:
    parser = FrameParser(1)
    size = 64 << 20
    list(parser.feed(json.dumps({"i": 0, "id": [size, 0, 0, 0], "offset": 0}).encode() + b"\n"))
    frame = (1 << 20).to_bytes(4, "big") + bytes(1 << 20)
    for _ in range(8):
        for _item in parser.feed(frame):
            pass
        assert len(parser._buffer) == 0


def test_pieces_are_views_of_what_was_fed_and_stay_whole() -> None:
    data = encode([File(b"abcdefgh", chunk=4)])
    pieces = [i.data for i in list(FrameParser(1).feed(data)) if isinstance(i, Content)]
    assert all(piece.obj is data for piece in pieces), "content is not copied"
    assert b"".join(pieces) == b"abcdefgh"


def test_what_a_box_says_about_a_failure_is_cleaned() -> None:
    (item,) = FrameParser(1).feed(b'{"i":0,"error":"\\u001b[31mno\\u001b]0;x\\u0007 such\\nfile","gone":1}\n')
    assert item == Missing(0, "no such\ufffdfile", False)
