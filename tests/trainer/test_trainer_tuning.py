"""SFT and DPO by adapters: identity at the start, exact resume, the right tokens, the right losses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from check_run import check
from trainer_runs import done, lines, losses
from tuning_models import CHAT, PAIRS, QUICK, foreign_base, own_base, tune, write_lines

from gputrain.bases import find_base, load_language
from gputrain.chat import CHATML, Template, find_template
from gputrain.cli import main
from gputrain.cli_tune import DEFAULTS
from gputrain.config import Config
from gputrain.errors import CheckpointError, ConfigError, DataError, ExitCode
from gputrain.examples import Recipe, conversation, padded, read_conversations, read_pairs
from gputrain.lora import attach, start_from, without
from gputrain.loss import token_losses
from gputrain.merging import add_deltas, merged_own, one_adapter, whole
from gputrain.session import run_training
from gputrain.trained import load_model, open_trained
from gputrain.tuning import DpoLoss, SftLoss, Tuning
from gputrain.world import World

ALONE = World(0, 1, 0, torch.device("cpu"))
BOTH = pytest.mark.parametrize("kind", ["own", "transformers"])


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, text: Path) -> dict[str, Path]:
    """A base of each kind."""
    folder = tmp_path_factory.mktemp("bases")
    return {"own": own_base(folder / "own", text), "transformers": foreign_base(folder / "hf")}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Conversations for sft, pairs for dpo."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "sft": write_lines(folder / "chat.jsonl", CHAT),
        "dpo": write_lines(folder / "pairs.jsonl", PAIRS),
    }


def run(config: Config, out: Path) -> int:
    return int(run_training(config, out, "auto", Tuning))


@BOTH
@pytest.mark.parametrize("rank", [1, 8])
def test_a_new_adapter_changes_nothing_to_the_bit(bases: dict[str, Path], kind: str, rank: int) -> None:
    language = load_language(find_base(str(bases[kind])), torch.float32, ALONE.device, recompute=False)
    tokens = torch.randint(256, (2, 24))
    before = language.hidden(tokens)
    adapted = attach(language.model, rank=rank, alpha=8, dropout=0.0, targets=(), head=language.head)
    start_from(adapted, 1)
    assert torch.equal(language.hidden(tokens), before)
    with torch.no_grad():
        for layer in adapted.values():
            layer.lora_b.normal_()
    assert not torch.equal(language.hidden(tokens), before)
    with without(adapted):
        assert torch.equal(language.hidden(tokens), before)
    assert sorted({name.rsplit(".", 1)[-1] for name in adapted}) == (
        ["down", "gate", "k", "o", "q", "up", "v"]
        if kind == "own"
        else ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    )


@BOTH
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_three_and_three_steps_equal_six(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path], kind: str, stage: str
) -> None:
    changes = {"tune.dropout": 0.1}
    whole_run, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(tune(stage, bases[kind], data[stage], changes), whole_run) == ExitCode.DONE
    first = tune(stage, bases[kind], data[stage], {**changes, "train.until": 3})
    assert run(first, parts) == ExitCode.PREEMPTED
    assert run(tune(stage, bases[kind], data[stage], changes), parts) == ExitCode.DONE
    assert losses(parts) == losses(whole_run)
    assert done(parts)["state_sha256"] == done(whole_run)["state_sha256"]
    assert set(done(parts)["state_sha256"]) == {"adapter.safetensors", "optim.safetensors"}
    assert check(parts) == []
    assert losses(whole_run)[6] < losses(whole_run)[1], "it learns"


@BOTH
@pytest.mark.parametrize("reference", ["cached", "live"])
def test_dpo_begins_at_the_logarithm_of_two(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path], kind: str, reference: str
) -> None:
    config = tune("dpo", bases[kind], data["dpo"], {"tune.reference": reference, "train.steps": 1})
    assert run(config, tmp_path / "run") == ExitCode.DONE
    assert losses(tmp_path / "run")[1] == float(torch.tensor(math.log(2.0)))
    assert (tmp_path / "run" / "reference.json").exists() == (reference == "cached")


def test_cached_and_live_references_train_the_same(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]
) -> None:
    for reference in ("cached", "live"):
        run(tune("dpo", bases["own"], data["dpo"], {"tune.reference": reference}), tmp_path / reference)
    cached, live = losses(tmp_path / "cached"), losses(tmp_path / "live")
    assert max(abs(cached[step] - live[step]) for step in live) < 1e-5


def test_the_loss_of_dpo_is_the_papers_formula(bases: dict[str, Path], data: dict[str, Path]) -> None:
    base = find_base(str(bases["own"]))
    language = load_language(base, torch.float32, ALONE.device, recompute=False)
    adapted = attach(language.model, rank=4, alpha=8, dropout=0.0, targets=(), head=language.head)
    start_from(adapted, 1)
    with torch.no_grad():
        for layer in adapted.values():
            layer.lora_b.normal_(std=0.1)
    task = Tuning(tune("dpo", bases["own"], data["dpo"]), ALONE)
    pairs = task._items.train[:3]

    def score(example: object) -> float:
        inputs, targets, learned = padded([example])  # type: ignore[list-item]
        logits = language.model.logits(inputs).log_softmax(-1)  # type: ignore[operator]
        chances = logits.gather(-1, targets[..., None])[..., 0]
        return (chances * learned).sum().item()

    expected = 0.0
    for pair in pairs:
        new = score(pair.chosen) - score(pair.rejected)  # type: ignore[union-attr]
        with without(adapted):
            old = score(pair.chosen) - score(pair.rejected)  # type: ignore[union-attr]
        expected += -math.log(1 / (1 + math.exp(-0.3 * (new - old)))) / len(pairs)
    batch = padded([p.chosen for p in pairs] + [p.rejected for p in pairs])  # type: ignore[union-attr]
    assert DpoLoss(language, adapted, 0.3)(*batch).item() == pytest.approx(expected, abs=1e-4)


def test_the_loss_of_tokens_and_its_gradient_are_those_of_torch() -> None:
    hidden = torch.randn(700, 16, dtype=torch.float64, requires_grad=True)
    weight, targets = torch.randn(64, 16, dtype=torch.float64), torch.randint(60, (700,))
    factors = torch.rand(700, dtype=torch.float32)
    (token_losses(hidden, weight, targets, 60) * factors).sum().backward()
    ours, hidden.grad = hidden.grad, None
    logits = (hidden @ weight.t())[:, :60]
    (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * factors).sum().backward()
    assert ours is not None
    assert hidden.grad is not None
    assert torch.allclose(ours, hidden.grad, atol=1e-5)


def test_only_what_the_assistant_says_is_learned(bases: dict[str, Path]) -> None:
    base = find_base(str(bases["transformers"]))
    task_template = find_template("", base.folder)
    from gputrain.bases import chat_tokenizer

    recipe = Recipe(task_template, chat_tokenizer(base), "all", 128, 0.0)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is 2?"},
        {"role": "assistant", "content": "It is 4."},
        {"role": "user", "content": "And 3 – é?"},
        {"role": "assistant", "content": "It is 9 🎈."},
    ]
    example = recipe.example(messages)
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(base.path / "tokenizer.json"))
    said = tokenizer.decode(example.tokens[example.learned].tolist(), skip_special_tokens=False)
    assert said == "It is 4.<|im_end|>\nIt is 9 🎈.<|im_end|>\n"
    last = recipe.example(messages, turns="last")
    said = tokenizer.decode(last.tokens[last.learned].tolist(), skip_special_tokens=False)
    assert said == "It is 9 🎈.<|im_end|>\n"


def test_templates_render_as_transformers_renders_them(bases: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(bases["transformers"])
    ours = find_template("", bases["transformers"])
    messages = CHAT[3]["messages"]
    for prompt in (False, True):
        rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert ours.render(messages, prompt=prompt) == rendered


def test_the_loss_of_a_step_is_the_mean_over_its_learned_tokens(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]
) -> None:
    """Whatever the micro-batch: means of means would weigh tokens of short answers more."""
    seen = []
    for batch in (1, 2, 4):
        config = tune("sft", bases["own"], data["sft"], {"train.batch_size": batch, "train.steps": 3})
        run(config, tmp_path / str(batch))
        seen.append(losses(tmp_path / str(batch)))
    for step in (1, 2, 3):
        assert seen[0][step] == pytest.approx(seen[2][step], abs=1e-5)
        assert seen[1][step] == pytest.approx(seen[2][step], abs=1e-5)


def base_of(kind: str, tmp_path: Path, bases: dict[str, Path]) -> Path:
    """The base as transformers reads it."""
    if kind == "own":
        assert main(["export", str(bases["own"]), "--out", str(tmp_path / "base")]) == 0
        return tmp_path / "base"
    return bases[kind]


@BOTH
def test_merged_weights_compute_what_the_adapters_computed(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path], kind: str
) -> None:
    run(tune("sft", bases[kind], data["sft"]), tmp_path / "sft")
    on_top = {"tune.adapters": (str(tmp_path / "sft"),)}
    run(tune("dpo", bases[kind], data["dpo"], on_top), tmp_path / "dpo")
    task = Tuning(tune("dpo", bases[kind], data["dpo"], on_top), ALONE)
    from gputrain.rundir import RunDir

    loaded = open_trained(tmp_path / "dpo")
    held = RunDir(tmp_path / "dpo")
    task.prepare(held)
    built = task.build(initialise=True)
    held.close()
    from gputrain.checkpoint import load_kind

    load_kind(loaded, "adapter", built.tensors()["adapter"])
    assert task._loss is not None
    tokens = torch.randint(256, (2, 24))
    language = task._loss.language.eval()
    adapted = language.hidden(tokens) @ language.head_weight.t()
    assert main(["export", str(tmp_path / "dpo"), "--out", str(tmp_path / "merged")]) == 0
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(tokens).logits
    difference = (adapted[..., : merged.shape[-1]] - merged).detach().abs().max()
    assert difference <= 1e-5, "|logits| are below 10"
    base = AutoModelForCausalLM.from_pretrained(base_of(kind, tmp_path, bases))(tokens).logits
    assert (base - merged).detach().abs().max() > 1e-2, "the adapters do something"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own
def test_peft_reads_our_adapters(tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]) -> None:
    """SFT's and DPO's as one adapter of the summed rank, by peft's own loader."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = bases["transformers"]
    run(tune("sft", base, data["sft"]), tmp_path / "sft")
    run(tune("dpo", base, data["dpo"], {"tune.adapters": (str(tmp_path / "sft"),)}), tmp_path / "dpo")
    source = ["export", str(tmp_path / "dpo"), "--out"]
    assert main([*source, str(tmp_path / "peft"), "--adapter-only"]) == 0
    assert main([*source, str(tmp_path / "merged")]) == 0
    tokens = torch.randint(256, (2, 24))
    plain = AutoModelForCausalLM.from_pretrained(base)
    untouched = plain(tokens).logits
    with_adapter = PeftModel.from_pretrained(plain, tmp_path / "peft")(tokens).logits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(tokens).logits
    assert (with_adapter - untouched).abs().max() > 1e-2
    assert (with_adapter - merged).abs().max() < 1e-4


