"""Answers: calls and orders, each carried out once, and answered to whoever asked."""

from __future__ import annotations

import logging
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ether import codecs, topics
from ether.errors import ENDS, EtherError
from ether.mqtt import Connection

__all__ = ["Answers"]

logger = logging.getLogger("ether")

_KEPT = 256


class Answers:
    """Those given lately are given again to whoever asks again."""

    def __init__(self, connection: Connection, name: str) -> None:
        """Prepare.

        Args:
            connection: that they go out by.
            name: who answers, for the log.
        """
        self._connection = connection
        self._name = name
        self._given: OrderedDict[str, bytes] = OrderedDict()
        """What was answered, by the request's id; empty while it is being worked out."""

    def repeats(self, asked: str, reply_to: str) -> bool:
        """Return whether a request came before, and repeat its answer; note one that is new.

        Args:
            asked: the request's id; one without an id is always new.
            reply_to: where the answer goes.
        """
        if asked in self._given:
            self._reply(reply_to, self._given[asked])
            return True
        if asked:
            self._given[asked] = b""
            while len(self._given) > _KEPT:
                self._given.popitem(last=False)
        return False

    def give(self, asked: str, reply_to: str, what: str, work: Callable[[], Any]) -> None:
        """Answer with the result of `work`, or with the error that it raises; `what` says it in the log."""
        try:
            payload = codecs.encode({"id": asked, "status": "success", "result": work()})
            self._connection.check(reply_to, payload)
        except ENDS:
            raise
        except BaseException as exc:  # noqa: BLE001 - user code may raise anything; whoever asked is told
            logger.warning("%s: %s failed: %s", self._name, what, _named(exc))
            error = {"error": str(exc), "type": type(exc).__name__, "traceback": traceback.format_exc()}
            payload = codecs.encode({"id": asked, "status": "error", **error})
        if asked:
            self._given[asked] = payload
        self._reply(reply_to, payload)

    def _reply(self, reply_to: str, payload: bytes) -> None:
        if not payload or not topics.is_reply(reply_to):
            return
        try:
            self._connection.publish(reply_to, payload, 1)
        except EtherError as exc:  # the connection is closed, or its broker does not take the topic
            logger.warning("%s: an answer was not sent: %s", self._name, exc)


def _named(exc: BaseException) -> str:
    """Return what was raised, for people: ether's own words say enough without the type."""
    return str(exc) if isinstance(exc, EtherError) else f"{type(exc).__name__}: {exc}"
