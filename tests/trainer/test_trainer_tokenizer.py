"""Tokenizers are deterministic, used again while nothing changed, and lose no character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gputrain.cli import main
from gputrain.errors import ExitCode
from gputrain.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer

HOSTILE = [
    "",
    " ",
    "\x00\x01\x7f",
    "naïve café — “quotes”",
    "中文字符テスト한국어",
    "🎈👩‍👩‍👧‍👦🇩🇪",
    "e\u0301 \u200d \u202e \ufeff \u2028",
    "\ud7ff\ue000\U0010ffff",
    "<|endoftext|> inside <|endoftext|>",
    "a" * 10_000,
    "\r\n\t  mixed \n\n",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n\n".join(topics[name] for name in sorted(topics))[:200_000])
    arguments = ["tokenizer", str(folder / "text.txt"), "--separator", "\\n\\n", "--vocab", "600"]
    assert main([*arguments, "--out", str(folder / "a")]) == 0
    return folder


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest, trained: Path) -> Tokenizer:
    return (
        ByteTokenizer() if request.param == "bytes" else open_tokenizer(str(trained / "a" / "tokenizer.json"))
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_unicode_makes_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text
    assert tokenizer.encode_batch([text, "x"])[0].tolist() == tokenizer.encode(text).tolist()
    assert all(0 <= token < tokenizer.vocab for token in tokenizer.encode(text).tolist())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_every_text_makes_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text


def test_training_twice_gives_the_same_bytes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tokenizer", str(trained / "text.txt"), "--separator", "\\n\\n", "--vocab", "600"]
    assert main([*arguments, "--out", str(trained / "b")]) == 0
    assert (trained / "a" / "tokenizer.json").read_bytes() == (trained / "b" / "tokenizer.json").read_bytes()
    assert "600 tokens, written" in capsys.readouterr().out


def test_an_artefact_whose_manifest_matches_is_used_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "text.txt"
    source.write_text("some words and more words " * 50)
    base = ["tokenizer", str(source), "--out", str(tmp_path / "t")]
    said = []
    changes: list[tuple[list[str], str | None]] = [
        (["--vocab", "280"], None),
        (["--vocab", "280"], None),
        (["--vocab", "270"], None),
        (["--vocab", "270"], "other words " * 50),
    ]
    for arguments, text in changes:
        if text is not None:
            source.write_text(text)
        assert main([*base, *arguments]) == 0
        said.append(capsys.readouterr().out.split(", ")[-1].strip())
    (tmp_path / "t" / "tokenizer.json").write_text("{}")
    assert main([*base, "--vocab", "270"]) == 0
    said.append(capsys.readouterr().out.split(", ")[-1].strip())
    assert said == ["written", "used again", "written", "written", "written"]


def test_a_tokenizer_is_taken_over(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = trained / "a" / "tokenizer.json"
    for word in ("written", "used again"):
        assert main(["tokenizer", "--import", str(source), "--out", str(tmp_path / "t")]) == 0
        assert capsys.readouterr().out.strip().endswith(word)
    assert (tmp_path / "t" / "tokenizer.json").read_bytes() == source.read_bytes()
    assert json.loads((tmp_path / "t" / "tokenizer.manifest.json").read_text())["vocab"] == 600


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--vocab", "256"], ExitCode.CONFIG, "has at least 257 tokens"),
        (["--vocab", "300"], ExitCode.DATA, "no text to train a tokenizer on"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("  \n ")
    assert main(["tokenizer", str(tmp_path / "empty.txt"), "--out", str(tmp_path / "t"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert main(["tokenizer", "--out", str(tmp_path / "t")]) == ExitCode.CONFIG
