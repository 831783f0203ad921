"""A checkpoint onto a new box before the job starts: from the vault, a remote, or a folder of this machine; proved.

From the vault every file is read again from its disk and must be what its proof says; from a remote it
must have the hash that was proved at home, or be compared with the remote. The box hashes what arrives. A
checkpoint that is not whole any more is passed over for the one before it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gpuwatch.box.errors import BoxFault
from gpuwatch.box.fetch import Progress
from gpuwatch.box.ports import Agent
from gpuwatch.clean import clean, show_path
from gpuwatch.custody.complete import MANIFEST, POINTER, digest_of
from gpuwatch.custody.facts import Copy
from gpuwatch.custody.scrub import Scrubbed
from gpuwatch.daemon.collecting import problem_of
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.resuming import ResumeError, parse_pointer
from gpuwatch.ledger import Record
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.recover import spec_for
from gpuwatch.lifecycle.run import Home, Run
from gpuwatch.mirror import proof
from gpuwatch.mirror.names import BadRemote, folder_of, place, unlistable
from gpuwatch.mirror.rclone import MirrorFault, make_rclone
from gpuwatch.mirror.retention import VAULT
from gpuwatch.spec import RunSpec, SpecError, read_spec
from gpuwatch.vault.layout import HostilePath, make_folder, relative_parts

log = structlog.get_logger()

MOST_FILES = 50_000
"""Files that one checkpoint may have; a folder with more is not one."""


class NotRestored(Exception):
    """There is nothing to begin from although something was asked for; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A checkpoint that is here and proved: (name below the checkpoint folder, file, copy or None)."""

    source: str
    name: str
    step: int | None
    files: tuple[tuple[str, Path, Copy | None], ...]

    @property
    def bytes(self) -> int:
        """Size of all files. Blocking."""
        return sum(path.stat().st_size for _, path, _ in self.files)


async def restore(ctx: Context, run: Run, spec: RunSpec, sentinel: Agent, live: Live, boot_id: str) -> None:
    """Put the checkpoint that this run goes on from on its box, once for each machine.

    Nothing happens for a run that begins anew. Raises NotRestored, BoxError, OSError.
    """
    machine, folder = run.machine, spec.checkpoints.path if spec.checkpoints is not None else None
    if machine is None or machine.instance_id is None or folder is None or machine.restored is not None:
        return
    if not run.homes and run.resume_from is None:
        return
    staging = ctx.vault.resume(run.id)
    try:
        chosen = await choose(ctx, run, spec, staging, live)
        if chosen is None:
            if run.started_at is None:
                raise NotRestored("there is no checkpoint to begin from")
            live.say("no checkpoint at home is whole any more: the job begins anew")
            log.error("nothing to restore", run=run.id)
            return
        size = await asyncio.to_thread(lambda: chosen.bytes)
        live.say(f"putting checkpoint {show_path(chosen.name)} on the box")
        live.transfer = progress = Progress()
        try:
            await sentinel.upload(
                [(f"{folder}/{name}", path) for name, path, _ in chosen.files], progress=progress
            )
        finally:
            live.transfer = None
        await _point(sentinel, folder, chosen)
        copies = await _placed(ctx, run, sentinel, folder, chosen, machine.instance_id, boot_id)
        restored = e.Restored(
            source=chosen.source, name=chosen.name, step=chosen.step, files=len(chosen.files), bytes=size
        )
        await ctx.ledger.append(run.id, restored, copies=copies)
        live.say(None)
    finally:
        await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)


async def _point(sentinel: Agent, folder: str, chosen: Chosen) -> None:
    """`latest.json` for a checkpoint of the run contract, after its data."""
    manifest = next((p for n, p, _ in chosen.files if n == f"{chosen.name}/{MANIFEST}"), None)
    if manifest is None:
        return
    digest = hashlib.sha256(await asyncio.to_thread(manifest.read_bytes)).hexdigest()
    pointer = {"step": chosen.step, "dir": chosen.name, "manifest_sha256": digest}
    await sentinel.put(f"{folder}/{POINTER}", json.dumps(pointer).encode() + b"\n")


async def _placed(
    ctx: Context, run: Run, sentinel: Agent, folder: str, chosen: Chosen, instance_id: str, boot_id: str
) -> list[Copy]:
    """The files as they stand on the box now, with the proof that they have at home: they need not come back.

    Only what lies in this run's own vault under the same name. Raises BoxFault when something is missing.
    """
    inventory = await sentinel.inventory([folder], instance_id)
    listed = {f.path: f for f in inventory.files}
    copies = []
    for name, path, copy in chosen.files:
        file = listed.get(f"{folder}/{name}")
        if file is None or file.size != (await asyncio.to_thread(path.stat)).st_size:
            raise BoxFault(
                f"{show_path(name)} was put on the box and is not there as it was sent; it is sent again"
            )
        if copy is not None and path == ctx.vault.destination(run.id, file.path):
            copies.append(
                Copy(
                    file.path, file.size, copy.sha256, file.identity, boot_id, ctx.now(), copy.step, copy.home
                )
            )
    return copies


async def choose(ctx: Context, run: Run, spec: RunSpec, staging: Path, live: Live) -> Chosen | None:
    """The checkpoint to go on from: the run's own newest, else what was asked for. Raises NotRestored, OSError."""
    if run.homes:
        record = await ctx.ledger.record(run.id)
        own = await _best(ctx, record, spec, tuple(reversed(run.homes)), staging, live)
        if own is not None or run.started_at is not None:
            return own
    source = run.resume_from or ""
    kind, _, rest = source.partition(":")
    match kind:
        case "run":
            return await _of_run(ctx, rest, staging, live)
        case "path":
            return await asyncio.to_thread(of_path, Path(rest))
        case "remote":
            return await _of_remote(ctx, rest, spec, staging, live)
    return None


