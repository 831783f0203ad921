"""A running RunPod simulator whose every answer is held against RunPod's published OpenAPI file."""

from __future__ import annotations

import functools
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cloudsim_fixtures import KEY, Simulator, SshUser
from openapi_core import Config, OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

SPEC = Path(__file__).parents[1] / "fixtures" / "runpod" / "rest-v2.openapi.json"
IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
GPU = "NVIDIA GeForce RTX 4090"


@functools.cache
def contract() -> OpenAPI:
    """The published contract, read once."""
    readers = {"application/problem+json": json.loads, "text/event-stream": bytes.decode}
    config = Config(extra_media_type_deserializers=readers)
    return OpenAPI.from_dict(json.loads(SPEC.read_text()), config=config)


class RunpodSimulator(Simulator):
    """`python -m gpucloudsim --cloud runpod`, asked like the real service."""

    def __init__(self, state: Path, *arguments: str) -> None:
        super().__init__(state, "--cloud", "runpod", *arguments)
        self.headers: dict[str, str] = {}
        """Headers of the last answer, lower-case."""
        self.kept: bool = True
        """Whether answers are held against the contract; off only where a fault breaks it on purpose."""

    def call(
        self, method: str, path: str, body: object = None, key: str | None = KEY, **headers: str
    ) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                status, raw, got = response.status, response.read(), response.headers
        except urllib.error.HTTPError as problem:
            with problem:
                status, raw, got = problem.code, problem.read(), problem.headers
        self.headers = {name.lower(): value for name, value in got.items()}
        if self.kept and path.startswith("/v2/"):
            self._hold(method, path, status, raw)
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode(errors="replace")

    def _hold(self, method: str, path: str, status: int, raw: bytes) -> None:
        """Raises AssertionError when the answer is not what the file promises."""
        parts = urlsplit(path)
        asked = MockRequest("https://api.runpod.io", method.lower(), parts.path, args=parse_qs(parts.query))
        content = self.headers.get("content-type", "").partition(";")[0]
        got = MockResponse(raw, status, self.headers, content or "application/json")
        try:
            contract().validate_response(asked, got)
        except OpenAPIError as error:
            errors = getattr(error.__cause__, "schema_errors", None) or [error]
            raise AssertionError(
                f"{method} {path}: {status} breaks the contract: {list(errors)[:3]}"
            ) from None

    def pod_body(self, **more: object) -> dict[str, object]:
        """A create that is whole; a value of None leaves the field out."""
        body: dict[str, object] = {
            "name": "a-pod", "image": IMAGE, "gpu": {"id": GPU, "count": 1}, "disk": 20, "cloud": "COMMUNITY",
            "ports": ["22/tcp", "8888/http"], "mounts": {"persistent": {"size": 20, "path": "/workspace"}}, **more,
        }  # fmt: skip
        return {name: value for name, value in body.items() if value is not None}

    def make(self, **more: object) -> dict[str, Any]:
        """Create a pod and wait until it runs (and until SSH listens, when its image has sshd)."""
        status, pod = self.call("POST", "/v2/pods", self.pod_body(**more))
        assert status == 201, pod
        self.until(pod["id"], "running", ssh="cmd" not in more and "image" not in more)
        made: dict[str, Any] = self.call("GET", f"/v2/pods/{pod['id']}")[1]
        return made

    def number(self, pod: str) -> int:
        """The simulator's own number of a pod."""
        known = self.call("GET", "/_sim/state")[1]["instances"]
        return int(next(i["id"] for i in known if i["public_id"] == pod))

    def until(self, pod: str, phase: str, ssh: bool = False) -> dict[str, Any]:
        """Wait until a pod is in one of the engine's phases and its box has followed."""
        return self.wait(self.number(pod), phase, ssh=ssh)

    def pods(self, query: str = "") -> list[dict[str, Any]]:
        """The list, first page."""
        listed: list[dict[str, Any]] = self.call("GET", f"/v2/pods{query}")[1]["pods"]
        return listed


@pytest.fixture(scope="module")
def runpod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunpodSimulator]:
    """A RunPod simulator that several tests of a module share."""
    sim = RunpodSimulator(tmp_path_factory.mktemp("runpod"), "--ephemeral").start()
    yield sim
    if sim.process is not None:
        sim.end()


@pytest.fixture
def clean_runpod(runpod: RunpodSimulator) -> Iterator[RunpodSimulator]:
    """The shared simulator without faults before, and without pods after a test."""
    runpod.call("DELETE", "/_sim/faults")
    for setting in ("ssh_denied=0", "ssh_refused=0.01"):
        runpod.fault(setting)
    runpod.kept = True
    yield runpod
    runpod.call("DELETE", "/_sim/faults")
    runpod.kept = False  # what a fault spoiled (a pod of no GPUs) breaks the contract until it is gone
    for pod in runpod.pods():
        runpod.call("DELETE", f"/v2/pods/{pod['id']}")
    runpod.call("POST", "/_sim/credit", {"set": 25.0})


__all__ = ["GPU", "IMAGE", "RunpodSimulator", "SshUser"]
