"""`python -m gputui` is the `gputui` command."""

import sys

from gputui.cli import main

sys.exit(main())
