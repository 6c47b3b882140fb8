"""Answers: orders and questions to a session, each worked out once, and answered to whoever asked."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ether import clock, codecs, topics
from ether.errors import EtherError
from ether.mqtt import Connection

__all__ = ["Answers"]

logger = logging.getLogger("ether")

_KEPT = 256


class Answers:
    """Those given lately are given again to whoever asks again."""

    def __init__(self, connection: Connection, carry_out: Callable[[topics.Reserved, dict[str, Any]], Any]) -> None:
        """Prepare.

        Args:
            connection: that they go out by.
            carry_out: does what is wanted and returns the result; in a thread of its own.
        """
        self._connection = connection
        self._carry_out = carry_out
        self._given: OrderedDict[str, bytes] = OrderedDict()
        """Orders and questions by their id, to what was answered; empty while it is being worked out."""

    def work_out(self, order: topics.Reserved, fields: dict[str, Any]) -> None:
        """Begin with an order or question that has come; repeat the answer to one that came before."""
        asked = str(fields.get("id", ""))
        if asked and asked in self._given:  # asked again: done once
            self._reply(fields, self._given[asked])
            return
        self._given[asked] = b""
        while len(self._given) > _KEPT:
            self._given.popitem(last=False)
        clock.thread(self._obey, order, fields, name=order.verb)

    def _obey(self, order: topics.Reserved, fields: dict[str, Any]) -> None:
        """Carry out an order, or answer a question, and tell whoever asked."""
        try:
            answer = {"status": "success", "result": self._carry_out(order, fields)}
            payload = codecs.encode({"id": fields.get("id"), **answer})
            self._connection.check(str(fields.get("reply_to", "")), payload)
        except EtherError as exc:
            logger.error("%s: %s", order.verb, exc)
            answer = {"status": "error", "error": str(exc), "type": type(exc).__name__}
            payload = codecs.encode({"id": fields.get("id"), **answer})
        self._given[str(fields.get("id", ""))] = payload
        self._reply(fields, payload)

    def _reply(self, fields: dict[str, Any], payload: bytes) -> None:
        reply_to = str(fields.get("reply_to", ""))
        if (
            payload
            and reply_to.startswith(topics.reply(""))
            and not topics.is_filter(reply_to)
            and self._connection.connected
        ):
            self._connection.publish(reply_to, payload, 1)
