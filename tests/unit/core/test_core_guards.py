"""One test for each guard that a mutant had shown to be unwatched (docs/mutants.md)."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import deque
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from core_lives import BOOT, INSTANCE, NOW

from gpuproviders.vast import parse
from gpuwatch.box import fetch, frames, landing, sentinel
from gpuwatch.box.errors import BoxFault
from gpuwatch.box.frames import FrameError, parse_identity
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.spec import SpecError, read_spec, values
from gpuwatch.vault import batch, disk, proofs, receipt, sink, verify
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


def one(data: bytes) -> list[memoryview]:
    return [memoryview(data)]


def test_what_lies_beyond_the_end_of_a_resumed_part_is_cut_off(tmp_path: Path) -> None:
    """Else the hash would be of the first part and the file would have both."""
    (tmp_path / MARKER).touch()
    part = tmp_path / "x.part"
    part.write_bytes(b"x" * 100)
    taking = sink.Sink(part, 70, ((0, 50),))
    taking.write(50, one(b"y" * 20))
    assert taking.finish() == hashlib.sha256(b"x" * 50 + b"y" * 20).hexdigest()
    taking.publish(tmp_path / "out", 0)
    taking.close()
    assert (tmp_path / "out").read_bytes() == b"x" * 50 + b"y" * 20


def test_a_write_after_the_proof_is_refused_and_voids_it(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    for late in ("write", "skip"):
        taking = sink.Sink(tmp_path / "x.part", 4)
        taking.write(0, one(b"1234"))
        taking.finish()
        with pytest.raises(RuntimeError, match="there already"):
            taking.write(0, one(b"5")) if late == "write" else taking.skip(0, 1)
        with pytest.raises(RuntimeError, match="not proved"):
            taking.publish(tmp_path / "out", 0)
        taking.close()
    assert not (tmp_path / "out").exists()


def test_large_files_are_read_past_the_page_cache_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    past = disk.Disk._past_the_cache

    def watch(self: Any, digest: Any, start: int, end: int, buffer: Any) -> int:
        asked.append((start, end))
        return past(self, digest, start, end, buffer)

    monkeypatch.setattr(disk.Disk, "_past_the_cache", watch)
    size = (2 << 20) + 5
    taking = sink.Sink(tmp_path / "x.part", size)
    taking.write(0, one(b"z" * size))
    assert taking.finish() == hashlib.sha256(b"z" * size).hexdigest()
    taking.close()
    assert asked == [(0, size)]


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
    taking.write(0, one(b"z" * (2 << 20)))
    monkeypatch.setattr(disk.os, "open", broken)
    with pytest.raises(OSError, match="Input/output"):
        taking.finish()
    monkeypatch.undo()
    taking.close()


def test_a_file_that_is_shorter_on_disk_is_told_by_the_reading(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"z" * 10)
    descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    reading = disk.Disk(tmp_path / "x", descriptor)
    with pytest.raises(OSError, match="shorter"):
        reading.hash(hashlib.sha256(), 0, 11)
    reading.close()
    os.close(descriptor)


def test_a_small_file_that_the_cache_does_not_let_go_of_is_read_past_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past: list[str] = []
    real = os.open

    def watch(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_DIRECT == os.O_DIRECT:
            past.append(path)
        return real(path, flags, *more, **named)

    (tmp_path / "a").write_bytes(b"1234")
    folder = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(disk, "_is_cached", lambda *_: True)
    monkeypatch.setattr(disk.os, "open", watch)
    [(_, sha256)] = disk.SmallReader(4).hashes(["a"], folder)
    monkeypatch.undo()
    os.close(folder)
    assert (sha256, past) == (hashlib.sha256(b"1234").hexdigest(), ["a"])


@pytest.mark.parametrize("folders", [1, 9])
def test_small_files_are_durable_then_read_then_named_then_durably_named(
    folders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a few folders each name's folder is synced; in many, the file system once."""
    (tmp_path / MARKER).touch()
    said: list[str] = []

    def watch(where: Any, name: str, word: str) -> None:
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, **k: (said.append(word), real(*a, **k))[1])

    told: dict[int, batch.Outcome] = {}
    taking = batch.Batch(tmp_path / ".partial", told.update, most=100)
    for n in range(folders):
        (tmp_path / str(n)).mkdir()
        taking.add(n, tmp_path / str(n) / "a", memoryview(b"1234"), hashlib.sha256(b"1234").hexdigest(), 0)
    taking.add(99, tmp_path / "0" / "torn", memoryview(b"1234"), "0" * 64, 0)
    watch(batch, "sync_all", "sync")
    watch(batch, "fsync_folder", "sync")
    watch(batch.SmallReader, "hashes", "read")
    watch(os, "rename", "name")
    taking.flush()
    taking.close()
    assert said == ["sync", "read", *["name"] * folders, "sync"]
    assert [n for n, outcome in told.items() if isinstance(outcome, batch.Landed)] == list(range(folders))
    assert not (tmp_path / "0" / "torn").exists()


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
    copy = Copy("out/a", 4, "0" * 64, (4, 1, 1, 1), BOOT, NOW)
    head = receipt.heading(
        run="r1", name="r", label="l", inventory=Inventory(INSTANCE, BOOT, NOW, ()), waived=(), reason="", at=NOW,
    )  # fmt: skip
    digest = receipt.write(vault, "r1", head, [copy]).digest
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


