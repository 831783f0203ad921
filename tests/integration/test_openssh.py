"""The box layer against Debian's own sshd: exec, upload, listing, download with resume, host keys, limits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gpuproviders.model import Endpoint
from gpuwatch.box.errors import BoxAuth, BoxFault, BoxUnreachable, HostKeyChanged
from gpuwatch.box.fetch import Fetched, NotFetched, Progress, Wanted, fetch
from gpuwatch.box.hostkeys import HostKeys, own_key
from gpuwatch.box.push import _ask
from gpuwatch.box.sentinel import Sentinel, install
from gpuwatch.box.ssh import Box
from gpuwatch.vault.layout import MARKER

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")


class Sshd:
    """A real OpenSSH server on a high loopback port, with its own host key and one authorised key."""

    def __init__(self, home: Path, key: Path) -> None:
        assert SSHD is not None, "openssh-server is not installed (apt-get install openssh-server)"
        self.home = home
        self.host_key = home / "host_key"
        if not self.host_key.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.host_key)], check=True
            )
        authorised = home / "authorized_keys"
        authorised.write_bytes(key.with_suffix(".pub").read_bytes())
        authorised.chmod(0o600)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.config = home / "sshd_config"
        self.config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nAuthorizedKeysFile {authorised}\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"Subsystem sftp internal-sftp\nMaxSessions 10\nSetEnv WORKSPACE={home / 'workspace'}\n"
        )
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Return once it listens (it says so on stderr)."""
        assert SSHD is not None
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.config)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Server listening" in line:
                return
        raise AssertionError("sshd did not start")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(
            "127.0.0.1", self.port, user=subprocess.check_output(["id", "-un"], text=True).strip()
        )


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / MARKER).touch()  # the vault of these tests
    return own_key(tmp_path / "ssh")


@pytest.fixture
def sshd(tmp_path: Path, key: Path):
    server = Sshd(tmp_path, key)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def hostkeys(tmp_path: Path) -> HostKeys:
    return HostKeys(tmp_path / "ssh")


@pytest_asyncio.fixture
async def box(sshd: Sshd, key: Path, hostkeys: HostKeys) -> AsyncIterator[Box]:
    opened = await Box.connect(sshd.endpoint, alias="vast-1", key=key, hostkeys=hostkeys)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def sentinel(box: Box, tmp_path: Path) -> Sentinel:
    (tmp_path / "workspace").mkdir()
    facts = await install(box)
    assert facts.python.startswith("3.")
    assert facts.workspace == str(tmp_path / "workspace"), "the provider's choice, not an assumption"
    return Sentinel(box, facts.workspace, "run-1")


async def bring(sentinel: Sentinel, home: Path, globs: list[str]) -> dict[str, Fetched | NotFetched]:
    inventory = await sentinel.inventory(globs, "1")
    wanted = [Wanted(f.path, f.identity, home / f.path) for f in inventory.files]
    progress = Progress()
    stream = fetch(
        sentinel.box, sentinel.argv, root=sentinel.work, wanted=wanted, partial=home / ".partial",
        boot_id=inventory.boot_id, progress=progress,
    )  # fmt: skip
    return {outcome.wanted.path: outcome async for outcome in stream}


async def test_exit_status_output_and_errors_come_back_apart(box: Box) -> None:
    done = await box.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


async def test_invalid_utf8_on_one_channel_hurts_no_other(box: Box) -> None:
    async with box.process(["cat"]) as other:
        noise = await box.run(["printf", "\\377\\376\\n"])
        assert noise.stdout == b"\xff\xfe\n"
        other.stdin.write(b"alive\n")
        assert await other.stdout.readline() == b"alive\n"


async def test_more_commands_at_once_than_sshd_allows_sessions(box: Box) -> None:
    outputs = await asyncio.gather(*(box.run(["sh", "-c", f"sleep 0.2; echo {n}"]) for n in range(24)))
    assert [int(o.stdout) for o in outputs] == list(range(24))


async def test_files_come_home_with_equal_hashes_and_hostile_names(
    sentinel: Sentinel, tmp_path: Path
) -> None:
    work = Path(sentinel.work)
    names = [
        "plain.bin",
        "deep/er/file",
        "new\nline",
        "esc\x1b[31mape",
        " spaces and 'quotes' $(touch x)",
        "ümlaut",
        "empty",
    ]
    for number, name in enumerate(names):
        path = work / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else os.urandom(1000 + number * 300_000))
    (work / "out" / os.fsdecode(b"latin-\xe9")).write_bytes(b"not utf-8")
    home = tmp_path / "home"
    outcomes = await bring(sentinel, home, ["out"])
    assert {p.removeprefix("out/") for p in outcomes} == {*names, os.fsdecode(b"latin-\xe9")}
    for path, outcome in outcomes.items():
        assert isinstance(outcome, Fetched), outcome
        assert (home / path).read_bytes() == (work / path).read_bytes()
        assert outcome.sha256 == hashlib.sha256((work / path).read_bytes()).hexdigest()


