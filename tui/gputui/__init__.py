"""gputui: the terminal app and the user's command line. Everything it shows or does goes through gpuwatch."""

__version__ = "0.1.0"
