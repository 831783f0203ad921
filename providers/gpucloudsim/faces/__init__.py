"""Vendor APIs: each face translates one vendor's HTTP into the engine's words."""
