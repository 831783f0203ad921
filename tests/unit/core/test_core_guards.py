"""One test for each guard that a mutant had shown to be unwatched (docs/mutants.md)."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from core_lives import BOOT, INSTANCE, NOW

from gpuproviders.vast import parse
from gpuwatch.box import fetch, sentinel
from gpuwatch.box.errors import BoxFault
from gpuwatch.box.frames import FrameError, parse_identity
from gpuwatch.box.landing import Large
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.spec import SpecError, read_spec, values
from gpuwatch.vault import disk, proofs, receipt, sink, verify
from gpuwatch.vault.layout import MARKER, Vault
from gpuwatch.vault.proofs import Promise
from gpuwatch.vault.reread import CHUNK, Kind, NotThere, opened

# --- what counts as a copy -----------------------------------------------------------------------


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "vault")
    made.create()
    (made.run("r1") / "out").mkdir(parents=True)
    return made


def test_a_link_or_a_file_of_another_size_is_no_copy(vault: Vault) -> None:
    (vault.run("r1") / "out/a").write_bytes(b"1234")
    (vault.run("r1") / "out/link").symlink_to("a")
    assert vault.holds("r1", "out/a", 4)
    assert not vault.holds("r1", "out/a", 5)
    assert not vault.holds("r1", "out/a", 3)
    assert not vault.holds("r1", "out/link", 4)
    assert not vault.holds("r1", "out/absent", 4)


# --- a file on its way ---------------------------------------------------------------------------


def test_what_lies_beyond_the_point_of_resuming_is_cut_off(tmp_path: Path) -> None:
    """Else the hash would be of the first part and the file would have both."""
    (tmp_path / MARKER).touch()
    part = tmp_path / "x.part"
    part.write_bytes(b"x" * 100)
    taking = sink.Sink(part, 70, ((0, 50),))
    taking.write(50, [memoryview(b"y" * 20)])
    assert taking.finish() == hashlib.sha256(b"x" * 50 + b"y" * 20).hexdigest()
    taking.publish(tmp_path / "out", 0)
    taking.close()
    assert (tmp_path / "out").read_bytes() == b"x" * 50 + b"y" * 20


def test_large_files_are_read_past_the_page_cache_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    past = disk.Disk._past_the_cache

    def watch(self: Any, digest: Any, start: int, end: int, buffer: memoryview) -> int:
        asked.append((start, end))
        return past(self, digest, start, end, buffer)

    monkeypatch.setattr(disk.Disk, "_past_the_cache", watch)
    size = (2 << 20) + 5
    taking = sink.Sink(tmp_path / "x.part", size)
    taking.write(0, [memoryview(b"z" * size)])
    assert taking.finish() == hashlib.sha256(b"z" * size).hexdigest()
    taking.close()
    assert asked == [(0, size)], "also the page that the file ends in"


def test_a_disk_that_fails_is_not_asked_again_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a file system that cannot read past the cache (EINVAL) is read another way."""
    real = os.open

    def broken(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, flags, *more, **named)

    taking = sink.Sink(tmp_path / "x.part", 2 << 20)
    taking.write(0, [memoryview(b"z" * (2 << 20))])
    monkeypatch.setattr(sink.os, "open", broken)
    with pytest.raises(OSError, match="Input/output"):
        taking.finish()
    monkeypatch.undo()
    taking.close()


# --- receipts ------------------------------------------------------------------------------------


def test_a_receipt_is_durable_before_it_has_its_name_and_its_name_is_durable(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        said.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        said.append(("name", target.name))
        return real_replace(self, target)

    vault.receipts("r1").mkdir()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    one = Copy("out/a", 4, "0" * 64, (4, 1, 1, 1), BOOT, NOW)
    head = receipt.heading(
        run="r1", name="r", label="l", inventory=Inventory(INSTANCE, BOOT, NOW, ()), waived=(), reason="", at=NOW,
    )  # fmt: skip
    digest = receipt.write(vault, "r1", head, [one]).digest
    first = said.index(("sync", f"{digest}.sha256.tmp"))  # before it: the folder
    assert said[first:] == [
        ("sync", f"{digest}.sha256.tmp"),
        ("name", f"{digest}.sha256"),
        ("sync", f"{digest}.json.tmp"),
        ("name", f"{digest}.json"),
        ("sync", ".receipts"),
    ]


def test_a_receipt_without_end_is_not_read_to_its_end(vault: Vault) -> None:
    vault.receipts("r1").mkdir()
    (vault.receipts("r1") / "long").write_bytes(b"x" * (5 * CHUNK))
    assert len(proofs.read_bounded(vault.run("r1"), "long", 10)) <= 2 * CHUNK


# --- reading again -------------------------------------------------------------------------------


@pytest.mark.timeout(10)  # a pipe without a writer is waited for for ever
def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotThere), opened(tmp_path, ("pipe",)):
        pytest.fail("a pipe is no file")