def test_several_adapters_are_one_of_the_summed_rank(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]
) -> None:
    run(tune("sft", bases["own"], data["sft"], {"tune.targets": ("q", "v")}), tmp_path / "sft")
    on_top = {"tune.adapters": (str(tmp_path / "sft"),), "tune.rank": 2, "tune.targets": ("q", "up")}
    with pytest.raises(CheckpointError, match="does not fit"):
        run(tune("dpo", bases["own"], data["dpo"], on_top), tmp_path / "bad")
    on_top["tune.targets"] = ()
    run(tune("dpo", bases["own"], data["dpo"], on_top), tmp_path / "dpo")
    base, adapters = whole(open_trained(tmp_path / "dpo"))
    joined = one_adapter(adapters)
    _, merged = merged_own(base, adapters)
    again = dict(load_model(open_trained(bases["own"])).named_parameters())
    again = {name: p.detach() for name, p in again.items()}
    assert add_deltas(again, [joined]) == set(joined.pairs)
    for name, tensor in merged.items():
        assert torch.allclose(tensor, again[name], atol=1e-6), name


def test_reentrant_checkpointing_over_a_frozen_embedding_fails_and_ours_does_not(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]
) -> None:
    """Note 3's "element 0 of tensors does not require grad", and why it does not happen here."""
    from torch.utils.checkpoint import checkpoint

    embedding, layer = torch.nn.Embedding(8, 4).requires_grad_(False), torch.nn.Linear(4, 4)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        out = checkpoint(layer, embedding(torch.arange(3)), use_reentrant=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        out.sum().backward()
    for kind in ("own", "transformers"):
        plain, again = tmp_path / f"{kind}-plain", tmp_path / f"{kind}-again"
        run(tune("sft", bases[kind], data["sft"]), plain)
        run(tune("sft", bases[kind], data["sft"], {"system.recompute": True}), again)
        assert losses(again) == pytest.approx(losses(plain), abs=1e-5)


BAD: list[tuple[str, dict[str, object], str]] = [
    ("sft", {"messages": [{"role": "user", "content": "x"}]}, "line 1: the assistant says nothing"),
    ("sft", {"text": "x"}, r"line 1: expected \{\"messages\""),
    ("sft", {"messages": [{"role": "assistant", "content": 3}]}, "no text"),
    ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "line 1: chosen and rejected are the same"),
    ("dpo", {"prompt": "a", "chosen": "b"}, r"line 1: expected \{\"prompt\""),
]


