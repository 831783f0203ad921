"""The stand-in for nvidia-smi prints what the real one prints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gpucloudsim.boxes import gpu, nvidia_smi
from gpucloudsim.engine.catalog import CATALOG

Captured = pytest.CaptureFixture[str]
H100 = next(model for model in CATALOG if model.name == "H100 SXM")


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A box with two idle H100s."""
    (tmp_path / "var").mkdir()
    write(tmp_path)
    return tmp_path


def write(box: Path, fault: str = "") -> None:
    rows, _ = gpu.measure(box, [], gpu.Load(), 1.0, H100, 2)
    apps = [{"gpu": 0, "pid": 4242, "name": "python3", "mem": 512}]
    gpu.write(box, rows, apps, "550.127.05", 12.4, fault, time.time())


def ask(box: Path, capsys: Captured, *arguments: str) -> tuple[int, list[str]]:
    code = nvidia_smi.main([str(box), *arguments])
    return code, capsys.readouterr().out.splitlines()


def test_list(box: Path, capsys: Captured) -> None:
    code, lines = ask(box, capsys, "-L")
    assert code == 0
    assert [line.split(" (UUID: GPU-")[0] for line in lines] == [
        "GPU 0: NVIDIA H100 80GB HBM3",
        "GPU 1: NVIDIA H100 80GB HBM3",
    ]


def test_query_with_header_and_units(box: Path, capsys: Captured) -> None:
    fields = "index,name,memory.total,utilization.gpu,power.draw,temperature.gpu"
    _, lines = ask(box, capsys, f"--query-gpu={fields}", "--format=csv")
    assert lines == [
        "index, name, memory.total [MiB], utilization.gpu [%], power.draw [W], temperature.gpu",
        "0, NVIDIA H100 80GB HBM3, 81559 MiB, 0 %, 84.00 W, 31",
        "1, NVIDIA H100 80GB HBM3, 81559 MiB, 0 %, 84.00 W, 32",
    ]


def test_query_bare(box: Path, capsys: Captured) -> None:
    _, lines = ask(
        box,
        capsys,
        "-i",
        "1",
        "--query-gpu=index,memory.used,driver_version",
        "--format=csv,noheader,nounits",
    )
    assert lines == ["1, 1, 550.127.05"]


def test_compute_apps(box: Path, capsys: Captured) -> None:
    _, lines = ask(box, capsys, "--query-compute-apps=pid,process_name,used_memory", "--format=csv")
    assert lines == ["pid, process_name, used_gpu_memory [MiB]", "4242, python3, 512 MiB"]


def test_xml_and_table(box: Path, capsys: Captured) -> None:
    _, lines = ask(box, capsys, "-q", "-x")
    root = ET.fromstring("\n".join(lines))
    assert root.findtext("attached_gpus") == "2"
    assert root.findtext("gpu/fb_memory_usage/total") == "81559 MiB"
    _, lines = ask(box, capsys)
    assert any("Driver Version: 550.127.05" in line and "CUDA Version: 12.4" in line for line in lines)
    assert {len(line) for line in lines if line.startswith(("|", "+"))} == {91}
    assert sum("4242" in line and "python3" in line for line in lines) == 1


def test_unknown_fields_and_options_are_refused_as_the_tool_does(box: Path, capsys: Captured) -> None:
    assert ask(box, capsys, "--query-gpu=nonsense", "--format=csv") == (
        2,
        ['Field "nonsense" is not a valid field to query.', ""],
    )
    assert ask(box, capsys, "--no-such-option")[0] == 1
    assert ask(box, capsys, "-i", "9", "-L") == (6, ["No devices were found"])


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("mismatch", 18, "Driver/library version mismatch"),
        ("nodriver", 9, "couldn't communicate with the NVIDIA driver"),
        ("nodevices", 6, "No devices were found"),
        ("na", 0, "[N/A], [N/A]"),
        ("err", 0, "[Unknown Error], ERR!"),
    ],
)
def test_faults(box: Path, capsys: Captured, fault: str, code: int, text: str) -> None:
    write(box, fault)
    got, lines = ask(box, capsys, "--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader")
    assert got == code
    assert text in "\n".join(lines)


def test_a_loop_repeats_without_repeating_the_header(
    box: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter([None, None])

    def pause(seconds: float) -> None:
        assert seconds == 0.25
        if next(rounds, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    with pytest.raises(KeyboardInterrupt):
        nvidia_smi.main([str(box), "-i", "0", "--query-gpu=index", "--format=csv", "-lms", "250"])
    assert capsys.readouterr().out.split() == ["index", "0", "0", "0"]


def test_stale_state_is_measured_afresh_instead_of_repeated(box: Path, capsys: Captured) -> None:
    state = json.loads((box / "var" / "gpu.json").read_text())
    state["at"] = 0
    state["gpus"][0]["util"] = 97
    (box / "var" / "gpu.json").write_text(json.dumps(state))
    _, lines = ask(box, capsys, "-i", "0", "--query-gpu=utilization.gpu", "--format=csv,noheader")
    assert lines == ["0 %"]