def test_a_link_to_a_folder_is_told_and_not_walked(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").touch()
    (tmp_path / "run" / "out").mkdir(parents=True)
    (tmp_path / "run" / "out" / "a").touch()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "elsewhere")
    assert sorted(verify._walk(tmp_path / "run", [])) == ["link", "out/a"]


def test_a_reading_that_was_broken_off_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    promise = Promise("a", ("a",), 4, hashlib.sha256(b"1234").hexdigest(), 0, NOW, "d" * 64)
    found = verify.reread(tmp_path, promise, bytearray(CHUNK), count=lambda _: False)
    assert found is not None
    assert (found.kind, found.detail) == (Kind.UNREADABLE, "interrupted")
    assert verify.reread(tmp_path, promise, bytearray(CHUNK), count=lambda _: True) is None


# --- what a box says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity",
    [[-1, 0, 0, 0], [1 << 62, 0, 0, 0], [0, 1 << 63, 0, 0], [0, 0, -(1 << 63), 0], [0, 0, 0, -1], [0, 0, 0, 1 << 64]],
)  # fmt: skip
def test_sizes_and_times_beyond_what_a_disk_can_have_are_none(identity: list[int]) -> None:
    with pytest.raises(FrameError, match="out of range"):
        parse_identity(identity)


def listing(*rows: object, problems: object = ()) -> bytes:
    end = {"end": len(rows), "problems": problems, "boot_id": BOOT, "at": NOW}
    return b"".join(json.dumps(row).encode() + b"\n" for row in (*rows, end))


def test_a_listing_has_so_many_rows_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel, "MAX_FILES", 2)
    rows = [[f"out/{n}", 1, 1, 1, n, False, None] for n in range(3)]
    assert len(sentinel.parse_inventory(listing(*rows[:2]), INSTANCE).files) == 2
    with pytest.raises(BoxFault, match="out of bounds"):
        sentinel.parse_inventory(listing(*rows), INSTANCE)


def test_what_the_box_could_not_list_is_told() -> None:
    found = sentinel.parse_inventory(listing(problems=["cannot list out: Permission denied"]), INSTANCE)
    assert found.problems == ("cannot list out: Permission denied",)


@pytest.mark.parametrize("phase", ["dancing", "", None, 5, ["ended"]])
def test_a_phase_that_we_do_not_know_is_no_phase(phase: object) -> None:
    with pytest.raises(BoxFault, match="what the job does"):
        sentinel._state({"phase": phase, "pid": 5, "exit_code": None})


# --- what comes home -----------------------------------------------------------------------------


def closing(
    folder: Path, *, identity: tuple[int, int, int, int] = (4, 5, 6, 7), sha256: str | None = None
) -> object:
    """What becomes of a file of 4 bytes about which the box says this at last."""
    want = fetch.Wanted("out/a", (4, 5, 6, 7), folder / "final" / "a")
    file = Large(0, want, sink.PartName.of(folder, "out/a"))
    fetch.begin_large(file, BOOT)
    assert file.sink is not None
    file.sink.write(0, [memoryview(b"1234")])
    file.hashed = (identity, sha256 or hashlib.sha256(b"1234").hexdigest())
    return fetch.prove_large(file, folder)