@pytest.mark.parametrize(("stage", "record", "message"), BAD)
def test_bad_examples_are_named_by_their_line(
    tmp_path: Path, bases: dict[str, Path], stage: str, record: dict[str, object], message: str
) -> None:
    path = write_lines(tmp_path / "bad.jsonl", [record])
    with pytest.raises(DataError, match=message):
        Tuning(tune(stage, bases["own"], path), ALONE)


def test_a_line_that_is_not_json_and_an_empty_file(tmp_path: Path, bases: dict[str, Path]) -> None:
    (tmp_path / "torn.jsonl").write_text('{"messages": [\n')
    with pytest.raises(DataError, match="line 1 is not JSON"):
        Tuning(tune("sft", bases["own"], tmp_path / "torn.jsonl"), ALONE)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no examples"):
        Tuning(tune("sft", bases["own"], tmp_path / "empty.jsonl"), ALONE)
    with pytest.raises(DataError, match="all 24 are longer than 4 tokens"):
        Tuning(
            tune("dpo", bases["own"], write_lines(tmp_path / "p.jsonl", PAIRS), {"tune.max_tokens": 4}), ALONE
        )


def test_a_missing_and_a_broken_chat_template(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=r"have no chat template\. Give one: --template chatml"):
        Tuning(tune("sft", bases["own"], data["sft"], {"tune.template": ""}), ALONE)
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for")
    with pytest.raises(ConfigError, match="not valid Jinja"):
        Tuning(tune("sft", bases["own"], data["sft"], {"tune.template": str(broken)}), ALONE)
    evil = tmp_path / "evil.jinja"
    evil.write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(DataError, match="unsafe"):
        Tuning(tune("sft", bases["own"], data["sft"], {"tune.template": str(evil)}), ALONE)


