"""Sampling, evaluation and inspection of what was trained."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainer_runs import TINY, byte_shards, done

from gputrain.cli import main
from gputrain.config import Config, ModelConfig
from gputrain.errors import ConfigError, DataError, ExitCode
from gputrain.hellaswag import Question, ending_scores, read_questions, score
from gputrain.model import GPT
from gputrain.sampling import Sampling, TextStream, distribution, generate, reading
from gputrain.session import run_training
from gputrain.tokenizer import ByteTokenizer

SMALL = ModelConfig(layers=2, width=32, heads=4, kv_heads=2, context=24, vocab=257)


def built(**changes: object) -> GPT:
    gpt = GPT(ModelConfig(**{**vars(SMALL), **changes}))  # type: ignore[arg-type]
    gpt.initialise(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(3)
    return gpt.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A finished tiny run on byte shards."""
    from gputrain.config import Layer, from_layers

    folder = tmp_path_factory.mktemp("sampled")
    byte_shards(text.read_text().split("\n"), folder / "shards", val_ratio=0.4, tokens=10_000)
    values = {**TINY, "data.path": (str(folder / "shards"),)}
    run_training(from_layers([Layer("test", values)])[0], folder / "run", "auto")
    return folder


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm": True, "kv_heads": 1}, {"residual": "mhc"}, {"mixer": "moneta", "memory_chunk": 8}],
)
def test_with_the_cache_the_logits_are_those_without(changes: dict[str, object]) -> None:
    gpt, tokens = built(**changes), list(range(40, 60))
    with reading(gpt) as reader, torch.no_grad():
        for length in range(5, 20):
            cached = reader.start(tokens[:5]) if length == 5 else reader.more(tokens[length - 1])
            whole = forget_cache(gpt, tokens[:length])
            assert torch.allclose(cached, whole, atol=2e-5), length


def forget_cache(gpt: GPT, tokens: list[int]) -> torch.Tensor:
    """Logits of the next token by a model that has no cache."""
    fresh = GPT(gpt.config).eval()
    fresh.initialise(None)
    fresh.load_state_dict(gpt.state_dict(), strict=False)
    return fresh.logits(torch.tensor([tokens]))[0, -1].detach()


def test_the_same_seed_says_the_same_and_another_something_else() -> None:
    gpt = built()

    def say(seed: int, temperature: float = 1.0) -> list[int]:
        with reading(gpt) as reader:
            return list(generate(reader, [65, 66], Sampling(temperature, seed=seed), 15, None))

    assert say(1) == say(1)
    assert say(1) != say(2)
    assert say(1, 0.0) == say(2, 0.0), "temperature 0 does not draw"


def test_a_long_text_goes_on_beyond_the_context() -> None:
    with reading(built()) as reader:
        tokens = list(generate(reader, [65] * 100, Sampling(seed=1), 60, None))
    assert len(tokens) == 60


def test_the_end_of_text_ends_it() -> None:
    gpt = built()
    with reading(gpt) as reader:
        first = next(generate(reader, [65], Sampling(0.0), 5, None))
        assert list(generate(reader, [65], Sampling(0.0), 5, first)) == []


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=30, unique=True),
    st.integers(0, 10),
    st.floats(0.05, 1.0),
    st.floats(0.1, 3),
)
def test_top_k_and_top_p_keep_the_likeliest(
    values: list[float], k: int, p: float, temperature: float
) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    chances = distribution(logits, Sampling(temperature, k, p))
    assert float(chances.sum()) == pytest.approx(1)
    kept = chances > 0
    plain = (logits / temperature).softmax(-1)
    assert not (~kept).any() or plain[kept].min() >= plain[~kept].max()
    if k:
        assert int(kept.sum()) <= k
    if not k and p < 1:
        least = plain[kept].min()
        assert float(plain[kept].sum() - least) < p, "no token more than needed"


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}])
def test_senseless_sampling_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_text_is_shown_character_by_character() -> None:
    stream = TextStream(ByteTokenizer().decode)
    assert [stream.push(byte) for byte in "aé🎈".encode()] == ["a", "", "é", "", "", "", "🎈"]


def test_the_sample_command_prints_prompt_and_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", str(run / "run"), "Hello", "--tokens", "20", "--seed", "3", "--top-k", "50"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert first.startswith("Hello")
    assert len(first) > 8
    assert main(arguments) == 0
    assert capsys.readouterr().out == first
    assert main(["sample", str(run / "nowhere"), "Hello"]) == ExitCode.CONFIG