async def test_a_cut_download_goes_on_where_it_was(
    sshd: Sshd, sentinel: Sentinel, tmp_path: Path, key: Path, hostkeys: HostKeys
) -> None:
    big = Path(sentinel.work) / "big.bin"
    big.parent.mkdir(parents=True, exist_ok=True)
    big.write_bytes(os.urandom(1 << 20) * 150)
    inventory = await sentinel.inventory(["big.bin"], "1")
    home = tmp_path / "home"
    wanted = [Wanted(f.path, f.identity, home / f.path) for f in inventory.files]

    progress = Progress()

    async def cut_when_half_is_here() -> None:
        while progress.moved < 40 << 20:
            await asyncio.sleep(0)
        sshd_session = subprocess.check_output(
            ["pgrep", "-P", str(sshd.process.pid if sshd.process else 0)], text=True
        )
        for pid in sshd_session.split():
            os.kill(int(pid), signal.SIGKILL)

    async def first() -> None:
        async for _ in fetch(
            sentinel.box, sentinel.argv, root=sentinel.work, wanted=wanted, partial=home / ".partial",
            boot_id=inventory.boot_id, progress=progress,
        ):  # fmt: skip
            raise AssertionError("it cannot have come home")

    with pytest.raises(BoxUnreachable):
        await asyncio.gather(first(), cut_when_half_is_here())
    assert not (home / "big.bin").exists()
    kept = json.loads(next((home / ".partial").glob("*.json")).read_text())["have"]
    kept = sum(end - start for start, end in kept)
    assert kept > 0
    again = await Box.connect(sshd.endpoint, alias="vast-1", key=key, hostkeys=hostkeys)
    second = Progress()
    outcomes = [
        o
        async for o in fetch(
            again, sentinel.argv, root=sentinel.work, wanted=wanted, partial=home / ".partial",
            boot_id=inventory.boot_id, progress=second,
        )
    ]  # fmt: skip
    await again.close()
    assert isinstance(outcomes[0], Fetched)
    assert second.moved == big.stat().st_size - kept
    assert (
        hashlib.sha256((home / "big.bin").read_bytes()).digest() == hashlib.sha256(big.read_bytes()).digest()
    )


async def test_an_upload_is_hashed_on_arrival_and_stays_in_its_folder(
    sentinel: Sentinel, tmp_path: Path
) -> None:
    source = tmp_path / "train.py"
    source.write_text("print('hello')\n")
    assert await sentinel.upload([("code/train.py", source), ("train.py", source)]) == 2
    assert (Path(sentinel.work) / "code" / "train.py").read_text() == "print('hello')\n"
    with pytest.raises(Exception, match="outside"):
        await sentinel.upload([("../outside.py", source)])
    assert not (tmp_path / "workspace" / "outside.py").exists()


async def test_a_large_upload_goes_on_where_it_was_cut_and_has_no_name_before_it_is_proved(
    sshd: Sshd, sentinel: Sentinel, tmp_path: Path, key: Path, hostkeys: HostKeys
) -> None:
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(1 << 20) * 64)
    target = Path(sentinel.work) / "ckpt" / "model.bin"
    progress = Progress()

    async def cut_when_some_is_there() -> None:
        while progress.moved < 24 << 20:
            await asyncio.sleep(0)
        assert not target.exists()
        sessions = subprocess.check_output(
            ["pgrep", "-P", str(sshd.process.pid if sshd.process else 0)], text=True
        )
        for pid in sessions.split():
            os.kill(int(pid), signal.SIGKILL)

    cutting = asyncio.create_task(cut_when_some_is_there())
    with pytest.raises(BoxUnreachable):
        await sentinel.upload([("ckpt/model.bin", source)], progress=progress)
    await cutting
    assert not target.exists()
    again = await Box.connect(sshd.endpoint, alias="vast-1", key=key, hostkeys=hostkeys)
    second = Progress()
    later = Sentinel(again, sentinel.workspace, "run-1")
    assert await later.upload([("ckpt/model.bin", source)], progress=second) == 1
    await again.close()
    assert target.read_bytes() == source.read_bytes()
    assert second.moved < source.stat().st_size, "what was there was not sent again"
    assert sorted(p.name for p in target.parent.iterdir()) == ["model.bin"]


