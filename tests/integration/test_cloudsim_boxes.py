"""Boxes are real: OpenSSH's own clients, processes, disks, GPUs that follow the load."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from cloudsim_fixtures import Simulator, SshUser

pytest_plugins = ["cloudsim_fixtures"]

BLOB = os.urandom(6_000_011)


@pytest.fixture(scope="module")
def instance(simulator: Simulator, ssh_user: SshUser) -> int:
    """A running box."""
    return simulator.rent(label="box", env={"FROM_CREATE": "yes"})


@pytest.fixture(scope="module")
def port(simulator: Simulator, instance: int) -> int:
    """Its SSH port."""
    return simulator.port(instance)


def test_exec_passes_bytes_unchanged_both_ways(ssh_user: SshUser, port: int) -> None:
    done = ssh_user.run(port, "cat; echo oops >&2", BLOB)
    assert done.stdout == BLOB
    assert done.stderr.endswith(b"oops\n")
    assert done.returncode == 0


def test_exit_status_and_signal_are_reported(ssh_user: SshUser, port: int) -> None:
    assert ssh_user.run(port, "exit 7").returncode == 7
    assert ssh_user.run(port, "kill -9 $$").returncode == 255
    assert ssh_user.run(port, "no-such-command").returncode == 127


def test_banner_is_on_stderr_and_only_root_may_enter(ssh_user: SshUser, port: int) -> None:
    done = ssh_user.run(port, "id -un")
    assert b"Welcome to vast.ai" in done.stderr
    assert b"Welcome" not in done.stdout
    assert b"Permission denied (publickey)" in ssh_user.run(port, "true", user="someone").stderr


def test_closing_stdin_ends_a_reader(ssh_user: SshUser, port: int) -> None:
    assert ssh_user.run(port, "wc -c", b"x" * 1000).stdout.split() == [b"1000"]


def test_a_client_that_stops_reading_ends_the_writer_without_filling_the_simulators_memory(
    simulator: Simulator, ssh_user: SshUser, port: int
) -> None:
    assert simulator.process is not None
    before = psutil.Process(simulator.process.pid).memory_info().rss
    command = ["ssh", *ssh_user.options(port), "root@127.0.0.1", "echo $$; exec cat /dev/zero"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
        assert reader.stdout is not None
        pid = int(reader.stdout.readline())
        assert len(reader.stdout.read(1 << 20)) == 1 << 20
        assert psutil.Process(simulator.process.pid).memory_info().rss < before + (64 << 20)
        reader.stdout.close()
        reader.wait(30)
    simulator.await_end(pid)
    assert not simulator.alive(pid)


def test_a_process_that_does_not_read_holds_the_client_back(
    simulator: Simulator, ssh_user: SshUser, port: int
) -> None:
    assert simulator.process is not None
    before = psutil.Process(simulator.process.pid).memory_info().rss
    command = ["ssh", *ssh_user.options(port), "root@127.0.0.1", "sleep 300"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdin is not None
        os.set_blocking(writer.stdin.fileno(), False)
        accepted, quiet = 0, 0
        while quiet < 5 and accepted < 100 << 20:
            if select.select([], [writer.stdin], [], 0.1)[1]:
                accepted, quiet = accepted + os.write(writer.stdin.fileno(), b"x" * 65536), 0
            else:
                quiet += 1
        rss = psutil.Process(simulator.process.pid).memory_info().rss
        writer.kill()
    assert accepted < 64 << 20
    assert rss < before + (64 << 20)


def test_environment_is_the_boxes_and_nothing_of_the_simulators(
    simulator: Simulator, ssh_user: SshUser, instance: int, port: int
) -> None:
    text = ssh_user.run(port, "env").stdout.decode()
    env = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    box = simulator.box(instance)
    assert env["HOME"] == str(box / "root")
    assert env["WORKSPACE"] == env["DATA_DIRECTORY"] == str(box / "workspace")
    assert env["CONTAINER_ID"] == str(instance)
    assert env["VAST_CONTAINERLABEL"] == f"C.{instance}"
    assert env["BOX_BOOT_ID"] == (box / "root" / ".box_boot_id").read_text().strip()
    assert "FROM_CREATE" not in env
    assert "FROM_CREATE=yes" in (box / "root" / ".container_env").read_text()
    assert simulator.key not in text
    assert not [
        path for path in box.rglob("*") if path.is_file() and simulator.key.encode() in path.read_bytes()
    ]


def test_terminal_is_real(ssh_user: SshUser, port: int) -> None:
    master, slave = pty.openpty()
    child = subprocess.Popen(
        ["ssh", "-tt", *ssh_user.options(port), "root@127.0.0.1", "tty; stty size; [ -t 1 ] && echo is-a-tty; exit 5"],
        stdin=slave, stdout=slave, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while select.select([master], [], [], 20)[0]:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(master)
    assert child.wait(10) == 5
    assert b"/dev/pts/" in shown
    assert b"is-a-tty" in shown


def test_sftp_resumes_a_partial_download(ssh_user: SshUser, port: int, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(BLOB)
    assert ssh_user.sftp(port, f"put {tmp_path / 'whole'} data.bin").returncode == 0
    (tmp_path / "part").write_bytes(BLOB[:2_000_000])
    assert ssh_user.sftp(port, f"reget data.bin {tmp_path / 'part'}").returncode == 0
    assert (tmp_path / "part").read_bytes() == BLOB


@pytest.mark.parametrize("legacy", [[], ["-O"]], ids=["over sftp", "legacy protocol"])
def test_scp_copies_there_and_back(ssh_user: SshUser, port: int, tmp_path: Path, legacy: list[str]) -> None:
    (tmp_path / "a").write_bytes(BLOB)
    options = [*legacy, "-q", *ssh_user.options(port, "-P")]
    subprocess.run(["scp", *options, str(tmp_path / "a"), "root@127.0.0.1:copied"], check=True, timeout=60)
    subprocess.run(["scp", *options, "root@127.0.0.1:copied", str(tmp_path / "b")], check=True, timeout=60)
    assert hashlib.sha256((tmp_path / "b").read_bytes()).digest() == hashlib.sha256(BLOB).digest()


def test_sftp_writes_only_inside_the_box(ssh_user: SshUser, port: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = ssh_user.sftp(port, f"put {tmp_path / 'file'} {tmp_path / 'outside'}")
    assert done.returncode != 0
    assert not (tmp_path / "outside").exists()


def test_detached_processes_outlive_their_session(
    simulator: Simulator, ssh_user: SshUser, instance: int, port: int
) -> None:
    ssh_user.run(port, "setsid sleep 300 >/dev/null 2>&1 < /dev/null & echo $! > sleeper")
    pid = int((simulator.box(instance) / "root" / "sleeper").read_text())
    assert simulator.alive(pid)


def test_forwarding_reaches_a_server_in_the_box(ssh_user: SshUser, port: int) -> None:
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
        "c, _ = s.accept(); c.sendall(b'from the box'); c.close()"
    )
    command = ["ssh", *ssh_user.options(port), "root@127.0.0.1", f'python3 -c "{code}"']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        inner = int(server.stdout.readline())
        done = subprocess.run(
            ["ssh", *ssh_user.options(port), "-W", f"127.0.0.1:{inner}", "root@127.0.0.1"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
        )  # fmt: skip
    assert done.stdout == b"from the box"


def test_an_eleventh_session_on_one_connection_is_refused(
    ssh_user: SshUser, port: int, tmp_path: Path
) -> None:
    control = ["-o", f"ControlPath={tmp_path}/c", *ssh_user.options(port)]
    subprocess.run(
        ["ssh", "-o", "ControlMaster=yes", "-fN", *control, "root@127.0.0.1"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    holders = []
    for _ in range(10):
        holder = subprocess.Popen(
            ["ssh", *control, "root@127.0.0.1", "echo in; cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
    one_more = subprocess.run(["ssh", *control, "root@127.0.0.1", "true"], capture_output=True, timeout=20)
    for holder in holders:
        holder.communicate(b"")
    subprocess.run(["ssh", "-O", "exit", *control, "root@127.0.0.1"], check=True, capture_output=True)
    assert b"Session open refused by peer" in one_more.stderr


def test_gpus_follow_the_load_of_the_box(ssh_user: SshUser, port: int) -> None:
    idle = ssh_user.run(port, "nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits").stdout
    assert int(idle) < 15
    watch = (
        "setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & busy=$!; "
        "nvidia-smi --query-gpu=utilization.gpu,power.draw --format=csv,noheader,nounits -lms 200 | "
        "while read -r util power; do [ ${util%,} -gt 20 ] && break; done; echo busy; kill $busy"
    )
    assert b"busy" in ssh_user.run(port, watch).stdout


def test_stop_kills_processes_and_keeps_the_disk_and_start_runs_onstart_again(
    simulator: Simulator, ssh_user: SshUser
) -> None:
    instance = simulator.rent(onstart="echo started >> starts; echo $BOX_BOOT_ID >> boots")
    port = simulator.port(instance)
    ssh_user.run(port, "setsid sleep 300 >/dev/null 2>&1 < /dev/null & echo $! > sleeper; echo kept > file")
    home = simulator.box(instance) / "root"
    pid = int((home / "sleeper").read_text())
    simulator.call("PUT", f"/api/v0/instances/{instance}/", {"state": "stopped"})
    simulator.wait(instance, "stopped")
    assert not simulator.alive(pid)
    assert ssh_user.run(port, "true").returncode == 255
    simulator.call("PUT", f"/api/v0/instances/{instance}/", {"state": "running"})
    simulator.wait(instance, "running", ssh=True)
    text = ssh_user.run(
        simulator.port(instance),
        "until [ $(wc -l < boots) = 2 ]; do :; done; cat file starts; sort -u boots | wc -l",
    ).stdout
    assert text.split() == [b"kept", b"started", b"started", b"2"]


def test_destroy_deletes_the_directory_and_every_process(simulator: Simulator, ssh_user: SshUser) -> None:
    instance = simulator.rent()
    port, box = simulator.port(instance), simulator.box(instance)
    ssh_user.run(
        port, "for i in 1 2 3; do setsid sleep 300 >/dev/null 2>&1 < /dev/null & echo $! >> pids; done"
    )
    pids = [int(line) for line in (box / "root" / "pids").read_text().split()]
    assert all(simulator.alive(pid) for pid in pids)
    assert simulator.call("DELETE", f"/api/v0/instances/{instance}/")[0] == 200
    assert not box.exists()
    assert not any(simulator.alive(pid) for pid in pids)
    assert simulator.row(instance) is None
    assert ssh_user.run(port, "true").returncode == 255


def test_the_key_in_the_box_may_stop_its_own_instance_and_nothing_else(
    simulator: Simulator, ssh_user: SshUser, instance: int
) -> None:
    other = simulator.rent()
    stop = (
        "import os,urllib.request as u; "
        "u.urlopen(u.Request(os.environ['VAST_URL']+'/api/v0/instances/'+os.environ['CONTAINER_ID']+'/', method='PUT', "
        "data=b'{\"state\":\"stopped\"}', headers={'Authorization':'Bearer '+os.environ['CONTAINER_API_KEY']}))"
    )
    ssh_user.run(
        simulator.port(other),
        f'python3 -c "{stop}"'.replace('{"state":"stopped"}', '{\\"state\\":\\"stopped\\"}'),
    )
    simulator.wait(other, "stopped")
    key = (simulator.box(other) / "root" / ".vast_api_key").read_text().strip()
    assert simulator.call("DELETE", f"/api/v0/instances/{instance}/", {}, key=key)[0] == 403
    assert simulator.call("GET", "/api/v0/users/current", key=key)[0] == 403
    assert simulator.known(instance)["phase"] == "running"
