"""One hypothesis profile: no deadline, because the machines that run this are busy.

CORE_EXAMPLES=5000 pytest tests/unit/core searches deeper.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "core",
    deadline=None,
    max_examples=int(os.environ.get("CORE_EXAMPLES", "80")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("core")
