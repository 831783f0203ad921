"""The command line for people and for scripts: shapes, exit codes, and errors that say what to do next."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import msgspec
import pytest
from ui.conftest import ThreadedDaemon
from ui.fake_daemon import Fault
from ui.scenario import SPEC, World, run_row, training_log

from gputui import verbs
from gputui.cli import build_parser, main
from gpuwatch.client import wire


def last(served: ThreadedDaemon, method: str) -> object:
    """The parameters of the last call; who asked (this user) is left out."""
    params = [params for name, params in served.fake.calls if name == method][-1]
    return msgspec.structs.replace(params, by="") if hasattr(params, "by") else params


def test_every_command_has_somebody_who_does_it() -> None:
    done_by_others = {"demo", "canary", "rescue"}  # main hands their options over unread
    commands = next(a for a in build_parser()._actions if a.dest == "verb").choices
    assert commands is not None
    for name in set(commands) - done_by_others:
        assert callable(verbs.verb(name))
    assert {name for names in verbs.TOPICS.values() for name in names} == set(commands) - done_by_others


# --- listings ------------------------------------------------------------------------------------


def test_ls_is_a_table_for_people(served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "ID",
        "NAME",
        "STATE",
        "GPU",
        "STEP",
        "LOSS",
        "PRICE",
        "COST",
        "EXPOSED",
        "AGE",
        "NEXT",
    ]
    assert lines[1].startswith("r7k2m9qa  miras-s       ● running     H100 SXM")
    assert "burn $8.94/h" in lines[-1]
    assert {
        line.index(price) + len(price)
        for line, price in zip(lines[1:4], ("$2.21/h", "$4.78/h", "$1.29/h"), strict=True)
    } == {lines[0].index("PRICE") + len("PRICE")}


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["ls"], wire.Runs),
        (["show", "miras-s"], wire.RunDetail),
        (["why", "miras-s"], wire.Why),
        (["offers"], wire.Offers),
        (["destroy", "miras-s"], wire.CustodyReport),
        (["destroy", "miras-s", "--cancel"], wire.Empty),
    ],
)
def test_json_is_the_wire_shape(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str], words: list[str], shape: type[wire.Struct]
) -> None:
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    msgspec.json.decode(out, type=shape)


def test_status_is_1_while_an_alarm_stands(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 1
    assert "▲ onyx-1b-grow failed and waits for you" in capsys.readouterr().out
    served.fake.world.alarms = []
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pid"] == 4711


def test_offers_ask_for_what_was_typed(served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    words = "offers --gpu h100 --gpu a100 --count 1 --max-price $2.50 --min-reliability 98% --disk 150GB --unverified --limit 5"
    assert main(words.split()) == 0
    assert last(served, "offers") == wire.OffersQuery(
        gpu=["h100", "a100"],
        gpu_count=1,
        max_price=2_500_000,
        min_reliability=0.98,
        disk=150_000_000_000,
        unverified=True,
        limit=5,
    )
    assert "$1.47/h" in capsys.readouterr().out


def test_offers_are_sorted_here_for_other_columns(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["offers", "--sort", "memory", "--limit", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["offers"]
    assert [row["gpu_memory"] for row in rows] == sorted((r["gpu_memory"] for r in rows), reverse=True)
    assert len(rows) == 3


@pytest.mark.parametrize(("offers", "status"), [(True, 3), (False, 5)])
def test_a_provider_that_cannot_answer_makes_it_partial(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str], offers: bool, status: int
) -> None:
    served.fake.world.offer_problems = ["runpod: no answer"]
    if not offers:
        served.fake.world.offers = []
    assert main(["offers"]) == status
    assert "runpod: no answer" in capsys.readouterr().err


def test_empty_listings_teach(served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    served.fake.world.runs = []
    assert main(["ls"]) == 0
    assert "gputui demo" in capsys.readouterr().out
    assert main(["offers", "--max-price", "0.01"]) == 0
    assert "Ask for less" in capsys.readouterr().out


def test_hostile_names_do_not_reach_the_terminal(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    served.fake.world.runs = [run_row("a", "\x1b]0;PWN\x07na\u202eme", "running", next="\x9b2Jx\ny")]
    for words in (["ls"], ["ls", "--json"], ["show", "a"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert not any(c in out for c in "\x1b\x07\x9b\u202e")
        assert "na" in out


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["ls"], ["show", "x"], ["logs", "x"], ["status"], ["why", "x"], ["events"], ["destroy", "x"]]
)
def test_without_a_daemon_it_says_how_to_start_one(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 5
    err = capsys.readouterr().err
    assert str(home / "run" / "gpuwatch.sock") in err
    assert "start it with `gpuwatch run`" in err


@pytest.mark.parametrize(
    "words", [["show", "nope"], ["logs", "nope"], ["why", "nope"], ["events", "nope"], ["destroy", "nope"]]
)
def test_an_unknown_run_is_a_usage_error(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == "gputui: there is no run 'nope'; gputui ls lists them\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (wire.Code.REFUSED, 4),
        (wire.Code.CONFLICT, 4),
        (wire.Code.PROVIDER, 5),
        (wire.Code.INTERNAL, 1),
        ("new", 1),
    ],
)
def test_each_error_code_has_its_exit_status(served: ThreadedDaemon, code: str, status: int) -> None:
    def fail(params: object) -> object:
        raise Fault(code, "no")

    served.fake.hooks["destroy"] = fail
    assert main(["destroy", "miras-s"]) == status


@pytest.mark.parametrize(
    "words",
    [
        ["nosuch"],
        ["offers", "--max-price", "cheap"],
        ["offers", "--max-price", "-1"],
        ["offers", "--disk", "big"],
        ["offers", "--min-reliability", "9"],
        ["offers", "--limit", "0"],
        ["launch"],
        ["launch", "x.toml", "--offer", "123"],
        ["logs", "x", "--tail", "-3"],
    ],
)
def test_usage_errors_exit_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err


def test_every_command_teaches_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    for verb in (
        "offers",
        "launch",
        "ls",
        "show",
        "logs",
        "destroy",
        "why",
        "events",
        "status",
        "completion",
        "demo",
    ):
        assert verb in parser.format_help()
    for verb in ("offers", "launch", "destroy", "logs"):
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert "--json" in capsys.readouterr().out


# --- launch --------------------------------------------------------------------------------------


@pytest.fixture
def spec(home: Path) -> Path:
    path = home / "run.toml"
    path.write_text(SPEC)
    return path


def test_dry_run_prints_the_plan_and_rents_nothing(
    served: ThreadedDaemon, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", str(spec), "--dry-run"]) == 0
    assert "rent 1× H100 SXM or H100 PCIe" in capsys.readouterr().out
    assert served.fake.counts["launch"] == 0


def test_launch_with_yes_and_an_offer(
    served: ThreadedDaemon, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", str(spec), "--yes", "--offer", "vast:9120405", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "n0w1aunc", "name": "miras-s"}
    order = last(served, "launch")
    assert isinstance(order, wire.Launch)
    assert (order.provider, order.offer_id) == ("vast", "9120405")
    assert order.spec == wire.SpecText(text=SPEC, file=str(spec), base=str(spec.parent))


def test_launch_where_nobody_can_be_asked_needs_yes(
    served: ThreadedDaemon, spec: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["launch", str(spec)]) == 2
    assert "--yes" in capsys.readouterr().err
    assert served.fake.counts["launch"] == 0


def test_a_spec_with_mistakes_names_file_key_found_and_expected(
    served: ThreadedDaemon, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text("max_prize = 1")
    assert main(["launch", str(spec), "--yes"]) == 2
    err = capsys.readouterr().err
    assert f"{spec}: gpu.max_prize: unknown key max_prize; did you mean max_price?" in err
    assert "found an unknown key, expected max_price" in err


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"x" * (2 << 20)])
def test_a_spec_that_cannot_be_read(
    served: ThreadedDaemon, home: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = home / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    assert main(["launch", str(path), "--yes"]) == 2
    assert "cannot read the spec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "exit_code", "status"), [("gone", 0, 0), ("gone", 1, 1), ("failed", 1, 1), ("lost", None, 1)]
)
def test_launch_wait_ends_with_the_run(
    served: ThreadedDaemon,
    spec: Path,
    capsys: pytest.CaptureFixture[str],
    state: str,
    exit_code: int | None,
    status: int,
) -> None:
    world = served.fake.world
    world.runs.append(run_row("n0w1aunc", "miras-s", state, exit_code=exit_code, cost=870_000))
    world.add_event("n0w1aunc", "requested", "the beginning")
    world.add_event("n0w1aunc", state, "the end")
    assert main(["launch", str(spec), "--yes", "--wait"]) == status
    out = capsys.readouterr().out
    assert out.index("the beginning") < out.index("the end")
    assert f"miras-s is {state}" in out


# --- destroy -------------------------------------------------------------------------------------


def test_preview_changes_nothing_and_exits_4_while_something_is_not_safe(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["destroy", "miras-s", "--preview"]) == 4
    assert last(served, "destroy") == wire.Destroy(run="miras-s", preview=True, by=ANY)
    assert "○ runs/miras-s/ckpt/step-1840/optim.pt  589 MB  on-box" in capsys.readouterr().out
    assert main(["destroy", "miras-xs", "--preview"]) == 0


def test_destroy_asks_for_collect_and_verify_by_default(served: ThreadedDaemon) -> None:
    assert main(["destroy", "miras-s"]) == 0
    assert last(served, "destroy") == wire.Destroy(run="miras-s", by=ANY)


def test_destroy_wait_prints_what_happens_from_now_on_until_it_is_gone(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["destroy", "miras-xs", "--wait"]) == 0, "gone already"
    world, fake = served.fake.world, served.fake

    async def end_it() -> None:
        await fake.subscribed("events", "r7k2m9qa")
        world.runs[0] = msgspec.structs.replace(world.runs[0], state="destroying")
        fake.push_event("r7k2m9qa", "destroying", "permit spent")
        await fake.called("run", 3)
        world.runs[0] = msgspec.structs.replace(world.runs[0], state="gone")
        fake.push_event("r7k2m9qa", "gone", "confirmed gone")

    capsys.readouterr()
    ending = served.begin(end_it())
    assert main(["destroy", "miras-s", "--wait"]) == 0
    ending.result(20)
    out = capsys.readouterr().out
    assert "launched from miras-s.toml" not in out
    assert out.index("permit spent") < out.index("confirmed gone")


def test_waiving_needs_the_name_and_the_reason(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--waive", "a"], ["--waive-all", "--confirm", "x"], ["--confirm", "x", "--reason", "y"]):
        assert main(["destroy", "miras-s", *words]) == 2
        assert "--reason" in capsys.readouterr().err
    assert served.fake.counts["destroy"] == 0


def test_waive_all_names_every_file_that_is_not_safe(served: ThreadedDaemon) -> None:
    assert (
        main(["destroy", "onyx-1b-grow", "--waive-all", "--confirm", "onyx-1b-grow", "--reason", "bad run"])
        == 0
    )
    assert last(served, "destroy") == wire.Destroy(
        by=ANY,
        run="onyx-1b-grow",
        waive=["logs/train.log", "checkpoints/onyx_1b/step-412.pt"],
        confirm="onyx-1b-grow",
        reason="bad run",
    )


def test_a_wrong_confirmation_is_refused_with_4(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["destroy", "miras-s", "--waive", "a", "--confirm", "miras", "--reason", "x"]) == 4
    assert "'miras-s'" in capsys.readouterr().err


# --- streams -------------------------------------------------------------------------------------


def test_logs_prints_all_and_tail_the_end(served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "miras-xs"]) == 0
    everything = capsys.readouterr().out.splitlines()
    assert len(everything) == 202
    assert "\x1b" not in "".join(everything)
    for n in (0, 1, 3, 202, 999):
        assert main(["logs", "miras-xs", "--tail", str(n)]) == 0
        assert capsys.readouterr().out.splitlines() == everything[max(0, 202 - n) :]


def test_tail_of_a_log_of_many_pages(served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    served.fake.world.logs["q8f4j2ls"] = bytearray(training_log(9000))
    assert main(["logs", "miras-xs", "--tail", "8000"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8000


def test_raw_logs_are_byte_for_byte(served: ThreadedDaemon, home: Path) -> None:
    served.fake.world.logs["q8f4j2ls"] = bytearray(b"\x1b[31mred\xff\r\n\x00end")
    out = subprocess.run(
        [sys.executable, "-m", "gputui", "logs", "miras-xs", "--raw"], capture_output=True, check=True
    )
    assert out.stdout == b"\x1b[31mred\xff\r\n\x00end"


def test_following_a_log_survives_a_lost_connection_without_gap_or_repeat(served: ThreadedDaemon) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gputui", "logs", "-f", "miras-s", "--tail", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    fake = served.fake
    assert process.stdout is not None

    async def cut_and_grow() -> None:
        await fake.subscribed("log", "r7k2m9qa")
        fake.append_log("r7k2m9qa", b"one\ntw")
        await fake.stop()
        fake.world.logs["r7k2m9qa"] += b"o\nthree\n"
        await fake.start()
        await fake.subscribed("log", "r7k2m9qa")
        fake.append_log("r7k2m9qa", b"four\n", complete=True)

    served.run(cut_and_grow())
    assert process.stdout.read().splitlines() == ["one", "two", "three", "four"]
    assert process.wait(20) == 0
    process.stdout.close()


def test_events_of_one_run_and_of_all(served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "miras-s"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert main(["events", "--since", "12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "t5v0c4hn" in lines[0]
    assert main(["events", "miras-s", "--json"]) == 0
    assert (
        msgspec.json.decode(capsys.readouterr().out.splitlines()[0], type=wire.EventRow).kind == "requested"
    )


# --- being a good citizen of the shell -----------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_the_commands(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert "offers" in out
    assert "waive-all" in out


def test_a_reader_that_has_enough_ends_it_quietly(served: ThreadedDaemon, world: World) -> None:
    world.logs["q8f4j2ls"] = bytearray(training_log(20_000))
    command = f"{sys.executable} -m gputui logs miras-xs | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "loading tokenizer … done\n"
    assert done.stderr == ""


def test_no_color_and_no_terminal_mean_no_escapes(served: ThreadedDaemon) -> None:
    script = "import pty, os, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-m', 'gputui', 'ls'])))"
    colored = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, stdin=subprocess.DEVNULL
    )
    assert b"\x1b[32m" in colored.stdout
    plain = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert b"\x1b" not in plain.stdout


def test_the_app_without_a_terminal_says_what_to_use(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gputui"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr


HEAVY = (
    "textual",
    "rich",
    "asyncio",
    "asyncssh",
    "vastai",
    "torch",
    "aiosqlite",
    "sqlite3",
    "aiohttp",
    "keyring",
    "structlog",
)


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "--json"],
        ["offers"],
        ["show", "miras-s"],
        ["logs", "miras-xs"],
        ["why", "miras-s"],
        ["destroy", "miras-s"],
    ],
)
def test_the_cli_imports_nothing_heavy(served: ThreadedDaemon, words: list[str]) -> None:
    heavy = f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    script = f"import sys; from gputui.cli import main; code = main({words!r}); {heavy}; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")


def test_the_app_imports_no_sdk_ssh_or_database() -> None:
    modules = (
        "gputui.app, gputui.screens.run, gputui.screens.offers, gputui.screens.launch, gputui.screens.destroy"
    )
    script = f"import sys, {modules}; print([m for m in {HEAVY[3:-2]!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_watch_looks_again_until_it_is_ended(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("gputui.cli.time.sleep", wait)
    assert main(["ls", "--json", "--watch", "5"]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert looks == [5, 5, 5]
    assert len(lines) == 3
    assert all(json.loads(line)["runs"] for line in lines)


# --- on the box, and everything at once ----------------------------------------------------------


def box_with(served: ThreadedDaemon, tmp_path: Path) -> None:
    """A stand-in for ssh that says how it was called."""
    path = tmp_path / "ssh"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='|', flush=True); sys.exit(7)\n"
    )
    path.chmod(0o755)
    whole = served.fake.world.detail

    def detail(run: wire.RunRow) -> wire.RunDetail:
        return msgspec.structs.replace(
            whole(run), ssh=[str(path), "-p", "40022", "root@box"] if run.instance_id else []
        )

    served.fake.world.detail = detail  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["ssh", "miras-s"], "-p|40022|root@box"),
        (["ssh", "miras-s", "df -h | tail -1"], "-p|40022|root@box|--|df -h | tail -1"),
        (["ssh", "miras-s", "--", "ls", "-l", "a b"], "-p|40022|root@box|--|ls -l 'a b'"),
        (["forward", "miras-s"], "127.0.0.1:6006:localhost:6006|-p|40022|root@box"),
        (["forward", "miras-s", "80", "--local", "9000"], "127.0.0.1:9000:localhost:80|-p|40022|root@box"),
        (["forward", "miras-s", "80"], "127.0.0.1:8080:localhost:80|-p|40022|root@box"),
    ],
)
def test_a_box_is_reached_by_the_daemons_own_ssh_command(
    served: ThreadedDaemon, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], called: str
) -> None:
    box_with(served, tmp_path)
    assert main(words) == 7, "the status is that of what ran"
    assert capfd.readouterr().out.strip().endswith(called)


def test_a_run_without_a_machine_has_no_box(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ssh", "miras-xs"]) == main(["forward", "miras-xs"]) == 2
    assert "has no machine that SSH reaches" in capsys.readouterr().err
    assert main(["ssh", "--print", "miras-s"]) == 0
    assert capsys.readouterr().out == "ssh -p 40022 root@ssh4.example.net\n"


def test_evacuation_asks_for_every_end_and_gives_nothing_up(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evacuate"]) == 2
    assert "add --yes" in capsys.readouterr().err

    def answer(order: wire.Destroy) -> wire.CustodyReport:
        if order.run == "b1n6w8ey":
            raise Fault(wire.Code.CONFLICT, "too late")
        return served.fake.world.report(served.fake.world.runs[0])

    served.fake.hooks["destroy"] = answer
    assert main(["evacuate", "--yes"]) == 3, "partial: one was refused"
    said = capsys.readouterr().err
    assert "runpod-2b: too late" in said
    orders = [params for name, params in served.fake.calls if name == "destroy"]
    assert {order.run for order in orders} == {"r7k2m9qa", "p3d8x1zz", "t5v0c4hn", "b1n6w8ey"}
    assert all((o.waive, o.confirm, o.preview) == ([], "", False) for o in orders)
