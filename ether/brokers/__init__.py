"""Ways to have a broker, each one context manager with a ``url``: embedded, mosquitto, external."""

from __future__ import annotations

from typing import Any, Protocol

from ether.brokers.child import ChildBroker
from ether.brokers.embedded import Embedded
from ether.brokers.external import External
from ether.brokers.mosquitto import Mosquitto, find_mosquitto, serves_websockets
from ether.brokers.security import Security, manage_users
from ether.errors import BrokerError

__all__ = [
    "Broker",
    "ChildBroker",
    "Embedded",
    "External",
    "Mosquitto",
    "Security",
    "choose",
    "find_mosquitto",
    "manage_users",
]


class Broker(Protocol):
    """What every way to have a broker offers."""

    kind: str
    why: str
    """Why this one, for the log."""

    @property
    def url(self) -> str:
        """Where clients connect; known once entered."""
        ...

    @property
    def temporary_folder(self) -> str | None:
        """What goes with it, or with whoever finds that its session has died; None for nothing."""
        ...

    def __enter__(self) -> Broker: ...
    def __exit__(self, *exc: object) -> None: ...


def choose(
    kind: str, *, url: str | None = None, listen: str | None = None, folder: str | None = None,
    security: Security | None = None,
) -> Broker:  # fmt: skip
    """Return the broker a configuration asks for, not yet started.

    Args:
        kind: ``auto`` (Mosquitto where it is installed, else the embedded one), ``embedded``, ``mosquitto`` or
            ``external``.
        url: of the external one.
        listen: ``host:port`` of one we start; None is 127.0.0.1 at MQTT's port, or a free one where that is taken.
        folder: where one we start keeps what must survive it; a temporary folder by default.
        security: users, TLS and WebSocket of one we start.

    Raises:
        BrokerError: no such kind, Mosquitto is asked for and not installed, or it would be open to other machines.
    """
    options: dict[str, Any] = {"listen": listen, "folder": folder, "security": security}
    if kind == "external" or (kind == "auto" and url):
        if not url:
            raise BrokerError("broker.kind external: needs a url, such as mqtt://host:1883")
        return External(url)
    if kind == "embedded":
        return Embedded(why="asked for", **options)
    if kind == "mosquitto":
        return Mosquitto(why="asked for", **options)
    if kind == "auto":
        if find_mosquitto() and security is not None and security.websocket and not serves_websockets():
            return Embedded(why="the Mosquitto of this machine cannot check where WebSockets come from", **options)
        if find_mosquitto():
            return Mosquitto(why="installed on this machine", **options)
        return Embedded(why="no Mosquitto on this machine", **options)
    raise BrokerError(f"broker.kind {kind!r}: choose auto, embedded, mosquitto or external")
