"""The daemon's own log: bounded, rotated without a signal, and never a reason to end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpuwatch.config import ConfigError, load
from gpuwatch.logfile import LogFile


def files(path: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in sorted(path.parent.iterdir())}


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_however_much_is_written_size_and_count_are_bounded_and_every_kept_line_is_whole(
    tmp_path: Path, keep: int
) -> None:
    path = tmp_path / "log" / "d.log"
    log = LogFile(path, limit=1000, keep=keep)
    for n in range(500):
        log.write(f"line {n} {'x' * (n % 60)}\n")
    log.close()
    found = files(path)
    assert set(found) == {"d.log", *(f"d.log.{n}" for n in range(1, keep + 1))}
    assert all(size <= 1000 + 80 for size in found.values())
    # what is kept is the end, in order, without a gap
    order = [path.with_name(f"d.log.{n}") for n in range(keep, 0, -1)] + [path]
    numbers = [int(line.split()[1]) for p in order for line in p.read_text().splitlines()]
    assert numbers == list(range(500 - len(numbers), 500))


def test_a_file_that_was_moved_or_removed_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    log = LogFile(path)
    log.write("one\n")
    path.rename(tmp_path / "aside")
    log.write("two\n")
    path.unlink()
    log.write("three\n")
    assert (path.read_text(), (tmp_path / "aside").read_text()) == ("three\n", "one\n")
    log.close()


def test_an_older_log_is_added_to_and_others_cannot_read_it(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    path.write_text("before\n")
    LogFile(path).write("after\n")
    assert path.read_text() == "before\nafter\n"
    path.unlink()
    LogFile(path).write("x\n")
    assert path.stat().st_mode & 0o077 == 0


def test_a_disk_that_takes_nothing_costs_lines_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.log"
    log = LogFile(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            log.write("lost\n")
    log.write("again\n")
    assert path.read_text() == "3 lines of this log were lost: it could not be written\nagain\n"


def test_several_threads_lose_nothing_and_mix_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    log = LogFile(path, limit=2000, keep=100)
    threads = [
        threading.Thread(target=lambda n=n: [log.write(f"{n} {i} {'y' * 40}\n") for i in range(100)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line for p in tmp_path.iterdir() for line in p.read_text().splitlines()]
    assert len(lines) == 400
    assert {line.split()[0] for line in lines} == set("0123")
    assert all(line.endswith("y" * 40) for line in lines)


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    LogFile(path).write("caf\udce9\n")
    assert path.read_text() == "caf\\udce9\n"


PROGRAM = """
import os, sys
from pathlib import Path
from gpuwatch.logfile import LogFile
log = LogFile(Path(sys.argv[1]), limit=300, keep=1, behind=(1, 2))
for n in range(20):
    log.write(f"line {n}\\n")
    os.write(2, b"from a library\\n")
    print("printed", flush=True)
raise SystemExit("the end")
"""


def test_what_libraries_and_the_interpreter_print_goes_into_the_same_files(tmp_path: Path) -> None:
    path = tmp_path / "log" / "d.log"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert path.read_text().endswith("the end\n")
    assert "from a library" in path.read_text()
    assert set(files(path)) == {"d.log", "d.log.1"}


@pytest.mark.parametrize(
    ("text", "why"),
    [("size = '1kB'", "at least 100 kB"), ("size = 'x'", "log.size must be"), ("keep = -1", "keep")],
)
def test_settings_that_make_no_log_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "config.toml").write_text(f"[log]\n{text}\n")
    with pytest.raises(ConfigError, match=why):
        load(tmp_path / "config.toml")
