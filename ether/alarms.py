"""Alarms: what is not as it should be of streams, broker and members, told to everybody and kept as remarks."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Collection

from ether import brokers, clock, codecs, topics
from ether.client import Client
from ether.errors import SessionError
from ether.expect import Expectations, Shortfall
from ether.model import Annotation

__all__ = ["Alarms"]

logger = logging.getLogger("ether")

_REMARK_S = 1.0
_WATCH_S = 1.0


class Alarms:
    """Looks every second, in a thread of its own, until the session ends."""

    def __init__(
        self, client: Client, closing: threading.Event, expected: Expectations | None, drops: brokers.Drops | None,
        ours: Collection[str],
    ) -> None:  # fmt: skip
        """Begin.

        Args:
            client: of the session.
            closing: set once the session ends.
            expected: the streams that must come by.
            drops: what the broker says that it drops.
            ours: names of our own processes, as they come and go; when those end we know.
        """
        self._client = client
        self._closing = closing
        self._expected = expected
        self._drops = drops
        self._ours = ours
        self._looked_at = self._hearing_since = clock.monotonic()
        self._unstored: dict[str, Annotation] = {}
        """Remarks that the recorder has not confirmed yet, by their identity."""
        self._thread = clock.thread(self._watch, name="alarms")

    def settle(self) -> list[str]:
        """Have the last remarks stored, once the session ends; return those that could not be."""
        self._thread.join()
        self._store()
        return [each.text for each in self._unstored.values()]

    def _watch(self) -> None:
        """Tell what is not as it should be of streams and broker: retained, in the log, and as annotations."""
        standing: dict[tuple[str, str], tuple[float, Shortfall]] = {}
        while not clock.wait_for(self._closing, _WATCH_S):
            self._bury_the_silent()
            found = {(each.topic, each.kind): each for each in self._look()}
            if not self._client.connection.connected:
                continue
            new, over = found.keys() - standing.keys(), standing.keys() - found.keys()
            ended = {key: standing.pop(key) for key in over}
            standing |= {key: (standing[key][0] if key in standing else clock.now(), found[key]) for key in found}
            if found or over:
                alarms = [
                    {"topic": each.topic, "kind": each.kind, "detail": each.detail, "since": since}
                    for _, (since, each) in sorted(standing.items())
                ]
                payload = codecs.encode({"alarms": alarms}) if alarms else b""
                self._client.connection.publish(topics.alarm("session"), payload, 1, retain=True)
            for key in new:
                self._tell(f"{found[key].topic}: {found[key].detail}", standing[key][0], None)
            for since, each in ended.values():
                self._tell(f"{each.topic}: {each.over or f'was {each.kind}'}", since, clock.now())
            self._store()

    def _bury_the_silent(self) -> None:
        """Say `lost` of members elsewhere that do not repeat their status as promised, as a will would have.

        A broker that was started again knows no wills, and what is retained would say `ready` for ever. Of our own
        processes we know when they end. Silence counts from when we hear: since the connection stands, and since we
        ourselves were not kept from running.
        """
        now, connection = clock.monotonic(), self._client.connection
        if not connection.connected or now - self._looked_at > 3 * _WATCH_S:
            self._hearing_since = now
        self._looked_at = now
        for name, after_s in self._client.silent().items():
            if name in ("session", *self._ours) or now - self._hearing_since < after_s:
                continue
            known = self._client.statuses[name]
            content = {
                "state": "lost", "boot": known.boot, "t": clock.now(), "every": known.every,
                "detail": f"silent for more than {after_s:g} s",
            }  # fmt: skip
            logger.warning("%s: lost: %s", name, content["detail"])
            connection.publish(topics.status(name), codecs.encode(content), 1, retain=True)

    def _look(self) -> list[Shortfall]:
        found = self._expected.look(self._client.abouts, self._client.statuses) if self._expected is not None else []
        return [*found, *(self._drops.look() if self._drops is not None else ())]

    def _tell(self, text: str, since: float, until: float | None) -> None:
        log = logger.error if until is None else logger.warning
        log("%s%s", text, "" if until is None else f", for {until - since:.0f} s")
        self._unstored[secrets.token_hex(8)] = Annotation(text, since, until, ("alarm",), {}, "session")

    def _store(self) -> None:
        """Have the recorder store what was told of alarms; one that hangs gets it later, as may be what is told of."""
        for identity, remark in list(self._unstored.items()):
            try:
                self._client.annotate(remark, _REMARK_S, identity)
            except SessionError:
                return
            del self._unstored[identity]
