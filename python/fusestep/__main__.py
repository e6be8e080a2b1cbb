"""``python -m fusestep``: see :mod:`fusestep.cli`."""

import sys

from fusestep.cli import main

if __name__ == "__main__":
    sys.exit(main())
