"""Break the code on purpose, one guard at a time, and see which test notices.

    make mutants                      everything; writes docs/mutants.md
    python tests/mutation/run.py --only custody/permit     some of it, by a part of the module's name
    python tests/mutation/run.py --list --only evolve      names them and runs nothing

Two lists: `guards.py`, written by hand (each names the guard that it takes away), and for the
pure core every mutant that `operators.py` can make. Each mutant runs in a copy of the tree,
against the narrowest tests that must notice; a mutant that no test notices must be in
`equivalents.py` with the reason, else this exits with 1.

A mutant counts as caught when a test fails. One that hangs counts only when the test that
hangs has a deadline of its own (`@pytest.mark.timeout`): the suite's general limit is no proof.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

from equivalents import EQUIVALENT  # noqa: E402
from guards import GUARDS, Stale, applied  # noqa: E402
from operators import mutants  # noqa: E402
from suites import SYSTEMATIC, tests_of  # noqa: E402

TEST_LIMIT = 30
"""Seconds of one test: pytest-timeout's, so that a hang is seen and named."""
MUTANT_LIMIT = 150.0
"""Seconds of all the tests of one mutant."""
NOT_RUN = "not run"
MEMORY = 3 << 30
"""Bytes that a mutant may use: some of them grow lists for ever."""


@dataclass(slots=True)
class Task:
    """One mutant to be tried: the module, its new source, and the tests that must notice."""

    module: str
    kind: str
    """`guard` (by hand) or `rule` (from the syntax tree)."""
    name: str
    change: str
    source: str
    tests: tuple[str, ...]
    verdict: str = ""
    """caught, hung, survived or equivalent."""
    by: str = ""
    seconds: float = 0.0

    @property
    def mark(self) -> str:
        """What the verdict is about: the mutated module and the tests, as they are written."""
        parts = (self.source, *((ROOT / test).read_text() for test in self.tests))
        return hashlib.sha256("\0".join((self.module, *parts)).encode()).hexdigest()


class Memory:
    """Verdicts of earlier runs, in a file: what is about the same code and the same tests is not tried again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[str]] = (
            json.loads(path.read_text()) if path is not None and path.exists() else {}
        )

    def recall(self, tasks: list[Task]) -> list[Task]:
        """Fill in what is known; returns the tasks that are still to be run."""
        for task in tasks:
            task.verdict, task.by = self._known.get(task.mark, ["", ""])
        return [t for t in tasks if not t.verdict]

    def note(self, task: Task) -> None:
        """Remember a verdict."""
        self._known[task.mark] = [task.verdict, task.by]
        if self._path is not None:
            self._path.write_text(json.dumps(self._known))


@dataclass(slots=True)
class Slot:
    """A copy of the tree for one mutant at a time."""

    folder: Path
    busy: Task | None = None
    pid: int = 0
    since: float = 0.0
    clean: str = ""
    """The module as it was, while a mutant stands in its place."""


def plan(only: Iterable[str]) -> list[Task]:
    """Every mutant of the lists, those whose module matches one of `only` (all, when there is none)."""
    wanted = tuple(only)
    tasks = [
        Task(g.module, "guard", g.guard, g.change, applied(g, (ROOT / g.module).read_text()), g.tests)
        for g in GUARDS
    ]
    for module in SYSTEMATIC:
        source = (ROOT / module).read_text()
        tests = tests_of(module)
        tasks += [Task(module, "rule", m.rule, m.key, m.source, tests) for m in mutants(source, module)]
    return [t for t in tasks if not wanted or any(w in f"{t.module} {t.kind}" for w in wanted)]


def baseline(tasks: Iterable[Task]) -> list[Task]:
    """The modules as they are, written the way a mutant is written: the tests must pass, else they prove nothing."""
    found: dict[tuple[str, tuple[str, ...]], Task] = {}
    for task in tasks:
        same = ast.unparse(ast.parse((ROOT / task.module).read_text()))
        unchanged = Task(task.module, "none", "unchanged", "unchanged", same, task.tests)
        found.setdefault((task.module, task.tests), unchanged)
    return list(found.values())


class Runner:
    """Runs tasks in `jobs` copies of the tree at once; each in a forked child that has pytest loaded already."""

    def __init__(self, jobs: int, scratch: Path) -> None:
        self._stamp = 1_000_000_000
        self._slots = [Slot(scratch / f"tree-{n}") for n in range(jobs)]
        for slot in self._slots:
            shutil.copytree(ROOT, slot.folder, ignore=_no_ballast, symlinks=True)

    def run(self, tasks: list[Task], note: Callable[[Task], None] = lambda _: None) -> None:
        """Fill in every task's verdict; prints a line for each."""
        waiting, done = deque(tasks), 0
        while waiting or any(s.busy for s in self._slots):
            for slot in self._slots:
                if slot.busy is None and waiting:
                    self._start(slot, waiting.popleft())
            finished = self._wait()
            if finished is not None:
                done += 1
                note(finished)
                print(f"[{done}/{len(tasks)}] {finished.verdict:9} {finished.seconds:5.1f} s  {finished.module.rsplit('/', 1)[-1]} "
                      f"{finished.change}  {finished.by}", flush=True)  # fmt: skip

    def _start(self, slot: Slot, task: Task) -> None:
        target = slot.folder / task.module
        slot.clean = target.read_text()
        self._write(target, task.source)
        slot.busy, slot.since = task, time.monotonic()
        slot.pid = os.fork()
        if slot.pid == 0:
            os.setsid()
            _child(slot.folder, task.tests)

    def _write(self, target: Path, source: str) -> None:
        """With a time stamp of its own: bytecode is kept by size and second."""
        target.write_text(source)
        self._stamp += 1
        os.utime(target, (self._stamp, self._stamp))

    def _wait(self) -> Task | None:
        """The next task that has ended, None after a while."""
        for slot in self._slots:
            if slot.busy is None:
                continue
            pid, _ = os.waitpid(slot.pid, os.WNOHANG)
            late = time.monotonic() - slot.since > MUTANT_LIMIT
            if pid == 0 and not late:
                continue
            _end(slot.pid, reaped=pid != 0)
            task, slot.busy = slot.busy, None
            task.seconds = time.monotonic() - slot.since
            task.verdict, task.by = _verdict(slot.folder, late=late and pid == 0)
            self._write(slot.folder / task.module, slot.clean)
            return task
        time.sleep(0.05)
        return None


