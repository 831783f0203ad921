"""What leaves the house in a recording."""

import pytest

from gputui.replay.redact import GONE, redact, redact_text


@pytest.mark.parametrize(
    ("text", "gone", "kept"),
    [
        ("HF_TOKEN=hf_abcdefgh12345678 python train.py", "hf_abcdefgh12345678", "python train.py"),
        ("api_key: 9f2c9f2c9f2c", "9f2c9f2c9f2c", "api_key"),
        ('{"password": "hunter2", "step": 3}', "hunter2", '"step": 3'),
        ("Authorization: Bearer abc.def", "abc.def", "Authorization"),
        ("key " + "0a" * 32 + " loaded", "0a0a", "loaded"),
        ("ssh root@203.0.113.9 -p 40022", "203.0.113.9", "40022"),
        ("reading /home/alice/data/train.bin", "alice", "data/train.bin"),
        ("mail bob.b@example.com now", "bob.b@example.com", "now"),
        ("step 1840 | loss 2.4906 | tokens 12345678", "nothing", "step 1840 | loss 2.4906 | tokens 12345678"),
    ],
)  # fmt: skip
def test_text(text: str, gone: str, kept: str) -> None:
    out = redact_text(text)
    assert gone not in out
    assert kept in out
    assert redact_text(out) == out, "once is enough"


def test_specs_lose_the_values_of_their_environment() -> None:
    spec = 'name = "x"\n[job]\nenv = { A = "one", B = "two" }\nsecrets = ["WANDB"]\ncommand = "go"\n[job.env]\nC = "three"\n[gpu]\nname = "H100"\n'
    out = redact({"spec": spec})["spec"]
    assert not any(value in out for value in ("one", "two", "three", "WANDB"))
    assert GONE in out
    assert 'command = "go"' in out
    assert 'name = "H100"' in out


def test_digests_stay_and_addresses_of_machines_go() -> None:
    message = {
        "sha256": "9f2c" * 16,
        "ssh": ["ssh", "root@h"],
        "user": "41207",
        "runs": [{"receipt": "ab" * 32, "log_path": "/home/a/x"}],
    }
    assert redact(message) == {
        "sha256": "9f2c" * 16,
        "ssh": [],
        "user": None,
        "runs": [{"receipt": "ab" * 32, "log_path": None}],
    }
