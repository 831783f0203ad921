"""The child that holds the official package: bounded, silent, killed when it hangs, and the key on no command line."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from gpuproviders.runpod import balance, sdk

ANSWERS = {
    "answer": "import sys, json; key = json.loads(sys.stdin.readline())['key']; print(json.dumps({'data': {'myself': {'id': key[::-1], 'clientBalance': 3.5}}}))",
    "noise": "print('x' * 200000)",
    "nothing": "pass",
    "death": "import os; os._exit(3)",
    "error": 'print(\'{"error": "KeyError"}\')',
}


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for the child, importable by it."""
    real = sdk.asyncio.create_subprocess_exec

    async def spawn(*argv: str, env: dict[str, str], **more: object) -> object:
        return await real(*argv, env=env | {"PYTHONPATH": str(tmp_path)}, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sdk.asyncio, "create_subprocess_exec", spawn)
    for name, code in ANSWERS.items():
        (tmp_path / f"child_{name}.py").write_text(code)
    return tmp_path


async def test_an_answer_is_read_and_anything_else_is_unknown(children: Path) -> None:
    told = await balance.ask("key", "http://127.0.0.1:9", module="child_answer")
    assert (told.user_id, told.balance, told.spending) == ("yek", 3_500_000, None)
    for name in ("noise", "nothing", "death", "error", "missing"):
        assert await balance.ask("key", "http://127.0.0.1:9", module=f"child_{name}") == balance.UNKNOWN


async def test_a_child_that_hangs_is_killed(children: Path) -> None:
    pid = children / "pid"
    (children / "child_hang.py").write_text(
        f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    assert await balance.ask("key", "http://127.0.0.1:9", seconds=5, module="child_hang") == balance.UNKNOWN
    assert not psutil.pid_exists(int(pid.read_text()))


async def test_the_key_is_on_no_command_line_and_in_no_environment(children: Path) -> None:
    seen = children / "seen"
    (children / "child_look.py").write_text(
        f"import os, pathlib, sys; pathlib.Path({str(seen)!r}).write_text(repr((sys.argv, dict(os.environ))))"
    )
    await balance.ask("very-secret", "http://127.0.0.1:9", module="child_look")
    assert "very-secret" not in seen.read_text()
    assert "RUNPOD_API_BASE_URL" in seen.read_text()


def test_the_package_is_imported_by_nobody_but_the_child() -> None:
    import subprocess

    code = "import sys, gpuproviders.runpod, gpuproviders.runpod.balance, gpuproviders.runpod.spot; sys.exit('runpod' in sys.modules or 'aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
