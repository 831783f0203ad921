"""A network volume whose pod is gone: its files come home through S3 (a real `rclone serve s3`), and are proved."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rclone_servers import Server

from gpuwatch.rescue.volume import KEYS, NoRescue, Source, key_of, read_listing
from integration.test_daemon_runpod import RunpodWorld

PLACE = "EU-RO-1"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[RunpodWorld]:
    made = RunpodWorld(tmp_path)
    try:
        made.start_simulator("--ephemeral")
        yield made
    finally:
        made.stop()


def volume_of(here: RunpodWorld) -> str:
    """A volume whose only pod has written to it and was destroyed."""
    import json
    import urllib.request

    def call(method: str, path: str, body: object = None) -> dict[str, object]:
        request = urllib.request.Request(
            here.url + path, method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Authorization", "Bearer sim-key")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")

    volume = str(
        call("POST", "/v2/network-volumes", {"name": "training", "size": 50, "dataCenter": PLACE})["id"]
    )
    folder = here.cloud / "volumes" / volume
    (folder / "runs" / "big").mkdir(parents=True)
    (folder / "runs" / "big" / "model.bin").write_bytes(b"weights" * 200_000)
    (folder / "runs" / "big" / "a name with spaces & 'quotes'.txt").write_text("x\n")
    (folder / "log.txt").write_text("done\n")
    return volume


def rescue(
    here: RunpodWorld, server: Server, *words: str, secret: str = "SECRETKEY"
) -> subprocess.CompletedProcess[str]:
    env = here.environment | {KEYS[0]: "ACCESSKEY", KEYS[1]: secret}
    argv = [
        sys.executable,
        "-m",
        "gputui",
        "rescue",
        *words,
        "--endpoint",
        f"http://127.0.0.1:{server.port}",
        "--place",
        PLACE,
    ]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env=env, cwd=here.home)


def test_every_file_comes_home_and_is_proved_with_no_pod_running(here: RunpodWorld) -> None:
    volume = volume_of(here)
    server = Server("s3", here.cloud / "volumes")
    server.start()
    try:
        listed = subprocess.run(
            [sys.executable, "-m", "gputui", "rescue"],
            capture_output=True,
            text=True,
            timeout=60,
            env=here.environment,
        )
        assert (listed.returncode, volume in listed.stdout, PLACE in listed.stdout) == (0, True, True), (
            listed.stderr
        )
        done = rescue(here, server, volume, "--to", "home")
        assert done.returncode == 0, done.stderr
        home = here.home / "home"
        assert (home / "runs" / "big" / "model.bin").read_bytes() == b"weights" * 200_000
        assert (home / "log.txt").read_text() == "done\n"
        checked = subprocess.run(
            ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=home, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout
        assert checked.stdout.count(": OK") == 3
        assert "SECRETKEY" not in done.stdout + done.stderr

        (home / "log.txt").write_text(
            "dont\n"
        )  # damaged here: the same size, found by reading back, copied again
        again = rescue(here, server, volume, "--to", "home", "--folder", "runs/big")
        assert again.returncode == 0
        assert "2 files" in again.stdout
        whole = rescue(here, server, volume, "--to", "home")
        assert (whole.returncode, (home / "log.txt").read_text()) == (0, "done\n")
        assert [p.read_text() for p in home.glob("log.txt.replaced-*")] == ["dont\n"], "nothing here is lost"
    finally:
        server.stop()


def test_the_volumes_own_list_and_what_stands_in_the_target_are_kept(here: RunpodWorld) -> None:
    volume = volume_of(here)
    (here.cloud / "volumes" / volume / "SHA256SUMS").write_text("theirs\n")
    (here.cloud / "volumes" / volume / "back\\slash").write_text("odd\n")
    home = here.home / "home"
    home.mkdir()
    (home / "gputui-SHA256SUMS").write_text("mine\n")
    server = Server("s3", here.cloud / "volumes")
    server.start()
    try:
        done = rescue(here, server, volume, "--to", "home")
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    assert (home / "SHA256SUMS").read_text() == "theirs\n"
    assert [p.read_text() for p in home.glob("gputui-SHA256SUMS.replaced-*")] == ["mine\n"]
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "gputui-SHA256SUMS"], cwd=home, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout.count(": OK")) == (0, 5), checked.stdout


def test_a_wrong_key_and_an_empty_folder_are_said(here: RunpodWorld) -> None:
    volume = volume_of(here)
    server = Server("s3", here.cloud / "volumes")
    server.start()
    try:
        refused = rescue(here, server, volume, secret="another-secret")
        assert refused.returncode == 2
        assert "cannot be listed" in refused.stderr
        assert "another-secret" not in refused.stderr + refused.stdout
        assert rescue(here, server, volume, "--folder", "nothing/here").returncode == 2
        assert not (here.home / f"rescued-{volume}" / "log.txt").exists()
    finally:
        server.stop()


@pytest.mark.parametrize("folder", ["../other", "a/../../b", "a//b", "a\nb"])
def test_no_folder_leads_out_of_the_volume(folder: str) -> None:
    with pytest.raises(NoRescue, match="no folder of a volume"):
        Source("abc123", PLACE, folder)


def test_what_cannot_be_begun_is_said_with_the_way_out() -> None:
    with pytest.raises(NoRescue, match="no volume's id"):
        Source("--config", PLACE)
    with pytest.raises(NoRescue, match="start a pod instead"):
        Source("abc123", "AP-JP-1")
    with pytest.raises(NoRescue, match="another one than the account's"):
        key_of({KEYS[0]: "user_1"})
    made = Source("abc123", PLACE).environment("user_1", "rps_2")
    assert made["RCLONE_S3_ENDPOINT"] == "https://s3api-eu-ro-1.runpod.io/"


def test_hostile_names_of_a_volume_are_left_out_and_named() -> None:
    listing = b'[{"Path": "ok", "Size": 1}, {"Path": "../up", "Size": 1}, {"Path": "/abs", "Size": 1}, {"Path": "a\\nb", "Size": 1}]'
    wanted = read_listing(listing, folds=False)
    assert wanted.files == {"ok": 1}
    assert set(wanted.refused) == {"../up", "/abs", "a\nb"}
    for broken in (
        b"",
        b"{}",
        b'[{"Path": 1, "Size": 1}]',
        b'[{"Path": "a"}]',
        b'[{"Path": "a", "Size": true}]',
        b"[" * 100_000,
    ):
        with pytest.raises(NoRescue):
            read_listing(broken, folds=False)
