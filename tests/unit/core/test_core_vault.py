"""Nothing leaves the vault, and nothing has a final name that is not proved."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from core_lives import BOOT, INSTANCE, NOW
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.vault import receipt, sink
from gpuwatch.vault.layout import (
    MARKER,
    HostilePath,
    Vault,
    VaultUnusable,
    forget_folders,
    make_folder,
    relative_parts,
)
from gpuwatch.vault.sink import PartName, Sink

# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "/etc/passwd", "../x", "a/../../x", "a/..", "a//b", "a/", "/", "a/./b", "a\0b", "x" * 256, "é" * 128,
        "/".join(["d"] * 1600), ".receipts/x", ".partial/x", "job.log", ".gputui-vault", ".Receipts/x", "JOB.LOG", ".PARTIAL",
        "\ud800", "a/\ud800",
    ],
    ids=lambda p: ascii(p[:20]),
)  # fmt: skip
def test_a_name_that_could_leave_or_confuse_the_vault_is_refused(path: str) -> None:
    with pytest.raises(HostilePath):
        relative_parts(path)


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b",
        "...",
        "..a",
        "a\nb",
        "\x1b[31m",
        "a\udcff",
        "a\\b",
        "x" * 255,
        "sub/job.log",
        "-rf",
        "~",
        "a b",
    ],
)
def test_a_name_that_is_only_odd_is_kept_as_it_is(path: str) -> None:
    assert "/".join(relative_parts(path)) == path


@given(
    st.one_of(
        st.text("./a\0\\~", max_size=12),
        st.text(st.characters(), max_size=12),
        st.lists(st.sampled_from(["..", ".", "", "a", "~"]), max_size=5).map("/".join),
    )
)
def test_no_path_at_all_leaves_the_vault(path: str) -> None:
    root = Path("/v")
    try:
        target = Vault(root).destination("r1", path)
    except HostilePath:
        return
    resolved = os.path.normpath(target)
    assert resolved.startswith("/v/r1/")
    assert resolved == str(target)
    assert resolved.split("/")[3].casefold() not in (".receipts", ".partial", "job.log")


def test_a_vault_without_its_marker_is_not_trusted(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    with pytest.raises(VaultUnusable, match="mounted"):
        vault.check()
    vault.create()
    vault.check()
    vault.create()
    (tmp_path / "v" / MARKER).unlink()
    with pytest.raises(VaultUnusable):
        vault.check()


def test_a_folder_with_files_is_not_taken_for_a_new_vault(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(VaultUnusable, match="not empty"):
        Vault(tmp_path).create()


# --- the sink ------------------------------------------------------------------------------------


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "WINDOW", 4096)


def put(out: Sink, content: bytes, at: int = 0, step: int = 50) -> None:
    for start in range(at, len(content), step):
        out.write(start, [memoryview(content[start : start + step])])


@pytest.mark.usefixtures("small_window")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.lists(st.one_of(st.binary(max_size=150), st.integers(4000, 9000).map(bytes)), max_size=12),
    st.randoms(),
)
def test_the_hash_is_of_the_content_in_whatever_order_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], order: Any
) -> None:
    folder = tmp_path_factory.mktemp("s")
    (folder / MARKER).touch()
    content = b"".join(pieces)
    out = Sink(folder / "p", len(content))
    starts = [sum(map(len, pieces[:n])) for n in range(len(pieces))]
    order.shuffle(todo := list(zip(starts, pieces, strict=True)))
    for at, piece in todo:
        if piece and not any(piece):
            out.skip(at, len(piece))
        else:
            out.write(at, [memoryview(piece)])
    assert out.finish() == hashlib.sha256(content).hexdigest()
    out.publish(folder / "deep" / "er" / "f", 1_700_000_000_123_456_789)
    out.close()
    assert (folder / "deep" / "er" / "f").read_bytes() == content
    assert (folder / "deep" / "er" / "f").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert not (folder / "p").exists()


@pytest.mark.usefixtures("small_window")
def test_several_threads_may_write_one_file(tmp_path: Path) -> None:
    content = os.urandom(64 * 4096)
    out = Sink(tmp_path / "p", len(content))

    def lane(number: int) -> None:
        for at in range(number * 4096, len(content), 4 * 4096):
            out.write(at, [memoryview(content[at : at + 4096])])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lane, range(4)))
    assert out.finish() == hashlib.sha256(content).hexdigest()
    out.close()


def test_a_hole_needs_no_room_on_the_disk(tmp_path: Path) -> None:
    size = 1 << 30
    out = Sink(tmp_path / "p", size)
    out.skip(0, size - 4)
    out.write(size - 4, [memoryview(b"tail")])
    digest = hashlib.sha256(bytes(1 << 20))
    for _ in range(1022):
        digest.update(bytes(1 << 20))
    digest.update(bytes((1 << 20) - 4) + b"tail")
    assert out.finish() == digest.hexdigest()
    out.close()
    assert (tmp_path / "p").stat().st_blocks * 512 < 1 << 20


@pytest.mark.usefixtures("small_window")
@given(st.sets(st.integers(0, 999), max_size=8), st.sets(st.integers(0, 999), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_resumed_download_asks_only_for_what_is_not_here(
    tmp_path_factory: pytest.TempPathFactory, first: set[int], second: set[int]
) -> None:
    """Cut off twice, with any pieces here; the hash is of everything all the same."""
    folder, piece = tmp_path_factory.mktemp("s"), 37
    content = os.urandom(1000 * piece)
    told: list[tuple[tuple[int, int], ...]] = [()]
    done: set[int] = set()
    for todo in (first, second, set(range(1000))):
        out = Sink(folder / "p", len(content), told[-1], told.append)
        for number in sorted(todo - done, reverse=True):
            out.write(number * piece, [memoryview(content)[number * piece : (number + 1) * piece]])
        done |= todo
        if len(done) == 1000:
            assert out.finish() == hashlib.sha256(content).hexdigest()
        out.close()
        here = told[-1]
        assert sum(end - start for start, end in here) == len(done) * piece
        assert all(a[1] < b[0] for a, b in itertools.pairwise(here))


def test_bytes_are_written_once_and_inside_the_file(tmp_path: Path) -> None:
    """What has been read back and hashed must not change behind the hash."""
    out = Sink(tmp_path / "p", 100, ((0, 10),))
    out.write(50, [memoryview(bytes(10))])
    for at, size in ((0, 5), (5, 10), (45, 10), (50, 1), (55, 10), (95, 6)):
        with pytest.raises(RuntimeError, match="there already or beyond"):
            out.write(at, [memoryview(bytes(size))])
        with pytest.raises(RuntimeError, match="there already or beyond"):
            out.skip(at, size)
    with pytest.raises(RuntimeError, match="not complete"):
        out.finish()
    out.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.lists(st.integers(1, 60), min_size=1))
def test_a_disk_that_takes_only_part_of_a_write_gets_the_rest(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], takes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("s")
    amounts, real = itertools.cycle(takes), os.pwritev

    def short(descriptor: int, buffers: Any, offset: int) -> int:
        return real(descriptor, [b"".join(buffers)[: next(amounts)]], offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", short)
        patch.setattr(sink, "_IOV", 3)
        out = Sink(folder / "p", sum(map(len, pieces)))
        out.write(0, [memoryview(p) for p in pieces])
        assert out.finish() == hashlib.sha256(b"".join(pieces)).hexdigest()
        out.close()
    assert (folder / "p").read_bytes() == b"".join(pieces)


def test_what_the_disk_changed_behind_our_back_is_in_the_hash(tmp_path: Path) -> None:
    out = Sink(tmp_path / "p", 4)
    put(out, b"good")
    with (tmp_path / "p").open("r+b") as file:
        file.write(b"BAD!")
    assert out.finish() == hashlib.sha256(b"BAD!").hexdigest(), "the hash is of what is on the disk"
    out.close()


@pytest.mark.parametrize("length", [2, 5000])
def test_another_length_behind_our_back_is_an_error(length: int, tmp_path: Path) -> None:
    out = Sink(tmp_path / "p", 4)
    put(out, b"good")
    os.truncate(tmp_path / "p", length)
    with pytest.raises(OSError, match=r"shorter|another length"):
        out.finish()
    with pytest.raises(RuntimeError):
        out.publish(tmp_path / "final", 0)
    out.close()


def test_what_is_not_proved_gets_no_final_name(tmp_path: Path) -> None:
    out = Sink(tmp_path / "p", 2)
    put(out, b"ab")
    with pytest.raises(RuntimeError, match="not proved"):
        out.publish(tmp_path / "final", 0)
    out.close()
    assert not (tmp_path / "final").exists()


CALLS = ["pwritev", "fdatasync", "preadv", "replace", "fsync", "utime"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_fails_at_any_call_never_leaves_a_wrong_final_file(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The k-th call fails, for every k until the download gets through."""
    monkeypatch.setattr(sink, "WINDOW", 4096)
    (tmp_path / MARKER).touch()
    content = bytes(range(256)) * 40
    real = getattr(os, call)
    for k in itertools.count():
        target = tmp_path / f"{k}" / "final"
        calls = itertools.count()

        def flaky(*args: Any, _k: int = k, _calls: Any = calls, **kwargs: Any) -> Any:
            if next(_calls) == _k:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        out = None
        with monkeypatch.context() as patch:
            patch.setattr(os, call, flaky)
            try:
                out = Sink(tmp_path / f"part{k}", len(content))
                put(out, content, step=1000)
                digest = out.finish()
                assert digest == hashlib.sha256(content).hexdigest()
                out.publish(target, 0)
                failed = False
            except OSError as error:
                assert error.errno == code
                failed = True
            finally:
                if out is not None:
                    out.close()
        if target.exists():
            assert target.read_bytes() == content, "whole or not there"
        if not failed:
            assert target.exists()
            assert k > 0, f"os.{call} is never called: the test proves nothing"
            return


