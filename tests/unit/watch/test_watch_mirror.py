"""Mirrors, the pure parts: what may reach rclone, what is due, what stands proved, what may go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.custody.facts import Copy
from gpuwatch.mirror import proof
from gpuwatch.mirror.names import BadRemote, check_remote, folder_of, place, unlistable
from gpuwatch.mirror.plan import due, newest
from gpuwatch.mirror.rclone import SERVICE_ACCOUNT, Trouble, environment_for, fault
from gpuwatch.vault.layout import Vault

REMOTE = "gdrive:research/runs"


def test_what_retention_let_go_there_is_not_due_again_in_that_version_only() -> None:
    copies = [copy("ckpt/step-1/m", "a", step=1), copy("ckpt/step-2/m", "b", step=2)]
    gone = {("ckpt/step-1/m", "a" * 64), ("ckpt/step-2/m", "f" * 64)}
    assert [b.name for b in due(copies, {}, "ckpt", gone).batches] == ["step-2"]


def copy(path: str, mark: str = "a", size: int = 10, step: int | None = None) -> Copy:
    return Copy(path, size, mark * 64, (size, 1, 1, 1), "b", 1.0, step)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "remote", ["gdrive:", "gdrive:research/papers/miras/runs", "s3-x:bucket/a b+c=d,e@f", "my.remote_1:x"]
)
def test_plain_remotes_are_taken(remote: str) -> None:
    assert check_remote(remote) == remote


@pytest.mark.parametrize(
    "remote",
    ['g:"; rm -rf ~; "', "g:$(id)", "g:`id`", "g:a\\b", "g:a\nb", "g:a'b", "g:a!b", "g:a;b", "g:a|b", "g:a&b", "g:a>b", "g:*", "-g:x",
     "g:-x", ":s3,provider=AWS:bucket", "nocolon", "g:../up", "g:a/../../b", "g: x", "g:x ", "g:" + "x" * 500, "g:\u202e", ""],
)  # fmt: skip
def test_what_a_shell_could_take_apart_is_refused(remote: str) -> None:
    with pytest.raises(BadRemote):
        check_remote(remote)


@given(st.text(max_size=60))
def test_nothing_that_passes_means_anything_to_a_shell(text: str) -> None:
    try:
        check_remote(text)
    except BadRemote:
        return
    assert not set(text) & set("\"'`$\\!;&|<>*?[]{}()#~\n\r\t\0")
    assert not text.startswith("-")


@pytest.mark.parametrize(
    ("remote", "folder"),
    [("gdrive:", "gdrive:runs/r-1"), ("gdrive:research", "gdrive:research/runs/r-1"), (REMOTE, "gdrive:research/runs/r-1"),
     ("gdrive:runs", "gdrive:runs/r-1"), ("s3:bucket/", "s3:bucket/runs/r-1")],
)  # fmt: skip
def test_the_layout_is_the_same_on_every_remote(remote: str, folder: str) -> None:
    assert folder_of(remote, "r-1") == folder


@pytest.mark.parametrize("run", ["", "../x", "a/b", "A", "x y", "$x"])
def test_only_a_run_id_names_a_folder(run: str) -> None:
    with pytest.raises(BadRemote):
        folder_of(REMOTE, run)


def test_the_checkpoint_folder_has_one_name_everywhere() -> None:
    assert place("runs/x/ckpt/step-5/model.bin", "runs/x/ckpt") == ("checkpoints", "step-5/model.bin")
    assert place("model.gguf", "runs/x/ckpt") == ("", "model.gguf")
    assert place("model.gguf", None) == ("", "model.gguf")


def test_the_jobs_own_pointer_is_not_copied_because_ours_stands_under_its_name() -> None:
    files = [copy("ckpt/latest.json"), copy("ckpt/step-1/model"), copy("latest.json")]
    names = [f.path for batch in due(files, {}, "ckpt").batches for f in batch.files]
    assert sorted(names) == ["ckpt/step-1/model", "latest.json"]


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\udcff", "a\x00b", " a", "a ", "a./b", "b.", "\u2028"])
def test_a_name_that_a_list_cannot_hold_is_refused(name: str) -> None:
    assert unlistable(name) is not None


@pytest.mark.parametrize(
    "name", ["#a", ";a", "-rf", "$(id)", "a b", "caf\u00e9", "*?[x]", '"q"', "a/b/c.bin"]
)
def test_odd_names_travel_in_the_list_as_they_are(name: str) -> None:
    assert unlistable(name) is None


# --- what is due ---------------------------------------------------------------------------------


def stands(*copies: Copy) -> dict[str, proof.Stands]:
    return proof.with_files({}, copies, "hash", 1.0)


def test_the_newest_checkpoint_goes_first_and_its_manifest_last() -> None:
    files = [
        copy(f"ckpt/step-{n}/{name}") for n in (9, 10, 2) for name in ("MANIFEST.json", "a.bin", "z.bin")
    ] + [copy("log.txt")]
    found = due(files, {}, "ckpt")
    assert [(b.place, b.name, b.step) for b in found.batches] == [
        ("checkpoints", "step-10", 10), ("checkpoints", "step-9", 9), ("checkpoints", "step-2", 2), ("", "", None),
    ]  # fmt: skip
    assert [f.path for f in found.batches[0].files] == [
        "ckpt/step-10/a.bin",
        "ckpt/step-10/z.bin",
        "ckpt/step-10/MANIFEST.json",
    ]


def test_what_stands_in_this_version_is_not_due_and_what_changed_replaces() -> None:
    old, new = copy("last.pt", "a"), copy("last.pt", "b")
    assert due([old], stands(old), None).batches == ()
    (batch,) = due([new], stands(old), None).batches
    assert batch.replaces
    assert not due([new], {}, None).batches[0].replaces


def test_a_name_that_cannot_go_is_refused_and_holds_nothing_else_up() -> None:
    found = due([copy("ckpt/a\nb/x"), copy("ckpt/step-1.pt")], {}, "ckpt")
    assert [path for path, _ in found.refused] == ["ckpt/a\nb/x"]
    assert [b.name for b in found.batches] == ["step-1.pt"]


def test_the_pointer_names_the_newest_checkpoint_that_is_whole_there() -> None:
    ten = [copy("ckpt/step-10/a"), copy("ckpt/step-10/MANIFEST.json")]
    nine = [copy("ckpt/step-9/a")]
    assert newest([*ten, *nine], stands(ten[0], *nine), "ckpt") == (9, "step-9", tuple(nine))
    found = newest([*ten, *nine], stands(*ten, *nine), "ckpt")
    assert found is not None
    assert found[:2] == (10, "step-10")
    assert newest([*ten], {}, "ckpt") is None


# --- proofs --------------------------------------------------------------------------------------


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "vault")
    made.create()
    return made


def test_a_proof_survives_a_restart(vault: Vault) -> None:
    files = stands(copy("ckpt/\udcff"), copy("b"))
    proof.save(vault, "r-1", REMOTE, files)
    assert proof.load(vault, "r-1", REMOTE) == files
    assert proof.load(vault, "r-1", "other:") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format":"gputui-mirror/2","remote":"gdrive:research/runs","run":"r-1"}',
        "[" * 9000,
    ],
)
def test_a_proof_that_is_not_what_we_wrote_proves_nothing(vault: Vault, text: str) -> None:
    proof.save(vault, "r-1", REMOTE, stands(copy("b")))
    proof.path_of(vault, "r-1", REMOTE).write_text(text)
    assert proof.load(vault, "r-1", REMOTE) == {}


def test_the_proof_of_another_run_or_remote_is_none(vault: Vault) -> None:
    proof.save(vault, "r-1", REMOTE, stands(copy("b")))
    path = proof.path_of(vault, "r-1", REMOTE)
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"run": "r-2"}))
    assert proof.load(vault, "r-1", REMOTE) == {}


# --- rclone's words and environment --------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        ('couldn\'t fetch token: invalid_grant: maybe token expired? - try refreshing with "rclone config reconnect gdrive:"', Trouble.AUTH),
        ("AccessDenied: Access Denied status code: 403, request id: X", Trouble.AUTH),
        ("write /x: no space left on device", Trouble.FULL), ("googleapi: Error 403: storage quota exceeded", Trouble.FULL),
        ('Failed to create file system for "nope:": didn\'t find section in config file ("nope")', Trouble.MISSING),
        ("immutable file modified", Trouble.CHANGED), ("dial tcp 127.0.0.1:1: connect: connection refused", Trouble.UNREACHABLE),
        ("", Trouble.UNREACHABLE),
    ],
)  # fmt: skip
def test_rclones_words_become_trouble_with_advice(said: str, trouble: Trouble) -> None:
    found = fault(said)
    assert found.trouble is trouble
    assert "; " in str(found)


def test_rclone_sees_its_settings_and_no_key_of_a_gpu_provider(tmp_path: Path) -> None:
    seen = environment_for(
        {
            "PATH": "/bin",
            "RCLONE_CONFIG_X_TYPE": "s3",
            "VAST_API_KEY": "v",
            "RUNPOD_API_KEY": "r",
            "WANDB_API_KEY": "w",
            "HOME": "/h",
        },
        tmp_path,
    )
    assert set(seen) == {"PATH", "RCLONE_CONFIG_X_TYPE", "HOME"}


def test_a_service_account_becomes_a_private_file_and_a_remote(tmp_path: Path) -> None:
    private = tmp_path / "p"
    seen = environment_for({SERVICE_ACCOUNT: "eyJhIjogMX0="}, private)
    key = Path(seen["RCLONE_CONFIG_GDRIVE_SERVICE_ACCOUNT_FILE"])
    assert key.read_text() == '{"a": 1}'
    assert key.stat().st_mode & 0o777 == 0o600
    assert (seen["RCLONE_CONFIG_GDRIVE_TYPE"], SERVICE_ACCOUNT in seen) == ("drive", False)
    with pytest.raises(ValueError, match="no base64"):
        environment_for({SERVICE_ACCOUNT: "%%%"}, private)
