"""docs/protocol.md says what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_protocol_page_is_what_the_wire_types_say() -> None:
    made = subprocess.run([sys.executable, str(ROOT / "docs" / "make_protocol.py"), "--check"], check=False)
    assert made.returncode == 0, "stale: run `python docs/make_protocol.py`"
