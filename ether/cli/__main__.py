"""`python -m ether.cli`, the same as `ether`."""

from __future__ import annotations

import sys

from ether.cli import main

if __name__ == "__main__":
    sys.exit(main())
