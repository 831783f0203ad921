"""A job's log of any size: where its bytes are, where its lines begin, and which of them match."""
