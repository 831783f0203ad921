"""What every provider must keep, as checks that run against its simulated cloud (or own machines).

`python -m gpuproviders.conformance vast|runpod|ssh` prints a line per promise; exit code 1 when one is broken.
"""
