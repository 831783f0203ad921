"""A vault proves itself from its receipts alone, whoever edited them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from core_lives import BOOT, INSTANCE, NOW
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.cli_verify import _Shown, document, progress_line, text
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.vault import receipt
from gpuwatch.vault.layout import Vault
from gpuwatch.vault.proofs import BadReceipt, Proof, UnknownReceipt, newest, parse
from gpuwatch.vault.reread import Kind, NotThere, Seen, judge, opened
from gpuwatch.vault.verify import NoVault, Progress, Report, Verdict, assess, verify

FILES = {
    "model.bin": os.urandom(3 << 20),
    "ckpt/step-1/w.bin": b"weights" * 100,
    "empty": b"",
    "job.log": b"step 1\n",
    "sub/job.log": b"not ours",
    "new\nline\\and\x1b[31m": b"odd",
    "caf\udce9": b"latin-1",
    "-": b"dash",
}


def put(vault: Vault, run: str, path: str, data: bytes) -> Copy:
    """A proved file, as a download leaves it."""
    target = vault.run(run) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    os.utime(target, ns=(10**18, 10**18))
    return Copy(path, len(data), hashlib.sha256(data).hexdigest(), (len(data), 10**18, 1, 1), BOOT, NOW)


def prove(vault: Vault, run: str, copies: list[Copy], at: float = NOW) -> str:
    head = receipt.heading(
        run=run, name="r", label="l", inventory=Inventory(INSTANCE, BOOT, NOW, ()), waived=(), reason="", at=at
    )  # fmt: skip
    return receipt.write(vault, run, head, copies).digest


def forge(vault: Vault, run: str, text: str) -> str:
    """A receipt that somebody wrote by hand and named by its hash."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = vault.receipts(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{digest}.json").write_text(text)
    return digest


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "vault")
    made.create()
    return made


@pytest.fixture
def proved(vault: Vault) -> Vault:
    """A vault with one run of many odd names, all proved."""
    prove(vault, "r1", [put(vault, "r1", path, data) for path, data in FILES.items()])
    return vault


def found(report: Report) -> set[tuple[str, str]]:
    """(kind, path) of everything that is not as proved."""
    return {(f.kind.value, f.path) for r in report.runs for f in r.findings}


def test_what_is_as_it_was_proved_is_good(proved: Vault) -> None:
    report = verify(proved.root)
    assert report.verdict is Verdict.GOOD
    assert found(report) == set()
    assert (report.runs[0].files, report.runs[0].bytes) == (len(FILES), sum(map(len, FILES.values())))


@pytest.mark.parametrize("jobs", [1, 8])
def test_exactly_the_flipped_truncated_missing_and_extra_files_are_named(proved: Vault, jobs: int) -> None:
    run = proved.run("r1")
    data = bytearray(FILES["model.bin"])
    data[2 << 20] ^= 1
    (run / "model.bin").write_bytes(data)
    os.truncate(run / "ckpt/step-1/w.bin", 699)
    (run / "caf\udce9").unlink()
    (run / "sub/notes.txt").write_text("mine")
    (run / ".partial").mkdir()
    (run / ".partial/x.part").write_text("under way")
    report = verify(proved.root, jobs=jobs)
    assert found(report) == {
        ("damaged", "model.bin"),
        ("truncated", "ckpt/step-1/w.bin"),
        ("missing", "caf\udce9"),
        ("extra", "sub/notes.txt"),
    }
    assert report.verdict is Verdict.DAMAGE
    assert report.runs[0].files == len(FILES) - 3


def test_every_single_flipped_bit_and_every_length_is_found(vault: Vault) -> None:
    data = b"checkpoint"
    prove(vault, "r1", [put(vault, "r1", "a", data)])
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (vault.run("r1") / "a").write_bytes(flipped)
        assert found(verify(vault.root, jobs=1)) == {("damaged", "a")}
    for length in range(len(data)):
        (vault.run("r1") / "a").write_bytes(data[:length])
        assert found(verify(vault.root, jobs=1)) == {("truncated", "a")}
    (vault.run("r1") / "a").write_bytes(data + b"\0")
    assert found(verify(vault.root, jobs=1)) == {("damaged", "a")}


