"""One suite for every provider: it passes on a healthy cloud and names what a sick one breaks."""

from __future__ import annotations

import subprocess
import sys

import pytest


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpuproviders.conformance", *arguments],
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.mark.parametrize(("provider", "promises"), [("vast", 15), ("runpod", 15), ("ssh", 5)])
def test_the_providers_conform(provider: str, promises: int) -> None:
    done = conformance(provider)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{provider}: conforms" in done.stdout
    assert done.stdout.count("kept") == promises


@pytest.mark.parametrize(
    ("provider", "fault", "promise"),
    [("vast", "list_empty", "the list is complete"), ("runpod", "list_empty", "the list is complete"),
     ("vast", "list_bad_total", "the list is complete"), ("runpod", "list_null", "the list is complete"),
     ("vast", "create_false_with_contract", "the list is complete"), ("runpod", "create_500_after", "the list is complete"),
     ("vast", "auth_error=user", "the account answers"), ("runpod", "forbidden=list", "the account answers"),
     ("vast", "create_no_such_ask", "answers may lag"), ("runpod", "create_402", "answers may lag"),
     ("runpod", "status_before=show:500", "id that never was"), ("vast", "html=search", "offers are unique")],
)  # fmt: skip
def test_a_fault_that_is_left_on_breaks_the_promise_it_touches(
    provider: str, fault: str, promise: str
) -> None:
    done = conformance(provider, "--fault", fault, "--only", promise)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
    assert f"{provider}: 1 promises broken" in done.stdout
