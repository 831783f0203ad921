"""The life of a run: a pure state machine over events (`evolve`) and what to do next (`decide`).

No clock, socket or disk in this package.
"""
