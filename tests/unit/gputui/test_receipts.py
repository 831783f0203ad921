"""Receipts as the app shows them: the daemon's own are read whole, an altered one proves nothing."""

from __future__ import annotations

from pathlib import Path

from gputui import receipts
from gputui.widgets.lines import Para
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.vault import receipt
from gpuwatch.vault.layout import Vault


def text(found: list[receipts.Receipt], log: str) -> str:
    lines = receipts.told(found, log)
    return "\n".join(one.text if isinstance(one, Para) else "".join(part for part, _ in one) for one in lines)


def written(tmp_path: Path) -> tuple[receipt.Receipt, str]:
    vault = Vault(tmp_path / "vault")
    vault.create()
    head = receipt.heading(
        run="r1", name="x", label="gputui-r1", inventory=Inventory("i-7", "boot-9", 1.0, ()), waived=["junk.tmp"],
        reason="not needed", at=1_790_000_000.0,
    )  # fmt: skip
    copies = [
        Copy(
            path=f"ckpt/{n}.pt",
            size=5 * n,
            sha256="ab" * 32,
            identity=(1, 2, 3, 4),
            boot_id="boot-9",
            verified_at=3.0,
        )
        for n in (1, 2)
    ]
    return receipt.write(vault, "r1", head, copies), str(vault.log("r1"))


def test_the_daemons_receipt_is_found_beside_the_log_and_told(tmp_path: Path) -> None:
    made, log = written(tmp_path)
    (found,) = receipts.of_run(log)
    assert found.whole
    assert (found.digest, found.files, found.bytes, found.boot_id) == (made.digest, 2, 15, "boot-9")
    said = text([found], log)
    assert "2 files, 15 B" in said
    assert "given up: junk.tmp: not needed" in said
    assert f"sha256sum -c .receipts/{made.digest[:8]}*.sha256" in said


def test_an_altered_receipt_proves_nothing(tmp_path: Path) -> None:
    made, log = written(tmp_path)
    made.path.write_bytes(made.path.read_bytes().replace(b"boot-9", b"boot-8"))
    (found,) = receipts.of_run(log)
    assert not found.whole
    assert "it proves nothing" in text([found], log)
    made.path.write_bytes(b"\xff{")
    assert not receipts.of_run(log)[0].whole


def test_no_receipt_yet_is_explained(tmp_path: Path) -> None:
    log = str(tmp_path / "nothing" / "job.log")
    assert receipts.of_run(log) == []
    assert "until then the machine stays" in text([], log)
