"""Inbox: what has come for one subscription of a method and waits for it, bounded, with a policy for what is too much.

The network thread puts, the thread that runs the instance takes. `block` loses nothing: beyond its bound the instance
leaves messages unacknowledged, so that the broker sends no more than its window holds. Nothing here waits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import count

from ether.model import Message, Policy

__all__ = ["LIMIT_BYTES", "QUEUE", "Inbox"]

QUEUE = 1_000
"""Messages, where a subscription does not say."""
LIMIT_BYTES = 64 * 2**20
"""Of payload; a queue of large messages is full before it has reached its count."""


class Inbox:
    """Messages that wait for one subscription, oldest first."""

    def __init__(self, policy: Policy, queue: int = QUEUE) -> None:
        """Begin empty.

        Args:
            policy: what becomes of a message that comes while the inbox is full: ``block`` takes it, and it is the
                owner's to leave it unacknowledged; ``drop-oldest`` drops the oldest one for it; ``latest`` keeps only
                the newest message of each topic, always.
            queue: with how many messages the inbox is full.
        """
        self.policy = policy
        self.dropped = 0
        """Messages that nobody will handle, as others came after them."""
        self._queue = queue
        self._waiting: OrderedDict[str | int, Message] = OrderedDict()
        self._numbers = count()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._queue or self._bytes >= LIMIT_BYTES

    @property
    def relaxed(self) -> bool:
        """Whether so much room has come to be that it pays to let the broker send again."""
        return len(self._waiting) <= self._queue // 2 and self._bytes <= LIMIT_BYTES // 2

    def put(self, message: Message) -> bool:
        """Take a message; False if another one left for it, so that no more wait than before."""
        with self._lock:
            before = len(self._waiting)
            key: str | int = message.topic if self.policy == "latest" else next(self._numbers)
            if key in self._waiting:
                self._remove(key)
            elif self.policy == "drop-oldest":
                while self._waiting and self.full:
                    self._remove(next(iter(self._waiting)))
            self._waiting[key] = message
            self._bytes += len(message.payload)
            self.dropped += before + 1 - len(self._waiting)
            return len(self._waiting) > before

    def take(self) -> Message | None:
        """Return the oldest message; None where none is left."""
        with self._lock:
            if not self._waiting:
                return None
            _, message = self._waiting.popitem(last=False)
            self._bytes -= len(message.payload)
            return message

    def clear(self) -> int:
        """Drop what waits; return how many messages those were."""
        with self._lock:
            left = len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            self.dropped += left
            return left

    def _remove(self, key: str | int) -> None:
        self._bytes -= len(self._waiting.pop(key).payload)
