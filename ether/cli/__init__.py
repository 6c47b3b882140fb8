"""The `ether` command: one verb a file. The only place that uses the command-line and terminal libraries."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 ok, 1 failed, 2 usage, 3 bad configuration, 4 no broker, 5 guarantee broken, 130 interrupted twice.
    An `EtherError` is told in its own words, never with a traceback.
    """
    try:
        from ether.cli.app import run  # `demo_pipeline` lives in this package, and its processes need no command line
    except KeyboardInterrupt:
        return 130

    return run(sys.argv[1:] if arguments is None else arguments)
