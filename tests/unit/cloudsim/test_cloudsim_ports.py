"""Ports of boxes are reserved before they listen."""

from __future__ import annotations

import socket

import pytest

from gpucloudsim.boxes.sshd import bind, reusable


def test_a_reserved_port_refuses_connections_and_nobody_else_gets_it() -> None:
    with bind(None) as mine:
        port = mine.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        with bind(port) as other:
            assert other.getsockname()[1] != port
        mine.listen()
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_port_is_taken_again_though_old_connections_linger() -> None:
    with bind(None) as first:
        port = first.getsockname()[1]
        reusable(first).listen()
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            accepted, _ = first.accept()
            accepted.close()
            assert client.recv(1) == b""
    with bind(port) as again:
        assert again.getsockname()[1] == port
        reusable(again).listen()
