"""The doctor names what is wrong and what to do, on sick homes made for it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch import doctor
from gpuwatch.doctor import Check, Level, Patient, clock_problems, document, examine, healthy, lines
from gpuwatch.ledger.schema import MIGRATIONS
from gpuwatch.paths import Paths

LEDGER = Path(__file__).parents[2] / "fixtures/ledger/v1.db"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A healthy home: ledger, key, vault, credentials; nobody running."""
    for name in ("XDG_CONFIG_HOME", "VAST_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAST_API_KEY", "very-secret-key")
    paths = Paths(tmp_path / "config", tmp_path / "state", tmp_path / "run", tmp_path / "vault")
    paths.keys.mkdir(parents=True, mode=0o700)
    paths.state.chmod(0o700)
    shutil.copy(LEDGER, paths.ledger)
    paths.ledger.chmod(0o600)
    db = sqlite3.connect(paths.ledger)
    db.execute("UPDATE labels SET gone_at = 1")
    db.execute("UPDATE events SET at = 1700000000")
    db.commit()
    db.close()
    key = paths.keys / "id_ed25519"
    key.write_text("private")
    key.chmod(0o600)
    key.with_suffix(".pub").write_text("public")
    paths.vault.mkdir()
    (paths.vault / ".gputui-vault").touch()
    return paths


def seen(home: Paths) -> dict[str, Check]:
    """The worst answer of each check."""
    order = list(Level)
    worst: dict[str, Check] = {}
    for check in examine(Patient(home)):
        known = worst.get(check.name)
        if known is None or order.index(check.level) > order.index(known.level):
            worst[check.name] = check
    return worst


def sick(home: Paths) -> dict[str, tuple[str, str]]:
    """name → (level, advice) of what is not well; space and limits of this machine left out."""
    ignored = ("vault-space", "open-files", "rclone")
    return {
        c.name: (c.level.value, c.todo)
        for c in seen(home).values()
        if c.level is not Level.OK and c.name not in ignored
    }


def test_a_healthy_home_is_well(home: Paths) -> None:
    assert sick(home) == {}


def test_a_fresh_machine_is_well_but_has_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    paths = Paths(tmp_path / "c", tmp_path / "s", tmp_path / "r", tmp_path / "v")
    assert list(sick(paths)) == ["credentials"]
    assert not (tmp_path / "s").exists(), "looking makes nothing"


def test_looking_changes_nothing(home: Paths) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(p): (p.stat().st_mode, p.stat().st_size if p.is_file() else 0)
            for p in home.state.parent.rglob("*")
        }

    before = state()
    assert seen(home)
    assert state() == before


def test_no_answer_ever_holds_a_key(home: Paths) -> None:
    checks = list(examine(Patient(home)))
    assert "very-secret-key" not in json.dumps(document(checks)) + "\n".join(lines(checks))
    assert seen(home)["credentials"].level is Level.OK


def test_a_secret_in_a_providers_message_is_not_repeated() -> None:
    (shown, _) = lines([Check("account", Level.OK, "GET https://x/?api_key=abc123&y=1 failed")])
    assert "abc123" not in shown


# --- each illness --------------------------------------------------------------------------------


def test_settings_that_do_not_parse(home: Paths) -> None:
    home.config.mkdir()
    home.config_file.write_text("[scrub]\nper_day = 'lots'\n")
    assert sick(home)["config"][0] == "fail"
    assert "per_day" in seen(home)["config"].found


@pytest.mark.parametrize(("mode", "level"), [(0o755, "warn"), (0o770, "warn")])
def test_a_state_folder_that_others_can_open(mode: int, level: str, home: Paths) -> None:
    home.state.chmod(mode)
    assert sick(home)["state"] == (level, f"chmod 700 {home.state}")


def test_a_key_that_others_can_read(home: Paths) -> None:
    (home.keys / "id_ed25519").chmod(0o644)
    assert sick(home)["ssh-key"] == ("fail", f"chmod 600 {home.keys}/id_ed25519")


def test_a_key_without_its_public_half(home: Paths) -> None:
    (home.keys / "id_ed25519.pub").unlink()
    assert sick(home)["ssh-key"][0] == "fail"


def test_a_page_of_rubbish_in_the_ledger(home: Paths) -> None:
    whole = home.ledger.read_bytes()
    for page in range(len(whole) // 4096):
        home.ledger.write_bytes(whole[: page * 4096] + b"\xa5" * 4096 + whole[(page + 1) * 4096 :])
        assert sick(home)["ledger"][0] == "fail", page
    home.ledger.write_bytes(whole)
    assert sick(home) == {}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM events WHERE seq = 5", "1 events are missing"),
        ("UPDATE runs SET doc = x'7b'", "cannot be read"),
        ("UPDATE runs SET seq = 10000 WHERE id = 'held-dddd'", "held-dddd does not fit"),
        ("UPDATE runs SET id = 'other' WHERE id = 'held-dddd'", "other does not fit"),
    ],
)
def test_a_ledger_that_contradicts_itself(damage: str, says: str, home: Paths) -> None:
    db = sqlite3.connect(home.ledger)
    db.execute(damage)
    db.commit()
    db.close()
    assert sick(home)["ledger"][0] == "fail"
    assert says in seen(home)["ledger"].found


def test_a_ledger_of_a_newer_gpuwatch(home: Paths) -> None:
    db = sqlite3.connect(home.ledger)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    assert sick(home)["ledger-format"] == ("fail", "upgrade gputui")