def test_a_template_that_rewrites_earlier_turns_needs_turns_last() -> None:
    forgetful = Template(
        "{% for m in messages %}<{{ m.role }}>{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
        {},
    )
    from gputrain.chat import PlacedBytes

    two = [*CHAT[0]["messages"], *CHAT[1]["messages"]]
    recipe = Recipe(forgetful, PlacedBytes("x"), "all", 128, 0.0)
    with pytest.raises(
        DataError, match=r"rewrites earlier turns; learn only the last with --set tune\.turns=last"
    ):
        recipe.example(two)
    example = recipe.example(two, turns="last")
    assert bytes(int(t) for t in example.tokens[example.learned] if t < 256).decode() == "It is 1."


def test_an_adapter_for_another_base_is_refused(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path], text: Path
) -> None:
    run(tune("sft", bases["own"], data["sft"], {"train.steps": 1}), tmp_path / "sft")
    other = foreign_base(tmp_path / "other")
    with pytest.raises(CheckpointError, match="for another base"):
        Tuning(tune("dpo", other, data["dpo"], {"tune.adapters": (str(tmp_path / "sft"),)}), ALONE)
    with pytest.raises(ConfigError, match="holds adapters, not a model"):
        Tuning(tune("dpo", tmp_path / "sft", data["dpo"]), ALONE)
    with pytest.raises(CheckpointError, match="is no tuning run"):
        Tuning(tune("dpo", other, data["dpo"], {"tune.adapters": (str(bases["own"]),)}), ALONE)
    with pytest.raises(ConfigError, match=r"trained with other settings:\n  tune\.rank: 4 → 8"):
        run(tune("sft", bases["own"], data["sft"], {"tune.rank": 8, "train.steps": 1}), tmp_path / "sft")


SENSELESS: list[tuple[dict[str, object], str]] = [
    ({"system.parallel": "fsdp"}, "Adapters are trained under ddp"),
    ({"optim.name": "muon"}, "optim.name = adamw"),
    ({"train.tokens_per_step": 4096}, "counts examples, not tokens"),
    ({"train.init": "x"}, "earlier adapters are given with --adapter"),
    (
        {"tune.examples_per_step": 3},
        r"must be a multiple of batch_size × processes = 2 × 1; the nearest is 4",
    ),
    ({"tune.max_tokens": 4096}, "the base's context 128"),
]


