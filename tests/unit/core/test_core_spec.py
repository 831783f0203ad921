"""A run spec is checked whole: each problem says where, what stands there, and what should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.spec import RunSpec, SpecError, read_spec
from gpuwatch.spec.units import format_duration, format_size, parse_duration, parse_size

EXAMPLE = """
name = "miras-s"
provider = ["vast"]
image = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
disk = "150GB"

[gpu]
name = ["H100 SXM", "H100 PCIe"]
count = 1
max_price = 2.50
spot = false
min_reliability = 0.98

[upload]
paths = ["train.py", "configs/"]

[setup]
command = "pip install -r requirements.txt"

[job]
command = "python train.py --model-size s --resume auto"
env = { WANDB_PROJECT = "miras" }
secrets = ["WANDB_API_KEY"]

[checkpoints]
path = "runs/miras-s/ckpt"
keep_last = 12
keep_milestones = 24

[[artifacts]]
path = "models/output/final/*.gguf"
min_size = "5GB"

[mirror]
require = ["vault"]

[idle]
after = "15m"
action = "collect-and-destroy"
destroy_after = "2h"

[budget]
max_cost = 20.00
max_hours = 12

[recover]
attempts = 3
"""
SMALL = 'name = "x"\n[job]\ncommand = "true"\n[[artifacts]]\npath = "out"\n'


def problems(text: str, base: Path | None = None) -> dict[str, tuple[str, str]]:
    """key → (found, expected) of every problem in `text`."""
    with pytest.raises(SpecError) as caught:
        read_spec(text, file="run.toml", base=base)
    assert str(caught.value).startswith("run.toml: ")
    return {p.key: (p.found, p.expected) for p in caught.value.problems}


def test_the_example_of_the_design_is_read_in_base_units() -> None:
    spec = read_spec(EXAMPLE, file="run.toml")
    assert isinstance(spec, RunSpec)
    assert (spec.name, spec.disk, spec.providers) == ("miras-s", 150 * 10**9, ("vast",))
    assert spec.gpu.names == ("H100 SXM", "H100 PCIE")
    assert (spec.gpu.max_price, spec.gpu.min_reliability, spec.gpu.spot) == (2_500_000, 0.98, False)
    assert spec.upload.paths == ("train.py", "configs")
    assert spec.job.env == {"WANDB_PROJECT": "miras"}
    assert spec.job.secrets == ("WANDB_API_KEY",)
    assert spec.artifacts[0].min_size == 5 * 10**9
    assert spec.budget.max_cost == 20_000_000
    assert spec.budget.max_time == 12 * 3600
    assert not spec.no_artifacts


# (the line or section that is wrong, key, what stands there, what should)
BAD: list[tuple[str, str, str, str]] = [
    ("image = 3", "image", "3", "container image"),
    ('image = "-v"', "image", '"-v"', "container image"),
    ('disk = "5GB"', "disk", '"5GB"', "at least"),
    ("disk = 50", "disk", "50", 'such as "150GB"'),
    ('disk = "50 pounds"', "disk", '"50 pounds"', "150GB"),
    ('provider = ["aws"]', "provider", "['aws']", "vast"),
    ("provider = []", "provider", "[]", "vast"),
    ("[gpu]\nname = 'RTX 4009'", "gpu.name", '"RTX 4009"', "did you mean"),
    ("[gpu]\ncount = 0", "gpu.count", "0", "1 to 64"),
    ("[gpu]\ncount = true", "gpu.count", "True", "1 to 64"),
    ("[gpu]\ncount = 1.5", "gpu.count", "1.5", "whole number"),
    ("[gpu]\nmax_price = -1", "gpu.max_price", "-1", "above 0"),
    ("[gpu]\nmax_price = nan", "gpu.max_price", "nan", "above 0"),
    ("[gpu]\nmin_reliability = 98", "gpu.min_reliability", "98", "0 to 1"),
    ("[gpu]\nspot = 'no'", "gpu.spot", '"no"', "true or false"),
    ("[gpu]\ncuont = 1", "gpu.cuont", "an unknown key (= 1)", "did you mean `count`?"),
    ("gpus = 1", "gpus", "an unknown key (= 1)", "did you mean `gpu`?"),
    ("zzz = 1", "zzz", "an unknown key (= 1)", "known here"),
    ("gpu = 3", "gpu", "3", "a table"),
    ("[setup]\ncommand = ''", "setup.command", '""', "a shell command"),
    ("[setup]\ncommand = 'x'\ntimeout = '0s'", "setup.timeout", '"0s"', "duration"),
    ("[boot]\ntimeout = 'soon'", "boot.timeout", '"soon"', "duration"),
    ("[upload]\npaths = ['/etc/passwd']", "upload.paths", "['/etc/passwd']", "inside the work folder"),
    ("[upload]\npaths = ['a/../../b']", "upload.paths", "['a/../../b']", "inside the work folder"),
    ("[upload]\npaths = ['~/x']", "upload.paths", "['~/x']", "inside the work folder"),
    ("[checkpoints]\nkeep_last = 1", "checkpoints.path", "nothing", "folder where checkpoints appear"),
    ("[checkpoints]\npath = 'ckpt/*'", "checkpoints.path", '"ckpt/*"', "without wildcards"),
    ("[checkpoints]\npath = 'c'\nkeep_last = 0", "checkpoints.keep_last", "0", "1 to 10000"),
    ("[mirror]\nrequire = ['s3:x']", "mirror.require", '"s3:x"', "one of the remotes"),
    ("[mirror]\nremotes = ['s3:$(id)']", "mirror.remotes", "['s3:$(id)']", "rclone remotes such as"),
    ("[mirror]\nbandwidth = '5B'", "mirror.bandwidth", '"5B"', "at least"),
    ("[mirror]\nbandwidth = 20", "mirror.bandwidth", "20", "bytes per second"),
    ("[idle]\naction = 'destroy'", "idle.action", '"destroy"', "collect-and-destroy, stop, notify"),
    ("[idle]\naction = []", "idle.action", "[]", "one of"),
    ("[deadman]", "deadman.after", "nothing", "how long to wait"),
    ("[deadman]\nafter = '5s'", "deadman.after", '"5s"', "at least"),
    ("[idle]\nafter = '5s'", "idle.after", '"5s"', 'at least "1m"'),
    ("[idle]\ndestroy_after = '2h'", "idle.destroy_after", '"a second timer"', "also the first one"),
    ("[idle]\nafter = '15m'\naction = 'notify'\ndestroy_after = '2h'", "idle.destroy_after", '"a second timer"', "never acts"),
    ("[budget]\nmax_cost = 0", "budget.max_cost", "0", "above 0"),
    ("[budget]\nmax_hours = -1", "budget.max_hours", "-1", "above 0"),
    ("[recover]\nattempts = 0", "recover.attempts", "0", "1 to 100"),
    ("[train]\nprofile = '10m'", "train", '"both [job] and [train]"', "one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "found", "expected"), BAD, ids=[f"{b[1]} {b[2][:20]}" for b in BAD])
def test_a_bad_value_is_named_with_what_was_expected(text: str, key: str, found: str, expected: str) -> None:
    top, _, section = text.partition("[") if text.startswith("[") else (text, "", "")
    said = problems(f"{top}\n{SMALL}{'[' + section if section else ''}\n")
    assert key in said
    assert said[key][0] == found
    assert expected in said[key][1]


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("", "name", "a name for the run"),
        ('name = "Big Run"', "name", "a-z 0-9"),
        ('name = "../x"', "name", "a-z 0-9"),
        (f'name = "{"a" * 49}"', "name", "1 to 48"),
        ('name = "x"', "job", "what to run"),
        ('name = "x"\n[job]', "job.command", "a shell command"),
        ('name = "x"\n[train]', "train.profile", "a gputrain profile"),
        ('name = "x"\n[job]\ncommand = "a"', "artifacts", "at least one [[artifacts]]"),
        ('name = "x"\nartifacts = "nothing"\n[job]\ncommand = "a"', "artifacts", '"none"'),
        ('name = "x"\n[job]\ncommand = "a"\n[[artifacts]]', "artifacts[0].path", "a path or glob"),
        (SMALL + "[[artifacts]]\npath = '/x'", "artifacts[1].path", "inside the work folder"),
        (SMALL + "min_size = 'big'", "artifacts[0].min_size", "a size"),
        (SMALL + "coutn = 3", "artifacts[0].coutn", "did you mean `count`?"),
        (SMALL.replace('"true"', '"true"\nenv = { "A B" = "x" }'), "job.env", "environment variables"),
        (SMALL.replace('"true"', '"true"\nenv = { A = [1] }'), "job.env", "environment variables"),
        (SMALL.replace('"true"', '"true"\nsecrets = ["$(id)"]'), "job.secrets", "environment variables"),
    ],
)
def test_what_is_missing_or_misplaced_is_named(text: str, key: str, expected: str) -> None:
    assert expected in problems(text)[key][1]


def test_every_problem_is_found_in_one_pass() -> None:
    said = problems(
        'nmae = "x"\ndisk = 1\n[gpu]\ncount = 0\nmax_price = "free"\n[job]\ncmd = "x"\n[[artifacts]]\npath = "/"'
    )
    assert {
        "nmae",
        "name",
        "disk",
        "gpu.count",
        "gpu.max_price",
        "job.command",
        "job.cmd",
        "artifacts[0].path",
    } <= set(said)


def test_artifacts_none_must_be_said_in_words() -> None:
    spec = read_spec('name = "x"\nartifacts = "none"\n[job]\ncommand = "a"\n', file="f")
    assert spec.no_artifacts
    assert spec.artifacts == ()


def test_uploads_must_exist_beside_the_spec(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    text = SMALL + "[upload]\npaths = ['train.py', 'trian.py', '" + "n" * 300 + "']"
    said = problems(text, base=tmp_path)
    assert str(tmp_path) in said["upload.paths"][1]
    assert read_spec(SMALL + "[upload]\npaths = ['train.py']", file="f", base=tmp_path).upload.paths == (
        "train.py",
    )


@pytest.mark.parametrize(
    "text",
    [
        "name = ", "= 3", "a = [[[[", "a = " + "[" * 5000, "a." * 3000 + "b = 1", 'name = "\\ud800"', "n = 1" + "0" * 5000,
        "name = 0x" + "f" * 5000, "x" * 300_000, "[job]\n[job]", "\x00",
    ],
    ids=lambda t: t[:12],
)  # fmt: skip
def test_what_is_no_toml_or_far_too_much_of_it_is_one_clear_problem(text: str) -> None:
    assert problems(text)


def test_hostile_keys_and_values_are_shown_harmless() -> None:
    with pytest.raises(SpecError) as caught:
        read_spec(
            SMALL.replace('name = "x"', 'name = "x"\n"\\u001b[31mkey" = "\\u001b]0;t\\u0007"'), file="f"
        )
    assert "\x1b" not in str(caught.value)


def test_a_train_table_makes_job_checkpoints_and_artifacts() -> None:
    text = 'name = "t"\n[train]\nprofile = "150m"\nsteps = 10\nset = { "a b" = "x; rm -rf /", fast = true }\n'
    spec = read_spec(text, file="f")
    assert "--profile 150m" in spec.job.command
    assert "'a b=x; rm -rf /'" in spec.job.command
    assert "fast=true" in spec.job.command
    assert spec.checkpoints is not None
    assert spec.checkpoints.path == "out/ckpt"
    assert "out/metrics.jsonl" in {a.path for a in spec.artifacts if a.required}


def test_a_train_command_runs_gputrain_and_promises_what_the_spec_says() -> None:
    text = (
        'name = "t"\n[train]\ncommand = ["sft --base \'a b\' --out x", "eval x; rm -rf /"]\nsecrets = ["HF_TOKEN"]\n'
        'env = { A = "1" }\n[checkpoints]\npath = "x/ckpt"\n'
    )
    spec = read_spec(text, file="f")
    assert (
        "python3 -m gputrain sft --base 'a b' --out x && python3 -m gputrain eval 'x;' rm -rf /"
        in spec.job.command
    )
    assert (spec.job.env, spec.job.secrets) == ({"A": "1"}, ("HF_TOKEN",))
    assert spec.artifacts == ()
    assert spec.checkpoints is not None
    assert spec.checkpoints.path == "x/ckpt"
    with pytest.raises(SpecError, match="nothing that the run promises"):
        read_spec('name = "t"\n[train]\ncommand = "sft"\n', file="f")
    for line in ('"sft \'"', "[]", "[3]", '"  "'):
        with pytest.raises(SpecError, match="a gputrain command"):
            read_spec(f'name = "t"\nartifacts = "none"\n[train]\ncommand = {line}\n', file="f")
    with pytest.raises(SpecError, match="the command says it all"):
        read_spec('name = "t"\nartifacts = "none"\n[train]\ncommand = "sft"\nprofile = "1b"\n', file="f")


# --- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("1.5GB", 1_500_000_000), ("2 GiB", 2**31), ("7kb", 7000), ("10000TB", 10**16)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "1", 5, None, "1e3GB", "9" * 400 + "GB", "10001TB", "1 G B"]
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("15min", 900), ("1.5h", 5400), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0s", "0.0h", "m", "-1s", "5", 5, None, "1w", "9" * 400 + "d", "99999d"]
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**16))
def test_a_shown_size_is_within_half_a_per_cent(size: int) -> None:
    number, unit = format_size(size).split()
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit]
    assert abs(float(number) * factor - size) <= 0.005 * size + 0.5


@given(st.floats(min_value=-10, max_value=1e9))
def test_a_shown_duration_is_never_empty(seconds: float) -> None:
    assert format_duration(seconds)[0].isdigit()


# --- anything that TOML can say ------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "name", "provider", "image", "disk", "gpu", "job", "command", "env", "artifacts", "path", "min_size", "count", "train",
        "profile", "set", "checkpoints", "upload", "paths", "mirror", "remotes", "idle", "after", "budget", "max_hours", "\x1b[1m",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from(["h100", "10GB", "5m", "none", "a/*"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_table_is_a_spec_or_a_list_of_problems(values: dict[str, Any]) -> None:
    from gpuwatch.spec import read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read.tomllib, "loads", lambda _text: values)
        try:
            spec = read_spec("", file="f")
        except SpecError as error:
            assert error.problems
            assert "\x1b" not in str(error)
        else:
            assert spec.name
            assert spec.artifacts or spec.checkpoints or spec.no_artifacts


@given(st.text(max_size=200))
def test_any_text_is_a_spec_or_a_list_of_problems(text: str) -> None:
    with pytest.raises(SpecError):
        read_spec(text, file="f")