def _end(pid: int, *, reaped: bool) -> None:
    """End the child and what it has started; `pid` is the group that it made for itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not reaped:
        os.waitpid(pid, 0)


def _no_ballast(folder: str, names: list[str]) -> set[str]:
    ballast = {
        ".git",
        ".venv",
        "__pycache__",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        "node_modules",
        "img",
    }
    return {n for n in names if n in ballast or (Path(folder) == ROOT and n in {"trainer_runs", "runs"})}


def _verdict(folder: Path, *, late: bool) -> tuple[str, str]:
    result = folder / "mutant.json"
    found = json.loads(result.read_text()) if result.exists() else {}
    result.unlink(missing_ok=True)
    if late or not found:
        return "hung", found.get("running", "")
    if found.get("failed") is None:
        return (
            ("survived", "")
            if found.get("exit") == 0
            else ("caught", found.get("broken", "collection fails"))
        )
    if found["timeout"] and not found["deadline"]:
        return "hung", found["failed"]
    return "caught", found["failed"]


def _child(folder: Path, tests: tuple[str, ...]) -> None:
    """Run the tests in this (forked) process and never come back."""
    code = 70
    try:
        os.chdir(folder)
        packages = [str(folder / p) for p in ("providers", "watchdog", "tui", "trainer")]
        sys.path[:] = [str(HERE), *packages, *(p for p in sys.path if not _ours(p))]
        os.environ["PYTHONPATH"] = os.pathsep.join(packages)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a third of the time of a short test goes there
        sink = os.open(folder / "mutant.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        import pytest

        plugins = [
            "witness",
            "pytest_asyncio.plugin",
            "pytest_timeout",
            "_hypothesis_pytestplugin",
            "no:cacheprovider",
        ]
        options = [
            "-q",
            "-x",
            "--tb=short",
            f"--timeout={TEST_LIMIT}",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        code = int(pytest.main([*options, *(f"-p{name}" for name in plugins), *tests]))
    except BaseException as error:  # noqa: BLE001 - nothing of the child may reach the parent's code
        print(repr(error))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _ours(path: str) -> bool:
    return path.startswith(str(ROOT)) and "site-packages" not in path


def _preload() -> None:
    """What every child would import anyway, once. Nothing of ours: that is what changes."""
    import _hypothesis_pytestplugin
    import aiosqlite
    import asyncssh
    import hypothesis.stateful
    import msgspec
    import pytest
    import pytest_asyncio.plugin
    import pytest_timeout
    import structlog

    _ = (
        _hypothesis_pytestplugin,
        pytest_asyncio.plugin,
        pytest_timeout,
        aiosqlite,
        asyncssh,
        hypothesis.stateful,
        msgspec,
        pytest,
        structlog,
    )
    assert not any(m.split(".")[0] in ("gpuwatch", "gpuproviders", "gputui") for m in sys.modules)


def judge(tasks: list[Task]) -> int:
    """Settle survivors against the list of equivalents; how many nobody explains."""
    open_ends = 0
    for task in tasks:
        reason = EQUIVALENT.get(task.module, {}).get(task.change)
        if task.verdict in ("survived", "hung") and reason is not None:
            task.verdict, task.by = "equivalent", reason
        elif task.verdict != "caught":
            task.verdict = task.verdict or NOT_RUN
            open_ends += 1
    return open_ends


def stale_equivalents(tasks: Iterable[Task]) -> list[str]:
    """Entries of `equivalents.py` that name no mutant any more."""
    known = {(t.module, t.change) for t in tasks}
    return [f"{m}: {key}" for m, keys in EQUIVALENT.items() for key in keys if (m, key) not in known]


def main() -> int:
    """0 when every mutant is caught or explained."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", action="append", default=[], help="part of a module's name, or `guard`, or `rule`"
    )
    parser.add_argument("--change", default="", help="only mutants whose change contains this text")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="name them, run nothing")
    parser.add_argument("--write", type=Path, help="write the table (docs/mutants.md)")
    parser.add_argument(
        "--keep", type=Path, help="remember verdicts here (JSON), and do not repeat what is in it"
    )
    parser.add_argument(
        "--remembered", action="store_true", help="run nothing: the table of what --keep remembers"
    )
    args = parser.parse_args()
    try:
        tasks = plan(args.only)
    except Stale as error:
        print(error)
        return 2
    if stale := stale_equivalents(plan(())):
        print("equivalents.py names what is no mutant any more:", *stale, sep="\n  ")
        return 2
    tasks = [t for t in tasks if args.change in t.change]
    if args.list:
        for task in tasks:
            print(f"{task.module} [{task.kind}: {task.name}] {task.change}")
        print(f"{len(tasks)} mutants")
        return 0
    began = time.monotonic()
    _preload()
    with tempfile.TemporaryDirectory(prefix="gputui-mutants-") as scratch:
        memory = Memory(args.keep)
        todo = [] if args.remembered else memory.recall(tasks)
        if args.remembered:
            memory.recall(tasks)
        runner = Runner(args.jobs, Path(scratch))
        sound = baseline(todo)
        runner.run(sound)
        if broken := [t for t in sound if t.verdict != "survived"]:
            print("the tests fail without any mutant:", *(f"{t.module}: {t.by}" for t in broken), sep="\n  ")
            return 2
        runner.run(todo, memory.note)
    left = judge(tasks)
    print(*report(tasks, time.monotonic() - began), sep="\n")
    if args.write:
        args.write.write_text("\n".join(document(tasks)) + "\n")
    return 1 if left else 0


