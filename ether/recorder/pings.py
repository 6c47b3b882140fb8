"""Pings: devices without a clock are asked what theirs shows, often at first, then every few seconds."""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ether import clock, topics

__all__ = ["Pings"]

_OFTEN_S, _EVERY_S = 0.25, 5.0
_FIRST = 12
"""So many pings come often."""
_SILENT_S = 60.0
"""Who has published nothing for so long is not asked any more."""
_ANSWER_S = 5.0
"""A later answer tells nothing."""


@dataclass(slots=True)
class _Device:
    boot: str
    heard: float
    due: float = 0.0
    asked: int = 0
    waiting: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Id to when it was sent, on the wall clock and on the monotonic one, ns."""


class Pings:
    """Whom to ask when, and what was answered. Any thread may call.

    Args:
        send: called with topic and payload; False where there is no connection.
        keep: called with each answer.
    """

    def __init__(self, send: Callable[[str, bytes], bool], keep: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._keep = keep
        self._devices: dict[str, _Device] = {}
        self._next = secrets.randbelow(1 << 20)
        self._lock = threading.Lock()

    def heard(self, name: str, boot: str) -> None:
        """Note that a device stamps with its own clock."""
        device = self._devices.get(name)
        now = clock.monotonic()
        if device is not None and device.boot == boot:
            device.heard = now
            return
        with self._lock:
            self._devices[name] = _Device(boot, now)

    def gone(self, name: str) -> None:
        """Note that a device has gone."""
        with self._lock:
            self._devices.pop(name, None)

    def send_due(self) -> None:
        """Ask whoever is due."""
        if not self._devices:
            return
        now = clock.monotonic()
        with self._lock:
            for name in [name for name, device in self._devices.items() if now - device.heard > _SILENT_S]:
                del self._devices[name]
            due = [(name, device) for name, device in self._devices.items() if now >= device.due]
            for name, device in due:
                device.asked += 1
                device.due = now + (_OFTEN_S if device.asked < _FIRST else _EVERY_S)
                self._next += 1
                sent = clock.monotonic_ns()
                limit = sent - _ANSWER_S * 1e9
                device.waiting = {key: at for key, at in device.waiting.items() if at[1] > limit}
                device.waiting[self._next] = clock.now_ns(), sent
                # At most once: a ping that waited for a connection would tell nothing.
                self._send(topics.command(name, "ping"), b'{"id":%d}' % self._next)

    def answered(self, name: str, payload: bytes, t_recv: int, t_mono: int) -> None:
        """Take an answer, and when it was received (ns, wall and monotonic)."""
        try:
            content = json.loads(payload)
            identity, ms, boot = content["id"], content["ms"], content.get("boot")
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        with self._lock:
            device = self._devices.get(name)
            sent = device.waiting.pop(identity, None) if device is not None and type(identity) is int else None
            if device is None or sent is None or type(ms) not in (int, float) or not math.isfinite(ms):
                return
            if t_mono - sent[1] > _ANSWER_S * 1e9:
                return
            sample = {
                "name": name, "boot": device.boot if boot is None else str(boot), "ms": ms, "sent_mono": sent[1],
                "t_recv": t_recv, "t_mono": t_mono,
            }  # fmt: skip
        self._keep(sample)
