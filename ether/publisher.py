"""Publisher: what one boot of a name publishes, numbered, signed, kept until it is recorded, and sent in its order."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ether import clock, codecs
from ether.mqtt import Connection
from ether.outbox import Sender

__all__ = ["Publisher"]

logger = logging.getLogger(__name__)


class Publisher:
    """Gives each reading on a topic the next number; from any thread. Rules: wire contract, sections 3 and 8."""

    def __init__(self, connection: Connection, name: str, boot: str, counts: Counter[str] | None = None) -> None:
        """Prepare.

        Args:
            connection: that messages go out by.
            name: what readings are signed with.
            boot: boot id that they are numbered under.
            counts: where readings are counted as ``published``, and as ``unsent`` at QoS 0 without a connection.
        """
        self.name = name
        self.boot = boot
        self.outbox: Sender | None = None
        """Keeps what is published until it is recorded; None where nobody records."""
        self.lock = threading.RLock()
        """Held while a number is taken and its message sent."""
        self._connection = connection
        self._counts: Counter[str] = Counter() if counts is None else counts
        self._signer = codecs.Signer(name, boot)
        self._numbers: dict[str, int] = {}

    def keep_by(self, orders: Mapping[str, Any] | None) -> None:
        """Keep what is published until it is recorded, as a session orders it; None where nobody records."""
        if orders is not None:
            self.outbox = Sender.ordered(orders, self._connection, self.name, self.boot, self._counts)

    def publish(
        self, topic: str, value: Any, qos: int = 1, retain: bool = False, *, t: float | None = None, keep: bool = True
    ) -> None:
        """Publish a value as the next reading on a topic.

        Args:
            topic: a sound one.
            value: any that can travel.
            qos: 0, 1 or 2.
            retain: whether the broker keeps it for later subscribers.
            t: when it was taken; default now.
            keep: whether it is kept until it is recorded, where somebody records.

        Raises:
            TopicError, PayloadError: the value or the topic cannot travel; nothing is published, and no number taken.
        """
        signed = self._signer.encode
        self.send(topic, lambda number: signed(value, number, clock.now() if t is None else t), 1, qos, retain, keep)

    def send(
        self, topic: str, encode: Callable[[int], bytes], readings: int, qos: int = 1, retain: bool = False,
        keep: bool = True,
    ) -> None:  # fmt: skip
        """As `publish`, with the payload that `encode` makes of the next number: a batch of so many `readings`."""
        with self.lock:
            number = self._numbers.get(topic, 0)
            payload = encode(number)
            self._connection.check(topic, payload)  # before it has a number and is kept
            self._numbers[topic] = number + readings
            if keep and self.outbox is not None:
                self.outbox.keep(topic, number, readings, payload)
            self._counts["published"] += readings
            if not self._connection.publish(topic, payload, qos, retain):
                self._counts["unsent"] += readings
                logger.warning("%s: not connected; a QoS 0 message on %r was dropped", self.name, topic)

    @property
    def last(self) -> dict[str, int]:
        """The last number of every topic that has one."""
        return {topic: number - 1 for topic, number in self._numbers.items()}
