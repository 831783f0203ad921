"""The sentinel as it runs on a box: a real process, real files, real signals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from gpuwatch import sentinel
from gpuwatch.box.frames import (
    AskedPack,
    AskedPart,
    Content,
    FrameParser,
    Header,
    Hole,
    Missing,
    Small,
    Trailer,
    parse_hash,
)
from gpuwatch.box.sentinel import inventory_order, parse_facts, parse_inventory, parse_report
from gpuwatch.custody.facts import BoxFile, Inventory
from gpuwatch.sentinel import sentinel as on_box


class Box:
    """A folder that stands for a box, and the sentinel run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.work.mkdir()
        self.folder = root / ".gpuwatch" / "r1"
        self.program = root / ".gpuwatch" / "sentinel.py"
        self.program.parent.mkdir()
        self.program.write_bytes(sentinel.source())
        self.env = {
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "HOME": str(root),
            "WORKSPACE": str(root),
            "LC_ALL": "C",
        }

    def popen(self, command: str, **env: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(self.program), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=self.env | env,
        )  # fmt: skip

    def run(self, command: str, stdin: bytes = b"", **env: str) -> tuple[int, bytes, bytes]:
        with self.popen(command, **env) as process:
            out, err = process.communicate(stdin, timeout=60)
        return process.returncode, out, err

    def ask(self, command: str, order: dict[str, Any] | None = None, **env: str) -> dict[str, Any]:
        code, out, err = self.run(command, json.dumps(order or {}).encode() + b"\n", **env)
        assert code == 0, err.decode()
        value: dict[str, Any] = json.loads(out)
        return value

    def start(self, command: str, **extra: Any) -> dict[str, Any]:
        order = {
            "folder": str(self.folder),
            "work": str(self.work),
            "log": str(self.folder / "log"),
            "command": command,
        }
        return self.ask("start", order | extra)

    def state(self, **env: str) -> dict[str, Any]:
        return self.ask("state", {"folder": str(self.folder)}, **env)

    def stop(self, grace: float = 20) -> dict[str, Any]:
        return self.ask("stop", {"folder": str(self.folder), "grace": grace})

    def log_to_its_end(self, offset: int = 0) -> bytes:
        """The whole log: `tail` returns when the stage has ended."""
        order = {"folder": str(self.folder), "log": str(self.folder / "log"), "offset": offset}
        with self.popen("tail") as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            return process.stdout.read()

    def inventory(self, *globs: str, **extra: Any) -> Inventory:
        order = inventory_order(str(self.work), globs) | extra
        code, out, err = self.run("list", json.dumps(order).encode() + b"\n")
        assert code == 0, err.decode()
        return parse_inventory(out, "77")

    def list(self, *globs: str, **extra: Any) -> tuple[tuple[BoxFile, ...], tuple[str, ...]]:
        found = self.inventory(*globs, **extra)
        return found.files, found.problems

    def request(self, *tasks: dict[str, Any]) -> bytes:
        return b"".join(json.dumps(t).encode() + b"\n" for t in ({"root": str(self.work)}, *tasks))

    def part(self, path: str, start: int = 0, end: int = 1 << 40) -> list[Any]:
        """One part of a file as the sentinel sends it."""
        (task,) = ({"i": 0, "path": path, "from": start, "to": end},)
        code, out, err = self.run("send", self.request(task))
        assert code == 0, err.decode()
        parser = FrameParser()
        parser.ask(AskedPart(0, start, end))
        found = items(parser, out)
        assert parser.complete
        return found

    def pack(self, *paths: str) -> list[Small | Missing]:
        """Small files as the sentinel sends them."""
        code, out, err = self.run("send", self.request({"pack": list(enumerate(paths))}))
        assert code == 0, err.decode()
        parser = FrameParser()
        parser.ask(AskedPack(tuple(range(len(paths)))))
        found = items(parser, out)
        assert parser.complete
        return found

    def hash(self, *paths: str) -> list[Any]:
        """What the sentinel says about whole files, in the order of asking."""
        code, out, err = self.run("hash", self.request(*({"i": i, "path": p} for i, p in enumerate(paths))))
        assert code == 0, err.decode()
        answers = [parse_hash(line, len(paths)) for line in out.splitlines()]
        return sorted(
            (a for a in answers if not isinstance(a, int)),
            key=lambda a: a.index if isinstance(a, Missing) else a[0],
        )