def test_the_time_stamp_tells_bit_rot_from_writing(proved: Vault) -> None:
    target = proved.run("r1") / "-"
    target.write_bytes(b"DASH")
    (finding,) = verify(proved.root).runs[0].findings
    assert "written to since" in finding.detail
    os.utime(target, ns=(10**18, 10**18))
    (finding,) = verify(proved.root).runs[0].findings
    assert "the disk, most likely" in finding.detail


def test_the_newest_receipt_decides_and_older_ones_count_where_it_is_silent(vault: Vault) -> None:
    old, kept = put(vault, "r1", "latest.json", b"old"), put(vault, "r1", "step-1", b"one")
    prove(vault, "r1", [old, kept], at=NOW)
    prove(vault, "r1", [put(vault, "r1", "latest.json", b"new!")], at=NOW + 1)
    assert verify(vault.root).verdict is Verdict.GOOD
    (vault.run("r1") / "step-1").unlink()
    assert found(verify(vault.root)) == {("missing", "step-1")}
    put(vault, "r1", "step-1", b"one")
    put(vault, "r1", "latest.json", b"old")
    assert found(verify(vault.root)) == {("truncated", "latest.json")}


def test_a_run_without_receipt_is_unproved_and_no_damage(proved: Vault) -> None:
    put(proved, "r2", "ckpt/a", b"x")
    put(proved, "r2", "job.log", b"a live log is nobody's promise")
    report = verify(proved.root)
    assert found(report) == {("unproved", "ckpt/a")}
    assert report.verdict is Verdict.PARTIAL
    assert verify(proved.root, runs=["r1"]).verdict is Verdict.GOOD
    proved.run("r3").mkdir()
    assert verify(proved.root, runs=["r3"]).verdict is Verdict.PARTIAL


def test_nothing_is_not_good(vault: Vault, tmp_path: Path) -> None:
    assert verify(vault.root).verdict is Verdict.PARTIAL, "an empty vault proves nothing"
    (tmp_path / "unmounted").mkdir()
    for wrong, says in ((tmp_path / "none", "no vault at"), (tmp_path / "unmounted", "mounted")):
        with pytest.raises(NoVault, match=says):
            verify(wrong)


def test_a_copy_of_the_runs_without_marker_is_verified_too(proved: Vault) -> None:
    (proved.root / ".gputui-vault").unlink()
    assert verify(proved.root).verdict is Verdict.GOOD
    with pytest.raises(NoVault, match="--run r1"):
        verify(proved.run("r1"))
    with pytest.raises(NoVault, match="no run"):
        verify(proved.root, runs=["../vault/r1"])


# --- receipts ------------------------------------------------------------------------------------


def test_a_damaged_receipt_is_named_and_not_believed(vault: Vault) -> None:
    digest = prove(vault, "r1", [put(vault, "r1", "a", b"x")])
    path = vault.receipts("r1") / f"{digest}.json"
    path.write_bytes(path.read_bytes().replace(b'"bytes":1', b'"bytes":2'))
    assert found(verify(vault.root)) == {("damaged", f".receipts/{digest}.json"), ("unproved", "a")}


def test_the_list_for_sha256sum_is_verified_as_well(vault: Vault) -> None:
    digest = prove(vault, "r1", [put(vault, "r1", "a", b"x")])
    path = vault.receipts("r1") / f"{digest}.sha256"
    path.write_bytes(path.read_bytes() + b"# more\n")
    assert found(verify(vault.root)) == {("damaged", f".receipts/{digest}.sha256")}
    path.unlink()
    assert found(verify(vault.root)) == {("missing", f".receipts/{digest}.sha256")}