@pytest.mark.parametrize(("changes", "message"), SENSELESS)
def test_settings_that_mean_nothing_here_are_refused(
    bases: dict[str, Path], data: dict[str, Path], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Tuning(tune("sft", bases["own"], data["sft"], changes), ALONE)


def test_unknown_targets_are_refused_with_those_there_are(
    bases: dict[str, Path], data: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match="no linear map 'q_proj'; it has down, gate, k, o, q, up, v"):
        Tuning(tune("sft", bases["own"], data["sft"], {"tune.targets": ("q_proj",)}), ALONE).build(
            initialise=True
        )


def test_what_is_held_out_is_measured(tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]) -> None:
    changes = {"data.val_fraction": 0.4, "train.steps": 30, "tune.beta": 0.5}
    run(tune("dpo", bases["own"], data["dpo"], changes), tmp_path / "dpo")
    found = done(tmp_path / "dpo")["metrics"]
    assert found["loss"] < math.log(2)
    assert found["accuracy"] == 1.0
    assert found["margin"] > 0


def test_all_conversations_are_seen_once_per_epoch(bases: dict[str, Path], data: dict[str, Path]) -> None:
    from gputrain.examples import order

    for first in (0, 24, 48):
        assert sorted(order(7, 24, first, 24)) == list(range(24))
    assert order(7, 24, 0, 24) != order(7, 24, 24, 24)
    assert order(7, 24, 3, 5) == order(7, 24, 0, 24)[3:8]


@BOTH
def test_all_stages_and_a_stop_inside_one(
    tmp_path: Path,
    bases: dict[str, Path],
    data: dict[str, Path],
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """sft → dpo → merge → gguf; stopped in dpo, started again, then found complete."""
    changes = {k: v for k, v in QUICK.items() if k != "tune.template"}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    command = [
        "sft",
        "--stage",
        "all",
        "--base",
        str(bases[kind]),
        "--data",
        str(data["sft"]),
        "--template",
        "chatml",
    ]
    command += ["--pairs", str(data["dpo"]), "--out", str(tmp_path / "all"), "--type", "f32", *words]
    assert main([*command, "--dpo-set", "train.until=2"]) == ExitCode.PREEMPTED
    assert (tmp_path / "all" / "sft" / "DONE.json").exists()
    assert not (tmp_path / "all" / "merge").exists()
    assert main(command) == ExitCode.DONE
    resumed = [e for e in lines(tmp_path / "all" / "dpo" / "events.jsonl") if e["event"] == "resumed"]
    assert [event["step"] for event in resumed] == [2]
    verdict = json.loads((tmp_path / "all" / "DONE.json").read_text())
    assert (tmp_path / "all" / verdict["result"]).stat().st_size > 50_000
    made = (tmp_path / "all" / verdict["result"]).stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == ExitCode.DONE
    assert "stage merge: done before\nstage gguf: done before" in capsys.readouterr().out
    assert (tmp_path / "all" / verdict["result"]).stat().st_mtime_ns == made
    if kind == "transformers":
        from transformers import AutoModelForCausalLM

        tokens = torch.randint(256, (1, 16))
        folder = tmp_path / "all" / "gguf"
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=Path(verdict["result"]).name)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "all" / "merge")
        assert (read(tokens).logits - merged(tokens).logits).abs().max() < 1e-3


