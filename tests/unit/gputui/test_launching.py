"""Spec files: a first one that is valid, where a key stands in one, and never writing over another's work."""

from pathlib import Path

import pytest
from ui.scenario import some_offers

from gputui.launching import line_of, specs_here, template, whence, write_spec
from gpuwatch.spec import read_spec as parse

TEXT = """\
name = "x"
[gpu]  # what to rent
name = "H100"
max_price = 2
[job]
env.SEED = "1"
command = "true"
[[artifacts]]
path = "a"
[[artifacts]]
path = "b"
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("name", 1), ("gpu", 2), ("gpu.name", 3), ("gpu.max_price", 4), ("job.env", 6), ("artifacts", 8),
        ("artifacts[1].path", 9), ("gpu.max", None), ("nothing", None), ("", None),
    ],
)  # fmt: skip
def test_a_problem_is_told_with_the_line_of_its_key(key: str, line: int | None) -> None:
    assert line_of(TEXT, key) == line


def test_the_template_is_a_good_spec_with_and_without_an_offer(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    for offer in (None, *some_offers(12)):
        spec = parse(template(offer), file="run.toml", base=tmp_path)
        assert spec.name == "first-run"
        if offer is not None:
            assert spec.gpu.count == offer.gpu_count
            assert spec.gpu.max_price is not None
            assert spec.gpu.max_price >= offer.price


def test_the_suggested_files_are_run_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    for name in ("b.toml", "a.toml", "pyproject.toml", "examples/c.toml", "notes.txt"):
        (tmp_path / name).write_text("")
    assert specs_here() == ["a.toml", "b.toml", "examples/c.toml"]


def test_what_somebody_else_wrote_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    write_spec(str(path), "one", None)
    write_spec(str(path), "two", "one")
    for before in (None, "one"):
        with pytest.raises(FileExistsError, match="nothing was written"):
            write_spec(str(path), "three", before)
    assert [p.name for p in tmp_path.iterdir()] == ["run.toml"]
    assert path.read_text() == "two"


def test_what_to_begin_from_is_a_word_or_a_path_that_the_daemon_can_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt").mkdir()
    assert [whence(text) for text in (None, "", "  ", "latest", " 400 ")] == [
        None,
        None,
        None,
        "latest",
        "400",
    ]
    assert whence("ckpt") == whence("./ckpt") == str(tmp_path / "ckpt")
    assert whence("gdrive:runs/x") == "gdrive:runs/x"
    assert whence("./gone") == str(tmp_path / "gone")
