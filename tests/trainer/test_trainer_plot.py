"""Curves are drawn from what a run recorded."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from gputrain.cli import main
from gputrain.errors import ExitCode


def write_run(path: Path, losses: dict[int, float | None]) -> None:
    path.mkdir()
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in losses.items()]
    (path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99, "lo']))


def test_several_runs_are_drawn_and_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "a<b", {1: 5.0, 2: 4.0, 3: None, 4: 2.0})
    write_run(tmp_path / "other", {1: 5.0, 4: 3.0})
    out = tmp_path / "loss.svg"
    assert main(["plot", str(tmp_path / "a<b"), str(tmp_path / "other"), "--out", str(out)]) == 0
    svg = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring(out.read_text())
    curves = [line.attrib["points"].split() for line in root.iter(f"{svg}polyline")]
    assert [len(points) for points in curves] == [3, 2]
    heights = [float(point.split(",")[1]) for point in curves[0]]
    assert heights == sorted(heights), "a falling loss falls on the page"
    assert "a<b" in [text.text for text in root.iter(f"{svg}text")]


def test_a_run_without_the_metric_is_an_error(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {1: 5.0})
    assert main(["plot", str(tmp_path / "run"), "--metric", "nope"]) == ExitCode.DATA
    assert main(["plot", str(tmp_path / "nowhere")]) == ExitCode.DATA