def items(parser: FrameParser, stream: bytes) -> list[Any]:
    """Headers, joined contents, trailers."""
    found: list[Any] = []
    for item in parser.feed(stream):
        if not isinstance(item, Content):
            found.append(item)
        elif isinstance(found[-1], bytes):
            found[-1] += bytes(item.data)
        else:
            found.append(bytes(item.data))
    assert parser.complete
    return found


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.stop(grace=0)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_and_wait(pid: int) -> None:
    """SIGKILL a process that is not our child, and wait until it is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([descriptor], [], [], 30)[0]
    finally:
        os.close(descriptor)


@pytest.fixture
def gate(box: Box) -> Path:
    """A FIFO on which a job waits until the test lets it go on."""
    path = box.work / "gate"
    os.mkfifo(path)
    return path


# --- stages --------------------------------------------------------------------------------------


def test_a_job_outlives_whoever_started_it_and_leaves_code_and_log(box: Box, gate: Path) -> None:
    started = box.start(f"echo begun; read line < {gate}; echo got $line; exit 3")
    assert started["phase"] == "running"
    assert box.state()["supervised"]
    gate.write_text("go\n")
    assert box.log_to_its_end() == b"begun\ngot go\n"
    ended = box.state()
    assert (ended["phase"], ended["exit_code"], ended["pid"]) == ("ended", 3, started["pid"])
    assert box.log_to_its_end(offset=6) == b"got go\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("exit 255", 255),
        ("no-such-program-at-all", 127),
        ("kill -9 $$", -9),
        ("kill -TERM $$", -15),
    ],
)
def test_exit_codes_are_told_as_they_are(command: str, code: int, box: Box) -> None:
    box.start(command)
    box.log_to_its_end()
    assert box.state()["exit_code"] == code


def test_a_stage_is_started_once_however_often_and_however_fast(box: Box) -> None:
    order = {
        "folder": str(box.folder), "work": str(box.work), "log": str(box.folder / "log"), "command": "echo ran >> ran",
    }  # fmt: skip
    line = json.dumps(order).encode() + b"\n"
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(box.popen("start")) for _ in range(6)]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(line)
            racer.stdin.flush()
        for racer in racers:
            racer.communicate(timeout=60)
    box.log_to_its_end()
    assert box.start("echo ran >> ran")["phase"] == "ended"
    assert box.start("echo ran >> ran", again=True)["phase"] == "ended"
    assert (box.work / "ran").read_text() == "ran\n"


def test_looking_at_a_stage_does_not_disturb_its_start(box: Box, gate: Path) -> None:
    with contextlib.ExitStack() as stack:
        lookers = [stack.enter_context(box.popen("state")) for _ in range(4)]
        for looker in lookers:
            assert looker.stdin is not None
            looker.stdin.write(json.dumps({"folder": str(box.folder)}).encode() + b"\n")
            looker.stdin.flush()
        assert box.start(f"read line < {gate}")["phase"] == "running"
        for looker in lookers:
            looker.communicate(timeout=60)
    assert box.state()["supervised"]


def test_the_supervisor_dies_and_the_job_is_still_told_apart(box: Box, gate: Path) -> None:
    job = box.start(f"read line < {gate}; read line < {gate}")["pid"]
    kill_and_wait(parent(job))
    orphan = box.state()
    assert (orphan["phase"], orphan["supervised"]) == ("running", False)
    assert box.start("echo twice > twice", again=True)["phase"] == "running", "it still runs: no second one"
    assert box.state(BOX_BOOT_ID="another boot")["phase"] == "vanished", (
        "after a restart the same pid is someone else"
    )
    kill_and_wait(job)
    assert box.state()["phase"] == "vanished", "its exit code is lost, and that is said"
    assert box.start("echo twice > twice")["phase"] == "vanished"
    assert box.start("echo again > again", again=True)["phase"] in ("running", "ended")
    box.log_to_its_end()
    assert (box.work / "again").exists()
    assert not (box.work / "twice").exists()


def test_stop_asks_first(box: Box, gate: Path) -> None:
    box.start(f"trap 'echo bye; exit 7' TERM; echo up; while true; do read line < {gate}; done & wait")
    with (box.folder / "log").open("rb") as log:
        wait_for_line(log, b"up\n")
    stopped = box.stop()
    assert stopped["phase"] == "ended"
    assert stopped["exit_code"] == 7


def test_stop_kills_what_does_not_listen_and_its_children(box: Box, gate: Path) -> None:
    box.start(
        f"trap '' TERM; (trap '' TERM; echo child $BASHPID; exec sleep 1000) & echo up; while true; do read line < {gate}; done"
    )
    with (box.folder / "log").open("rb") as log:
        child = int(wait_for_line(log, b"child").split()[1])
    descriptor = os.pidfd_open(child)
    stopped = box.stop(grace=0.2)
    assert (stopped["phase"], stopped["exit_code"]) == ("ended", -9)
    assert select.select([descriptor], [], [], 30)[0], "children die with it"
    os.close(descriptor)


def wait_for_line(log: IO[bytes], start: bytes) -> bytes:
    """The first line that begins with `start`; inotify would be an event, a bounded poll is plainer."""
    seen = b""
    while True:
        seen += log.read()
        for line in seen.splitlines(keepends=True):
            if line.startswith(start) and line.endswith(b"\n"):
                return line
        select.select([], [], [], 0.01)


def test_stopping_nothing_is_nothing(box: Box) -> None:
    assert box.stop()["phase"] == "none"


def test_secrets_are_in_the_jobs_environment_and_nowhere_else(box: Box, gate: Path) -> None:
    secret = "wandb-key-123456"
    state = box.start(f"echo $SECRET | wc -c; read line < {gate}", env={"SECRET": secret})
    for pid in (state["pid"], parent(state["pid"])):
        assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    gate.write_text("\n")
    assert box.log_to_its_end().strip() == str(len(secret) + 1).encode()
    for file in box.root.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file


def test_a_command_that_cannot_be_started_is_an_ended_one(box: Box) -> None:
    box.work.rmdir()
    box.work.touch()  # the work folder is a file
    code, _, err = box.run(
        "start",
        json.dumps(
            {
                "folder": str(box.folder),
                "work": str(box.work),
                "log": str(box.folder / "log"),
                "command": "true",
            }
        ).encode()
        + b"\n",
    )
    assert code != 0
    assert b"File exists" in err


def test_a_stage_whose_log_cannot_be_opened_says_so(box: Box) -> None:
    order = {"folder": str(box.folder), "work": str(box.work), "log": "/no/such/log", "command": "true"}
    code, _, err = box.run("start", json.dumps(order).encode() + b"\n")
    assert code != 0
    assert b"cannot start the stage" in err
    assert b"/no/such/log" in err


# --- facts and reports ---------------------------------------------------------------------------


def fake_smi(box: Box) -> None:
    (box.root / "bin").mkdir()
    smi = box.root / "bin" / "nvidia-smi"
    row = "GPU-{0}, RTX 4090, {1}, 20000, 24564, {2}, 450.00, 61, 2520, 3105, 0x4, [N/A], [N/A], 570.10, 2"
    rows = [
        f"echo '{i}, {row.format(i, use, power)}'"
        for i, (use, power) in enumerate([(97, "300.5"), (5, "[N/A]")])
    ]
    smi.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *query-compute-apps*) exec sleep 1000;; *-l*) {"; ".join(rows)}; exec sleep 1000;; '
        "esac\necho 'NVIDIA GeForce RTX 4090, 570.10'\n"
    )
    smi.chmod(0o755)


def test_probe_tells_what_the_box_is(box: Box) -> None:
    fake_smi(box)
    code, out, _ = box.run("probe")
    assert code == 0
    facts = parse_facts(out)
    assert facts.workspace == str(box.root)
    assert facts.gpus == ("NVIDIA GeForce RTX 4090",)
    assert facts.driver == "570.10"
    assert facts.disk_free is not None
    again = parse_facts(box.run("probe")[1])
    assert again.boot_id == facts.boot_id
    assert parse_facts(box.run("probe", BOX_BOOT_ID="x")[1]).boot_id != facts.boot_id


def test_probe_falls_back_to_the_home_folder_and_to_no_gpu(box: Box) -> None:
    (box.root / "bin").mkdir()
    smi = box.root / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML'; exit 9\n")
    smi.chmod(0o755)
    facts = parse_facts(box.run("probe", WORKSPACE="not/absolute", DATA_DIRECTORY="/no/such/folder")[1])
    assert facts.workspace in (str(box.root), "/workspace")
    assert facts.gpus == ()


def test_watch_reports_job_gpus_files_and_renews_the_lease_until_the_caller_leaves(
    box: Box, gate: Path
) -> None:
    fake_smi(box)
    box.start(f"read line < {gate}")
    (box.work / "out").mkdir()
    (box.work / "out" / "a").write_text("1")
    (box.work / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 3.5}\n{"step": 2, "loss": 2.5, "x": "y"}\n{"step": 3, "lo'
    )
    (box.work / "status.json").write_text('{"total_steps": 50}')
    order = {
        "folder": str(box.folder), "log": str(box.folder / "log"), "interval": 0.05,
        "inventory": inventory_order(str(box.work), ["out"]),
        "metrics": str(box.work / "metrics.jsonl"), "status": str(box.work / "status.json"),
    }  # fmt: skip
    with box.popen("watch") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        first = parse_report(process.stdout.readline())
        assert first.job.phase == "running"
        assert (first.step, first.steps, first.loss) == (2, 50, 2.5)
        assert first.files is not None
        assert [f.path for f in first.files] == ["out/a"]
        assert (box.folder / "lease").exists()
        (box.work / "out" / "b").write_text("2")
        report = first
        while report.gpus is None or len(report.gpus) < 2 or report.files is None or len(report.files) < 2:
            report = parse_report(process.stdout.readline())
        assert [(g.utilisation, g.power) for g in report.gpus] == [(97.0, 300.5), (5.0, None)]
        process.stdin.close()
        assert process.wait(30) == 0, "it leaves with its caller"


def test_an_unknown_command_says_what_there_is(box: Box) -> None:
    code, _, err = box.run("dance")
    assert code == 1
    assert b"probe" in err


# --- listing -------------------------------------------------------------------------------------

ODD_NAMES = [
    b"two\nlines",
    b"\x1b[31mred",
    b"bytes\xff\xfe",
    b"caf\xc3\xa9",
    b" ",
    b"-rf",
    b"a\\b",
    b'quote"',
    b"\xed\xa0\x80",
]


def test_odd_names_come_home_as_they_are(box: Box) -> None:
    for name in ODD_NAMES:
        (box.work / os.fsdecode(name)).write_bytes(name)
    files, problems = box.list("*")
    assert sorted(os.fsencode(f.path) for f in files) == sorted(ODD_NAMES)
    assert problems == ()
    found = box.pack(*(f.path for f in files))
    assert sorted(bytes(i.data) for i in found if isinstance(i, Small)) == sorted(ODD_NAMES)


def test_only_what_is_promised_is_listed(box: Box) -> None:
    for path in (
        "out/a.gguf",
        "out/deep/b.gguf",
        "out/c.txt",
        "x.gguf",
        ".git/y.gguf",
        "ckpt/step-1/.metadata",
        "ckpt/.tmp-2/z",
    ):
        target = box.work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()

    def listed(*globs: str) -> set[str]:
        return {f.path for f in box.list(*globs)[0]}

    assert listed("out/*.gguf") == {"out/a.gguf"}
    assert listed("**/*.gguf") == {"out/a.gguf", "out/deep/b.gguf", "x.gguf"}
    assert listed("out", "x.gguf") == {"out/a.gguf", "out/deep/b.gguf", "out/c.txt", "x.gguf"}
    assert listed("**/.git/*") == {".git/y.gguf"}
    assert "ckpt/step-1/.metadata" in listed("ckpt")
    assert listed("no/such/place", "nor/*/this") == set()


def test_an_identity_changes_with_any_write(box: Box) -> None:
    file = box.work / "f"
    file.write_text("one")
    before = box.list("f")[0][0]
    times = file.stat()
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # a liar sets the clock back
    after = box.list("f")[0][0]
    assert (before.size, before.mtime_ns) == (after.size, after.mtime_ns)
    assert before.identity != after.identity


def test_files_that_someone_writes_are_flagged(box: Box) -> None:
    (box.work / "busy").touch()
    (box.work / "read").touch()
    (box.work / "idle").touch()
    with (box.work / "busy").open("ab"), (box.work / "read").open("rb"):
        assert {f.path: f.writer for f in box.list("*")[0]} == {"busy": True, "read": False, "idle": False}


def test_links_are_told_and_never_followed(box: Box) -> None:
    (box.work / "out").mkdir()
    (box.work / "out" / "real").write_text("x")
    (box.work / "out" / "inside").symlink_to("real")
    (box.work / "out" / "outside").symlink_to("/etc")
    (box.work / "out" / "loop").symlink_to("loop")
    found = box.inventory("out")
    assert [f.path for f in found.files] == ["out/real"]
    assert {x.path: x.stray for x in found.links} == {
        "out/inside": False,
        "out/outside": True,
        "out/loop": True,
    }
    assert next(x.target for x in found.links if x.path == "out/outside").endswith("/etc")
    for told in (box.part("out/outside"), box.pack("out/outside"), box.hash("out/outside")):
        assert isinstance(told[0], Missing)


def test_a_tree_deeper_than_pythons_stack_is_listed(box: Box) -> None:
    descriptor = os.open(box.work, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    try:
        files, problems = box.list("d")
        assert [f.path.count("/") for f in files] == [1500]
        assert problems == ()
    finally:
        subprocess.run(["rm", "-rf", str(box.work / "d")], check=True)


def test_more_files_than_the_limit_are_a_problem_and_not_a_short_list(box: Box) -> None:
    for n in range(5):
        (box.work / str(n)).touch()
    assert box.list("*", limit=3)[1] == ("more than 3 files",)


# --- sending -------------------------------------------------------------------------------------


def test_content_and_hash_are_right_for_sizes_around_every_limit(box: Box) -> None:
    mib = 1 << 20
    sizes = [0, 1, 2, mib - 1, mib, mib + 1, 3 * mib + 7]
    contents = [os.urandom(size) for size in sizes]
    for n, content in enumerate(contents):
        (box.work / str(n)).write_bytes(content)
    told = box.hash(*map(str, range(len(sizes))))
    assert [sha256 for _, _, sha256 in told] == [hashlib.sha256(c).hexdigest() for c in contents]
    for n, content in enumerate(contents):
        head, *body, trailer = box.part(str(n))
        assert b"".join(body) == content
        assert head.identity == trailer.identity == told[n][1]
    packed = box.pack(*map(str, range(len(sizes))))
    for content, item in zip(contents, packed, strict=True):
        if isinstance(item, Missing):
            assert len(content) > mib, "what is too large for a pack says so"
            continue
        assert (bytes(item.data), item.sha256) == (content, hashlib.sha256(content).hexdigest())


def test_holes_are_told_and_not_sent(box: Box) -> None:
    size = 1 << 33
    with (box.work / "sparse").open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"island")
    code, out, err = box.run("send", box.request({"i": 0, "path": "sparse", "from": 0, "to": size}))
    assert code == 0, err.decode()
    assert len(out) < 1 << 20, "eight gigabytes of nothing are a few bytes on the wire"
    parser = FrameParser()
    parser.ask(AskedPart(0, 0, size))
    holes, content = 0, b""
    for item in parser.feed(out):
        holes += item.size if isinstance(item, Hole) else 0
        content += bytes(item.data) if isinstance(item, Content) else b""
    assert holes + len(content) == size
    assert content.strip(bytes(1)) == b"island"


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_any_part_of_a_file_can_be_asked_for(size: int, box: Box) -> None:
    content = os.urandom(size)
    (box.work / "f").write_bytes(content)
    for start, end in (
        (0, size),
        (1, size),
        (size // 2, size // 2 + 7),
        (size, size),
        (size, size + 5),
        (3, 10**15),
    ):
        head, *body, _ = box.part("f", start, end)
        assert (head.start, head.end) == (min(start, size), min(end, size))
        assert b"".join(body) == content[start:end]


def test_what_is_no_file_is_said_and_does_not_stop_the_rest(box: Box) -> None:
    (box.work / "dir").mkdir()
    os.mkfifo(box.work / "fifo")
    (box.work / "link").symlink_to("good")
    (box.work / "good").write_text("x")
    paths = ("gone", "good/below", "dir", "fifo", "link", "good")
    for found in (box.pack(*paths), box.hash(*paths), [box.part(p)[0] for p in paths]):
        assert [type(i).__name__ for i in found[:5]] == ["Missing"] * 5
        assert [i.gone for i in found[:5]] == [True, True, False, False, False]
        assert not isinstance(found[5], Missing)


def interrupted_send(box: Box, change: Any) -> tuple[Header, Trailer]:
    """Send a large file; change it once the header is here and the pipe is full."""
    size = 8 << 20
    (box.work / "f").write_bytes(os.urandom(size))
    with box.popen("send") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(box.request({"i": 0, "path": "f", "from": 0, "to": size}))
        process.stdin.close()
        start = process.stdout.readline()
        change(box.work / "f")
        stream = start + process.stdout.read()
    parser = FrameParser()
    parser.ask(AskedPart(0, 0, size))
    found = items(parser, stream)
    return found[0], found[-1]


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(box: Box) -> None:
    _, trailer = interrupted_send(box, lambda f: os.truncate(f, 100))
    assert trailer.error == "the file shrank"


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(7 << 20)
        file.write(b"other bytes")


@pytest.mark.parametrize("change", [grow, rewrite])
def test_a_file_that_changes_while_it_is_sent_has_another_identity_at_the_end(change: Any, box: Box) -> None:
    head, trailer = interrupted_send(box, change)
    assert trailer.error is None
    assert trailer.identity != head.identity


def test_thousands_of_small_files_go_through_one_pipe(box: Box) -> None:
    for n in range(2000):
        (box.work / str(n)).write_bytes(b"%d" % n)
    found = box.pack(*map(str, range(2000)))
    assert [bytes(i.data) for i in found if isinstance(i, Small)] == [b"%d" % n for n in range(2000)]


# --- receiving -----------------------------------------------------------------------------------


def upload(box: Box, path: str, data: bytes, **head: Any) -> tuple[int, bytes, bytes]:
    first = {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} | head
    stdin = (
        json.dumps({"root": str(box.work)}).encode()
        + b"\n"
        + json.dumps(first).encode()
        + b"\n"
        + data
        + b"\n"
    )
    return box.run("receive", stdin)


def test_an_upload_arrives_whole_with_its_mode(box: Box) -> None:
    code, out, _ = upload(box, "deep/er/run.sh", b"#!/bin/sh\n", mode=0o755)
    assert (code, json.loads(out)) == (0, {"received": 1})
    file = box.work / "deep" / "er" / "run.sh"
    assert file.read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "path", ["../escaped", "/tmp/escaped", "a/../../escaped", "..", ".", "", "out/escaped"]
)
def test_nothing_is_written_outside_the_work_folder(path: str, box: Box) -> None:
    (box.root / "elsewhere").mkdir()
    (box.work / "out").symlink_to(box.root / "elsewhere")
    code, _, err = upload(box, path, b"x")
    assert code != 0
    assert b"outside the work folder" in err
    assert list((box.root / "elsewhere").iterdir()) == []
    assert not (box.root / "escaped").exists()


@pytest.mark.parametrize("head", [{"sha256": "0" * 64}, {"size": 100}])
def test_an_upload_that_is_damaged_or_cut_short_gets_no_name(head: dict[str, Any], box: Box) -> None:
    code, out, _ = upload(box, "f", b"data", **head)
    assert code != 0
    assert out == b""
    assert not (box.work / "f").exists()


def test_a_stage_that_ends_between_two_looks_has_ended_and_not_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor writes the end, then goes: whoever read before and looked for it afterwards took the job for lost."""
    written = iter([{"phase": "running", "pid": 2**22 + 1}, {"phase": "ended", "exit_code": 9}])
    monkeypatch.setattr(on_box, "recorded", lambda _folder: next(written))
    state = on_box.state_of(str(tmp_path))
    assert (state["phase"], state["exit_code"], state["supervised"]) == ("ended", 9, False)
