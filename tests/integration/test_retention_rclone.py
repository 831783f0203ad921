"""Retention on real files and a real remote: what goes is proved elsewhere first, and nobody misses it afterwards."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gpuwatch.box.sentinel import parse_report
from gpuwatch.custody.facts import BoxFile, Copy, Inventory
from gpuwatch.daemon import restoring
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.mirroring import Mirrors
from gpuwatch.daemon.retained import rows
from gpuwatch.daemon.retaining import Keeper
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.mirror import proof
from gpuwatch.sentinel.forgetting import forget
from gpuwatch.sentinel.moving import inside
from gpuwatch.spec import read_spec
from gpuwatch.vault import receipt
from gpuwatch.vault.layout import Vault
from gpuwatch.vault.verify import Verdict, verify
from integration.rclone_servers import Server, serving

SPEC = """
name = "r"
[job]
command = "true"
[checkpoints]
path = "ckpt"
keep_last = 2
keep_milestones = 0
keep_days = 0
keep_best = 1
metric = "loss"
prune = {prune}
[mirror]
remotes = ["sim:bucket"]
"""
NOW = 1_800_000_000.0
BOOT = "b" * 32
LABEL = "gputui-r1-1-aa"
RUN: tuple[e.RunEvent, ...] = (
    e.OfferChosen(label=LABEL, provider="vast", offer_id="9", machine_id="12", gpu="RTX 4090", gpu_count=1,
                  gpu_memory=24 * 10**9, price=400_000, disk_price=1_000),
    e.CreateSent(label=LABEL), e.Rented(label=LABEL, instance_id="77"),
    e.Booted(host="1.2.3.4", port=22, user="root", fingerprint="SHA256:x", seconds=40.0),
    e.BoxChecked(boot_id=BOOT, workspace="/root", python="3.11.2", gpus=1), e.StartSent(boot_id=BOOT),
    e.JobStarted(boot_id=BOOT, pid=5),
)  # fmt: skip
END: tuple[e.RunEvent, ...] = (
    e.JobEnded(exit_code=0), e.CollectStarted(), e.ReceiptWritten(digest="d" * 64, files=2, bytes=10, boot_id=BOOT, at=NOW),
    e.DestroySent(permit="receipt", instance_id="77"), e.DestroyAccepted(), e.Gone(evidence="listings"),
)  # fmt: skip


@dataclass
class Home:
    """A vault with one run of five checkpoints, its ledger, and the daemon's parts that retention works with."""

    root: Path
    ledger: Ledger
    spec: str
    clock: list[float] = field(default_factory=lambda: [NOW])

    def __post_init__(self) -> None:
        self.vault = Vault(self.root / "vault")
        self.vault.create()
        self.box = self.root / "box"
        self.lives: dict[str, Live] = {}
        self.actors: dict[str, Any] = {}
        self.restart()

    def restart(self) -> None:
        """The daemon's parts anew: only ledger and vault are what they were."""
        self.ctx: Any = SimpleNamespace(
            ledger=self.ledger, vault=self.vault, now=lambda: self.clock[0], private=self.root / "private", mirrored={},
            remotes={}, retained={}, specs={"r1": read_spec(self.spec, file="r.toml")},
        )  # fmt: skip
        self.mirrors = Mirrors(self.ctx)
        self.mirrors._specs = dict(self.ctx.specs)
        self.keeper = Keeper(self.ctx, self.lives, self.actors)

    async def train(self, *, until: int = 5, over: bool = True) -> None:
        await self.ledger.create(
            "r1", e.Requested(name="r", spec=self.spec, file="r.toml", base="/", key="k")
        )
        for event in RUN:
            await self.ledger.append("r1", event)
        copies = []
        for step in range(1, until + 1):
            files = {
                "model.bin": bytes([step]) * 4000,
                "MANIFEST.json": b'{"val": {"loss": %d}}' % abs(step - 2),
            }
            for name, data in files.items():
                path = self.box / "ckpt" / f"step-{step}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                copies.append(self.copied(f"ckpt/step-{step}/{name}", step))
        await self.ledger.append("r1", e.FilesVerified(files=len(copies), bytes=1), copies=copies)
        if over:
            head = receipt.heading(
                run="r1",
                name="r",
                label=LABEL,
                inventory=Inventory("77", BOOT, NOW, ()),
                waived=(),
                reason="",
                at=NOW,
            )
            receipt.write(self.vault, "r1", head, copies)
            for event in END:
                await self.ledger.append("r1", event)

    def copied(self, path: str, step: int) -> Copy:
        source, target = self.box / path, self.vault.destination("r1", path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        s = source.stat()
        identity = (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
        return Copy(
            path, s.st_size, hashlib.sha256(source.read_bytes()).hexdigest(), identity, BOOT, NOW + step, step
        )

    async def stand(self, server: Server) -> None:
        """As after mirroring: everything is there, and that was compared."""
        record = await self.ledger.record("r1")
        for path in record.copies:
            there = server.file(f"runs/r1/checkpoints/{path.removeprefix('ckpt/')}")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(self.vault.destination("r1", path).read_bytes())
        proof.save(self.vault, "r1", "sim:bucket", proof.with_files({}, record.copies.values(), "hash", NOW))

    async def mirror(self) -> None:
        while await self.mirrors._round("sim:bucket"):
            pass

    def at_home(self) -> set[str]:
        return {p.name for p in (self.vault.run("r1") / "ckpt").glob("step-*")}


@contextlib.asynccontextmanager
async def home(root: Path, prune: str) -> AsyncIterator[Home]:
    import asyncio

    root.mkdir()
    ledger = await Ledger.open(root / "ledger.db", now=lambda: NOW)
    writer = asyncio.create_task(ledger.write())
    try:
        yield Home(root, ledger, SPEC.format(prune=prune))
    finally:
        ledger.stop()
        await writer
        await ledger.close()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], None]:
    return lambda server: monkeypatch.setenv("RCLONE_CONFIG", server.environment["RCLONE_CONFIG"])


