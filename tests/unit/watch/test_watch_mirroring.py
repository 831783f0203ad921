"""What the daemon does about a copy that turns out not to be what was sent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuwatch.custody.facts import Copy
from gpuwatch.daemon.mirroring import Mirrors
from gpuwatch.daemon.standing import Standing
from gpuwatch.mirror import plan
from gpuwatch.mirror.rclone import MirrorFault, Trouble
from gpuwatch.spec.model import Job, RunSpec
from gpuwatch.vault.layout import Vault

SPEC = RunSpec(name="r", job=Job(command="true"))
FILE = Copy("out", 3, hashlib.sha256(b"abc").hexdigest(), (3, 1, 1, 1), "b", 1.0)


class Remote:
    """An rclone that says what each copy was allowed to write over."""

    def __init__(self, verdicts: list[MirrorFault | None]) -> None:
        self.verdicts = verdicts
        self.replaced: list[bool] = []

    async def copy(self, *_: Any, replace: bool, **__: Any) -> None:
        self.replaced.append(replace)

    async def verify(self, *_: Any, **__: Any) -> str:
        verdict = self.verdicts.pop(0)
        if verdict is not None:
            raise verdict
        return "hash"


async def bring(tmp_path: Path, remote: Remote, times: int) -> Standing:
    vault = Vault(tmp_path / "vault")
    vault.create()
    vault.run("r").mkdir()
    (vault.run("r") / "out").write_bytes(b"abc")
    ctx: Any = SimpleNamespace(vault=vault, now=lambda: 5.0)
    mirrors, standing = Mirrors(ctx), Standing("r", "s3:x", {})
    mirrors._rclone = remote  # type: ignore[assignment]
    batch = plan.Batch("", "", None, (FILE,), replaces=False)
    for _ in range(times):
        try:
            await mirrors._batch(standing, batch, None, "s3:x/runs/r", SPEC)
        except MirrorFault:
            continue
    return standing


async def test_a_copy_of_ours_that_is_not_equal_there_is_written_over(tmp_path: Path) -> None:
    remote = Remote([MirrorFault(Trouble.UNPROVED, "not equal"), None])
    standing = await bring(tmp_path, remote, 2)
    assert remote.replaced == [False, True]
    assert standing.stands["out"].how == "hash"
    assert standing.ours == set(), "what stands proved is not written over any more"


@pytest.mark.parametrize("trouble", [Trouble.CHANGED, Trouble.UNREACHABLE, Trouble.FULL])
async def test_whatever_else_went_wrong_nothing_is_written_over(tmp_path: Path, trouble: Trouble) -> None:
    remote = Remote([MirrorFault(trouble, "x"), None])
    await bring(tmp_path, remote, 2)
    assert remote.replaced == [False, False]
