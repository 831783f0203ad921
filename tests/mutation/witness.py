"""A pytest plugin: writes down which test failed first, and whether that was only the suite's general time limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import Phase, settings

RESULT = Path("mutant.json")
_found: dict[str, object] = {"failed": None, "exit": None}


def pytest_configure(config: pytest.Config) -> None:
    """The same examples each time, and none made smaller: that a test fails is all that is asked."""
    del config
    settings.register_profile(
        "mutants", phases=[Phase.explicit, Phase.generate], database=None, derandomize=True, deadline=None
    )
    settings.load_profile("mutants")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that cannot be imported any more is noticed as well."""
    if report.failed:
        _write(failed=f"{report.nodeid} (cannot be imported)", timeout=False, deadline=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Called for each phase of each test."""
    report = yield
    if report.failed and _found["failed"] is None:
        timeout = "Timeout (>" in report.longreprtext
        own = item.get_closest_marker("timeout") is not None
        _write(failed=item.nodeid, timeout=timeout, deadline=own)
    return report


def pytest_runtest_logstart(nodeid: str) -> None:
    """Who was running, should everything stop."""
    _write(running=nodeid)


def pytest_sessionfinish(exitstatus: int) -> None:
    """The last word."""
    _write(exit=int(exitstatus))


def _write(**news: object) -> None:
    _found.update(news)
    RESULT.write_text(json.dumps(_found))
