"""The sentinel's sampling on this very machine: real /proc, real processes, an nvidia-smi that argues about fields."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpucloudsim.boxes import nvidia_smi
from gpuwatch.sentinel.vitals import SMI_FIELDS, Processes, Smi, Vitals
from gpuwatch.telemetry.read import read_vitals
from gpuwatch.telemetry.sample import SmiProblem, Throttle
from gpuwatch.telemetry.sample import Vitals as Sample
from gpuwatch.telemetry.smi import read_gpus


def until(look: Callable[[], object]) -> object:
    """The first truthy answer; pytest's time limit is the deadline."""
    while not (found := look()):
        time.sleep(0.02)  # nothing here announces itself: the kernel's counters are only read
    return found


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that belong to the box; ends them."""
    monkeypatch.setenv("BOX_BOOT_ID", str(tmp_path))
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def seen_from_outside(program: str = "/no/sentinel") -> Processes:
    """A look that does not take this test's children for the sentinel's own."""
    processes = Processes(program)
    processes.pid = "0"
    return processes


def burn(cores: float = 1.0) -> list[str]:
    return [sys.executable, "-S", "-c", "print(flush=True)\nwhile True: pass"]


def test_the_cpu_of_others_counts_and_our_own_does_not(
    here: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    program = tmp_path / "sentinel.py"
    program.write_text("print(flush=True)\nwhile True: pass\n")
    ours = here(sys.executable, "-S", str(program), "send")
    assert ours.stdout is not None
    ours.stdout.readline()
    processes = seen_from_outside(str(program))
    processes.now()
    found = until(lambda: (r := processes.now()) and r.get("own_cpu", 0) > 0.05 and r)
    assert isinstance(found, dict)
    assert found["cpu"] == 0
    other = here(*burn())
    assert other.stdout is not None
    other.stdout.readline()
    until(lambda: processes.now().get("cpu", 0) > 0.05)


def test_what_the_sentinel_supervises_is_the_job_and_not_us(
    here: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    program = tmp_path / "sentinel.py"
    program.write_text(f"import subprocess, sys\nsubprocess.run({burn()!r})\n")
    supervisor = here(sys.executable, "-S", str(program), "start")
    processes = seen_from_outside(str(program))
    assert supervisor.stdout is not None
    supervisor.stdout.readline()
    until(lambda: processes.now().get("cpu", 0) > 0.05)


def test_what_somebody_writes_to_the_disk_is_seen(
    here: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    processes = seen_from_outside()
    processes.now()
    target = str(tmp_path / "growing")
    here(sys.executable, "-S", "-c",
         f"import os\nwith open({target!r}, 'wb') as f:\n while True: f.write(bytes(1 << 20)); f.flush(); os.fsync(f.fileno()); f.seek(0)")  # fmt: skip
    until(lambda: processes.now().get("written", 0) > 100_000)


def test_other_boxes_on_the_same_kernel_are_not_seen(here: Callable[..., subprocess.Popen[bytes]]) -> None:
    stranger = subprocess.Popen(burn(), stdout=subprocess.PIPE, env=dict(os.environ, BOX_BOOT_ID="another"))
    try:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        processes = seen_from_outside()
        before = stranger_ticks(stranger.pid)
        processes.now()
        until(lambda: stranger_ticks(stranger.pid) > before + 20)
        assert processes.now()["cpu"] < 0.05
    finally:
        stranger.kill()
        stranger.communicate()


def stranger_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A shell that the process table knows as `sshd`."""
    path = tmp_path / "sshd"
    path.write_bytes(Path(os.path.realpath("/bin/sh")).read_bytes())
    path.chmod(0o755)
    return path


def test_a_login_with_a_terminal_is_a_session_with_an_age(
    here: Callable[..., subprocess.Popen[bytes]], server: Path
) -> None:
    spawn = "import pty; pty.spawn(['sh', '-c', 'echo hello; exec sleep 1000'])"
    here(str(server), "-c", f'{sys.executable} -S -c "{spawn}"; true')
    processes = seen_from_outside()

    def terminals() -> list[object]:
        return [row for row in processes.now()["sessions"] if row[0] == "terminal"]

    rows = until(terminals)
    assert isinstance(rows, list)
    assert len(rows) == 1
    assert 0 <= rows[0][1] < 120


def test_a_copy_over_ssh_without_a_terminal_is_a_session_too(
    here: Callable[..., subprocess.Popen[bytes]], server: Path
) -> None:
    here(str(server), "-c", "sleep 1000; true")
    processes = seen_from_outside()
    assert until(lambda: processes.now()["sessions"]) == [["command", None]]


def test_our_own_way_in_is_no_session(
    here: Callable[..., subprocess.Popen[bytes]], server: Path, tmp_path: Path
) -> None:
    program = tmp_path / "sentinel.py"
    program.write_text("print(flush=True)\nimport time; time.sleep(1000)\n")
    ours = here(str(server), "-c", f"sh -c '{sys.executable} -S {program} watch; true'; true")
    assert ours.stdout is not None
    ours.stdout.readline()
    assert seen_from_outside(str(program)).now()["sessions"] == []


