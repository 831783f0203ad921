"""The vendor's SDK against the simulator, in a process of its own (its import is slow and sets up logging)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudsim_fixtures import Simulator

pytest_plugins = ["cloudsim_fixtures"]

WALK = """
import json, sys, time
from vastai import VastAI
url, key = sys.argv[1:]
vast = VastAI(api_key=key, server_url=url, retry=1)
offer = vast.search_offers(query="gpu_name=RTX_4090 num_gpus=1")[0]
made = vast.create_instance(id=offer["id"], image="x", disk=12, label="sdk", ssh=True, direct=True, onstart_cmd="echo from-onstart")
number = made["new_contract"]
deadline = time.monotonic() + 20
while (shown := vast.show_instance(id=number))["actual_status"] != "running" and time.monotonic() < deadline:
    time.sleep(0.05)
listed = vast.show_instances()
while not (logs := vast.logs(instance_id=number)) and time.monotonic() < deadline:
    time.sleep(0.05)
stopped, started = vast.stop_instance(id=number), vast.start_instance(id=number)
credit = vast.show_user()["credit"]
destroyed = vast.destroy_instance(id=number)
after = vast.show_instance(id=number)
print(json.dumps({"shown": shown, "listed": [row["id"] for row in listed], "logs": logs, "number": number, "stopped": stopped,
                  "started": started, "credit": credit, "destroyed": destroyed, "after": after}))
"""

HAZARD = """
import sys
from vastai import VastAI
url, key, offer = sys.argv[1:]
vast = VastAI(api_key=key, server_url=url, retry=3)
vast.client.timeout = 0.3
try:
    vast.create_instance(id=int(offer), image="x", disk=12, label="hazard")
except Exception as problem:
    print(type(problem).__name__)
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdk_walks_through_the_life_of_an_instance(simulator: Simulator) -> None:
    seen: dict[str, Any] = json.loads(python(WALK, simulator.url, simulator.key))
    assert seen["shown"]["actual_status"] == "running"
    assert seen["listed"] == [seen["number"]]
    assert seen["logs"] == "from-onstart\n"
    assert seen["stopped"]["success"] is seen["started"]["success"] is seen["destroyed"]["success"] is True
    assert 24 < seen["credit"] < 25
    assert seen["after"] is None


def test_a_create_that_hangs_is_sent_again_by_the_sdk_and_the_first_one_has_rented(
    simulator: Simulator,
) -> None:
    """Why money is never spent through the SDK's default client."""
    before = simulator.call("GET", "/_sim/state")[1]["calls"].get("create", 0)
    simulator.fault("create_hang_after*1")
    said = python(HAZARD, simulator.url, simulator.key, str(simulator.offer()["id"]))
    assert said == "HTTPError\n"
    assert simulator.call("GET", "/_sim/state")[1]["calls"]["create"] == before + 2
    assert [row["label"] for row in simulator.rows()] == ["hazard"]
