"""How the short verbs reach the running session, and how all of them find the user's classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ether.cli import output

__all__ = ["find_classes_from", "joined"]


@contextmanager
def joined() -> Iterator[Any]:
    """Join the running session and leave it again: by ETHER_BROKER, else the newest, or the one of `--session`.

    Raises:
        BrokerError: no session runs.
    """
    from ether import ether

    name = output.settings.session
    ether.tap({"session": {"name": name}} if name else None, join_only=True)
    try:
        yield ether
    finally:
        ether.shutdown()


def find_classes_from(file: Path) -> None:
    """Make classes beside the YAML file and in the working directory importable, as a script there would."""
    for folder in (os.getcwd(), str(file.resolve().parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
