"""Custody: what a run promised, what is proved, what holds the machine, and the one permit to destroy it (I1).

Pure: facts in, verdict out. `permit.DestroyPermit` is made here and nowhere else.
"""
