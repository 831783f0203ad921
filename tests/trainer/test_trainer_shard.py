"""Text of any shape becomes the same shards, however often it is interrupted."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainer_runs import byte_shards

from gputrain.cli import main
from gputrain.config import DataConfig
from gputrain.data import open_data
from gputrain.documents import Reading, clean, read_documents
from gputrain.errors import ConfigError, DataError, ExitCode
from gputrain.sharding import ShardWriter, TextForm, TokenForm, write_shards
from gputrain.shards import split_of
from gputrain.tensorfile import hash_file
from gputrain.tokenizer import ByteTokenizer

DOCUMENTS = [f"Document number {n}. " * (1 + n % 7) for n in range(200)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


class PowerCut(Exception):
    """The stream breaks."""


@pytest.mark.parametrize("cuts", [[3], [60, 61, 150], [0, 199]])
@pytest.mark.parametrize("form", [TokenForm(ByteTokenizer(), 2000), TextForm(11, zipped=True)])
def test_an_interrupted_stream_goes_on_without_a_duplicate_or_a_gap(
    tmp_path: Path, cuts: list[int], form: TokenForm | TextForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gputrain.sharding.BATCH_BYTES", 500)

    def stream(skip: int, *, until: int = 10**9) -> Iterator[str]:
        for number in range(skip, len(DOCUMENTS)):
            if number == until:
                raise PowerCut
            yield DOCUMENTS[number]

    def writer(folder: str) -> ShardWriter:
        return ShardWriter(tmp_path / folder, form, val_ratio=0.2)

    write_shards(stream, writer("whole"))
    for cut in cuts:
        with pytest.raises(PowerCut):
            write_shards(functools.partial(stream, until=cut), writer("parts"))
        manifest = tmp_path / "parts" / "manifest.json"
        assert not manifest.exists() or json.loads(manifest.read_text())["complete"] is False
    write_shards(stream, writer("parts"))
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    again = write_shards(stream, writer("parts"))
    assert again["complete"]
    assert content(tmp_path / "parts") == content(tmp_path / "whole"), "a complete set is left as it is"


def test_the_split_is_by_the_hash_of_the_document(tmp_path: Path) -> None:
    manifest = byte_shards(DOCUMENTS, tmp_path / "a", val_ratio=0.2)
    mixed = byte_shards(DOCUMENTS[::-1], tmp_path / "b", val_ratio=0.2)
    assert manifest["totals"] == mixed["totals"], "the order does not matter"
    expected = sum(split_of(text, 0.2) == "val" for text in DOCUMENTS)
    assert manifest["totals"]["val"]["docs"] == expected
    assert 20 <= expected <= 60


def test_shards_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    byte_shards(DOCUMENTS, tmp_path, val_ratio=0.2)
    with pytest.raises(ConfigError, match=r"val_ratio: 0.2 → 0.1"):
        byte_shards(DOCUMENTS, tmp_path, val_ratio=0.1)


def test_text_shards_hold_the_text_and_are_shards_again(tmp_path: Path) -> None:
    source = tmp_path / "all.jsonl"
    hostile = ["line\nbreaks\r\n", 'quotes "\\', "中文 \u2028 🎈", "\x00 nul"]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in hostile))
    common = ["--text-shards", "--lines-per-shard", "3", "--gzip"]
    for folder in ("one", "two"):
        assert main(["shard", str(source), "--out", str(tmp_path / folder), *common]) == 0
    assert content(tmp_path / "one") == content(tmp_path / "two"), "gzip without a time stamp"
    shards = sorted(str(path) for path in (tmp_path / "one").glob("*.jsonl.gz"))
    assert len(shards) == 2
    assert list(read_documents(shards, Reading())) == hostile
    assert main(["shard", *shards, "--out", str(tmp_path / "tokens")]) == 0
    corpus = open_data(DataConfig(path=(str(tmp_path / "tokens"),))).corpora[0]
    tokens = bytes(t for t in corpus.train[0].tolist() if t < 256)
    assert tokens == "".join(hostile).encode()


def test_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "many.txt"
    source.write_text("\n".join(f"line {n}" for n in range(3000)))
    base = ["shard", str(source), "--separator", "\\n"]
    assert main([*base, "--out", str(tmp_path / "smoke"), "--mode", "smoke"]) == 0
    assert main([*base, "--out", str(tmp_path / "split"), "--mode", "split"]) == 0
    assert main([*base, "--out", str(tmp_path / "take"), "--take", "7"]) == 0
    docs = [
        {split: total["docs"] for split, total in json.loads(path.read_text())["totals"].items()}
        for path in (tmp_path / name / "manifest.json" for name in ("smoke", "split", "take"))
    ]
    assert docs[0] == {"train": 1000, "val": 0}
    assert sum(docs[1].values()) == 3000
    assert 10 <= docs[1]["val"] <= 60
    assert docs[2] == {"train": 7, "val": 0}
    assert "train: 7 documents" in capsys.readouterr().out


def test_parquet_is_streamed_and_a_missing_column_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "part.parquet"
    parquet.write_table(pa.table({"body": DOCUMENTS, "id": list(range(200))}), path, row_group_size=50)
    assert list(read_documents([str(path)], Reading(column="body"), skip=195)) == DOCUMENTS[195:]
    with pytest.raises(DataError, match=r"no column 'text' \(it has: body, id\); see --column"):
        list(read_documents([str(path)], Reading()))
    with pytest.raises(DataError, match="column 'id' holds int, not text"):
        list(read_documents([str(path)], Reading(column="id")))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="is not a parquet file"):
        list(read_documents([str(tmp_path / "bad.parquet")], Reading()))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A directory over HTTP; the URL of it."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore")  # raised inside datasets and its HTTP client
def test_a_hugging_face_dataset_is_streamed_over_http(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
    (tmp_path / "mix.jsonl").write_text(lines)
    name = f"hf:json@{served}/mix.jsonl"
    assert list(read_documents([name], Reading())) == DOCUMENTS
    assert list(read_documents([name], Reading(), skip=190)) == DOCUMENTS[190:]
    with pytest.raises(DataError, match="no column 'body'"):
        list(read_documents([name], Reading(column="body")))
    with pytest.raises(DataError, match=r"Cannot stream hf:json@.*nothing\.jsonl"):
        list(read_documents([f"hf:json@{served}/nothing.jsonl"], Reading()))


def test_bad_utf8_a_huge_line_and_empty_documents(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good\n\xff\xfe broken \xe2\x82\n\n   \n" + b"x" * 50_000_000 + b"\nend")
    documents = list(read_documents([str(bad)], Reading(separator="\n")))
    assert documents[0] == "good"
    assert documents[1] == "\ufffd\ufffd broken \ufffd"
    assert [len(text) for text in documents[2:]] == [0, 3, 50_000_000, 3]
    manifest = byte_shards(documents, tmp_path / "out", val_ratio=0.0)
    assert manifest["totals"]["train"]["docs"] == 4, "empty ones are left out"


def test_halves_of_surrogates_in_json_become_replacement_characters(tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text('{"text": "a\\ud800b"}\n{"text": "\\ud83c\\udf88"}\n')
    assert list(read_documents([str(source)], Reading())) == ["a\ufffdb", "🎈"]
    assert clean("plain") == "plain"


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', r"x\.jsonl, line 2 is not JSON"),
        ("x.jsonl", b'{"body": "a"}\n', r"line 1 has no text under 'text' \(it has: body\)"),
        ("x.jsonl", b"[1]\n", r"line 1 has no text under 'text' \(it has: list\)"),
        ("x.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:-9], r"Cannot read .*x\.txt\.gz"),
    ],
)
def test_broken_sources_name_the_place(
    tmp_path: Path, name: str, raw: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=message):
        list(read_documents([str(tmp_path / name)], Reading()))
    assert main(["shard", str(tmp_path / name), "--out", str(tmp_path / "out")]) == ExitCode.DATA
    assert main(["shard", "/nowhere.txt", "--out", str(tmp_path / "out2")]) == ExitCode.DATA
    assert "there is no such file" in capsys.readouterr().err


def test_progress_tells_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gputrain.sharding.BATCH_BYTES", 500)
    said: list[str] = []
    clock = iter(range(0, 10_000, 3))
    size = sum(map(len, DOCUMENTS))
    writer = ShardWriter(tmp_path, TokenForm(ByteTokenizer(), 2000))
    write_shards(
        lambda skip: iter(DOCUMENTS[skip:]),
        writer,
        total_bytes=size,
        say=said.append,
        now=lambda: float(next(clock)),
    )
    assert said
    assert all("MB/s" in line and line.endswith("s left") for line in said)


def test_a_shard_on_disk_has_the_hash_of_the_manifest(tmp_path: Path) -> None:
    manifest = byte_shards(DOCUMENTS, tmp_path)
    assert len(manifest["shards"]) > 3
    for shard in manifest["shards"]:
        assert hash_file(tmp_path / shard["name"]).sha256 == shard["sha256"]
