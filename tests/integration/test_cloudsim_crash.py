"""`kill -9` of the simulator loses nothing: contracts, bills, ports, host keys and running jobs are still there."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cloudsim_fixtures import Simulator, SshUser

pytest_plugins = ["cloudsim_fixtures"]


def host_key(port: int) -> bytes:
    done = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", "-p", str(port), "127.0.0.1"], capture_output=True, timeout=20
    )
    return done.stdout.split(b"\n")[0]


def test_everything_survives_a_kill(own_simulator: Simulator, ssh_user: SshUser) -> None:
    sim = own_simulator
    instance = sim.rent(label="survivor")
    port, url = sim.port(instance), sim.url
    key = host_key(port)
    ssh_user.run(
        port,
        "setsid sh -c 'while :; do date; sleep 0.05; done' > ticks 2>&1 < /dev/null & echo $! > pid; echo x > file",
    )
    pid = int((sim.box(instance) / "root" / "pid").read_text())
    before = sim.known(instance)
    sim.restart(signal.SIGKILL)
    assert sim.url == url
    after = sim.wait(instance, "running", ssh=True)
    assert (after["label"], after["boots"], after["created"]) == ("survivor", 1, before["created"])
    assert after["cost"] >= before["cost"]
    assert sim.port(instance) == port
    assert host_key(port) == key
    assert sim.alive(pid)
    assert (
        ssh_user.run(
            port, "before=$(wc -l < ticks); until [ $(wc -l < ticks) -gt $before ]; do :; done; cat file"
        ).stdout
        == b"x\n"
    )
    assert sim.call("DELETE", f"/api/v0/instances/{instance}/")[0] == 200
    assert not sim.alive(pid)
    assert not sim.box(instance).exists()


def test_a_box_half_deleted_by_a_kill_is_deleted_at_the_next_start(own_simulator: Simulator) -> None:
    sim = own_simulator
    orphan, doomed = sim.state / "boxes" / "999", sim.state / "boxes" / ".deleted-5-abc"
    for path in (orphan, doomed):
        (path / "root").mkdir(parents=True)
        (path / "root" / "file").write_text("left over")
    sim.restart()
    instance = sim.rent()
    assert not orphan.exists()
    assert not doomed.exists()
    assert sim.box(instance).exists()


def test_a_clean_end_exits_with_zero_and_leaves_jobs_running(
    own_simulator: Simulator, ssh_user: SshUser
) -> None:
    sim = own_simulator
    instance = sim.rent()
    ssh_user.run(sim.port(instance), "setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $! > pid")
    pid = int((sim.box(instance) / "root" / "pid").read_text())
    assert sim.end(signal.SIGTERM) == 0
    assert not (sim.state / "ready.json").exists()
    assert sim.alive(pid)
    sim.start()
    assert sim.wait(instance, "running", ssh=True)["boots"] == 1


def test_a_second_simulator_on_the_same_state_is_refused(own_simulator: Simulator) -> None:
    command = [sys.executable, "-m", "gpucloudsim", "--state", str(own_simulator.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 5
    assert "another simulator runs on" in done.stderr


def test_a_foreign_state_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cloud.json").write_text('{"not": "ours"}')
    done = subprocess.run(
        [sys.executable, "-m", "gpucloudsim", "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 5
    assert "cloud.json" in done.stderr
    assert (tmp_path / "cloud.json").read_text() == '{"not": "ours"}'
