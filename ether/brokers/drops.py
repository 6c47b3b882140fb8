"""Drops: what the broker itself says that it has dropped."""

from __future__ import annotations

import threading

from ether import clock
from ether.brokers.capabilities import DROPPED
from ether.expect import Shortfall

__all__ = ["Drops"]

_OVER_S = 60.0
"""Without a further drop for so long, it is over; the count comes every ten seconds or so."""


class Drops:
    """Follows the broker's own count. `receive` and `look` may be called in different threads.

    The count is one for the whole broker, QoS 0 to a slow dashboard included: whose it was, the broker's log tells.
    """

    def __init__(self, way_out: str) -> None:
        """Begin; what was dropped before the first `receive` is not ours.

        Args:
            way_out: the setting that limits the queues of this broker.
        """
        self._way_out = way_out
        self._lock = threading.Lock()
        self._count: int | None = None
        self._dropped = 0
        self._last = 0.0

    def receive(self, payload: bytes) -> None:
        """Take what came on `DROPPED`."""
        try:
            count = int(payload)
        except ValueError:
            return
        with self._lock:
            known, self._count = self._count, count
            if known is None or count == known:
                return
            self._dropped += count - known if count > known else count  # a broker that starts again counts from 0
            self._last = clock.monotonic()

    def look(self) -> list[Shortfall]:
        """Return that it is dropping, and how much it has since it began to; empty where it is not."""
        with self._lock:
            if self._dropped and clock.monotonic() - self._last > _OVER_S:
                self._dropped = 0
            if not self._dropped:
                return []
            many = f"{self._dropped:,} message{'' if self._dropped == 1 else 's'}"
        detail = (
            f"the broker has dropped {many} for a client that is too slow, or away; its log says which. What a "
            f"recorder lacks, ether's publishers send again; for others raise {self._way_out}"
        )
        return [Shortfall(DROPPED, "dropped", detail, f"it had dropped {many}")]
