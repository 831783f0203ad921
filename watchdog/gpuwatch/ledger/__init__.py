"""The ledger: an append-only event log in SQLite, with the state rows it makes, in one transaction (I4)."""

from gpuwatch.ledger.store import Ledger, LedgerDamaged, Record, StoredEvent

__all__ = ["Ledger", "LedgerDamaged", "Record", "StoredEvent"]