def test_a_receipt_of_many_files_is_in_parts_and_proves_them_all(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt, "PART_FILES", 3)
    digest = prove(vault, "r1", [put(vault, "r1", path, data) for path, data in FILES.items()])
    parts = list(vault.receipts("r1").glob("*.part"))
    assert len(parts) == 3
    assert all(hashlib.sha256(part.read_bytes()).hexdigest() == part.stem for part in parts)
    assert receipt.stands(vault, "r1", digest)
    report = verify(vault.root)
    assert (report.verdict, report.runs[0].files) == (Verdict.GOOD, len(FILES))
    (vault.run("r1") / "-").write_bytes(b"DASH")
    assert found(verify(vault.root)) == {("damaged", "-")}


@pytest.mark.parametrize("harm", ["flipped", "gone", "emptied"])
def test_a_receipt_whose_part_is_harmed_is_not_believed(
    harm: str, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt, "PART_FILES", 1)
    digest = prove(vault, "r1", [put(vault, "r1", path, b"x") for path in "ab"])
    part = next(vault.receipts("r1").glob("*.part"))
    if harm == "gone":
        part.unlink()
    else:
        part.write_bytes(b"" if harm == "emptied" else part.read_bytes().replace(b'"bytes":1', b'"bytes":2'))
    report = verify(vault.root)
    assert report.verdict is Verdict.DAMAGE
    assert f".receipts/{digest}.json" in {path for _, path in found(report)}
    assert report.runs[0].files == 0, "what it says is no proof"


@pytest.mark.parametrize("said", [1, 3])
def test_a_part_has_as_many_files_as_the_receipt_says(said: int) -> None:
    part = json.dumps({"files": [row(), row(path="b")]}).encode()
    named = {"sha256": hashlib.sha256(part).hexdigest(), "files": said, "bytes": 2}
    text = json.dumps({"format": receipt.PARTED, "run": "r1", "written_at": 1.0, "parts": [named]}).encode()
    assert len(parse(text.replace(b'"files": %d' % said, b'"files": 2'), "d", lambda _: part).promises) == 2
    with pytest.raises(BadReceipt, match="as many files"):
        parse(text, "d", lambda _: part)


def row(**changes: Any) -> dict[str, Any]:
    return {"path": "a", "bytes": 1, "sha256": "0" * 64, "mtime_ns": 1, "verified_at": 1.0} | changes


def content(*files: Any, **changes: Any) -> str:
    return json.dumps(
        {"format": receipt.FORMAT, "run": "r1", "written_at": 1.0, "files": list(files)} | changes
    )


HOSTILE = {
    "empty": "",
    "no-json": "{",
    "no-object": "[]",
    "nothing": "{}",
    "deep": "[" * 100_000,
    "nan": content(written_at=float("nan")),
    "nan-where-nobody-looks": content(later=float("nan")),
    "infinite": content(written_at=float("inf")),
    "year-10^30": content(written_at=1e38),
    "long-number": content().replace("1.0", "1" * 5000),
    "files-is-text": content(files="a"),
    "file-is-text": content("a"),
    "up": content(row(path="../r2/a")),
    "up-later": content(row(path="a/../../r2")),
    "absolute": content(row(path="/etc/passwd")),
    "nul": content(row(path="a\0")),
    "no-path": content(row(path="")),
    "receipts": content(row(path=".receipts/x")),
    "partial": content(row(path=".PARTIAL/x")),
    "surrogate": content(row(path="\ud800")),
    "path-is-number": content(row(path=3)),
    "negative": content(row(bytes=-1)),
    "huge": content(row(bytes=2**70)),
    "fraction": content(row(bytes=1.5)),
    "truth": content(row(bytes=True)),
    "short-hash": content(row(sha256="0" * 63)),
    "hash-line": content(row(sha256="0" * 64 + "\n")),
    "upper-hash": content(row(sha256="A" * 64)),
    "no-time": content(row(verified_at="today")),
    "before-1970": content(row(verified_at=-1)),
    "twice": content(row(), row()),
    "no-hash": content({"path": "a", "bytes": 1}),
    "raw-bytes": content(row(path="é")).replace("\\u00e9", "é"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_receipt_edited_by_hand_is_refused_whole_and_reads_nothing(name: str, vault: Vault) -> None:
    secret = vault.root.parent / "r2"
    secret.write_text("x")
    digest = forge(vault, "r1", HOSTILE[name])
    report = verify(vault.root)
    assert found(report) == {("damaged", f".receipts/{digest}.json")}
    assert report.runs[0].files == 0
    with pytest.raises(BadReceipt):
        parse(HOSTILE[name].encode(), digest)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["format", "run", "written_at", "files", "path", "bytes", "sha256", "mtime_ns", "verified_at"]),
        inner | st.just(receipt.FORMAT), max_size=6),
    max_leaves=20,
))  # fmt: skip
def test_no_document_at_all_gets_past_the_checks_unseen(raw: Any) -> None:
    try:
        proof = parse(json.dumps(raw).encode(), "d")
    except (BadReceipt, UnknownReceipt):
        return
    assert isinstance(proof, Proof)
    assert all(".." not in p.parts and not p.path.startswith("/") for p in proof.promises)


