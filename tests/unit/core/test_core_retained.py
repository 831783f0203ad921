"""What retention let go: the ledger does not miss it, the vault tells it, the box removes only what was proved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from core_lives import BOOT, EVENTS, LABEL, NOW, REQUESTED, opened

from gpuwatch.cli_verify import document, text
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.lifecycle import events as e
from gpuwatch.sentinel import forgetting, source
from gpuwatch.sentinel.forgetting import HIDDEN
from gpuwatch.sentinel.moving import inside
from gpuwatch.vault import let_go, receipt
from gpuwatch.vault.layout import LET_GO, Vault
from gpuwatch.vault.verify import Verdict, verify

RENTAL = [EVENTS[k] for k in (e.OfferChosen, e.CreateSent, e.Rented, e.Booted, e.BoxChecked, e.JobStarted)]
ENDING = [
    EVENTS[k]
    for k in (e.JobEnded, e.CollectStarted, e.ReceiptWritten, e.DestroySent, e.DestroyAccepted, e.Gone)
]


def copy(path: str, mark: str = "ab", at: float = NOW) -> Copy:
    return Copy(path, 10, mark * 32, (10, 1, 2, 3), BOOT, at, 1)


ONE, TWO, OTHER = copy("ckpt/step-1/a"), copy("ckpt/step-1/b\udcff"), copy("ckpt/step-2/a")
FILES = e.FilesVerified(files=3, bytes=30)


def goes(place: str) -> e.LetGo:
    return e.LetGo(place=place, name="step-1", step=1, files=2, bytes=20, stands=["g:x"])


# --- the ledger ----------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [False, True])
async def test_what_goes_from_the_vault_is_no_copy_and_nothing_that_a_scrub_misses(
    tmp_path: Path, over: bool
) -> None:
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        for event in RENTAL:
            await ledger.append("r1", event)
        await ledger.append("r1", FILES, copies=[ONE, TWO, OTHER])
        for event in ENDING if over else []:
            await ledger.append("r1", event)
        await ledger.record_scrubs([Scrubbed("r1", ONE, NOW, "damaged")])
        await ledger.lets_go("r1", goes("vault"), [ONE, TWO])
        # a re-read that was under way when it went finds nothing to complain about
        await ledger.record_scrubs([Scrubbed("r1", TWO, NOW, "missing")])
        assert (await ledger.record("r1")).copies == {OTHER.path: OTHER}
        assert ledger.bad() == []
        assert [c.path for _, c, _ in await ledger.unproved_longest(NOW + 10, 9)] == [OTHER.path]
        assert await ledger.letting_go() == ["r1"]
    async with opened(path) as again:
        assert set((await again.record("r1")).copies) == {OTHER.path}
        past = await again.let_go("r1")
        assert {(p.place, p.copy.path, p.copy.sha256, p.removed) for p in past} == {
            ("vault", c.path, c.sha256, False) for c in (ONE, TWO)
        }
        await again.removed("r1", "vault", [ONE.path, TWO.path])
        assert await again.letting_go() == []
        assert [x.event for x in await again.events(run="r1", limit=99)][-1] == goes("vault")


async def test_a_file_that_comes_home_anew_was_never_let_go(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.create("r1", REQUESTED)
        for event in RENTAL:
            await ledger.append("r1", event)
        await ledger.append("r1", FILES, copies=[ONE, TWO])
        await ledger.lets_go("r1", goes("g:x"), [ONE, TWO])
        assert set(ledger.copies("r1")) == {ONE.path, TWO.path}  # from a remote: the vault has it still
    async with opened(path) as again:
        await again.append("r1", FILES, copies=[copy(ONE.path, "cd")])
        assert [p.copy.path for p in await again.let_go("r1")] == [TWO.path]
    async with opened(path) as third:
        await third.append("r1", FILES, copies=[copy(TWO.path, "cd")])
        assert await third.let_go("r1") == []


async def test_from_a_box_it_is_told_and_every_copy_stays(tmp_path: Path) -> None:
    async with opened(tmp_path / "ledger.db") as ledger:
        await ledger.create("r1", REQUESTED)
        for event in RENTAL:
            await ledger.append("r1", event)
        await ledger.append("r1", FILES, copies=[ONE, TWO])
        await ledger.lets_go("r1", goes("box"), [ONE, TWO])
        assert (set(ledger.copies("r1")), await ledger.let_go("r1")) == ({ONE.path, TWO.path}, [])


# --- the vault -----------------------------------------------------------------------------------


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "vault")
    made.create()
    return made


def put(vault: Vault, path: str, data: bytes) -> Copy:
    import hashlib

    target = vault.destination("r1", path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    status = target.stat()
    identity = (len(data), status.st_mtime_ns, 0, 1)
    return Copy(path, len(data), hashlib.sha256(data).hexdigest(), identity, BOOT, NOW, 1)


def prove(vault: Vault, copies: list[Copy]) -> None:
    head = receipt.heading(
        run="r1",
        name="r",
        label=LABEL,
        inventory=Inventory("77", BOOT, NOW, ()),
        waived=(),
        reason="",
        at=NOW,
    )
    receipt.write(vault, "r1", head, copies)


def test_verify_does_not_miss_what_was_let_go_and_says_where_it_stands(vault: Vault) -> None:
    old = [put(vault, f"ckpt/step-1/{n}", os.fsencode(n) * 50) for n in ("a", "b\udcff", "sub/c")]
    kept = put(vault, "ckpt/step-2/a", b"new")
    prove(vault, [*old, kept])
    let_go.write(vault, "r1", "step-1", old, ["g:x", "s3:y"], NOW)
    assert let_go.remove(vault, "r1", "ckpt", old) == sum(c.size for c in old)
    assert [p.name for p in (vault.run("r1") / "ckpt").iterdir()] == ["step-2"]
    report = verify(vault.root)
    (run,) = report.runs
    assert (report.verdict, run.files, run.findings) == (Verdict.GOOD, 1, ())
    assert {(f.path, f.stands) for f in run.let_go} == {(c.path, ("g:x", "s3:y")) for c in old}
    assert any("let go" in line and "g:x, s3:y" in line for line in text(report))
    assert len(document(report)["runs"][0]["let_go"]) == 3


def test_what_stands_there_all_the_same_is_read_as_ever_and_another_version_is_missed(vault: Vault) -> None:
    stands, gone = put(vault, "ckpt/step-1/a", b"x" * 9), put(vault, "ckpt/step-1/b", b"y" * 9)
    prove(vault, [stands, gone])
    let_go.write(vault, "r1", "step-1", [stands, copy(gone.path)], ["g:x"], NOW)  # `gone` in an older version
    vault.destination("r1", stands.path).write_bytes(b"z" * 9)
    vault.destination("r1", gone.path).unlink()
    report = verify(vault.root)
    assert {(f.kind.value, f.path) for f in report.runs[0].findings} == {
        ("damaged", stands.path),
        ("missing", gone.path),
    }


@pytest.mark.parametrize("how", ["edited", "renamed", "of another run", "link"])
def test_a_record_that_is_not_what_was_written_excuses_nothing(vault: Vault, how: str) -> None:
    gone = put(vault, "ckpt/step-1/a", b"x" * 9)
    prove(vault, [gone])
    let_go.write(vault, "r1", "step-1", [gone], ["g:x"], NOW)
    vault.destination("r1", gone.path).unlink()
    assert verify(vault.root).verdict is Verdict.GOOD
    (record,) = (vault.run("r1") / LET_GO).iterdir()
    if how == "edited":
        record.write_bytes(record.read_bytes().replace(b"g:x", b"g:y"))
    elif how == "renamed":
        record.rename(record.with_name("0" * 64 + ".json"))
    elif how == "of another run":
        data = json.loads(record.read_bytes()) | {"run": "r2"}
        import hashlib

        changed = receipt.canonical(data)
        record.unlink()
        record.with_name(hashlib.sha256(changed).hexdigest() + ".json").write_bytes(changed)
    else:
        aside = record.rename(vault.root / "aside")
        record.symlink_to(aside)
    assert verify(vault.root).verdict is Verdict.DAMAGE


def test_removing_leaves_what_is_not_the_proved_file(vault: Vault) -> None:
    gone, other = put(vault, "ckpt/step-1/a", b"x" * 9), put(vault, "ckpt/step-1/b", b"y" * 9)
    vault.destination("r1", other.path).write_bytes(b"longer than it was")
    assert let_go.remove(vault, "r1", "ckpt", [gone, other, copy("ckpt/step-9/none")]) == 9
    assert vault.destination("r1", other.path).exists()


# --- the box -------------------------------------------------------------------------------------


def forget(order: dict[str, Any], writers: set[tuple[int, int]]) -> dict[str, Any]:
    return forgetting.forget(order, writers, inside)


def on_box(root: Path, name: str = "step-1") -> dict[str, Any]:
    """A checkpoint of two files and the order to forget it."""
    folder = root / "ckpt" / name
    (folder / "sub").mkdir(parents=True)
    rows = []
    for path in (folder / "model.bin", folder / "sub" / "caf\udce9"):
        path.write_bytes(b"12345")
        s = path.stat()
        rows.append([str(path.relative_to(root)), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino])
    return {"root": str(root), "folder": "ckpt", "name": name, "files": rows}


def test_a_box_removes_exactly_what_was_proved(tmp_path: Path) -> None:
    order = on_box(tmp_path)
    on_box(tmp_path, "step-2")
    assert forget(order, set()) == {"removed": True}
    assert [p.name for p in (tmp_path / "ckpt").iterdir()] == ["step-2"]


def test_the_program_that_lies_on_boxes_does_it(tmp_path: Path) -> None:
    (tmp_path / "sentinel.py").write_bytes(source())
    order = on_box(tmp_path / "w")
    argv = [sys.executable, "-I", str(tmp_path / "sentinel.py"), "forget"]
    said = subprocess.run(argv, input=json.dumps(order).encode() + b"\n", capture_output=True, check=True)
    assert json.loads(said.stdout) == {"removed": True}
    assert list((tmp_path / "w/ckpt").iterdir()) == []


def test_a_checkpoint_that_is_one_file_goes_too(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    file = tmp_path / "ckpt" / "model-5.pt"
    file.write_bytes(b"x")
    s = file.stat()
    row = ["ckpt/model-5.pt", 1, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]
    assert forget({"root": str(tmp_path), "folder": "ckpt", "name": "model-5.pt", "files": [row]}, set()) == {
        "removed": True
    }
    assert list((tmp_path / "ckpt").iterdir()) == []


@pytest.mark.parametrize("how", ["another file", "rewritten", "missing", "link", "writer"])
def test_a_box_keeps_what_is_not_what_was_proved(tmp_path: Path, how: str) -> None:
    order, writers = on_box(tmp_path), set[tuple[int, int]]()
    folder = tmp_path / "ckpt" / "step-1"
    model = folder / "model.bin"
    if how == "another file":
        (folder / "new").write_text("x")
    elif how == "rewritten":  # in place, in the same length, with its old time
        s = model.stat()
        model.write_bytes(b"54321")
        os.utime(model, ns=(s.st_atime_ns, s.st_mtime_ns))
    elif how == "missing":
        model.unlink()
    elif how == "link":
        (folder / "away").symlink_to("/etc")
    else:
        writers.add((model.stat().st_dev, model.stat().st_ino))
    left = sorted(p.name for p in folder.rglob("*"))
    said = forget(order, writers)
    assert not said["removed"]
    assert said["why"]
    assert sorted(p.name for p in folder.rglob("*")) == left


def test_a_writer_that_comes_after_the_first_look_gets_its_checkpoint_back(tmp_path: Path) -> None:
    order = on_box(tmp_path)
    model = (tmp_path / "ckpt/step-1/model.bin").stat()

    class Late(set[tuple[int, int]]):
        """Nobody writes when it is first asked about the model, then somebody does."""

        asked = 0

        def __contains__(self, key: object) -> bool:
            self.asked += key == (model.st_dev, model.st_ino)
            return self.asked > 1 and key == (model.st_dev, model.st_ino)

    assert not forget(order, Late())["removed"]
    assert (tmp_path / "ckpt/step-1/model.bin").exists()


def test_an_order_that_was_cut_off_is_undone_by_the_next(tmp_path: Path) -> None:
    order = on_box(tmp_path)
    (tmp_path / "ckpt/step-1").rename(tmp_path / "ckpt" / (HIDDEN + "step-1"))
    assert forget(order | {"name": "step-9"}, set())["removed"] is False
    assert (tmp_path / "ckpt/step-1/model.bin").exists()
    assert forget(order, set()) == {"removed": True}


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", ""])
def test_names_that_lead_elsewhere_are_no_checkpoints(tmp_path: Path, name: str) -> None:
    order = on_box(tmp_path)
    assert json.loads(forgetting.answer(order | {"name": name}, set, inside))["removed"] is False
    assert (tmp_path / "ckpt/step-1/model.bin").exists()
    with pytest.raises(SystemExit):
        forget(order | {"folder": "../.."}, set())