async def _of_run(ctx: Context, rest: str, staging: Path, live: Live) -> Chosen:
    """`<run>/<checkpoint>` of the vault."""
    run_id, _, name = rest.partition("/")
    try:
        record = await ctx.ledger.record(run_id)
        spec = spec_for(record.run, read_spec(record.run.spec, file=record.run.file))
    except (KeyError, SpecError) as error:
        raise NotRestored(f"{run_id} is not to be read: {clean(str(error), 200)}") from error
    homes = [h for h in record.run.homes if h.name == name]
    found = await _best(ctx, record, spec, homes, staging, live)
    if found is None:
        raise NotRestored(
            f"checkpoint {show_path(name)} of {run_id} is not whole in the vault any more, nor on a remote of it: "
            "`gpuwatch verify` says what is damaged; give another with --resume-from"
        )
    return found


async def _best(
    ctx: Context, record: Record, spec: RunSpec, homes: Sequence[Home], staging: Path, live: Live
) -> Chosen | None:
    """The first of these checkpoints that stands whole in the vault, or else on a remote."""
    folder = spec.checkpoints.path if spec.checkpoints is not None else None
    if folder is None:
        return None
    for home in homes:
        prefix = f"{folder}/{home.name}"
        mine = {p: c for p, c in record.copies.items() if p == prefix or p.startswith(f"{prefix}/")}
        past = {
            p.copy.path: p.copy for p in await ctx.ledger.let_go(record.run.id)
            if p.place == VAULT and (p.copy.path == prefix or p.copy.path.startswith(f"{prefix}/"))
        }  # fmt: skip
        if past and digest_of((past | mine).values()) == home.digest:
            # retention let it go from the vault, because a remote has it
            fetched = await _from_mirrors(ctx, record.run.id, spec, folder, past | mine, staging)
            if fetched is not None:
                return Chosen(fetched[0], home.name, home.step, fetched[1])
            continue
        if digest_of(mine.values()) != home.digest:
            log.warning("checkpoint passed over: written over since", run=record.run.id, name=home.name)
            continue
        live.say(f"reading checkpoint {show_path(home.name)} again")
        bad = await _reread(ctx, record.run.id, mine)
        if not bad:
            files = tuple(
                (p.removeprefix(f"{folder}/"), ctx.vault.destination(record.run.id, p), c)
                for p, c in sorted(mine.items())
            )
            return Chosen(f"the vault ({record.run.id})", home.name, home.step, files)
        log.warning("checkpoint not as proved", run=record.run.id, name=home.name, problem=bad)
        fetched = await _from_mirrors(ctx, record.run.id, spec, folder, mine, staging)
        if fetched is not None:
            remote, paths = fetched
            return Chosen(remote, home.name, home.step, paths)
    return None


async def _reread(ctx: Context, run_id: str, copies: Mapping[str, Copy]) -> str | None:
    """What is wrong with these copies on their disk, None when every one is as it was proved. Raises VaultUnusable."""
    await asyncio.to_thread(ctx.vault.check)
    found = []
    for copy in copies.values():
        problem = await asyncio.to_thread(problem_of, ctx.vault.run(run_id), copy)
        found.append(Scrubbed(run_id, copy, ctx.now(), problem))
        if problem is not None:
            break
    await ctx.ledger.record_scrubs(found)
    return next((f"{show_path(x.copy.path)}: {x.problem}" for x in found if x.problem is not None), None)


Paths = tuple[tuple[str, Path, Copy | None], ...]


async def _from_mirrors(
    ctx: Context, run_id: str, spec: RunSpec, folder: str, copies: Mapping[str, Copy], staging: Path
) -> tuple[str, Paths] | None:
    """The checkpoint from the first remote on which every file was verified, with the hashes proved at home."""
    for remote in spec.mirror.remotes:
        stands = await asyncio.to_thread(proof.load, ctx.vault, run_id, remote)
        if any((s := stands.get(p)) is None or s.sha256 != c.sha256 for p, c in copies.items()):
            continue
        names = [place(path, folder)[1] for path in copies]
        wanted = {place(p, folder)[1]: c.sha256 for p, c in copies.items()}
        try:
            where = f"{folder_of(remote, run_id)}/checkpoints"
            await _fetch(ctx, where, staging, names, spec)
            await asyncio.to_thread(demand_hashes, staging, wanted)
        except (MirrorFault, BadRemote, ResumeError) as error:
            log.warning("remote has no sound copy", run=run_id, remote=remote, problem=clean(str(error), 300))
            continue
        return remote, tuple((n, staging / n, None) for n in sorted(names))
    return None