async def test_a_large_upload_that_arrives_damaged_gets_no_name(sentinel: Sentinel, tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(9 << 20))
    target = Path(sentinel.work) / "model.bin"
    head = {"begin": "model.bin", "size": 9 << 20, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    await _ask(sentinel.box, sentinel.argv, sentinel.work, head)
    (log,) = target.parent.glob(".gpuwatch-*.log")
    with log.open("a") as file:  # the box says that the first part is there, and it is not
        file.write(f"0 {4 << 20}\n")
    with pytest.raises(BoxFault, match="damaged"):
        await sentinel.upload([("model.bin", source)])
    assert not target.exists()
    assert await sentinel.upload([("model.bin", source)]) == 1, "the next try starts from nothing"
    assert target.read_bytes() == source.read_bytes()


async def test_a_stage_starts_once_survives_the_connection_and_tells_its_exit_code(
    sshd: Sshd, sentinel: Sentinel, key: Path, hostkeys: HostKeys, tmp_path: Path
) -> None:
    secret = "s3cr3t-value"
    command = (
        f'echo started >> {tmp_path}/count; read line < {tmp_path}/go; test "$TOKEN" = {secret} && exit 5'
    )
    os.mkfifo(tmp_path / "go")
    first = await sentinel.stage("job", command=command, env={"TOKEN": secret})
    again = await sentinel.stage("job", command=command, env={"TOKEN": secret})
    assert (first.phase, again.phase, again.pid) == ("running", "running", first.pid)
    await sentinel.box.close()
    box = await Box.connect(sshd.endpoint, alias="vast-1", key=key, hostkeys=hostkeys)
    later = Sentinel(box, sentinel.workspace, "run-1")
    assert (await later.state("job")).phase == "running"
    await asyncio.to_thread((tmp_path / "go").write_text, "now\n")
    async for _ in later.tail(0):
        pass  # ends when the stage has ended
    assert (await later.state("job")).exit_code == 5
    await box.close()
    assert (tmp_path / "count").read_text() == "started\n"
    on_disk = b"".join(p.read_bytes() for p in Path(sentinel.folder).rglob("*") if p.is_file())
    assert secret.encode() not in on_disk, "a secret lives in the job's environment only"


async def test_a_host_key_is_pinned_at_first_contact_and_a_changed_one_is_refused(
    sshd: Sshd, box: Box, key: Path, hostkeys: HostKeys
) -> None:
    assert box.fingerprint.startswith("SHA256:")
    assert hostkeys.pinned("vast-1").startswith(b"vast-1 ssh-ed25519 ")
    other = await Box.connect(sshd.endpoint, alias="vast-2", key=key, hostkeys=hostkeys)
    await other.close()
    hostkeys.path("vast-1").write_bytes(
        hostkeys.pinned("vast-1").split()[0] + b" ssh-ed25519 " + own_key_of_someone_else(sshd.home)
    )
    with pytest.raises(HostKeyChanged, match="nothing was sent"):
        await Box.connect(sshd.endpoint, alias="vast-1", key=key, hostkeys=hostkeys)


def own_key_of_someone_else(home: Path) -> bytes:
    return own_key(home / "other").with_suffix(".pub").read_bytes().split()[1] + b"\n"


async def test_a_key_that_is_not_authorised_is_an_auth_error_that_can_be_waited_out(
    sshd: Sshd, tmp_path: Path, hostkeys: HostKeys
) -> None:
    with pytest.raises(BoxAuth, match="yet"):
        await Box.connect(
            sshd.endpoint, alias="vast-3", key=own_key(tmp_path / "stranger"), hostkeys=hostkeys
        )
    assert hostkeys.pinned("vast-3") == b"", "nothing is pinned before the whole handshake has succeeded"


async def test_the_plain_ssh_client_accepts_our_pin(
    sshd: Sshd, box: Box, key: Path, hostkeys: HostKeys
) -> None:
    done = await asyncio.create_subprocess_exec(
        "ssh", "-i", str(key), "-p", str(sshd.port), "-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=vast-1",
        "-o", f"UserKnownHostsFile={hostkeys.path('vast-1')}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
        f"{sshd.endpoint.user}@127.0.0.1", "echo", "hello", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await done.communicate()
    assert (done.returncode, out) == (0, b"hello\n")
