"""The daemon is started when none answers, once, and its failure is explained."""

import os
import signal
import sys
from pathlib import Path

import pytest
from ui.conftest import ThreadedDaemon

from gputui.spawn import answers, start_daemon
from gpuwatch.client.errors import DaemonUnreachable
from gpuwatch.paths import discover

FAKE = Path(__file__).parent / "fake_daemon.py"


def test_one_that_answers_is_left_alone(served: ThreadedDaemon) -> None:
    assert start_daemon(discover(), command=["/bin/false"]) is False


def test_a_new_one_gets_its_own_session_and_outlives_the_call(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    pid_file = home / "pid"
    paths = discover()
    script = f"echo $$ > {pid_file}; exec {sys.executable} {FAKE} --socket {paths.socket}"
    assert start_daemon(paths, command=["/bin/sh", "-c", script]) is True
    pid = int(pid_file.read_text())
    try:
        assert answers(paths.socket)
        assert os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def test_one_that_dies_is_quoted(home: Path) -> None:
    command = ["/bin/sh", "-c", "echo the ledger is from a newer gpuwatch >&2; exit 3"]
    with pytest.raises(
        DaemonUnreachable, match=r"(?s)exited with status 3.*the ledger is from a newer gpuwatch"
    ):
        start_daemon(discover(), command=command, grace=0.0)
