"""`ether down`: stop the running session."""

from __future__ import annotations

from ether.cli import output
from ether.cli.joined import joined

__all__ = ["down"]

_PATIENCE_S = 600.0
"""For instances that finish, and for a large recording to be sealed."""


def down() -> None:
    """Stop the running session.

    In order; returns when it has stopped, and its recording is finished.
    """
    with joined() as ether:
        name = ether.info()["session"].get("name", "session")
        ether.stop_session(_PATIENCE_S)
    output.note(f"{name}: stopped")