def test_a_receipt_of_a_later_format_is_not_judged(vault: Vault) -> None:
    digest = forge(vault, "r1", content(format="gputui-receipt/3", files={"new": "shape"}))
    report = verify(vault.root)
    assert found(report) == {("unreadable", f".receipts/{digest}.json")}
    assert report.verdict is Verdict.PARTIAL


def test_a_receipt_of_100_mb_is_not_read_into_memory(vault: Vault) -> None:
    vault.receipts("r1").mkdir(parents=True)
    path = vault.receipts("r1") / f"{'0' * 64}.json"
    path.touch()
    os.truncate(path, 100_000_000)  # sparse: costs the test nothing
    report = verify(vault.root)
    assert found(report) == {("unreadable", f".receipts/{'0' * 64}.json")}
    assert "longer than 64 MiB" in report.runs[0].findings[0].detail


def test_no_link_is_followed_anywhere(vault: Vault, tmp_path: Path) -> None:
    data, outside = b"x", tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    forge(
        vault,
        "r1",
        content(
            row(path="link", sha256=sha256), row(path="folder/a", sha256=sha256), row(path="pipe", bytes=0)
        ),
    )
    run = vault.run("r1")
    (run / "link").symlink_to(outside / "a")
    (run / "folder").symlink_to(outside)
    os.mkfifo(run / "pipe")
    (vault.root / "r2").symlink_to(outside)
    (vault.root / "r3").mkdir()
    (vault.root / "r3/.receipts").symlink_to(vault.receipts("r1"))
    by_run = {r.run: {(f.kind.value, f.path) for f in r.findings} for r in verify(vault.root).runs}
    assert by_run["r1"] >= {("missing", "link"), ("missing", "folder/a"), ("missing", "pipe")}
    assert by_run["r2"] == {("unreadable", "")}
    assert by_run["r3"] == {("damaged", ".receipts")}


def test_files_are_opened_part_by_part_and_only_regular_ones(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"x")
    with opened(tmp_path, ("d", "f")) as descriptor:
        assert os.read(descriptor, 9) == b"x"
    for parts in (("d",), ("d", "g"), ("d", "f", "g"), ("x" * 255, "y")):
        with pytest.raises(NotThere), opened(tmp_path, parts):
            pass


def test_what_cannot_be_read_is_not_called_damaged(proved: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.readv

    def broken(descriptor: int, buffers: list[bytearray]) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "model.bin":
            raise OSError(5, "Input/output error")
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "readv", broken)
    report = verify(proved.root)
    assert found(report) == {("unreadable", "model.bin")}
    assert report.verdict is Verdict.PARTIAL


# --- pure ----------------------------------------------------------------------------------------