@pytest.fixture
def s3(tmp_path: Path, use: Callable[[Server], None]) -> Iterator[Server]:
    with serving("s3", tmp_path) as made:
        use(made)
        yield made


def there(server: Server) -> set[str]:
    return {p.name for p in server.file("runs/r1/checkpoints").glob("step-*") if any(p.iterdir())}


ALL = {f"step-{n}" for n in range(1, 6)}


async def test_old_checkpoints_leave_the_vault_when_the_remote_has_them_and_verify_misses_nothing(
    tmp_path: Path, s3: Server
) -> None:
    async with home(tmp_path / "home", '["vault"]') as here:
        await here.train()
        await here.keeper.round()
        assert here.at_home() == ALL, "nothing stands on the remote yet"
        await here.stand(s3)
        here.restart()
        await here.keeper.round()
        # the newest two and the best stay
        assert (here.at_home(), there(s3)) == ({"step-2", "step-4", "step-5"}, ALL)
        report = verify(here.vault.root)
        assert (report.verdict, len(report.runs[0].let_go)) == (Verdict.GOOD, 4)
        assert here.ledger.bad() == []
        (row,) = rows(here.ctx, None)
        assert (row.kept, row.let_go, row.going, row.problem) == (3, 4, 0, None)
        said = [x.event for x in await here.ledger.events(run="r1", limit=99) if isinstance(x.event, e.LetGo)]
        assert [(x.place, x.name, x.stands) for x in said] == [
            ("vault", f"step-{n}", ["sim:bucket"]) for n in (1, 3)
        ]
        here.restart()
        await here.keeper.round()
        assert (here.at_home(), there(s3)) == ({"step-2", "step-4", "step-5"}, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "sftp"])