def report(tasks: list[Task], seconds: float) -> list[str]:
    """What a person wants to see at the end: the counts, and each mutant that nobody noticed."""
    counts = Counter(t.verdict for t in tasks)
    lines = [
        f"survived: {t.module} [{t.kind}: {t.name}] {t.change} ({t.verdict} {t.by})"
        for t in tasks
        if t.verdict in ("survived", "hung")
    ]
    figures = ", ".join(f"{n} {v}" for v, n in sorted(counts.items()))
    return [*lines, f"{len(tasks)} mutants: {figures}; {seconds:.0f} s"]


def document(tasks: list[Task]) -> list[str]:
    """docs/mutants.md."""
    lines = [
        "# Guards removed one by one",
        "",
        "Written by `make mutants`; the lists are in `tests/mutation/`. Each row is one change of the code that takes a guard away",
        "or bends it; *caught by* is the first test that failed. What no test can notice is listed with the reason.",
        "",
        "## The pure core, every mutant by rule",
        "",
        "Every test negated, operand, statement, refusal, table entry and argument dropped, comparison and sign turned, limit moved by one.",
        "",
        "| module | mutants | caught | equivalent | open | not run |",
        "|---|---|---|---|---|---|",
    ]
    rules = [t for t in tasks if t.kind == "rule"]
    modules = sorted({t.module for t in rules})
    lines += [_counts(_short(m), [t for t in rules if t.module == m]) for m in modules]
    lines += [_counts("all", rules), ""]
    lines += [
        "## Guards, by hand",
        "",
        "| module | guard | what is done to it | caught by |",
        "|---|---|---|---|",
    ]
    for task in (t for t in tasks if t.kind == "guard"):
        by = f"`{_test(task.by)}`" if task.verdict == "caught" else f"**{task.verdict}** {task.by}"
        lines.append(f"| {_short(task.module)} | {_cell(task.name)} | {_code(task.change)} | {by} |")
    lines += [
        "",
        "## Mutants that change nothing that matters",
        "",
        "| module | mutant | why no test can notice |",
        "|---|---|---|",
    ]
    lines += [
        f"| {_short(t.module)} | {_code(t.change)} | {_cell(t.by)} |"
        for t in tasks
        if t.verdict == "equivalent"
    ]
    open_ends = [t for t in tasks if t.verdict in ("survived", "hung")]
    if open_ends:
        lines += [
            "",
            "## Open",
            "",
            *(f"- {_short(t.module)} {_code(t.change)}: {t.verdict} {t.by}" for t in open_ends),
        ]
    return lines


def _counts(name: str, tasks: list[Task]) -> str:
    counts = Counter(t.verdict for t in tasks)
    still = counts["survived"] + counts["hung"]
    return f"| {name} | {len(tasks)} | {counts['caught']} | {counts['equivalent']} | {still} | {counts[NOT_RUN]} |"


def _short(module: str) -> str:
    return module.removeprefix("watchdog/gpuwatch/").removeprefix("providers/").removesuffix(".py")


def _test(node: str) -> str:
    return node.rsplit("/", 1)[-1].removeprefix("test_core_").replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _code(text: str) -> str:
    tick = "``" if "`" in text else "`"
    return f"{tick}{_cell(text)}{tick}"


if __name__ == "__main__":
    sys.exit(main())