@given(st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_a_file_is_good_only_with_size_and_hash(size: int, seen: int, same: bool) -> None:
    kind = judge(Seen(seen, 0, "a" if same else "b"), size=size, sha256="a")
    assert (kind is None) == (size == seen and same)
    assert (kind is Kind.TRUNCATED) == (seen < size)


def test_order_of_reading_receipts_does_not_matter() -> None:
    one, two = (parse(content(row(bytes=n), written_at=n).encode(), str(n)) for n in (1, 2))
    assert newest([one, two]) == newest([two, one])
    assert newest([two, one])["a"].receipt == "2"


@given(st.floats(0, 95_617_584_000), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_believed_time_can_be_told(at: float, mtime: int, seen: int) -> None:
    (promise,) = parse(content(row(verified_at=at, mtime_ns=mtime)).encode(), "d").promises
    assert assess(promise, Seen(0, seen, None)) is not None


def test_a_fault_of_ours_is_not_swallowed(proved: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gpuwatch.vault.verify.assess", broken)
    with pytest.raises(ZeroDivisionError):
        verify(proved.root)


# --- what is shown -------------------------------------------------------------------------------


def test_the_report_is_harmless_to_a_terminal_and_says_every_damaged_name(proved: Vault) -> None:
    (proved.run("r1") / "new\nline\\and\x1b[31m").unlink()
    (proved.run("r1") / "caf\udce9").unlink()
    for n in range(30):
        put(proved, "r1", f"extra-{n:02}", b"")
    lines = list(text(verify(proved.root)))
    assert not any(set(line) & set("\x1b\n\r") for line in lines)
    shown = "\n".join(lines)
    assert "caf\\xe9" in shown
    assert "new␊line" in shown
    assert "extra-19" in shown
    assert "extra-20" not in shown
    assert "and 10 more extra" in shown
    assert "DAMAGE: 2 missing, 30 extra" in shown


def test_the_json_report_has_its_documented_shape(proved: Vault) -> None:
    (proved.run("r1") / "caf\udce9").write_bytes(b"LATIN-1")
    shape = json.loads(json.dumps(document(verify(proved.root))))
    assert shape["format"] == "gputui-verify/1"
    assert (shape["exit"], shape["verdict"], shape["counts"]["damaged"]) == (1, "damage", 1)
    (finding,) = shape["runs"][0]["findings"]
    assert finding["path"] == "caf\udce9", "the very bytes of the name, as in the receipt"
    assert finding["expected"]["sha256"] == hashlib.sha256(b"latin-1").hexdigest()
    assert finding["found"] == {"bytes": 7, "sha256": hashlib.sha256(b"LATIN-1").hexdigest()}


def test_progress_says_rate_and_time_left() -> None:
    progress = Progress(files_total=4, bytes_total=4000, findings=1)
    progress.add(progress.lane(), files=1, size=500)
    progress.add(progress.lane(), files=0, size=500)
    assert progress_line(progress, 2.0) == "1.00 kB of 4.00 kB, 1 of 4 files, 500 B/s, 6 s left, 1 found"
    assert progress_line(Progress(), 0.0) == "0 B of 0 B, 0 of 0 files, 0 B/s"


@pytest.mark.parametrize("terminal", [True, False])
def test_escape_codes_are_for_terminals_only(terminal: bool) -> None:
    class Stream:
        def __init__(self) -> None:
            self.text = ""

        def isatty(self) -> bool:
            return terminal

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    stream = Stream()
    shown = _Shown(stream)  # type: ignore[arg-type]
    shown(Progress())
    shown.clear()
    assert ("\x1b" in stream.text) == terminal
    assert bool(stream.text) == terminal, "a log gets a line every half minute only"


def test_the_manual_names_every_field_of_a_receipt_and_every_word_of_a_report(proved: Vault) -> None:
    manual = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    (path,) = proved.receipts("r1").glob("*.json")
    written = json.loads(path.read_text())
    fields = {*written, *(f"files[].{key}" for key in written["files"][0])}
    report = document(verify(proved.root))
    words = {*fields, *report, *report["runs"][0], *(kind.value for kind in Kind)}
    assert [word for word in sorted(words) if f"`{word}`" not in manual] == []
