"""The download stream: read right in any split, and never believed beyond what it announced."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

import pytest
from core_lives import harmless
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.box.frames import (
    MAX_FRAME,
    MAX_LINE,
    MAX_PACK,
    AskedPack,
    AskedPart,
    Content,
    FrameError,
    FrameParser,
    Header,
    Hole,
    Missing,
    Small,
    Trailer,
    parse_hash,
)

SHA = "ab" * 32


@dataclass
class File:
    """One part of a file as the reference encoder sends it; every third piece as a hole when it is all zeros."""

    data: bytes
    start: int = 0
    gone: bool = False
    chunk: int = 7
    after: list[int] | None = None
    error: str | None = None

    @property
    def identity(self) -> list[int]:
        return [len(self.data), 10, 20, 30]

    @property
    def asked(self) -> tuple[int, int]:
        return min(self.start, len(self.data)), len(self.data)


def encode(files: list[File | list[File]]) -> bytes:
    """Parts, and lists of files as packs."""
    out, index = bytearray(), 0

    def line(value: object) -> None:
        out.extend(json.dumps(value).encode() + b"\n")

    for file in files:
        if isinstance(file, list):
            rows = [
                [index + n, "No such file", True] if f.gone else [index + n, *f.identity, SHA]
                for n, f in enumerate(file)
            ]
            line({"pack": rows})
            out += b"".join(f.data for f in file if not f.gone)
            index += len(file)
            continue
        if file.gone:
            line({"i": index, "error": "No such file", "gone": True})
        else:
            start, end = file.asked
            line({"i": index, "id": file.identity, "from": start, "to": end})
            for at in range(start, end, file.chunk):
                piece = file.data[at : min(at + file.chunk, end)]
                if not any(piece):
                    out += (0x80000000 | len(piece)).to_bytes(4, "big")
                else:
                    out += len(piece).to_bytes(4, "big") + piece
            out += (0).to_bytes(4, "big")
            trailer = {"i": index, "id": file.after or file.identity}
            line(trailer | ({"error": file.error} if file.error else {}))
        index += 1
    return bytes(out)


def asking(files: list[File | list[File]]) -> FrameParser:
    """A parser that was told what was asked."""
    parser, index = FrameParser(), 0
    for file in files:
        if isinstance(file, list):
            parser.ask(AskedPack(tuple(range(index, index + len(file)))))
            index += len(file)
        else:
            parser.ask(AskedPart(index, *file.asked))
            index += 1
    return parser


def one(size: int = 1 << 40, start: int = 0) -> FrameParser:
    parser = FrameParser()
    parser.ask(AskedPart(0, start, size))
    return parser


def parse(parser: FrameParser, pieces: list[bytes]) -> list[object]:
    """Items with their content copied, neighbouring contents and holes joined."""
    items: list[object] = []
    for piece in pieces:
        for item in parser.feed(piece):
            if isinstance(item, Small):
                items.append((item.index, item.identity, item.sha256, bytes(item.data)))
            elif not isinstance(item, Content | Hole):
                items.append(item)
            else:
                data = bytes(item.data) if isinstance(item, Content) else bytes(item.size)
                if items and isinstance(items[-1], bytes):
                    items[-1] += data
                else:
                    items.append(data)
    return items


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(marks)]


ONE = st.builds(
    File, st.one_of(st.binary(max_size=40), st.integers(0, 40).map(bytes)), st.integers(0, 50), gone=st.booleans(), chunk=st.integers(1, 50)
)  # fmt: skip
FILES = st.lists(st.one_of(ONE, st.lists(ONE, min_size=1, max_size=3)), min_size=1, max_size=4)
CUTS = st.lists(st.integers(min_value=0, max_value=10**6), max_size=12)


@given(FILES, CUTS)
def test_what_was_sent_is_what_is_read_in_any_split(files: list[File | list[File]], cuts: list[int]) -> None:
    expected: list[object] = []
    index = 0
    for file in files:
        if isinstance(file, list):
            for each in file:
                identity = (len(each.data), 10, 20, 30)
                told = (index, identity, SHA, each.data)
                expected.append(Missing(index, "No such file", True) if each.gone else told)
                index += 1
            continue
        if file.gone:
            expected.append(Missing(index, "No such file", True))
        else:
            identity, (start, end) = (len(file.data), 10, 20, 30), file.asked
            expected.append(Header(index, identity, start, end))
            expected += [file.data[start:end]] if file.data[start:end] else []
            expected.append(Trailer(index, identity, None))
        index += 1
    parser = asking(files)
    assert parse(parser, split(encode(files), cuts)) == expected
    assert parser.complete


def outcome(stream: bytes, pieces: list[bytes], files: list[File | list[File]]) -> object:
    """Items and whether it was complete, or the error."""
    parser = asking(files)
    items: list[object] = []
    try:
        for piece in pieces:
            items += parse(parser, [piece])
    except FrameError as error:
        return str(error)
    return parser.complete


@given(FILES, CUTS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_a_damaged_stream_is_read_or_refused_whatever_the_split(
    files: list[File | list[File]], cuts: list[int], flips: list[tuple[int, int]]
) -> None:
    stream = bytearray(encode(files))
    for at, value in flips:
        stream[at % len(stream)] = value
    damaged = bytes(stream)
    assert outcome(damaged, split(damaged, cuts), files) == outcome(damaged, [damaged], files)


@given(st.lists(st.binary(max_size=60), max_size=5), FILES)
def test_nonsense_is_a_frame_error_and_nothing_else(
    pieces: list[bytes], files: list[File | list[File]]
) -> None:
    outcome(b"", pieces, files)


HOSTILE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([0, 1, -1, 2**62, 2**63, 2**64, 10**400, [0, 0, 0, 0], [1] * 4, [2**62, 0, 0, 0], [1, 2, 3], SHA, SHA.upper()]),
    st.lists(st.integers(), max_size=5),
)  # fmt: skip


@given(st.sampled_from(["i", "id", "from", "to", "error", "gone", "pack"]), HOSTILE)
def test_any_value_in_a_header_is_checked(key: str, value: object) -> None:
    head = {"i": 0, "id": [5, 1, 2, 3], "from": 0, "to": 5} | {key: value}
    try:
        items = parse(one(), [json.dumps(head).encode() + b"\n"])
    except FrameError:
        return
    for item in items:
        if isinstance(item, Header):
            assert item.index == 0
            assert all(-(2**63) < n < 2**63 for n in item.identity), "the ledger's integers are signed 64-bit"
            assert 0 <= item.start <= item.end <= item.identity[0]


@given(st.sampled_from(["i", "id", "error"]), HOSTILE)
def test_any_value_in_a_trailer_is_checked(key: str, value: object) -> None:
    tail = {"i": 0, "id": [0, 1, 2, 3]} | {key: value}
    stream = encode([File(b"")]).splitlines(keepends=True)[0] + bytes(4) + json.dumps(tail).encode() + b"\n"
    try:
        items = parse(one(0), [stream])
    except FrameError:
        return
    trailer = items[-1]
    assert isinstance(trailer, Trailer)
    assert trailer.index == 0
    assert trailer.error is None or harmless(trailer.error)


@given(st.integers(0, 5), HOSTILE, st.booleans())
def test_any_value_in_a_pack_is_checked(place: int, value: object, alone: bool) -> None:
    row: list[object] = [0, 4, 1, 2, 3, SHA]
    row[place] = value
    parser = FrameParser()
    parser.ask(AskedPack((0,)))
    stream = json.dumps({"pack": value if alone else [row]}).encode() + b"\nbody"
    try:
        items = parse(parser, [stream])
    except FrameError:
        return
    for item in items:
        assert (
            item == (0, item[1], SHA, b"body"[: item[1][0]])
            if isinstance(item, tuple)
            else isinstance(item, Missing)
        )


@given(st.sampled_from(["i", "id", "sha256", "error", "at"]), HOSTILE)
def test_any_value_in_an_answer_about_a_hash_is_checked(key: str, value: object) -> None:
    line = {"i": 1, "id": [0, 1, 2, 3], "sha256": SHA} | {key: value}
    try:
        answer = parse_hash(json.dumps(line).encode(), 2)
    except FrameError:
        return
    index = answer if isinstance(answer, int) else answer.index if isinstance(answer, Missing) else answer[0]
    assert index in (0, 1)


def test_more_content_than_announced_is_refused_before_it_is_handed_on() -> None:
    head = b'{"i":0,"id":[5,0,0,0],"from":3,"to":5}\n'
    for more in ((1).to_bytes(4, "big") + b"z", (0x80000001).to_bytes(4, "big")):
        parser = one(5, 3)
        assert parse(parser, [head + (2).to_bytes(4, "big") + b"xy"]) == [
            Header(0, (5, 0, 0, 0), 3, 5),
            b"xy",
        ]
        with pytest.raises(FrameError, match="more content"):
            list(parser.feed(more))


@given(st.integers(0, 200), st.lists(st.integers(0, 300), max_size=6))
def test_never_more_bytes_come_out_than_the_file_has(size: int, frames: list[int]) -> None:
    parser, got = one(), 0
    stream = json.dumps({"i": 0, "id": [size, 0, 0, 0], "from": 0, "to": size}).encode() + b"\n"
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
        b'{"i":0,"id":[5,0,0,0],"from":0,"to":5}\n'
        + bytes(4)
        + json.dumps({"i": 0, "id": [5, 0, 0, 0]}).encode()
        + b"\n"
    )
    trailer = parse(one(), [short])[-1]
    assert isinstance(trailer, Trailer)
    assert trailer.error == "the box sent less than the file has"


@pytest.mark.parametrize(
    "stream",
    [
        b'{"i":1,"id":[0,0,0,0],"from":0,"to":0}\n',
        b'{"i":0}\n',
        b'{"i":true,"error":"x"}\n',
        b"[]\n", b"\n", b"null\n", b"\xff\xfe\n", b"[" * 60_000 + b"\n", b'{"i":' + b"9" * 5000 + b"}\n",
        b'{"i":0,"id":[1,0,0,0],"from":2,"to":1}\n', b'{"i":0,"id":[1,0,0,0],"from":-1,"to":1}\n',
        b'{"i":0,"id":[1,0,0,0],"from":false,"to":1}\n', b'{"i":0,"id":[9,0,0,0],"from":0,"to":5}\n',
        b'{"pack":[[0,0,0,0,0,"' + SHA.encode() + b'"]]}\n',
        b'{"i":0,"id":[9999999,0,0,0],"from":0,"to":9999999}\n' + (MAX_FRAME + 1).to_bytes(4, "big"),
        b'{"i":0,"id":[9999999,0,0,0],"from":0,"to":9999999}\n' + (0x80000000).to_bytes(4, "big"),
    ],
    ids=range(16),
)  # fmt: skip
def test_known_nonsense(stream: bytes) -> None:
    with pytest.raises(FrameError):
        list(one().feed(stream))


@pytest.mark.parametrize(
    "rows",
    [
        [], [[1, 0, 0, 0, 0, SHA]], [[0, 0, 0, 0, 0, SHA], [0, 0, 0, 0, 0, SHA]], [[0, 1 << 40, 0, 0, 0, SHA]],
        [[0, MAX_PACK, 0, 0, 0, SHA], [1, 1, 0, 0, 0, SHA]], [[0, -1, 0, 0, 0, SHA]], [[0, 0, 0, 0, 0, SHA.upper()]],
        [[0, "no"]], [[0, "no", True, 1]], [[n, 0, 0, 0, 0, SHA] for n in range(3)], {"0": 1}, "x", None, [None], [[]],
    ],
    ids=range(15),
)  # fmt: skip
def test_a_pack_is_what_was_asked_for_and_small(rows: object) -> None:
    parser = FrameParser()
    parser.ask(AskedPack((0, 1)))
    with pytest.raises(FrameError):
        list(parser.feed(json.dumps({"pack": rows}).encode() + b"\n"))


def test_an_answer_beyond_the_last_question_is_refused() -> None:
    parser = one(1)
    parse(parser, [encode([File(b"a")])])
    for line in (b'{"i":1,"error":"x"}\n', b'{"pack":[[1,0,0,0,0,"' + SHA.encode() + b'"]]}\n'):
        with pytest.raises(FrameError, match="not asked"):
            list(parser.feed(line))


@pytest.mark.parametrize("step", [1000, MAX_LINE * 3])
def test_a_line_without_end_is_cut_off_whatever_the_split(step: int) -> None:
    parser = one()
    with pytest.raises(FrameError, match="without end"):
        for _ in range(MAX_LINE * 3 // step):
            list(parser.feed(b" " * step))
    with pytest.raises(FrameError, match="without end"):
        list(one().feed(b'{"i":0,"error":"' + b"x" * MAX_LINE + b'"}\n'))


def test_memory_stays_bounded_while_a_large_file_streams() -> None:
    size = 64 << 20
    parser = one(size)
    list(parser.feed(json.dumps({"i": 0, "id": [size, 0, 0, 0], "from": 0, "to": size}).encode() + b"\n"))
    frame = (1 << 20).to_bytes(4, "big") + bytes(1 << 20)
    for _ in range(8):
        for _item in parser.feed(frame):
            pass
        assert len(parser._buffer) == 0


def test_pieces_are_views_of_what_was_fed_and_stay_whole() -> None:
    data = encode([File(b"abcdefgh", chunk=4)])
    pieces = [i.data for i in list(one(8).feed(data)) if isinstance(i, Content)]
    assert all(piece.obj is data for piece in pieces), "content is not copied"
    assert b"".join(pieces) == b"abcdefgh"


def test_what_a_box_says_about_a_failure_is_cleaned() -> None:
    (item,) = one().feed(b'{"i":0,"error":"\\u001b[31mno\\u001b]0;x\\u0007 such\\nfile","gone":1}\n')
    assert item == Missing(0, "no such\ufffdfile", False)
