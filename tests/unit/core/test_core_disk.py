"""`disk = "auto"`: checkpoints × keep + data + a fifth, each term said; what is not known is asked for by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gputrain.config import from_layers, profile_layer, profile_names
from gputrain.estimate import CHECKPOINT_OVERHEAD, checkpoint_bytes
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon import launching
from gpuwatch.spec import RunSpec, SpecError, read_spec, sizing

JOB = 'name = "x"\ndisk = "auto"\n{top}\n[job]\ncommand = "train"\n{rest}\n'
TRAIN = 'name = "x"\ndisk = "auto"\n[train]\nprofile = "{profile}"\n{rest}\n'
NOTHING = 'artifacts = "none"'


def read(text: str, base: Path | None = None) -> RunSpec:
    return read_spec(text, file="run.toml", base=base)


def problems(text: str, base: Path | None = None) -> str:
    with pytest.raises(SpecError) as failed:
        read(text, base)
    return "\n".join(map(str, failed.value.problems))


def test_the_recorded_sizes_are_the_trainers_own() -> None:
    own = {
        name: checkpoint_bytes(from_layers([profile_layer(name)])[0]) + CHECKPOINT_OVERHEAD
        for name in profile_names()
    }
    assert dict(sizing.CHECKPOINTS) == own


def test_checkpoints_that_are_kept_the_data_and_a_fifth(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.bin").write_bytes(b"x" * 3_000_000)
    (tmp_path / "shards" / "__pycache__").mkdir()
    (tmp_path / "shards" / "__pycache__" / "b").write_bytes(b"x" * 1000)
    spec = read(TRAIN.format(profile="150m", rest='data = "shards"\n[upload]\npaths = ["shards"]'), tmp_path)
    together = (12 + 24 + 2) * sizing.CHECKPOINTS["150m"] + 3_000_000
    assert spec.disk == -(-(together * 6 // 5) // 10**9) * 10**9
    told = "\n".join(launching.plan(spec))
    for words in ('disk = "auto" is 65.0 GB', "38 × 1.41 GB (profile 150m; 12 newest + 24 milestones + 2 in passing)",
                  "3.00 MB  uploads: shards", "20 % on top"):  # fmt: skip
        assert words in told


def test_a_budget_of_hours_and_settings_of_the_run_bound_what_is_kept() -> None:
    rest = (
        'data = "d"\n[train.set]\n"checkpoint.keep_last" = 3\n[data]\nsize = "1GB"\n[budget]\nmax_hours = 5'
    )
    told = "\n".join(read(TRAIN.format(profile="150m", rest=rest)).disk_words)
    assert "10 × 1.41 GB (profile 150m; 3 newest + 5 milestones + 2 in passing)" in told


def test_a_job_of_ones_own_says_how_large_a_checkpoint_is() -> None:
    rest = '[checkpoints]\npath = "ckpt"\nsize = "2GB"\nkeep_last = 4\nkeep_milestones = 0\n[data]\nsize = "40GB"\n'
    rest += '[[artifacts]]\npath = "final/*.gguf"\nmin_size = "5GB"\ncount = 2'
    spec = read(JOB.format(top="", rest=rest))
    assert spec.disk == int((6 * 2 + 40 + 10) * 1.2 + 0.999) * 10**9
    assert "final/*.gguf: 2 × 5.00 GB at least" in "\n".join(spec.disk_words)


def test_what_needs_hardly_anything_gets_room_for_packages_all_the_same() -> None:
    spec = read(JOB.format(top=NOTHING, rest='[data]\nsize = "0B"'))
    assert spec.disk == sizing.LEAST
    assert "at least 10.0 GB" in spec.disk_words[-1]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (JOB.format(top=NOTHING, rest=""), "data.size", "nothing is uploaded"),
        (JOB.format(top="", rest='[checkpoints]\npath = "ckpt"\n[data]\nsize = "0B"'), "checkpoints.size", "the size of one checkpoint"),
        (TRAIN.format(profile="150m", rest='data = "elsewhere"'), "data.size", "nothing is uploaded"),
        (TRAIN.format(profile="150m", rest='[train.set]\n"model.layers" = 40\n[data]\nsize = "0B"'), "checkpoints.size", "gputrain plan"),
        (TRAIN.format(profile="mine", rest='[data]\nsize = "0B"'), "checkpoints.size", "how large one is"),
        (JOB.format(top=NOTHING, rest='[upload]\npaths = ["train.py"]'), "disk", "cannot be looked at from here"),
        (JOB.format(top=NOTHING, rest='[data]\nsize = "much"'), "data.size", "150GB"),
        ('name = "x"\ndisk = "automatic"\nartifacts = "none"\n[job]\ncommand = "x"', "disk", '"auto"'),
    ],
)  # fmt: skip
def test_a_term_that_is_not_known_is_asked_for_by_its_key(text: str, key: str, words: str) -> None:
    said = problems(text)
    assert f"{key}: found" in said
    assert words in said


def test_a_size_of_ones_own_that_looks_small_is_doubted_and_kept() -> None:
    spec = read('name = "x"\ndisk = "20GB"\n[train]\nprofile = "1b"\ndata = "d"')
    assert spec.disk == 20 * 10**9
    (line,) = spec.disk_words
    assert line.startswith("△ 20.0 GB of disk look small")
    assert read('name = "x"\ndisk = "900GB"\n[train]\nprofile = "1b"\ndata = "d"').disk_words == ()


def test_what_is_launched_says_the_size_for_ever() -> None:
    text = '# disk = "auto" in a comment\n' + JOB.format(top=NOTHING, rest='[data]\nsize = "30GB"').replace(
        'disk = "auto"', 'disk="auto"   # enough'
    )
    order = wire.SpecText(text=text, file="run.toml", base="/nowhere")
    kept = launching._settled(order, read(text))
    assert 'disk="36GB"   # enough' in kept
    assert kept.startswith('# disk = "auto" in a comment')
    assert read(kept).disk == read(text).disk == 36 * 10**9
    assert launching._settled(order, read(kept)) == text, "a size of one's own is left as it was typed"
    odd = wire.SpecText(text=text.replace('disk="auto"', '"disk" = "auto"'), file="run.toml", base="/nowhere")
    with pytest.raises(CallFailed, match="a line of its own"):
        launching._settled(odd, read(text))
