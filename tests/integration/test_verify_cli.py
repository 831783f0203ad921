"""`gpuwatch verify` and `sha256sum -c`, both as real processes on the same vault, agree file by file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpuwatch.client import wire
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.vault import receipt
from gpuwatch.vault.layout import Vault
from integration.world import World

FILES = {
    "ckpt/step-2/model.safetensors": os.urandom(5 << 20),
    "ckpt/step-2/MANIFEST.json": b"{}",
    "ckpt/latest.json": b'{"step": 2}',
    "out/with space": b"a",
    "out/back\\slash\nand line": b"b",
    "out/caf\udce9": b"c",
    "job.log": b"done\n",
}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """One run, received and proved as the daemon does it."""
    vault = Vault(tmp_path / "vault")
    vault.create()
    copies = []
    for path, data in FILES.items():
        target = vault.run("r1-abcd") / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        copies.append(Copy(path, len(data), digest, (len(data), target.stat().st_mtime_ns, 0, 0), "b", 1.8e9))
    listing = Inventory("7", "b", 1.8e9, ())
    head = receipt.heading(
        run="r1-abcd", name="r1", label="l", inventory=listing, waived=(), reason="", at=1.8e9
    )
    receipt.write(vault, "r1-abcd", head, copies)
    return vault


def gpuwatch(*words: str, home: Path, check: bool = False) -> subprocess.CompletedProcess[str]:
    """The command with an environment that knows no daemon and no ledger."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "GPUTUI_HOME": str(home)}
    argv = [str(Path(sys.executable).with_name("gpuwatch")), *words]  # the command that people type
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=check, timeout=60)


def report(vault: Vault, *words: str) -> dict[str, Any]:
    done = gpuwatch("verify", str(vault.root), "--json", *words, home=vault.root.parent)
    shape: dict[str, Any] = json.loads(done.stdout)
    assert shape["exit"] == done.returncode
    return shape


def findings(shape: dict[str, Any]) -> dict[str, str]:
    return {row["path"]: row["kind"] for run in shape["runs"] for row in run["findings"]}


def refused_by_sha256sum(vault: Vault) -> set[str]:
    """The names that coreutils' own check does not pass."""
    run = vault.run("r1-abcd")
    (twin,) = (run / ".receipts").glob("*.sha256")
    done = subprocess.run(
        ["sha256sum", "-c", str(twin)], cwd=run, capture_output=True, env={"LC_ALL": "C"}, check=False
    )
    lines = [line for line in done.stdout.split(b"\n") if b": FAILED" in line]
    assert (done.returncode == 0) == (not lines)
    return {_name(line.rpartition(b": FAILED")[0]) for line in lines}


def _name(shown: bytes) -> str:
    """The file name that a line of `sha256sum -c` speaks of (it escapes as in its lists)."""
    if shown.startswith(b"\\"):
        shown = shown[1:].replace(b"\\n", b"\n").replace(b"\\\\", b"\\")
    return os.fsdecode(shown)


