"""Screens: places (runs, offers), one run, and dialogs. Each has its style sheet next to it."""
