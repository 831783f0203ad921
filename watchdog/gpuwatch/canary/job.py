"""What the canary runs: its spec, and the small program on the box. Pure; the program is standard Python 3.8."""

from __future__ import annotations

import json
from typing import Final

FILE: Final = "canary.py"
IMAGE: Final = "python:3.12-slim-bookworm"
PROGRAM: Final = r"""
import hashlib, json, os, subprocess, sys, time, urllib.request

def container():
    found = {}
    try:
        with open("/proc/1/environ", "rb") as file:
            for pair in file.read().decode("utf-8", "replace").split("\0"):
                name, equals, value = pair.partition("=")
                if equals:
                    found[name] = value
    except OSError:
        pass
    return found

env = dict(container())
env.update(os.environ)
vendor, url, accounts_key = os.environ["CANARY_VENDOR"], os.environ["CANARY_URL"], os.environ["CANARY_KEY_MARK"]
KEYS = {"vast": "CONTAINER_API_KEY", "runpod": "RUNPOD_API_KEY"}
IDS = {"vast": "CONTAINER_ID", "runpod": "RUNPOD_POD_ID"}
# without one of the vendor's own variables the container's environment was not to be read: then nothing is known of keys
told = any(name.startswith(("RUNPOD_", "CONTAINER_", "VAST_")) for name in env)
key, ident = env.get(KEYS[vendor], ""), env.get(IDS[vendor], "")
mark = hashlib.sha256(b"gputui/" + key.encode()).hexdigest()[:12]
secret = [value for value in env.values() if hashlib.sha256(b"gputui/" + value.encode()).hexdigest()[:12] == accounts_key]
try:
    smi = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], stdout=subprocess.PIPE, timeout=30)
    gpus = smi.stdout.decode("utf-8", "replace").split("\n")[:-1]
except (OSError, subprocess.SubprocessError):
    gpus = []
payload = os.urandom(1 << 20)
with open("payload.bin", "wb") as file:
    file.write(payload)
    file.flush()
    os.fsync(file.fileno())
facts = {
    "python": sys.version.split()[0], "workspace": os.getcwd(), "gpus": gpus, "own_key": bool(key) if told else None, "own_id": bool(ident),
    "key_in_session": KEYS[vendor] in os.environ, "accounts_key_on_box": bool(secret), "payload": hashlib.sha256(payload).hexdigest(),
    "stop": None,
}

def keep():
    with open("canary.json", "w") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())

def stop():
    if vendor == "vast":
        target, body, method = "/api/v0/instances/%d/" % int(ident), {"state": "stopped"}, "PUT"
    else:
        target, body, method = "/v2/pods/%s/action" % ident, {"action": "stop"}, "POST"
    request = urllib.request.Request(url + target, data=json.dumps(body).encode(), method=method)
    request.add_header("Authorization", "Bearer " + key)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read(2000).decode("utf-8", "replace")
        if vendor == "vast" and json.loads(text).get("success") is not True:
            raise ValueError(text[:200])
        return answer.status

keep()
if os.environ.get("CANARY_STOP") == "1" and key and ident:
    facts["stop"] = "asked"
    keep()
    os.sync()
    try:
        facts["stop"] = "accepted: HTTP %d" % stop()
    except Exception as error:
        facts["stop"] = "refused: %s %s" % (type(error).__name__, str(error)[:150])
    keep()
    if facts["stop"].startswith("accepted"):
        time.sleep(600)  # the stop ends this program
print("canary: done", flush=True)
"""


def spec(*, name: str, vendor: str, image: str, max_cost: float, url: str, mark: str, stop: bool) -> str:
    """The run spec. `mark` is the fingerprint of the account's key, to tell whether that key got onto the box."""
    env = {
        "CANARY_VENDOR": vendor,
        "CANARY_URL": url,
        "CANARY_KEY_MARK": mark,
        "CANARY_STOP": "1" if stop else "0",
    }
    lines = ", ".join(f"{key} = {json.dumps(value)}" for key, value in env.items())
    return f"""\
name = {json.dumps(name)}
provider = {json.dumps(vendor)}
image = {json.dumps(image)}
disk = "10GB"
[upload]
paths = ["{FILE}"]
[job]
command = "python3 {FILE}"
env = {{ {lines} }}
[[artifacts]]
path = "canary.json"
[[artifacts]]
path = "payload.bin"
[budget]
max_cost = {max_cost:.4f}
[recover]
attempts = 2
[boot]
timeout = "12m"
"""
