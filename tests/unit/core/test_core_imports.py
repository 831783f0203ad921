"""What the daemon's client may import, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "asyncio",
    "asyncssh",
    "textual",
    "vastai",
    "aiosqlite",
    "torch",
    "aiohttp",
    "requests",
    "sqlite3",
    "structlog",
    "platformdirs",
)


def imported(statement: str) -> set[str]:
    """Top-level modules in memory after a statement, in a fresh interpreter."""
    program = (
        f"{statement}\nimport sys\nprint(' '.join(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_blocking_client_is_light() -> None:
    assert imported("import gpuwatch.client.blocking").isdisjoint(HEAVY)


def test_the_pure_core_needs_no_io_library() -> None:
    core = (
        "import gpuwatch.custody.rules, gpuwatch.custody.permit, gpuwatch.custody.complete, gpuwatch.lifecycle.decide, "
        "gpuwatch.lifecycle.evolve, gpuwatch.lifecycle.absence, gpuwatch.spec, gpuwatch.box.frames, gpuproviders.vast.parse"
    )
    io = {"asyncssh", "textual", "vastai", "aiosqlite", "torch", "aiohttp", "requests", "sqlite3"}
    assert imported(core).isdisjoint(io)


def test_the_adapter_loads_the_vendors_sdk_only_when_it_is_called() -> None:
    loaded = imported("from gpuproviders.vast import VastProvider; VastProvider(key=lambda: 'k').name")
    assert loaded.isdisjoint({"vastai", "requests", "aiohttp"})
    assert "vastai" in imported(
        "from gpuproviders.vast import transport; transport._sdk_client('k', 'http://x', 1, 1.0)"
    )
