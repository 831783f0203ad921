"""What a box does, as typed samples, a bounded history and alarms. Pure; the sentinel gathers, the daemon shows.

`sample` holds the values, `smi` reads nvidia-smi's answers, `read` a whole sample, `history` keeps samples
at falling resolution, `alarms` says what is wrong, `watching` folds one sample after the other.
"""
