"""`python -m gpucloudsim`."""

import sys

from gpucloudsim import main

if __name__ == "__main__":
    sys.exit(main())