def test_the_ledger_is_examined_while_somebody_writes_it(home: Paths) -> None:
    writer = sqlite3.connect(home.ledger, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("INSERT INTO launches VALUES ('other', 'r')")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO launches VALUES ('more', 'r')")
    assert sick(home) == {}
    writer.execute("COMMIT")
    writer.close()


def test_a_ledger_without_permission_is_not_called_damaged(home: Paths) -> None:
    home.ledger.unlink()
    home.ledger.mkdir()
    assert "nothing is lost" in sick(home)["ledger"][1]


def test_machines_that_nobody_watches(home: Paths) -> None:
    db = sqlite3.connect(home.ledger)
    db.execute("UPDATE labels SET gone_at = NULL WHERE run = 'held-dddd'")
    db.commit()
    db.close()
    level, todo = sick(home)["daemon"]
    assert (level, todo.startswith("start it")) == ("fail", True)
    assert "1 machine may be rented" in seen(home)["daemon"].found


@pytest.fixture
def lock(home: Paths) -> Iterator[None]:
    """Somebody holds the daemon's lock."""
    with home.lock.open("w") as file:
        file.write("4711\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("lock")
def test_a_daemon_that_holds_the_lock_and_is_silent(home: Paths) -> None:
    assert sick(home)["daemon"][0] == "fail"
    assert "pid 4711" in seen(home)["daemon"].found


@pytest.mark.usefixtures("lock")
def test_a_socket_that_nobody_listens_at_is_no_daemon(home: Paths) -> None:
    home.runtime.mkdir()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(home.socket))
    dead.close()
    assert "does not answer" in seen(home)["daemon"].found


def test_a_vault_without_marker_is_a_disk_that_is_not_mounted(home: Paths) -> None:
    (home.vault / ".gputui-vault").unlink()
    assert sick(home)["vault"] == ("fail", "mount its disk")
    (home.vault / "r1").mkdir()
    assert "touch" in sick(home)["vault"][1]
    shutil.rmtree(home.vault)
    assert "mount" in sick(home)["vault"][1]


def test_a_vault_that_is_almost_full(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(home.vault)

    class Full:
        f_frsize, f_blocks, f_bavail, f_files, f_favail = 4096, real.f_blocks, 10, 1000, 3

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    levels = [c.level for c in examine(Patient(home)) if c.name == "vault-space"]
    assert levels == [Level.FAIL, Level.WARN], "bytes and inodes"


def test_downloads_on_another_disk(home: Paths) -> None:
    other = Path("/dev/shm")
    partial = home.vault / "r1/.partial"
    partial.parent.mkdir()
    partial.symlink_to(other)
    assert other.stat().st_dev != home.vault.stat().st_dev, "this test needs two file systems"
    assert sick(home)["vault-partial"][0] == "fail"


def test_a_check_that_breaks_does_not_end_the_others(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Patient) -> Iterator[Check]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(doctor, "_CHECKS", (("one", broken), ("state", doctor.own.state)))
    first, second = examine(Patient(home))
    assert (first.level, "oops" in first.found, second.level) == (Level.FAIL, True, Level.OK)


def test_rclone_that_is_no_rclone(home: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin/rclone"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent))
    assert seen(home)["rclone"].level is Level.OK, "only mirrors need it"
    for script, level in (
        ("echo rclone v1.70.1", Level.OK),
        ("echo hello", Level.WARN),
        ("exit 3", Level.WARN),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert seen(home)["rclone"].level is level


# --- the clock -----------------------------------------------------------------------------------

NOW = 1_795_000_000.0


def test_a_sane_clock() -> None:
    assert clock_problems(NOW, stepped=0.1, disk=-0.5, records=[("ledger", NOW + 60)]) == []


@pytest.mark.parametrize(
    ("wall", "stepped", "disk", "record", "says"),
    [
        (0.0, 0, 0, -1.0, "year 1970"),
        (1e300, 0, 0, 0.0, "not plausible"),
        (NOW, 3600, 0, NOW, r"jumped by \+3600"),
        (NOW, -5, 0, NOW, "jumped by -5"),
        (NOW, 0, -30, NOW, "-30 s off"),
        (NOW, 0, 0, NOW + 7200, "2 h 00 min in the future"),
    ],
)
def test_what_speaks_against_a_clock(
    wall: float, stepped: float, disk: float, record: float, says: str
) -> None:
    problems = clock_problems(wall, stepped=stepped, disk=disk, records=[("x", record)])
    assert len(problems) == 1
    assert re.search(says, problems[0])


# --- the answer ----------------------------------------------------------------------------------


def test_only_failures_make_the_exit_code(
    home: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "discover", lambda: home)
    home.state.chmod(0o755)
    assert doctor.run(as_json=False, online=False) == 0
    assert "warn  state" in capsys.readouterr().out
    (home.keys / "id_ed25519").chmod(0o644)
    assert doctor.run(as_json=True, online=False) == 1
    shape = json.loads(capsys.readouterr().out)
    assert (shape["format"], shape["ok"]) == ("gputui-doctor/1", False)
    row = next(c for c in shape["checks"] if c["name"] == "ssh-key")
    assert (row["level"], row["do"]) == ("fail", f"chmod 600 {home.keys}/id_ed25519")


def test_every_finding_that_is_not_ok_says_what_to_do(home: Paths) -> None:
    shutil.rmtree(home.vault)
    home.ledger.write_bytes(b"x" * 9000)
    home.state.chmod(0o755)
    checks = list(examine(Patient(home)))
    assert not healthy(checks)
    assert all(c.todo for c in checks if c.level is not Level.OK)


def test_the_manual_names_every_check(home: Paths) -> None:
    manual = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    assert [name for name in [*seen(home), "account"] if f"`{name}`" not in manual] == []
