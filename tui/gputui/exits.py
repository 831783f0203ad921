"""Exit statuses by meaning; docs/guide.md tells them."""

from __future__ import annotations

OK, DAMAGE, USAGE, PARTIAL, REFUSED, UNREACHABLE = range(6)
