"""Ways to have a broker, each one context manager with a ``url``: embedded, mosquitto, nats, external."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ether.brokers.capabilities import DROPPED, MATTERS, QUEUE, BrokerCapabilities, advice, keeps_retained, measure
from ether.brokers.child import ChildBroker, Limits
from ether.brokers.drops import Drops
from ether.brokers.embedded import Embedded
from ether.brokers.external import External
from ether.brokers.mosquitto import Mosquitto, find_mosquitto, serves_websockets
from ether.brokers.nats import Cluster, Nats, find_nats
from ether.brokers.security import Security, manage_users
from ether.errors import BrokerError

__all__ = [
    "DROPPED",
    "KINDS",
    "MATTERS",
    "QUEUE",
    "Broker",
    "BrokerCapabilities",
    "ChildBroker",
    "Cluster",
    "Drops",
    "Embedded",
    "External",
    "Limits",
    "Mosquitto",
    "Nats",
    "Security",
    "advice",
    "choose",
    "find_mosquitto",
    "find_nats",
    "keeps_retained",
    "manage_users",
    "measure",
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


KINDS: dict[str, type[ChildBroker]] = {"embedded": Embedded, "mosquitto": Mosquitto, "nats": Nats}
"""Ether's own; those of other packages are entry points of the group ``ether.brokers``."""


def _backend(kind: str) -> Callable[..., Broker]:
    """Return what makes a broker of this kind: a class taking `listen`, `folder`, `security` and `why`."""
    if kind in KINDS:
        return KINDS[kind]
    from importlib import metadata  # slow to import, and needed for other packages' kinds only

    for found in metadata.entry_points(group="ether.brokers", name=kind):
        backend: Callable[..., Broker] = found.load()
        return backend
    raise BrokerError(f"broker.kind {kind!r}: choose auto, {', '.join(KINDS)}, or one that an installed package brings")


def choose(
    kind: str, *, url: str | None = None, listen: str | None = None, folder: str | None = None,
    security: Security | None = None, limits: Limits | None = None, cluster: Cluster | None = None,
) -> Broker:  # fmt: skip
    """Return the broker a configuration asks for, not yet started.

    Args:
        kind: ``auto`` (Mosquitto where it is installed, else the embedded one), ``external``, or one that is started:
            of `KINDS` or of another package.
        url: of the external one.
        listen: ``host:port`` of one we start, port 0 for any; None is 127.0.0.1 at MQTT's port, else any.
        folder: where one we start keeps what must survive it; a temporary folder by default.
        security: users, TLS and WebSocket of one we start.
        limits: what a client may ask of one we start.
        cluster: the place among others of a node of NATS.

    Raises:
        BrokerError: no such kind, or it would be open to other machines.
    """
    options: dict[str, Any] = {"listen": listen, "folder": folder, "security": security}
    if limits is not None:  # a kind of another package need not know them
        options["limits"] = limits
    if cluster is not None:
        if kind != "nats":
            raise BrokerError(f"broker.kind {kind}: only nats has nodes that store together; use `--kind nats`")
        return Nats(why="asked for", cluster=cluster, **options)
    if kind == "external" or (kind == "auto" and url):
        if not url:
            raise BrokerError("broker.kind external: needs a url, such as mqtt://host:1883")
        return External(url)
    if kind == "auto":
        if find_mosquitto() and security is not None and security.websocket and not serves_websockets():
            return Embedded(why="the Mosquitto of this machine cannot check where WebSockets come from", **options)
        if find_mosquitto():
            return Mosquitto(why="installed on this machine", **options)
        return Embedded(why="no Mosquitto on this machine", **options)
    return _backend(kind)(why="asked for", **options)
