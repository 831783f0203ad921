"""One daemon per state folder: who holds the lock, what a stale record means, and what people are told."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gpuwatch.daemon import lock as module
from gpuwatch.daemon.lock import STALE, AlreadyRunning, Holder, describe, foreign, locked, myself, read_holder

HOLD = "import sys; from pathlib import Path; from gpuwatch.daemon.lock import locked\nwith locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "lock"


def written(path: Path, holder: Holder, *, age: float = 0.0) -> None:
    """A record that somebody left, last renewed `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(holder))
    os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))


def test_the_second_one_is_told_who_the_first_one_is(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with (
        pytest.raises(AlreadyRunning, match=rf"another gpuwatch \(pid {process.pid}.*gpuwatch stop"),
        locked(path),
    ):
        pass
    process.kill()
    process.communicate()
    with locked(path):
        assert read_holder(path) == msgspec.structs.replace(read_holder(path) or myself(), pid=os.getpid())


def test_a_lock_whose_process_was_killed_is_free_whoever_has_its_number_now(path: Path) -> None:
    written(path, msgspec.structs.replace(myself(), pid=1, began="another start"))
    with locked(path):
        holder = read_holder(path)
        assert holder is not None
        assert holder.pid == os.getpid()


def test_a_reused_number_is_not_called_the_holder() -> None:
    reused = msgspec.structs.replace(myself(), began="of another process")
    assert "another process by now" in describe(reused)
    assert describe(myself()).startswith(f"pid {os.getpid()}")
    assert describe(None) == "pid unknown"
    assert "on host elsewhere" in describe(Holder(pid=5, host="elsewhere"))


@pytest.mark.parametrize(
    ("age", "counts"), [(0.0, True), (STALE - 1, True), (STALE + 1, False), (-3600.0, True)]
)
def test_another_hosts_record_counts_as_long_as_it_is_renewed(age: float, counts: bool) -> None:
    assert (foreign(Holder(pid=5, host="elsewhere"), age=age) is not None) == counts
    assert foreign(Holder(pid=5, host=socket.gethostname()), age=age) is None, "here the kernel knows"
    assert foreign(None, age=age) is None


def test_on_a_shared_disk_another_hosts_daemon_is_not_joined(path: Path) -> None:
    written(path, Holder(pid=5, host="elsewhere"))
    with pytest.raises(AlreadyRunning, match=r"host elsewhere .*both hosts share"), locked(path):
        pass
    assert read_holder(path) == Holder(pid=5, host="elsewhere"), "its record is left as it was"
    written(path, Holder(pid=5, host="elsewhere"), age=STALE + 10)
    with locked(path):
        pass


def test_a_daemon_that_ended_in_good_order_leaves_no_record_to_wait_for(path: Path) -> None:
    with locked(path) as lock:
        before = path.stat().st_mtime_ns
        lock.renew()
        assert path.stat().st_mtime_ns >= before
        assert path.stat().st_mode & 0o077 == 0
    assert path.read_bytes() == b""
    assert read_holder(path) is None


def test_a_disk_that_cannot_lock_is_refused_with_a_way_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(AlreadyRunning, match=r"cannot lock files .*local disk"), locked(path):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"pid": "x"}', b"{" * 5000])
def test_a_record_that_is_none_says_nothing(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert read_holder(path) is None
    with locked(path):
        pass


def test_the_record_of_an_older_version_is_read(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("4711\n")
    assert read_holder(path) == Holder(pid=4711, host=socket.gethostname())


def test_the_lock_does_not_pass_to_a_child_process(path: Path) -> None:
    with locked(path) as lock:
        assert fcntl.fcntl(lock.descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