def test_eval_repeats_the_figure_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "eval",
        str(run / "run"),
        "--data",
        str(run / "shards"),
        "--windows",
        "4",
        "--batch-size",
        "2",
    ]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # The run evaluated in its own dtype, here it is float32.
    assert found["bits_per_byte"] == pytest.approx(done(run / "run")["metrics"]["bits_per_byte"], rel=0.01)
    assert main(["eval", str(run / "run")]) == ExitCode.CONFIG


def chain(tokens: torch.Tensor) -> torch.Tensor:
    """A model that knows one thing: after a byte comes its successor, with probability e² : 1."""
    logits = torch.zeros(*tokens.shape, 257)
    return logits.scatter_(-1, (tokens + 1)[..., None] % 257, 2.0)


def test_hellaswag_scores_are_those_of_a_model_that_is_known() -> None:
    question = Question("abc", ("d", "bbb", "ab", "xyz"), 0)
    encode = ByteTokenizer().encode
    whole, each = ending_scores(question, chain, lambda text: encode(text).tolist(), 100)
    likely, other = 2 - math.log(256 + math.e**2), -math.log(256 + math.e**2)
    # " d": neither follows. " bbb": none. " ab": b follows a. " xyz": y follows x, z follows y.
    expected = [2 * other, 4 * other, 2 * other + likely, 2 * other + 2 * likely]
    assert whole.tolist() == pytest.approx(expected, rel=1e-5)
    assert each.tolist() == pytest.approx(
        [e / n for e, n in zip(expected, (2, 4, 3, 4), strict=True)], rel=1e-5
    )


def test_hellaswag_accuracy_on_a_hand_made_file(tmp_path: Path, run: Path) -> None:
    records = [
        {
            "ctx": "x",
            "endings": ["abcdef", "q", "zz", "rr"],
            "label": 0,
        },  # normed: right; whole: the short one
        {"ctx": "x", "endings": ["q", "zz", "ab", "rr"], "label": "2"},
        {"ctx": "x", "endings": ["zzzz", "qqqq", "rrrr", "abcd"], "label": 0},  # wrong by both
    ]
    path = tmp_path / "hellaswag.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    encode = ByteTokenizer().encode
    result = score(read_questions(path), chain, lambda text: encode(text).tolist(), 100)
    assert (result.questions, result.acc, result.acc_norm) == (3, pytest.approx(0 / 3), pytest.approx(2 / 3))
    arguments = ["eval", str(run / "run"), "--hellaswag", str(path), "--limit", "2"]
    assert main(arguments) == 0


@pytest.mark.parametrize("line", ["nonsense", '{"ctx": "a"}', '{"ctx": "a", "endings": ["b"], "label": 1}'])
def test_a_broken_question_names_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('{"ctx": "a", "endings": ["b", "c"], "label": 1}\n' + line)
    with pytest.raises(DataError, match="line 2"):
        list(read_questions(path))


def test_inspect_needs_no_torch_and_finds_damage(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from gputrain.cli import main; code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "inspect", str(run / "run"), "--tensors", "--verify"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for word in ("step 20,", "model.width = 32", "hashes checked, sound", "blocks.1.mlp.down.weight"):
        assert word in found.stdout
    (step,) = (run / "run" / "ckpt").glob("step-*")
    import shutil

    shutil.copytree(step, tmp_path / step.name)
    weights = tmp_path / step.name / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["inspect", str(tmp_path / step.name)]) == 0, "sizes alone do not show it"
    assert main(["inspect", str(tmp_path / step.name), "--verify"]) == 1
    weights.unlink()
    assert main(["inspect", str(tmp_path / step.name), "--json"]) == 1
    assert main(["inspect", str(tmp_path / "nowhere")]) == ExitCode.CONFIG


def test_the_tokenizer_of_the_shards_comes_with_the_run(
    tmp_path: Path, tiny: Callable[..., Config], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(text)
    assert main(["tokenizer", source, "--vocab", "300", "--out", str(tmp_path / "t")]) == 0
    tokenizer = str(tmp_path / "t" / "tokenizer.json")
    assert (
        main(["shard", source, "--separator", "\\n", "--tokenizer", tokenizer, "--out", str(tmp_path / "s")])
        == 0
    )
    run_training(tiny({"data.path": (str(tmp_path / "s"),), "train.steps": 3}), tmp_path / "run", "auto")
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "run"), "The", "--tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The")
    other = tmp_path / "u"
    assert main(["tokenizer", source, "--vocab", "280", "--out", str(other)]) == 0
    wrong = ["sample", str(tmp_path / "run"), "The", "--tokenizer", str(other / "tokenizer.json")]
    assert main(wrong) == ExitCode.CONFIG
    assert "The model has 300 tokens, the tokenizer 280" in capsys.readouterr().err