AS_LISTED = (4, 5, 6, 7)
TOUCHED = (4, 9, 6, 7)


def large(folder: Path, **fields: Any) -> landing.Large:
    """A file of 4 bytes that is all here; `fields` is what was said about it."""
    part = sink.PartName.of(folder, "out/a")
    taking = sink.Sink(part.content, 4)
    taking.write(0, one(b"1234"))
    want = fetch.Wanted("out/a", AS_LISTED, folder / "final" / "a")
    return landing.Large(0, want, part, taking, **fields)


def test_a_file_gets_its_name_only_when_hash_and_identity_agree(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    final, right = tmp_path / "final" / "a", hashlib.sha256(b"1234").hexdigest()
    changed = fetch.prove_large(large(tmp_path, hashed=(TOUCHED, right)), tmp_path)
    assert isinstance(changed, fetch.NotFetched)
    assert "changed" in changed.reason
    torn = fetch.prove_large(large(tmp_path, hashed=(AS_LISTED, "0" * 64)), tmp_path)
    assert isinstance(torn, fetch.NotFetched)
    assert "differs" in torn.reason
    unhashed = fetch.prove_large(large(tmp_path), tmp_path)
    assert isinstance(unhashed, fetch.NotFetched)
    failed = large(tmp_path, hashed=(AS_LISTED, right))
    failed.failure = fetch.NotFetched(failed.want, "the file changed while it was sent")
    assert fetch.prove_large(failed, tmp_path) is failed.failure
    assert not final.exists()
    assert isinstance(fetch.prove_large(large(tmp_path, hashed=(AS_LISTED, right)), tmp_path), fetch.Fetched)
    assert final.read_bytes() == b"1234"


class AtOnce:
    """A pipe whose event loop does at once what it is asked to."""

    @property
    def loop(self) -> AtOnce:
        return self

    def call_soon_threadsafe(self, call: Any, *args: Any) -> None:
        call(*args)


def landed(unit: landing.Unit, want: fetch.Wanted, *items: object) -> tuple[list[Any], list[Any]]:
    """What a lane refuses and what it hands to the batch when a box answers with these."""
    refused: list[Any] = []
    added: list[Any] = []
    batched: Any = SimpleNamespace(add=lambda *a: added.append(a))
    pipe: Any = AtOnce()
    lane = landing.Landing(
        pipe, [want], lambda: batched, fetch.Progress(), lambda *a: refused.append(a), lambda _: None
    )
    lane.ask(unit)
    for item in items:
        lane._take(item)
    return refused, added


@pytest.mark.parametrize(
    ("opened_as", "closed_as", "error", "reason"),
    [
        (TOUCHED, AS_LISTED, None, "since it was listed"),
        (AS_LISTED, TOUCHED, None, "while it was sent"),
        (AS_LISTED, AS_LISTED, "Input/output error", "Input/output"),
        (AS_LISTED, AS_LISTED, None, None),
    ],
)
def test_a_part_counts_only_when_the_file_stayed_what_was_listed(
    opened_as: frames.Identity,
    closed_as: frames.Identity,
    error: str | None,
    reason: str | None,
    tmp_path: Path,
) -> None:
    want = fetch.Wanted("out/a", AS_LISTED, tmp_path / "final" / "a")
    with closing(sink.Sink(tmp_path / "x.part", 4)) as taking:
        file = landing.Large(0, want, sink.PartName.of(tmp_path, "out/a"), taking)
        landed(
            landing.Part(file, 0, 4),
            want,
            frames.Header(0, opened_as, 0, 4),
            frames.Content(memoryview(b"1234")),
            frames.Trailer(0, closed_as, error),
        )
    assert (file.failure is None) == (reason is None)
    assert file.failure is None or (reason or "") in file.failure.reason


def test_a_small_file_counts_only_when_it_stayed_what_was_listed(tmp_path: Path) -> None:
    want = fetch.Wanted("out/a", AS_LISTED, tmp_path / "final" / "a")

    def answer(identity: frames.Identity) -> tuple[list[Any], list[Any]]:
        small = frames.Small(0, identity, "0" * 64, memoryview(b"1234"))
        return landed(landing.Pack(deque([0]), 4), want, small)

    refused, added = answer(TOUCHED)
    assert [told.reason for _, told in refused] == ["the file changed since it was listed"]
    assert not added
    refused, added = answer(AS_LISTED)
    assert not refused
    assert [a[1] for a in added] == [want.target]


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