def test_the_folders_of_a_file_are_durable_up_to_the_vaults_root_also_those_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made a folder may have died before its name was durable; the folder looks the same."""
    (tmp_path / MARKER).touch()
    (tmp_path / "a").mkdir()
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd))[1]
    )
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    make_folder(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3
    forget_folders()
    make_folder(tmp_path / "a" / "b")
    assert synced[3:] == [str(tmp_path), str(tmp_path / "a")]


def test_no_file_gets_a_name_in_the_mount_point_of_a_vault_that_is_not_mounted(tmp_path: Path) -> None:
    root = tmp_path / "vault"
    Vault(root).create()
    make_folder(root / "run" / "ckpt")
    root.rename(tmp_path / "away")
    (root / "run").mkdir(parents=True)
    with pytest.raises(VaultUnusable, match="mounted"):
        make_folder(root / "run" / "ckpt")
    assert not (root / "run" / "ckpt").exists()


def test_a_vault_that_was_made_before_and_is_not_there_is_not_made_again(tmp_path: Path) -> None:
    """Its disk is not mounted: a new vault in the empty mount point would hide below it."""
    vault, register = Vault(tmp_path / "disk" / "vault"), tmp_path / "vaults"
    vault.create(register)
    vault.check()
    shutil.rmtree(tmp_path / "disk")
    vault.root.mkdir(parents=True)
    vault.create(register)
    with pytest.raises(VaultUnusable, match="mounted"):
        vault.check()
    other = Vault(tmp_path / "other")
    other.create(register)
    other.check()


def test_a_vault_and_its_marker_are_durable_when_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink().name), real(fd))[1]
    )
    Vault(tmp_path / "vault").create()
    assert synced == [MARKER, "vault", tmp_path.name]


def test_a_final_name_is_made_durable_in_the_right_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content, then the folders, then the name, then the folder that holds the name."""
    done: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(first: Any, *rest: Any, **kwargs: Any) -> Any:
            place = Path(f"/proc/self/fd/{first}").readlink().name if isinstance(first, int) else ""
            done.append(f"{name} {place}".strip())
            return real(first, *rest, **kwargs)

        monkeypatch.setattr(os, name, call)

    (tmp_path / MARKER).touch()
    make_folder(tmp_path / "run")
    out = Sink(tmp_path / "run" / "part", 1)
    put(out, b"x")
    for name in ("fdatasync", "fsync", "replace"):
        watch(name)
    out.finish()
    out.publish(tmp_path / "run" / "ckpt" / "step-1" / "f", 0)
    out.close()
    assert done == ["fdatasync part", "fsync run", "fsync ckpt", "replace", "fsync step-1"]


