"""The examples are valid, their toys are the same runs, and they end as they should."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from gputrain import config
from gputrain.cli import build_parser
from gputrain.environment import environment_layers
from gpuwatch.spec.read import read_spec

EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(path.stem for path in EXAMPLES.glob("*.toml"))


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    """examples/run.py as a module."""
    spec = importlib.util.spec_from_file_location("examples_run", EXAMPLES / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["examples_run"] = module
    spec.loader.exec_module(module)
    return module


def commands(table: dict[str, object]) -> list[str]:
    value = table.get("command", [])
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", SPECS)
def test_every_example_is_a_valid_spec_whose_commands_exist(name: str) -> None:
    text = (EXAMPLES / f"{name}.toml").read_text()
    spec = read_spec(text, file=f"{name}.toml")
    assert spec.name == name
    assert spec.budget.max_cost is not None, "an example costs real money: it has a ceiling"
    table = tomllib.loads(text).get("train", {})
    words = [shlex.split(line) for line in commands(table)]
    if spec.setup is not None and "-m gputrain" in spec.setup.command:
        words.append(shlex.split(spec.setup.command.split("-m gputrain")[1]))
    for line in words:
        args = build_parser().parse_args(line)
        layers = [config.set_layer(args.set)] if hasattr(args, "set") else []
        if getattr(args, "profile", None):
            layers.append(config.profile_layer(args.profile))
        config.from_layers(layers)
    config.from_layers(environment_layers(table.get("env", {})))
    if "profile" in table:
        settings = [f"{key}={value}" for key, value in table.get("set", {}).items()]
        config.from_layers([config.profile_layer(table["profile"]), config.set_layer(settings)])


@pytest.mark.parametrize("name", SPECS)
def test_a_toy_differs_from_its_example_in_sizes_only(name: str, runner: ModuleType) -> None:
    real, toy = tomllib.loads((EXAMPLES / f"{name}.toml").read_text()), runner.toy_spec(name)
    assert real.keys() <= toy.keys()
    assert toy.keys() - real.keys() <= {"upload"}
    for key in ("name", "gpu", "mirror", "checkpoints", "budget"):
        assert toy.get(key) == real.get(key), key
    assert [a["path"] for a in toy.get("artifacts", [])] == [a["path"] for a in real.get("artifacts", [])]
    ours, theirs = commands(toy.get("train", {})), commands(real.get("train", {}))
    assert [line.split()[0] for line in ours] == [line.split()[0] for line in theirs]
    assert toy.get("train", {}).get("secrets") == real.get("train", {}).get("secrets")


def test_every_field_note_has_its_example() -> None:
    page = (EXAMPLES.parent / "docs" / "field-notes.md").read_text()
    for name in SPECS:
        assert f"../examples/{name}.toml" in page, name
    assert set(SPECS) == {
        "onyx-150m", "onyx-1b", "miras-s", "sft-dpo-gguf", "runpod-2b", "nanogpt-124m", "own-script",
    }  # fmt: skip


def play(*names: str) -> str:
    """`examples/run.py`; returns what it printed."""
    command = [sys.executable, str(EXAMPLES / "run.py"), *names]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_script_of_ones_own_from_rent_to_destroy() -> None:
    said = play("own-script")
    assert "kill -9 of its trainer" in said
    row = next(line for line in said.splitlines() if line.startswith("own-script") and "600 steps" in line)
    assert "1 × RTX 4090, vast" in row
    assert "yes, $" in row


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in SPECS if name != "own-script"])
def test_a_field_note_from_rent_to_destroy(name: str) -> None:
    assert "kill -9 of its trainer" in play(name)
