"""RunPod's own SDK (1.11) against the simulator, in processes of its own: its import alone takes 1.5 s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from runpod_fixtures import RunpodSimulator

pytest_plugins = ["cloudsim_fixtures", "runpod_fixtures"]

WALK = """
import json, sys, time
import runpod
runpod.api_key = sys.argv[1]
gpus = runpod.get_gpus()
gpu = runpod.get_gpu("NVIDIA GeForce RTX 4090", 2)
made = runpod.create_pod("from-the-sdk", "runpod/pytorch", "NVIDIA GeForce RTX 4090", volume_in_gb=20,
                         container_disk_in_gb=20, ports="22/tcp,8888/http", env={"NAME": "value"}, volume_mount_path="/workspace")
pod = made["id"]
deadline = time.monotonic() + 20
while not runpod.get_pod(pod)["runtime"] and time.monotonic() < deadline:
    time.sleep(0.05)
running = runpod.get_pods()
stopped = runpod.stop_pod(pod)
while runpod.get_pod(pod)["runtime"] and time.monotonic() < deadline:
    time.sleep(0.05)
resumed = runpod.resume_pod(pod, 1)
ended = runpod.terminate_pod(pod)
print(json.dumps({"gpus": gpus, "gpu": gpu, "made": made, "running": running, "stopped": stopped, "resumed": resumed,
                  "ended": ended, "after": runpod.get_pods(), "gone": runpod.get_pod(pod), "user": runpod.get_user()}))
"""

ERRORS = """
import sys
import runpod
runpod.api_key = sys.argv[1]
try:
    exec(sys.argv[2])
except Exception as problem:
    print(type(problem).__name__, problem)
"""


def sdk(runpod: RunpodSimulator, home: Path, code: str, *arguments: str) -> str:
    env = {**os.environ, "RUNPOD_API_BASE_URL": runpod.url, "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdk_walks_through_the_life_of_a_pod(clean_runpod: RunpodSimulator, tmp_path: Path) -> None:
    seen: dict[str, Any] = json.loads(sdk(clean_runpod, tmp_path, WALK, clean_runpod.key))
    assert {"id": "NVIDIA GeForce RTX 4090", "displayName": "RTX 4090", "memoryInGb": 24} in seen["gpus"]
    assert seen["gpu"]["lowestPrice"]["uninterruptablePrice"] > 0
    assert set(seen["made"]) == {"id", "imageName", "env", "machineId", "machine"}
    assert "NAME=value" in seen["made"]["env"]
    (row,) = seen["running"]
    assert (row["id"], row["desiredStatus"], row["uptimeSeconds"]) == (seen["made"]["id"], "RUNNING", 0)
    assert any(port["privatePort"] == 22 and port["isIpPublic"] for port in row["runtime"]["ports"])
    assert seen["stopped"]["desiredStatus"] == "EXITED"
    assert seen["resumed"]["desiredStatus"] == "RUNNING"
    assert (seen["ended"], seen["after"], seen["gone"]) == (None, [], None)
    assert seen["user"]["id"].startswith("user_")


@pytest.mark.parametrize(
    ("fault", "call", "said"),
    [
        (None, "runpod.api_key = 'wrong'; runpod.get_pods()", "AuthenticationError"),
        (None, "runpod.terminate_pod('none')", "QueryError pod not found to terminate"),
        (None, "runpod.create_pod('quo\"te', 'x', 'NVIDIA GeForce RTX 4090')", "QueryError Syntax Error"),
        ("create_capacity", "runpod.create_pod('n', 'x', 'NVIDIA GeForce RTX 4090')", "QueryError There are no longer any"),
        ("graphql_gone", "runpod.get_pods()", "KeyError 'data'"),
        ("throttle=graphql:text", "runpod.get_pods()", "JSONDecodeError"),
        ("html=graphql", "runpod.get_pods()", "JSONDecodeError"),
    ],
)  # fmt: skip
def test_failures_reach_the_sdk_as_they_do_from_the_real_service(
    clean_runpod: RunpodSimulator, tmp_path: Path, fault: str | None, call: str, said: str
) -> None:
    if fault is not None:
        clean_runpod.fault(fault)
    assert sdk(clean_runpod, tmp_path, ERRORS, clean_runpod.key, call).startswith(said)
    clean_runpod.call("DELETE", "/_sim/faults")
    assert clean_runpod.pods() == []