def test_a_disk_that_failed_behind_the_writes_stops_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(sink, "WINDOW", 4096)
    monkeypatch.setattr(os, "fdatasync", broken)
    out = Sink(tmp_path / "p", 1 << 30)
    with pytest.raises(OSError, match="broken"):
        for at in range(0, 1 << 30, 4096):
            out.write(at, [memoryview(bytes(4096))])
    out.close()


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "p").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        Sink(tmp_path / "p", 1)
    assert (tmp_path / "victim").read_text() == "precious"


# --- resuming ------------------------------------------------------------------------------------


def test_only_the_same_version_on_the_same_boot_is_resumed(tmp_path: Path) -> None:
    part = PartName.of(tmp_path, "out/\udcff\n../..")
    assert part.content.parent == tmp_path
    assert part.resumable((9, 1, 2, 3), BOOT) == ()
    part.remember((9, 1, 2, 3), BOOT)
    part.content.write_bytes(b"123456789")
    assert part.resumable((9, 1, 2, 3), BOOT) == (), "what was never told to be here is not trusted"
    part.remember((9, 1, 2, 3), BOOT, ((0, 2), (4, 5)))
    assert part.resumable((9, 1, 2, 3), BOOT) == ((0, 2), (4, 5))
    for other in ((8, 1, 2, 3), (9, 0, 2, 3), (9, 1, 0, 3), (9, 1, 2, 0)):
        assert part.resumable(other, BOOT) == ()
    assert part.resumable((9, 1, 2, 3), "c" * 32) == ()
    part.content.write_bytes(b"1234")
    assert part.resumable((9, 1, 2, 3), BOOT) == (), "less than was here"
    part.content.write_bytes(b"123456789" * 2)
    part.remember((9, 1, 2, 3), BOOT, ((0, 10),))
    assert part.resumable((9, 1, 2, 3), BOOT) == (), "more than the file has"
    good = json.loads(part.note.read_text())
    for have in (
        [[-1, 3]],
        [[3, 3]],
        [[3, 2]],
        [[0, 2], [2, 4]],
        [[4, 5], [0, 1]],
        [[0, True]],
        [[0]],
        [0],
        "x",
        5,
        None,
        [[0, "1"]],
    ):
        part.note.write_text(json.dumps(good | {"have": have}))
        assert part.resumable((9, 1, 2, 3), BOOT) == ()
    for nonsense in ("{", "[]", "{}"):
        part.note.write_text(nonsense)
        assert part.resumable((9, 1, 2, 3), BOOT) == ()
    part.discard()
    part.discard()
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=10), st.text(max_size=10))
def test_two_paths_never_share_a_part(a: str, b: str) -> None:
    assert (PartName.of(Path("/v"), a) == PartName.of(Path("/v"), b)) == (a == b)


