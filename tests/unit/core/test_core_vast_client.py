"""The vendor's HTTP client with our bounds, against a server that means ill: long answers, slow answers, broken ones."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpuproviders.errors import Ambiguous, Unavailable
from gpuproviders.model import Offer, Order
from gpuproviders.money import MicroUsd
from gpuproviders.vast import VastProvider, transport
from gpuproviders.vast.client import BoundedClient

KEY = "s3cr3t-account-key-0123456789"
ORDER = Order(
    label="gputui-r-1-ab", image="img", disk=20 * 10**9,
    offer=Offer(
        provider="vast", offer_id="9", machine_id="1", gpu_name="RTX 4090", gpu_count=1, gpu_memory=24 * 10**9,
        price=MicroUsd(400_000), disk_price=MicroUsd(1_000),
    ),
)  # fmt: skip


@contextmanager
def server(*answers: bytes, drip: threading.Event | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these bytes, one answer a connection; with `drip` it then holds on until that is set."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    heard: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(65536))
                try:
                    connection.sendall(answer)
                    if drip is not None:
                        while not drip.wait(0.01):
                            connection.sendall(b" ")
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        if drip is not None:
            drip.set()
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closing does not
        thread.join()
        listener.close()


def http(body: bytes, *more: str, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {size}",
        *more,
        "Connection: close",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def client(url: str, *, retry: int = 1, most: int = 100_000, deadline: float = 20.0) -> BoundedClient:
    return BoundedClient(api_key=KEY, server_url=url, retry=retry, timeout=5, most=most, deadline=deadline)


def test_a_short_answer_is_read_as_it_is() -> None:
    with server(http(b'{"a": 1}')) as (url, heard):
        assert client(url).get("/x").json() == {"a": 1}
    assert b"Bearer " + KEY.encode() in heard[0]


@pytest.mark.parametrize(
    "answer",
    [
        http(b"[" + b"0," * 100_000 + b"0]"),
        http(gzip.compress(b" " * 10**8), "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"fff0\r\n" + b" " * 0xFFF0 + b"\r\n") * 20,
    ],
    ids=["long", "bomb", "endless chunks"],
)
def test_an_answer_that_does_not_end_is_no_answer(answer: bytes) -> None:
    with server(answer) as (url, _), pytest.raises(ValueError, match="more than 100000 bytes"):
        client(url).get("/x")


@pytest.mark.timeout(30)
def test_a_server_that_trickles_is_given_up() -> None:
    drip = threading.Event()
    with server(http(b"{", length=10**6), drip=drip) as (url, _), pytest.raises(ValueError, match="or 0 s"):
        client(url, deadline=0.2).get("/x")


async def test_whatever_a_server_sends_is_unavailable_and_after_a_write_ambiguous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "ANSWER_BYTES", 100_000)
    broken = [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"\0\xff" * 1000,
        http(b'{"success": tr', length=500),
        http(b"<html>" * 10),
        http(b"[" * 50_000),
        http(b'{"instances": [' + b"{}," * 40_000 + b"{}]}"),
        http(b"9" * 50_000),
        http(b'{"id": NaN, "credit": Infinity}'),
        http(b"\x1f\x8b rubbish", "Content-Encoding: gzip"),
        http(b"{}", "Location: http://127.0.0.1:1/", status="302 Found"),
        http(b"{}", status="999 What"),
    ]
    for answer in broken:
        with server(answer, answer) as (url, _):
            vast = VastProvider(key=lambda: KEY, url=url, paced=False, seconds=5)
            with pytest.raises(Unavailable) as failure:
                await vast.account()
            assert KEY not in str(failure.value)
            await vast.close()
        with server(answer) as (url, heard):
            vast = VastProvider(key=lambda: KEY, url=url, paced=False, seconds=5)
            with pytest.raises(Ambiguous) as failed:
                await vast.create(ORDER)
            assert KEY not in str(failed.value)
            await vast.close()
        assert len(heard) == 1, "a write was sent twice"


def test_a_read_is_asked_once_more_and_a_write_is_not() -> None:
    with server(b"", http(b"{}")) as (url, heard):
        assert client(url, retry=2).get("/x").json() == {}
    assert len(heard) == 2
    with server(b"", http(b"{}")) as (url, heard):
        with pytest.raises(OSError):
            client(url, retry=1).put("/x")
        assert len(heard) == 1