async def test_old_checkpoints_leave_the_remote_and_are_not_copied_again_nor_is_a_strangers_file_touched(
    kind: str, tmp_path: Path, use: Callable[[Server], None]
) -> None:
    with serving(kind, tmp_path) as server:
        use(server)
        async with home(tmp_path / "home", '["sim:bucket", "vault"]') as here:
            await here.train()
            await here.stand(server)
            stranger = server.file("runs/r1/checkpoints/step-3/notes.txt")
            stranger.write_text("mine")
            await here.keeper.round()
            # what has left the remote stays in the vault: it is the only copy
            assert here.at_home() == ALL
            assert there(server) == {"step-2", "step-3", "step-4", "step-5"}
            assert [p.name for p in stranger.parent.iterdir()] == ["notes.txt"]
            here.restart()
            await here.mirror()
            await here.keeper.round()
            assert "step-1" not in there(server)
            assert here.at_home() == ALL
            assert verify(here.vault.root).verdict is Verdict.GOOD


@pytest.mark.slow
async def test_a_copy_that_rotted_on_the_remote_keeps_the_vaults_and_is_mended_first(
    tmp_path: Path, s3: Server
) -> None:
    async with home(tmp_path / "home", '["vault"]') as here:
        await here.train()
        await here.stand(s3)
        s3.file("runs/r1/checkpoints/step-1/model.bin").write_bytes(b"?" * 4000)
        await here.keeper.round()
        assert here.at_home() == ALL - {"step-3"}
        assert "not equal there" in (rows(here.ctx, None)[0].problem or "")
        await here.mirror()
        await here.keeper.round()
        assert s3.file("runs/r1/checkpoints/step-1/model.bin").read_bytes() == b"\1" * 4000
        assert here.at_home() == {"step-2", "step-4", "step-5"}


@pytest.mark.slow
async def test_a_copy_that_rotted_at_home_proves_nothing_and_the_remotes_stays(
    tmp_path: Path, s3: Server
) -> None:
    async with home(tmp_path / "home", '["sim:bucket"]') as here:
        await here.train()
        await here.stand(s3)
        here.vault.destination("r1", "ckpt/step-1/model.bin").write_bytes(b"?" * 4000)
        await here.keeper.round()
        assert there(s3) == ALL - {"step-3"}
        assert [s.copy.path for s in here.ledger.bad()] == ["ckpt/step-1/model.bin"]


@pytest.mark.slow
async def test_a_remote_that_is_away_lets_nothing_go_and_that_is_told(tmp_path: Path, s3: Server) -> None:
    async with home(tmp_path / "home", '["vault", "sim:bucket"]') as here:
        await here.train(until=4)
        await here.stand(s3)
        s3.stop()
        await here.keeper.round()
        assert here.at_home() == {f"step-{n}" for n in range(1, 5)}
        told = {row.place: row.problem for row in rows(here.ctx, None)}
        assert "tried again" in (told["sim:bucket"] or "")
        # what was written down is taken up again when it is back, by a daemon that knows of it from the ledger
        s3.start()
        here.restart()
        await here.keeper.round()
        assert there(s3) == {"step-2", "step-3", "step-4"}
        assert await here.ledger.letting_go() == []


@pytest.mark.slow
async def test_a_removal_that_was_cut_off_is_finished_if_the_remote_still_has_it(
    tmp_path: Path, s3: Server
) -> None:
    async with home(tmp_path / "home", '["vault"]') as here:
        await here.train()
        await here.stand(s3)
        record = await here.ledger.record("r1")
        for step in (1, 3):
            copies = [c for c in record.copies.values() if c.step == step]
            going = e.LetGo(
                place="vault", name=f"step-{step}", step=step, files=2, bytes=1, stands=["sim:bucket"]
            )
            await here.ledger.lets_go("r1", going, copies)
        s3.stop()  # it remembers listings
        s3.file("runs/r1/checkpoints/step-3/model.bin").unlink()
        s3.start()
        await here.keeper.round()
        assert here.at_home() == ALL - {"step-1"}
        assert "not equal there" in (rows(here.ctx, None)[0].problem or "")
        s3.stop()
        s3.file("runs/r1/checkpoints/step-3/model.bin").write_bytes(b"\3" * 4000)
        s3.start()
        await here.keeper.round()
        assert here.at_home() == {"step-2", "step-4", "step-5"}


