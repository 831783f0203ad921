"""The accounts' keys after whole runs on both clouds with faults: in no ledger, log, event, message, process or box."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from integration.test_daemon_runpod import RunpodWorld

KEY = "sk-very-secret-account-key-0123456789abcdef"
FAULTS = (
    "create_500_after*1", "create_hang_after*1@2", "throttle=list*2", "list_html*1@3", "auth_error=list*1@4", "list_truncated*1@6",
    "status_before=show:500*1", "ssh_denied=2*1", "graphql_gone*1", "logs_never",
)  # fmt: skip
SPEC = """
name = "{provider}-job"
provider = "{provider}"
disk = "10GB"
[gpu]
name = "RTX 4090"
[job]
command = "env > environment.txt; echo done; while [ ! -e ../go ]; do sleep 0.1; done"
[[artifacts]]
path = "environment.txt"
"""


class SecretWorld(RunpodWorld):
    """Both clouds, with one key that can be searched for."""

    both = True

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"VAST_API_KEY": KEY, "RUNPOD_API_KEY": KEY}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[SecretWorld]:
    made = SecretWorld(tmp_path)
    try:
        made.start_simulator("--ephemeral", "--api-key", KEY)
        made.start_daemon()
        yield made
    finally:
        made.stop()


class Watcher(threading.Thread):
    """Looks at the command lines of the daemon and its children, and at the boxes' processes, all the time."""

    def __init__(self, world: SecretWorld) -> None:
        super().__init__(daemon=True)
        assert world.daemon is not None
        self._daemon = psutil.Process(world.daemon.pid)
        self.ended = threading.Event()
        self.seen: set[str] = set()
        self.leaks: set[str] = set()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            with contextlib.suppress(psutil.Error):
                for process in (self._daemon, *self._daemon.children(recursive=True)):
                    self._look(process, environment=process.pid != self._daemon.pid)
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if "GPUCLOUDSIM_BOX" in process.environ():
                        self._look(process, environment=True)

    def _look(self, process: psutil.Process, *, environment: bool) -> None:
        words = " ".join(process.cmdline())
        self.seen.add(words)
        if KEY in words:
            self.leaks.add(f"command line: {words[:100]}")
        if environment and KEY in str(process.environ()):
            self.leaks.add(f"environment of: {words[:100]}")


def files_with_the_key(folder: Path) -> list[str]:
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and KEY.encode() in path.read_bytes()
    ]


def test_a_key_is_nowhere_after_whole_runs_with_faults(here: SecretWorld) -> None:
    watcher = Watcher(here)
    watcher.start()
    for url in (here.url, here.vast_url):
        here.url, kept = url, here.url
        for fault in FAULTS:
            here.fault(fault)
        here.url = kept
    ends = []
    for provider, boxes in (("vast", here.home / "vast" / "boxes"), ("runpod", here.cloud / "boxes")):
        run = here.launch(SPEC.format(provider=provider), key=provider)
        here.wait_event(run, "job-started")
        assert files_with_the_key(boxes) == []
        for box in boxes.iterdir():
            (box / "workspace" / "go").touch()
        ends.append(here.wait_end(run).state)
        assert "CONTAINER_ID" in here.file(run, "environment.txt").read_text() or provider == "runpod"
    assert ends == ["gone", "gone"]
    with pytest.raises(CallFailed) as refused:
        here.launch(SPEC.format(provider="ssh"), key="none")
    watcher.ended.set()
    watcher.join()
    assert watcher.leaks == set()
    assert any("sdk_child" in words for words in watcher.seen), "the child with the vendor's package was seen"

    events = here.call("events", wire.EventsRead(limit=5000), wire.Events).events
    status = here.call("status", wire.Empty(), wire.DaemonStatus)
    assert len(events) > 20
    for text in (str(events), str(status), str(refused.value), here.daemon_log()):
        assert KEY not in text
    for place in ("state", "vault", "run", "config"):
        assert files_with_the_key(here.home / place) == []
    assert "create-unknown" in {event.kind for event in events}, "the faults did hit"
