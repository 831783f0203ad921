"""Every value has one origin, and every mistake an answer."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gputrain.cli import main
from gputrain.config import (
    FIELD_TYPES,
    Config,
    Layer,
    flatten,
    from_layers,
    profile_layer,
    profile_names,
    set_layer,
)
from gputrain.environment import SETTINGS, environment_layers
from gputrain.errors import ConfigError, ExitCode


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "USE_COMPILE", "WANDB_MODE", "CKPT_DIR"):
        monkeypatch.delenv(name, raising=False)


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[str, str]]:
    """`--show-config` as ``{key: (value, origin)}``."""
    assert main(["train", *arguments, "--show-config"]) == 0
    rows = [line.partition("#") for line in capsys.readouterr().out.splitlines()]
    pairs = [(setting.partition(" = "), origin) for setting, _, origin in rows]
    return {key: (value.strip(), origin.strip()) for (key, _, value), origin in pairs}


def test_preset_then_file_then_environment_then_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nbatch_size = 3\nseed = 3\n[optim]\nlr = 3e-3\n")
    monkeypatch.setenv("BATCH_SIZE", "4")
    monkeypatch.setenv("LEARNING_RATE", "4e-4")
    shown = show(capsys, "--profile", "22m", "--config", str(file), "--set", "optim.lr=5e-4")
    assert shown["model.layers"] == ("12", "profile 22m")
    assert shown["train.seed"] == ("3", str(file))
    assert shown["train.batch_size"] == ("4", "$BATCH_SIZE")
    assert shown["optim.lr"] == ("0.0005", "--set")
    assert shown["optim.eps"] == ("1e-08", "default")
    assert set(shown) == set(FIELD_TYPES)


def test_the_field_notes_environment_is_understood(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exports of note 1 (onyx on Vast), as they stand there."""
    notes = {
        "DATA_GLOB": "/workspace/data/*.txt",
        "RUN_NAME": "onyx_1b_h100",
        "LOG_DIR": "/workspace/logs",
        "INIT_CKPT": "/workspace/init/grown",
        "TEE": "0",
        "BATCH_SIZE": "4",
        "MAX_SEQ_LEN": "2048",
        "TOKENS_PER_STEP": "131072",
        "USE_COMPILE": "1",
        "GRADIENT_CHECKPOINTING": "1",
        "WANDB_PROJECT": "miras",
        "WANDB_MODE": "offline",
    }
    for name, value in notes.items():
        monkeypatch.setenv(name, value)
    shown = {key: value for key, (value, origin) in show(capsys).items() if origin.startswith("$")}
    assert shown == {
        "data.path": '["/workspace/data/*.txt"]',
        "watch.name": '"onyx_1b_h100"',
        "watch.log_dir": '"/workspace/logs"',
        "train.init": '"/workspace/init/grown"',
        "watch.tee": "false",
        "train.batch_size": "4",
        "model.context": "2048",
        "train.tokens_per_step": "131072",
        "system.compile": '"on"',
        "system.recompute": "true",
        "watch.wandb_project": '"miras"',
        "watch.wandb": '"offline"',
    }


def test_ckpt_dir_is_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Path) -> None:
    monkeypatch.setenv("CKPT_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("DATA_GLOB", str(text))
    monkeypatch.setenv("GPUTRAIN_MODEL__CONTEXT", "32")
    assert main(["train", "--profile", "nano", "--steps", "2"]) == ExitCode.DONE
    assert (tmp_path / "run" / "DONE.json").exists()


def test_without_a_directory_the_run_is_named_after_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--set", "model.context=32", "--steps", "2", "--data", str(text)]
    assert main(["train", "--profile", "nano", *small]) == ExitCode.DONE
    assert (tmp_path / "runs" / "nano" / "DONE.json").exists()
    monkeypatch.setenv("RUN_NAME", "mine")
    assert main(["train", "--profile", "nano", *small]) == ExitCode.DONE
    assert (tmp_path / "runs" / "mine" / "DONE.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "optim.weightdecay=1"],
            "no setting 'optim.weightdecay'; did you mean 'optim.weight_decay'?",
        ),
        (["--set", "modell.layers=1"], "did you mean 'model.layers'?"),
        (["--set", "train.steps=soon"], "train.steps must be int, not 'soon'"),
        (["--set", "train.steps=1.5"], "train.steps must be int, not '1.5'"),
        (["--set", "watch.tee=perhaps"], "watch.tee must be bool"),
        (["--set", "optim.lr=-1"], "optim.lr must not be negative"),
        (["--set", "optim.lr=nan"], "optim.lr must be a finite number"),
        (["--set", "optim.name=sgd"], "optim.name must be one of adamw, muon, not 'sgd'"),
        (["--set", "model.heads=5"], "model.width (768) must be an even multiple of model.heads (5)"),
        (["--set", "nonsense"], "expected KEY=VALUE"),
        (["--profile", "23m"], "There is no profile '23m'. Profiles: nano, 22m"),
        (["--config", "/nowhere.toml"], "Cannot read the configuration /nowhere.toml"),
        ([], "Give --out RUNDIR"),
    ],
)
def test_a_mistake_is_answered(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == ExitCode.CONFIG
    assert message in capsys.readouterr().err


def test_a_file_with_an_unknown_key_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[checkpoint]\nkeep_lst = 3\n")
    assert main(["train", "--config", str(file)]) == ExitCode.CONFIG
    assert f"{file}: there is no setting 'checkpoint.keep_lst'; did you mean 'checkpoint.keep_last'?" in (
        capsys.readouterr().err
    )


def test_what_is_written_is_read_back_the_same() -> None:
    for name in profile_names():
        layers = [profile_layer(name), set_layer(['data.path=a "b",ü', "data.weights=1,2.5"])]
        config = from_layers(layers)[0]
        again = from_layers([Layer("written", flatten(tomllib.loads(config.to_toml())))])[0]
        assert again == config
        assert again.sha256() == config.sha256()


def test_every_variable_names_a_setting() -> None:
    assert set(SETTINGS.values()) <= set(FIELD_TYPES)
    assert environment_layers({"BATCH_SIZE": " ", "PATH": "/bin"}) == []
    with pytest.raises(ConfigError, match=r"\$USE_COMPILE must be 1 or 0, not 'maybe'"):
        environment_layers({"USE_COMPILE": "maybe"})
    assert from_layers([])[0] == Config()
