"""gputrain: a compact PyTorch trainer for machines that vanish.

The core path needs the standard library, torch and numpy only, so that the package can be copied
to a rented box and run with ``PYTHONPATH``; everything else is imported lazily where it is used.
"""

__version__ = "0.1.0"
