"""Widgets drawn by lines: a virtual table, a log, and panels of text pieces. None of them parses markup."""
