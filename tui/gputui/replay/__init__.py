"""Record what a daemon says, with times, and play it again: for bug reports, documents and tests."""