def test_a_file_gets_its_name_only_when_hash_and_identity_agree(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    final = tmp_path / "final" / "a"
    changed = closing(tmp_path, identity=(4, 9, 6, 7))
    assert isinstance(changed, fetch.NotFetched)
    assert "changed" in changed.reason
    torn = closing(tmp_path, identity=(4, 5, 6, 7), sha256="0" * 64)
    assert isinstance(torn, fetch.NotFetched)
    assert "differs" in torn.reason
    assert not final.exists()
    assert isinstance(closing(tmp_path, identity=(4, 5, 6, 7)), fetch.Fetched)
    assert final.read_bytes() == b"1234"


# --- what a spec may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [".", "./", "", "a\0b", "x" * 1025, "/", "..", "a/../b", "~", "~/x", 5, None]
)
def test_what_is_no_path_inside_the_work_folder(path: object) -> None:
    with pytest.raises(ValueError, match="work folder"):
        values.relative(path)


def test_a_spec_has_an_end() -> None:
    with pytest.raises(SpecError, match="a spec below"):
        read_spec("#" * (256 * 1024 + 1), file="f")


def test_a_label_that_nobody_wrote_is_none() -> None:
    """Ours have some forty characters; what is longer than 256 is cut nowhere and compared with nothing."""
    assert parse.instance({"id": 7, "label": "x" * 256}).label == "x" * 256
    assert parse.instance({"id": 7, "label": "x" * 257}).label is None


@pytest.mark.parametrize("table", [{"A": "b\0c"}, {"1A": "x"}, {"A": ["x"]}, {"A": None}, [], "A=b"])
def test_what_is_no_environment(table: object) -> None:
    with pytest.raises(ValueError, match="environment"):
        values.environment(table)
    assert values.environment({"A_1": "x", "B": 5}) == {"A_1": "x", "B": "5"}


# --- a part, and what of it is kept -----------------------------------------------------------------


def test_what_lies_there_of_another_version_is_not_kept(tmp_path: Path) -> None:
    """Else the hash would be of what arrived and the file would have both."""
    (tmp_path / MARKER).touch()
    part = tmp_path / "x.part"
    part.write_bytes(b"x" * 100)
    taking = sink.Sink(part, 70)
    taking.skip(0, 50)
    taking.write(50, [memoryview(b"y" * 20)])
    whole = b"\0" * 50 + b"y" * 20
    assert taking.finish() == hashlib.sha256(whole).hexdigest()
    taking.publish(tmp_path / "out", 0)
    taking.close()
    assert (tmp_path / "out").read_bytes() == whole


def test_bytes_that_are_there_are_not_written_again_and_none_beyond_the_end(tmp_path: Path) -> None:
    taking = sink.Sink(tmp_path / "x.part", 10)
    taking.write(0, [memoryview(b"abc")])
    taking.write(5, [memoryview(b"fg")])
    for at, data in ((2, b"x"), (0, b"x"), (4, b"xy"), (6, b"x"), (5, b"x"), (9, b"xy"), (10, b"x")):
        with pytest.raises(RuntimeError, match="there already or beyond"):
            taking.write(at, [memoryview(data)])
    with pytest.raises(RuntimeError, match="not complete"):
        taking.finish()
    taking.close()


def test_a_file_that_is_shorter_on_disk_is_not_proved(tmp_path: Path) -> None:
    taking = sink.Sink(tmp_path / "x.part", 8)
    taking.write(0, [memoryview(b"12345678")])
    os.truncate(tmp_path / "x.part", 9)
    with pytest.raises(OSError, match="another length"):
        taking.finish()
    taking.close()


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        ({}, ((0, 4),)),
        ({"identity": [9, 5, 6, 7]}, ()),
        ({"boot_id": "c" * 32}, ()),
        ({"have": [[0, 5]]}, ()),
        ({"have": [[2, 2]]}, ()),
        ({"have": [[2, 4], [0, 1]]}, ()),
        ({"have": [[0, 2], [2, 4]]}, ()),
        ({"have": [[-1, 2]]}, ()),
        ({"have": [[0, True]]}, ()),
        ({"have": "all"}, ()),
    ],
)  # fmt: skip
def test_what_may_be_resumed(note: dict[str, Any], kept: sink.Spans, tmp_path: Path) -> None:
    part = sink.PartName.of(tmp_path, "out/a")
    part.content.write_bytes(b"1234")
    part.note.write_text(json.dumps({"identity": [8, 5, 6, 7], "boot_id": BOOT, "have": [[0, 4]]} | note))
    assert part.resumable((8, 5, 6, 7), BOOT) == kept
