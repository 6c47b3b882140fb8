"""Ways to have a broker, each one context manager with a ``url``: embedded, mosquitto, external."""

from __future__ import annotations

from typing import Any, Protocol

from ether.brokers.embedded import Embedded
from ether.brokers.external import External
from ether.brokers.mosquitto import Mosquitto, find_mosquitto
from ether.errors import BrokerError

__all__ = ["Broker", "Embedded", "External", "Mosquitto", "choose", "find_mosquitto"]


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


def choose(kind: str, *, url: str | None = None, listen: str | None = None, folder: str | None = None) -> Broker:
    """Return the broker a configuration asks for, not yet started.

    Args:
        kind: ``auto`` (Mosquitto where it is installed, else the embedded one), ``embedded``, ``mosquitto`` or
            ``external``.
        url: of the external one.
        listen: ``host:port`` of one we start; None is 127.0.0.1 at MQTT's port, or a free one where that is taken.
        folder: where one we start keeps what must survive it; a temporary folder by default.

    Raises:
        BrokerError: no such kind, or Mosquitto is asked for and not installed.
    """
    options: dict[str, Any] = {"listen": listen, "folder": folder}
    if kind == "external" or (kind == "auto" and url):
        if not url:
            raise BrokerError("broker.kind external: needs a url, such as mqtt://host:1883")
        return External(url)
    if kind == "embedded":
        return Embedded(why="asked for", **options)
    if kind == "mosquitto":
        return Mosquitto(why="asked for", **options)
    if kind == "auto":
        if find_mosquitto():
            return Mosquitto(why="installed on this machine", **options)
        return Embedded(why="no Mosquitto on this machine", **options)
    raise BrokerError(f"broker.kind {kind!r}: choose auto, embedded, mosquitto or external")
