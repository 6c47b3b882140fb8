"""Conveyor: what both processes of this folder do: take orders, connect, work until told to stop, leave in order."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from ether import process
from ether.errors import EtherError
from ether.member import Member
from ether.model import State

__all__ = ["Conveyor", "live"]

logger = logging.getLogger(__name__)

_ORPHAN_S = 4.0


class Conveyor(Protocol):
    """A process between our topics and those of others."""

    member: Member

    def open(self) -> None:
        """Connect; EtherError where that fails."""

    def run(self) -> None:
        """Do the work until told to stop."""

    def stop(self, reason: str) -> None:
        """Have `run` return, soon; from any thread."""

    def close(self) -> None:
        """Say goodbye, and go."""


def live(name: str, make: Callable[[dict[str, Any]], Conveyor]) -> None:
    """Run as a session's process of this name, until told to stop."""
    orders = process.orders()
    process.log_to_stderr(name, orders["log_level"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    conveyor = make(orders)
    signal.signal(signal.SIGTERM, lambda _number, _frame: conveyor.stop("told by a signal"))
    process.on_orphaned(lambda: _end_orphan(conveyor))
    try:
        conveyor.open()
    except EtherError as exc:
        logger.error("%s: %s", name, exc)
        if conveyor.member.connection.connected:
            conveyor.member.set_status(State.LOST, str(exc))
            conveyor.member.close(2.0)
        sys.stderr.flush()
        os._exit(1)  # threads of a connection that never came up must not hold us
    conveyor.run()
    conveyor.close()


def _end_orphan(conveyor: Conveyor) -> None:
    """The session's process is gone: end in order, and surely."""
    conveyor.stop("the session's process is gone")
    threading.Event().wait(_ORPHAN_S)
    os._exit(1)