@pytest.fixture
def asked() -> Iterator[Callable[[], Smi]]:
    """Makes the one nvidia-smi of a test; ends it."""
    made: list[Smi] = []

    def ask() -> Smi:
        made.append(Smi(1))
        return made[-1]

    yield ask
    for smi in made:
        smi.close()


def put_smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "nvidia-smi").write_text(body)
    (folder / "nvidia-smi").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, fault: str = "", drop: tuple[str, ...] = ()
) -> Path:
    """The simulator's nvidia-smi in the path; `drop`: fields that its driver does not know."""
    row = {"name": "NVIDIA H100 80GB HBM3", "bus": "00000000:01:00.0", "cap": "9.0", "ecc": True, "util": 55, "mem_total": 81559,
           "mem_used": 1000, "mem_reserved": 420, "temp": 60, "power": 500.0, "power_limit": 700.0}  # fmt: skip
    gpus = [row | {"index": i, "uuid": f"GPU-{i}"} for i in range(count)]
    apps = [{"gpu": 0, "pid": 42, "name": "python3", "mem": 900}]
    state = {
        "at": time.time() + 1e6,
        "driver": "570.1",
        "cuda": "12.8",
        "fault": fault,
        "gpus": gpus,
        "apps": apps,
    }
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "gpu.json").write_text(json.dumps(state))
    cut = "; ".join(f"m.FIELDS.pop({name!r}, None)" for name in drop) or "pass"
    body = f"import importlib.util as u, sys\ns = u.spec_from_file_location('m', {nvidia_smi.__file__!r}); m = u.module_from_spec(s)\n"
    body += f"s.loader.exec_module(m); {cut}\nsys.exit(m.main([{str(tmp_path)!r}, *sys.argv[1:]]))\n"
    put_smi(tmp_path / "bin", f"#!{sys.executable} -S\n{body}", monkeypatch)
    return tmp_path


def test_one_nvidia_smi_answers_for_eight_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[[], Smi]
) -> None:
    simulated(tmp_path, monkeypatch, 8)
    smi = asked()
    until(lambda: read_gpus(smi.now()).whole and read_gpus(smi.now()).processes)
    gpus = read_gpus(smi.now())
    assert ([row.index for row in gpus.rows], gpus.expected, gpus.driver) == (list(range(8)), 8, "570.1")
    assert (gpus.rows[0].utilisation, gpus.rows[0].clock, gpus.rows[0].throttle) == (
        55.0,
        1980.0,
        Throttle(0),
    )
    assert [(p.gpu, p.pid, p.memory) for p in gpus.processes] == [("GPU-0", 42, 900 << 20)]


def test_fields_that_an_old_driver_does_not_know_are_asked_otherwise_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[[], Smi]
) -> None:
    simulated(tmp_path, monkeypatch, 1, drop=("clocks_event_reasons.active", "mig.mode.current"))
    smi = asked()
    until(lambda: read_gpus(smi.now()).whole)
    assert "clocks_throttle_reasons.active" in smi.fields
    assert "mig.mode.current" not in smi.fields
    assert len(smi.fields) == len(SMI_FIELDS) - 1


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("mismatch", SmiProblem.MISMATCH),
        ("nodriver", SmiProblem.NO_DRIVER),
        ("nodevices", SmiProblem.NO_DEVICES),
    ],
)
def test_a_driver_that_complains_is_a_problem_and_no_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[[], Smi], fault: str, problem: SmiProblem
) -> None:
    simulated(tmp_path, monkeypatch, 1, fault=fault)
    smi = asked()
    until(lambda: read_gpus(smi.now()).problem is problem)


@pytest.mark.parametrize("fault", ["na", "err"])
def test_cells_without_numbers_come_home_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[[], Smi], fault: str
) -> None:
    simulated(tmp_path, monkeypatch, 1, fault=fault)
    smi = asked()
    until(lambda: read_gpus(smi.now()).rows)
    gpus = read_gpus(smi.now())
    assert gpus.rows[0].utilisation is None
    assert not gpus.whole


def test_a_box_without_nvidia_smi_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[[], Smi]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    smi = asked()
    until(lambda: read_gpus(smi.now()).problem is SmiProblem.NO_BINARY)


def test_a_whole_sample_of_this_machine_is_read(tmp_path: Path) -> None:
    vitals = Vitals(1, "/no/sentinel")
    try:
        vitals.now(str(tmp_path))
        found = read_vitals(json.loads(json.dumps(vitals.now(str(tmp_path)))))
    finally:
        vitals.smi.close()
    assert isinstance(found, Sample)
    assert found.processes is not None
    assert found.processes.cpu is not None
    assert found.disk_free is not None
    assert found.cores is not None
    assert found.net_received is not None