@pytest.mark.slow
async def test_a_run_can_begin_from_a_checkpoint_that_only_the_remote_has_and_while_it_does_it_stays(
    tmp_path: Path, s3: Server
) -> None:
    async with home(tmp_path / "home", '["vault"]') as here:
        await here.train()
        await here.stand(s3)
        record = await here.ledger.record("r1")
        digest = restoring.digest_of(c for c in record.copies.values() if c.step == 1)
        homes = (restoring.Home(name="step-1", step=1, digest=digest, files=2, bytes=1, at=NOW),)
        here.ledger.runs["r1"] = msgspec.structs.replace(here.ledger.runs["r1"], homes=homes)
        asks = e.Requested(
            name="n", spec=here.spec, file="r.toml", base="/", key="k2", resume_from="run:r1/step-3"
        )
        await here.ledger.create("r2", asks)
        here.ctx.specs["r2"] = here.ctx.specs["r1"]
        await here.keeper.round()
        assert here.at_home() == {"step-2", "step-3", "step-4", "step-5"}
        assert rows(here.ctx, "r1")[0].stay == ["1 a run begins from it"]
        chosen = await restoring._of_run(here.ctx, "r1/step-1", here.vault.resume("r2"), Live())
        assert (chosen.source, chosen.step) == ("sim:bucket", 1)
        assert {name: path.read_bytes()[:1] for name, path, _ in chosen.files}["step-1/model.bin"] == b"\1"


# --- the box -------------------------------------------------------------------------------------


def heard(here: Home, *, free: int, total: int = 1_000_000) -> None:
    """A report from the box, with what really lies in its folder."""
    import asyncio

    files = []
    for path in sorted((here.box / "ckpt").rglob("*")):
        if path.is_file():
            s = path.stat()
            files.append(
                [
                    str(path.relative_to(here.box)),
                    s.st_size,
                    s.st_mtime_ns,
                    s.st_ctime_ns,
                    s.st_ino,
                    False,
                    None,
                ]
            )
    line = {"at": NOW, "boot_id": BOOT, "job": {"phase": "running"}, "files": files, "disk": [free, total]}
    live = here.lives.setdefault("r1", Live())
    live.observe(parse_report(msgspec.json.encode(line)), asyncio.get_running_loop().time(), NOW)


@pytest.mark.slow
async def test_a_box_whose_disk_is_short_gives_up_what_is_proved_here_and_then_the_vault_may(
    tmp_path: Path, s3: Server
) -> None:
    asked: list[str] = []

    class Agent:
        async def forget(self, folder: str, name: str, files: tuple[BoxFile, ...]) -> str | None:
            asked.append(name)
            order = {
                "root": str(here.box),
                "folder": folder,
                "name": name,
                "files": [[f.path, *f.identity] for f in files],
            }
            said = forget(order, set(), inside)
            return None if said["removed"] else said["why"]

    class Link:
        async def sentinel(self) -> Agent:
            return Agent()

    async with home(tmp_path / "home", '["box", "vault"]') as here:
        await here.train(over=False)
        await here.stand(s3)
        here.actors["r1"] = SimpleNamespace(link=Link())
        await here.keeper.round()
        assert (asked, here.at_home()) == ([], ALL), "nobody knows what the box has"
        heard(here, free=500_000)
        await here.keeper.round()
        assert (asked, here.at_home()) == ([], ALL), "its disk has room, and what it has stays everywhere"
        (here.box / "ckpt/step-1/model.bin").write_bytes(b"another version")
        heard(here, free=99_900)
        await here.keeper.round()
        # short of 100 bytes: the oldest that is proved in the version that the box has
        assert asked == ["step-3"]
        assert {p.name for p in (here.box / "ckpt").iterdir()} == ALL - {"step-3"}
        assert here.at_home() == ALL
        heard(here, free=104_000)
        await here.keeper.round()
        assert here.at_home() == ALL - {"step-3"}
        assert there(s3) == ALL
        told = [
            (x.event.place, x.event.name)
            for x in await here.ledger.events(run="r1", limit=99)
            if isinstance(x.event, e.LetGo)
        ]
        assert told == [("box", "step-3"), ("vault", "step-3")]