def damage(run: Path, *names: str) -> None:
    for name in names:
        data = bytearray((run / name).read_bytes())
        data[len(data) // 2] ^= 0x10
        (run / name).write_bytes(data)


def test_a_proved_vault_is_good_for_both(vault: Vault) -> None:
    shape = report(vault)
    assert (shape["verdict"], shape["exit"], findings(shape)) == ("good", 0, {})
    assert shape["bytes"] == sum(map(len, FILES.values()))
    assert refused_by_sha256sum(vault) == set()


@pytest.mark.parametrize(
    "flipped",
    [
        ("ckpt/step-2/model.safetensors",),
        ("out/back\\slash\nand line", "out/caf\udce9"),
        ("job.log", "out/with space", "ckpt/latest.json"),
    ],
    ids=["large", "odd-names", "three"],
)
def test_both_refuse_the_same_files(flipped: Sequence[str], vault: Vault) -> None:
    damage(vault.run("r1-abcd"), *flipped)
    shape = report(vault)
    assert findings(shape) == dict.fromkeys(flipped, "damaged")
    assert shape["exit"] == 1
    assert refused_by_sha256sum(vault) == set(flipped)


def test_flipped_truncated_missing_and_extra_are_named_and_nothing_else(vault: Vault) -> None:
    run = vault.run("r1-abcd")
    damage(run, "ckpt/latest.json")
    os.truncate(run / "ckpt/step-2/model.safetensors", 1 << 20)
    (run / "out/with space").unlink()
    (run / "out/extra.gguf").write_bytes(b"?")
    shape = report(vault)
    assert findings(shape) == {
        "ckpt/latest.json": "damaged",
        "ckpt/step-2/model.safetensors": "truncated",
        "out/with space": "missing",
        "out/extra.gguf": "extra",
    }
    assert shape["exit"] == 1
    wrong = {path for path, kind in findings(shape).items() if kind != "extra"}
    assert refused_by_sha256sum(vault) == wrong

    told = gpuwatch("verify", str(vault.root), home=vault.root.parent)
    assert told.returncode == 1
    assert all(path in told.stdout for path in findings(shape))
    assert told.stderr == "", "a pipe gets no progress bar"


def _flip(run: Path) -> str:
    before = (run / "out/with space").stat()
    damage(run, "out/with space")
    os.utime(run / "out/with space", ns=(before.st_atime_ns, before.st_mtime_ns))  # bit rot leaves no date
    return "out/with space"


def _truncate(run: Path) -> str:
    os.truncate(run / "ckpt/step-2/model.safetensors", (5 << 20) - 1)
    return "ckpt/step-2/model.safetensors"


def _remove(run: Path) -> str:
    (run / "ckpt/step-2/MANIFEST.json").unlink()
    return "ckpt/step-2/MANIFEST.json"


def _add(run: Path) -> str:
    (run / "ckpt/step-2/model.safetensors.1").write_bytes(b"")
    return "ckpt/step-2/model.safetensors.1"


@pytest.mark.parametrize(
    ("harm", "kind", "exit_code"),
    [(_flip, "damaged", 1), (_truncate, "truncated", 1), (_remove, "missing", 1), (_add, "extra", 3)],
    ids=["one flipped bit", "one byte short", "one missing", "one extra"],
)
def test_each_harm_alone_is_named_alone(
    harm: Callable[[Path], str], kind: str, exit_code: int, vault: Vault
) -> None:
    name = harm(vault.run("r1-abcd"))
    shape = report(vault)
    assert (findings(shape), shape["exit"]) == ({name: kind}, exit_code)
    assert refused_by_sha256sum(vault) == ({name} if exit_code == 1 else set()), (
        "sha256sum knows no extra files"
    )
    told = gpuwatch("verify", str(vault.root), home=vault.root.parent)
    assert told.returncode == exit_code
    named = [line for line in told.stdout.splitlines() if any(path in line for path in (*FILES, name))]
    assert [name in line and kind in line for line in named] == [True], told.stdout


def test_extra_files_and_runs_under_way_are_partial_not_damage(vault: Vault) -> None:
    (vault.run("r1-abcd") / "notes.txt").write_text("mine")
    assert report(vault)["exit"] == 3
    (vault.run("r1-abcd") / "notes.txt").unlink()
    assert report(vault)["exit"] == 0
    (vault.root / "r2-wxyz").mkdir()
    (vault.root / "r2-wxyz/ckpt.bin").write_text("under way")
    assert findings(report(vault)) == {"ckpt.bin": "unproved"}
    assert report(vault)["exit"] == 3
    assert report(vault, "--run", "r1-abcd")["exit"] == 0


def test_the_users_own_vault_is_the_default(vault: Vault) -> None:
    home = vault.root.parent
    assert gpuwatch("verify", home=home).returncode == 0
    vault.root.rename(home / "archive")
    assert gpuwatch("verify", home=home).returncode == 2
    (home / "config").mkdir()
    (home / "config/config.toml").write_text(f'vault = "{home}/archive"\n')
    assert gpuwatch("verify", home=home).returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("/nowhere",), "no vault at"),
        (("--run", "none"), "no run 'none'"),
        (("--run", "../vault"), "no run"),
        (("--jobs", "0"), "from 1 to 64"),
        (("--frobnicate",), "unrecognized"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_exits_2(words: tuple[str, ...], says: str, vault: Vault) -> None:
    done = gpuwatch("verify", *words, home=vault.root.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_verifying_writes_nothing(vault: Vault) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in vault.root.parent.rglob("*")}

    before = state()
    report(vault)
    assert state() == before


# --- the daemon's own re-reading -----------------------------------------------------------------

SCRUB = '[scrub]\nevery = "1s"\n'
JOB = "mkdir ckpt; head -c 300000 /dev/urandom > ckpt/step-1.bin; while [ ! -e ../go ]; do sleep 0.1; done; echo end > m"
PROMISE = '[checkpoints]\npath = "ckpt"\n[[artifacts]]\npath = "m"'


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        made.start_simulator("--ephemeral")
        config = tmp_path / "config/config.toml"
        config.write_text(config.read_text() + SCRUB)
        made.start_daemon()
        yield made
    finally:
        made.stop()


def wait_status(here: World, ready: Callable[[wire.DaemonStatus], bool]) -> wire.DaemonStatus:
    """The first status that satisfies `ready`, asked for at every change that the daemon tells of."""
    with here.client() as client:
        for _ in client.notices(wire.Subscribe(topic="runs")):
            status: wire.DaemonStatus = here.call("status", wire.Empty(), wire.DaemonStatus)
            if ready(status):
                return status
    raise AssertionError("the stream of snapshots ended")


def test_bit_rot_is_mended_from_the_box_and_an_alarm_when_the_box_is_gone(here: World) -> None:
    run = here.script(JOB, rest=PROMISE)
    mirrored = here.wait_event(run, "files-verified")
    at_home = here.file(run, "ckpt/step-1.bin")
    proved = at_home.read_bytes()
    damage(here.vault / run, "ckpt/step-1.bin")
    here.wait_event(run, "files-verified", after=mirrored.seq)
    assert at_home.read_bytes() == proved, "its box still had it"
    assert "vault file is bad" in here.daemon_log()

    (here.box(here.living()[0]) / "workspace" / "go").touch()
    assert here.wait_end(run).state == "gone"
    assert gpuwatch("verify", home=here.home).returncode == 0
    damage(here.vault / run, "ckpt/step-1.bin")
    status = wait_status(here, lambda status: bool(status.alarms))
    assert status.alarms == [
        f"{run}: ckpt/step-1.bin in the vault is damaged; restore it from another copy, see `gpuwatch verify --run {run}`"
    ]
    assert "ALARM" in gpuwatch("status", home=here.home).stdout
    assert gpuwatch("verify", "--run", run, home=here.home).returncode == 1
    checkup = gpuwatch("doctor", "--json", home=here.home)
    rows = {c["name"]: c["level"] for c in json.loads(checkup.stdout)["checks"]}
    assert (rows["daemon"], rows["ledger"], rows["vault"]) == ("ok", "ok", "ok"), checkup.stdout

    here.kill_daemon()
    here.start_daemon()
    assert here.call("status", wire.Empty(), wire.DaemonStatus).alarms, "a restart forgets no alarm"
    at_home.write_bytes(proved)
    wait_status(here, lambda status: not status.alarms)
