"""Is a machine idle? Pure: looks with their time go in, a verdict with a sentence per signal comes out (I3).

`signals` turns one look into what each signal says, `track` remembers since when, `verdict` judges,
`timers` says what to do about it.
"""
