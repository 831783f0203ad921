"""The real daemon under a supervisor that speaks systemd's protocol."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from integration.world import World


def test_systemd_hears_when_it_is_ready_that_it_works_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        home = tmp_path / "home"
        home.mkdir()
        here = World(home)
        try:
            here.start_simulator("--ephemeral")
            here.start_daemon()
            heard = [listener.recv(200) for _ in range(4)]
            assert b"READY=1\nSTATUS=watching" in heard
            assert heard.count(b"WATCHDOG=1") >= 2
        finally:
            here.stop()
        listener.setblocking(False)
        last = b""
        while last != b"STOPPING=1":
            last = listener.recv(200)