# --- receipts ------------------------------------------------------------------------------------

NAMES = [
    "plain", "with space", "two\nlines", "back\\slash", "both\\\n", "trailing ", " leading", "-", "--help", "caf\u00e9", "\x1b[31m",
    "bytes\udcff\udcfe", "cr\rname", "end\r", "\\", "*star", "a/b/c", "# hash", "SHA256 (x) = y",
]  # fmt: skip


def write_receipt(vault: Vault, contents: dict[str, bytes]) -> receipt.Receipt:
    copies = []
    for path, data in contents.items():
        target = vault.destination("r1", path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        copies.append(
            Copy(path, len(data), hashlib.sha256(data).hexdigest(), (len(data), 1, 2, 3), BOOT, NOW)
        )
    inventory = Inventory(INSTANCE, BOOT, NOW, ())
    head = receipt.heading(
        run="r1",
        name="n",
        label="l",
        inventory=inventory,
        waived=["out/\udcff"],
        reason="",
        at=NOW,
    )
    return receipt.write(vault, "r1", head, copies)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    vault = Vault(tmp_path / "v")
    vault.create()
    return vault


def sha256sum(vault: Vault, made: receipt.Receipt, *options: str) -> subprocess.CompletedProcess[bytes]:
    sums = made.path.with_suffix(".sha256")
    return subprocess.run(
        ["sha256sum", "-c", *options, str(sums)], cwd=vault.run("r1"), capture_output=True, stdin=subprocess.DEVNULL, check=False
    )  # fmt: skip


def test_sha256sum_itself_accepts_every_odd_name(vault: Vault) -> None:
    made = write_receipt(vault, {name: name.encode("utf-8", "surrogateescape") * 3 for name in NAMES})
    done = sha256sum(vault, made, "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(b": OK\n") == len(NAMES)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_sha256sum_names_the_one_file_that_was_damaged(name: str, vault: Vault) -> None:
    made = write_receipt(vault, dict.fromkeys(NAMES, b"content"))
    vault.destination("r1", name).write_bytes(b"kontent")
    done = sha256sum(vault, made, "--strict")
    assert done.returncode == 1
    assert done.stdout.count(b"FAILED") == 1


def test_a_receipt_is_named_by_its_own_content(vault: Vault) -> None:
    made = write_receipt(vault, {"b": b"2", "a": b"1"})
    text = made.path.read_bytes()
    assert hashlib.sha256(text).hexdigest() == made.digest == made.path.stem
    content = json.loads(text)
    assert [f["path"] for f in content["files"]] == ["a", "b"]
    assert (content["instance"], content["boot_id"], content["run"]) == (INSTANCE, BOOT, "r1")
    assert (made.files, made.bytes) == (2, 2)
    again = write_receipt(vault, {"a": b"1", "b": b"2"})
    assert again.digest == made.digest, "the same facts are the same receipt"
    assert write_receipt(vault, {"a": b"1", "b": b"3"}).digest != made.digest


def test_a_receipt_that_cannot_be_written_leaves_no_name(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write_receipt(vault, {"a": b"1"})
    assert not list(vault.run("r1").glob(".receipts/*.json"))
    assert not list(vault.run("r1").glob(".receipts/*.sha256"))


def test_one_part_has_one_writer(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    part = tmp_path / "x.part"
    first = Sink(part, 6)
    put(first, b"proved")
    with pytest.raises(BlockingIOError):
        Sink(part, 6)
    first.finish()
    first.publish(tmp_path / "x", 1)
    first.close()
    assert (tmp_path / "x").read_bytes() == b"proved"