async def _of_remote(ctx: Context, remote: str, spec: RunSpec, staging: Path, live: Live) -> Chosen:
    """A checkpoint below any remote: a mirrored run's newest, a checkpoint's folder, or one file's folder."""
    live.say(f"fetching the checkpoint from {clean(remote, 200)}")
    try:
        pointed = await _pointed(ctx, remote, staging, spec)
        if pointed is not None:
            name, step, hashes = pointed
            await _fetch(ctx, f"{remote}/checkpoints", staging, list(hashes), spec)
            await asyncio.to_thread(demand_hashes, staging, hashes)
            return Chosen(remote, name, step, tuple((n, staging / n, None) for n in sorted(hashes)))
        name = remote.rstrip("/").rpartition("/")[2].rpartition(":")[2]
        if not name or unlistable(name):
            raise NotRestored(
                f"{clean(remote, 200)} names no checkpoint: give the folder of one, e.g. {remote}step-1000"
            )
        inside = staging / name
        await _fetch(ctx, remote, inside, [], spec)
        found = await asyncio.to_thread(lambda: [p.relative_to(inside).as_posix() for p in _regular(inside)])
        if not found:
            raise NotRestored(f"there is no file below {clean(remote, 200)}")
        rclone = await make_rclone(ctx.private)
        await rclone.verify(inside, remote, found, read_back=spec.mirror.read_back)
        return await asyncio.to_thread(of_path, inside, remote)
    except (MirrorFault, BadRemote, ResumeError) as error:
        raise NotRestored(f"{clean(remote, 200)}: {error}") from error


async def _pointed(
    ctx: Context, remote: str, staging: Path, spec: RunSpec
) -> tuple[str, int | None, dict[str, str]] | None:
    """What `checkpoints/latest.json` of a mirrored run names, None when this remote is none."""
    beside = staging / "pointer"
    try:
        await _fetch(ctx, f"{remote}/checkpoints", beside, ["latest.json"], spec)
    except MirrorFault:
        return None
    file = beside / "latest.json"
    return await asyncio.to_thread(lambda: parse_pointer(file.read_bytes()) if file.is_file() else None)


async def _fetch(ctx: Context, remote: str, target: Path, names: Sequence[str], spec: RunSpec) -> None:
    await asyncio.to_thread(ctx.vault.check)
    await asyncio.to_thread(make_folder, target)
    rclone = await make_rclone(ctx.private)
    await rclone.fetch(remote, target, names, limit=spec.mirror.bandwidth, progress=lambda _: None)


def demand_hashes(folder: Path, wanted: Mapping[str, str]) -> None:
    """Each name below `folder` has this SHA-256. Blocking. Raises ResumeError."""
    for name, sha256 in wanted.items():
        path = folder.joinpath(*name.split("/"))
        if path.is_symlink() or not path.is_file():
            raise ResumeError(f"{show_path(name)} did not arrive")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ResumeError(f"{show_path(name)} is not what was proved")


def of_path(path: Path, source: str | None = None) -> Chosen:
    """A checkpoint that is a file or folder of this machine. Blocking. Raises NotRestored.

    A folder of the run contract is checked against its MANIFEST.json.
    """
    if path.is_file() and not path.is_symlink():
        return Chosen(source or str(path), path.name, None, ((path.name, path, None),))
    if not path.is_dir():
        raise NotRestored(f"{clean(str(path), 300)} is not there any more")
    files = tuple(_regular(path))
    if not files:
        raise NotRestored(f"{clean(str(path), 300)} has no files")
    if len(files) > MOST_FILES:
        raise NotRestored(f"{clean(str(path), 300)} has more than {MOST_FILES} files: it is no checkpoint")
    try:
        demand_hashes(path, manifest_hashes(path))
    except ResumeError as error:
        raise NotRestored(f"{clean(str(path), 300)}: {error}") from error
    named = tuple((f"{path.name}/{f.relative_to(path).as_posix()}", f, None) for f in files)
    return Chosen(source or str(path), path.name, None, named)


def manifest_hashes(folder: Path) -> dict[str, str]:
    """Name → SHA-256 of what a run contract's MANIFEST.json lists; empty without one. Raises ResumeError."""
    file = folder / MANIFEST
    if not file.is_file():
        return {}
    return dict(_manifest(file))


def _manifest(file: Path) -> Iterator[tuple[str, str]]:
    try:
        rows = json.loads(file.read_bytes())["files"]
        for row in rows:
            name, sha256 = row.get("path") or row["name"], row["sha256"]
            relative_parts(name)
            yield name, str(sha256)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, HostilePath) as error:
        raise ResumeError(f"its MANIFEST.json cannot be read: {clean(str(error), 200)}") from error


def _regular(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
