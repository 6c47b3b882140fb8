"""`ether down`: stop the running session."""

from __future__ import annotations

from ether.cli import output
from ether.cli.joined import joined

__all__ = ["down"]


def down() -> None:
    """Stop the running session.

    In order; returns when it has stopped.
    """
    with joined() as ether:
        name = ether.info()["session"].get("name", "session")
        ether.stop_session()
    output.note(f"{name}: stopped")