def test_stages_that_could_not_end_are_refused_before_they_begin(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = foreign_base(tmp_path / "yarn")
    settings = json.loads((foreign / "config.json").read_text())
    settings["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    (foreign / "config.json").write_text(json.dumps(settings))
    command = ["sft", "--stage", "all", "--base", str(foreign), "--data", str(data["sft"])]
    assert main([*command, "--pairs", str(data["dpo"]), "--out", str(tmp_path / "out")]) == ExitCode.CONFIG
    assert "yarn rotary positions" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "out")]) == ExitCode.CONFIG
    assert "needs conversations (--data) and pairs (--pairs)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_tuned_run_of_ours_can_be_sampled_and_measured(
    tmp_path: Path,
    bases: dict[str, Path],
    data: dict[str, Path],
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tune("sft", bases["own"], data["sft"], {"train.steps": 40}), tmp_path / "sft")
    prompt = Template(CHATML, {}).render(CHAT[3]["messages"][:1], prompt=True)
    assert main(["sample", str(tmp_path / "sft"), prompt, "--tokens", "5", "--temperature", "0"]) == 0
    assert len(capsys.readouterr().out) > len(prompt)
    assert main(["eval", str(tmp_path / "sft"), "--data", str(text), "--val-fraction", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] > 0


def test_readers_count_what_is_left_out(tmp_path: Path, bases: dict[str, Path]) -> None:
    from gputrain.bases import chat_tokenizer

    long = {"prompt": "x", "completion": "y" * 500}
    asked = {"prompt": "x" * 500, "completion": "y"}
    path = write_lines(tmp_path / "long.jsonl", [*CHAT, long, asked])
    base = find_base(str(bases["own"]))
    recipe = Recipe(Template(CHATML, {}), chat_tokenizer(base), "all", 64, 0.0)
    found = read_conversations([str(path)], recipe)
    assert found.too_long == 1, "a long answer is cut, a question without its answer is left out"
    assert max(len(example.tokens) for example in found.train) == 65
    assert conversation(long)[0] == {"role": "user", "content": "x"}
    pairs = write_lines(
        tmp_path / "pairs.jsonl", [*PAIRS, {"prompt": "x", "chosen": "y" * 500, "rejected": "z"}]
    )
    assert (
        read_pairs([str(pairs)], Recipe(Template(CHATML, {}), chat_tokenizer(base), "all", 96, 0.0)).too_long
        == 1
    )


def test_dropping_inputs_of_adapters_leaves_the_base_alone(
    bases: dict[str, Path], tiny: Callable[..., Config]
) -> None:
    language = load_language(find_base(str(bases["own"])), torch.float32, ALONE.device, recompute=False)
    adapted = attach(language.model, rank=2, alpha=2, dropout=0.5, targets=(), head=language.head)
    start_from(adapted, 0)
    loss = SftLoss(language).train()
    tokens = torch.randint(256, (2, 16))
    weights = torch.ones(2, 16)
    assert loss(tokens, tokens, weights).item() == loss(tokens, tokens, weights).item(), "B is zero"
    with torch.no_grad():
        adapted["blocks.0.mixer.q"].lora_b.fill_(1.0)
    assert loss(tokens, tokens, weights).item() != loss(tokens, tokens, weights).item()


def launch(stage: str, base: Path, data: Path, out: Path, *extra: str) -> int:
    """`gputrain STAGE --processes 2` in processes of their own."""
    words = [
        word for key, value in {**QUICK, "tune.base": base}.items() for word in ("--set", f"{key}={value}")
    ]
    command = [sys.executable, "-W", "error", "-m", "gputrain", stage, "--data", str(data), "--out", str(out)]
    done = subprocess.run(
        [*command, "--processes", "2", *words, *extra],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=170,
    )
    return done.returncode


def test_two_processes_train_adapters_as_one_does(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path]
) -> None:
    """LoRA under DDP, where note 3 gave up; the cached reference is computed by both, each its share.

    A large epsilon keeps AdamW from dividing rounding by rounding where the gradients of a pair cancel.
    """
    assert (
        launch("dpo", bases["own"], data["dpo"], tmp_path / "two", "--set", "optim.eps=1e-2") == ExitCode.DONE
    )
    same = {**DEFAULTS["dpo"], "optim.lr": QUICK["optim.lr"], "optim.eps": 1e-2}
    run(tune("dpo", bases["own"], data["dpo"], same), tmp_path / "one")
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert two.keys() == one.keys()
    assert max(abs(two[step] - one[step]) for step in one) < 1e-6
    assert one[6] < 0.99 * one[1]
    references = [json.loads((tmp_path / n / "reference.json").read_text()) for n in ("one", "two")]
    assert references[0] == references[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_processes_resume_exactly(
    tmp_path: Path, bases: dict[str, Path], data: dict[str, Path], stage: str
) -> None:
    base, lines_of = bases["transformers"], data[stage]
    assert launch(stage, base, lines_of, tmp_path / "whole") == ExitCode.DONE
    assert launch(stage, base, lines_of, tmp_path / "parts", "--set", "train.until=3") == ExitCode.PREEMPTED
    assert launch(stage, base, lines_of, tmp_path / "parts") == ExitCode.DONE
    assert done(tmp_path / "parts")["state_sha256"] == done(tmp_path / "whole")["state_sha256"]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
