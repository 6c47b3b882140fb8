"""Guest: a connection to a session that another process began, and how it is found."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ether import clock, codecs, runtime, topics
from ether.address import Address
from ether.client import Client
from ether.config import Config
from ether.errors import BrokerError, SessionError
from ether.member import LOST_CONNECTION, new_boot
from ether.model import GONE, Message
from ether.mqtt import BrokerLimits, Connection, Receipt, Tls
from ether.outbox import Sender, sender_orders
from ether.publisher import Publisher

__all__ = ["Guest", "join", "tls_of", "url_of", "visit"]

logger = logging.getLogger("ether")

_JOIN_S = 5.0


class Guest:
    """A connection to a session that another process began."""

    def __init__(
        self, url: str, namespace: str, tls: Tls | None = None, kind: str = "guest", data: Path | None = None
    ) -> None:
        """Prepare.

        Args:
            url: its broker.
            namespace: of the session.
            tls: how to trust the broker.
            kind: what the name begins with.
            data: folder for what is not recorded yet, where the session runs on another machine.
        """
        boot = new_boot()
        name = f"{kind}-{os.getpid()}-{boot[:4]}"
        self.url, self.namespace, self.tls = url, namespace, tls
        self._data = data
        self.for_the_dead: list[Sender] = []
        """Who settle what instances left behind, and are to hear the recorder."""
        lost = {"state": "lost", "boot": boot, "detail": LOST_CONNECTION}
        self.connection = Connection(
            url, name, namespace=namespace, tls=tls, will=(topics.status(name), codecs.encode(lost)), retain_will=False
        )
        self._publisher = Publisher(self.connection, name, boot)
        self.client = Client(self.connection, self._publisher)
        self.connection.on_message = self._receive
        self.connection.on_up = self._came_up

    def open(self, timeout: float = 5.0) -> None:
        self.connection.open(timeout)
        self.client.watch()
        self._publisher.keep_by(self.outbox_orders(self.client.name))

    def outbox_orders(self, name: str) -> dict[str, Any] | None:
        """Return where a publisher keeps what the session's recorder has not confirmed; None where nobody records."""
        about = self.client.abouts.get("recorder")
        recording = self.recording_here or self.recording_elsewhere
        if about is None or recording is None:
            return None
        filters = [each for each, entry in about.subscribes.items() if entry.get("records")]
        exclude, limits = about.kwargs.get("exclude", []), about.kwargs.get("outbox")
        return sender_orders(recording, name, filters, exclude, limits)

    @property
    def recording_here(self) -> Path | None:
        """The session's recording, where it is on this machine."""
        recording = Path(self.client.session.get("recording") or "")
        here = self.client.session.get("host") == socket.gethostname() and recording.parent.is_dir()
        return recording if recording.name and here else None

    @property
    def recording_elsewhere(self) -> Path | None:
        """Where the session's recording would be if it were ours, while it is on another machine."""
        recording = Path(self.client.session.get("recording") or "")
        wanted = recording.name and self._data is not None and self.recording_here is None
        return self._data / recording.name if wanted else None  # type: ignore[operator]  # asked above

    def check_free(self, name: str) -> None:
        """Raise SessionError where a member of this name lives."""
        known = self.client.instances().get(name)
        if known is not None and known.state not in GONE and self.client.lives(name):
            where = f" on {known.host}" if known.host else ""
            raise SessionError(f"there is an instance {name!r} already{where}; choose another --name")

    def finds(self, name: str, timeout: float) -> bool:
        """Return whether the session of this name lives here, or comes up within `timeout` seconds."""

        def there() -> bool:
            status = self.client.statuses.get("session")
            alive = status is not None and status.state not in GONE
            return alive and self.client.session.get("name") == name

        return self.client.wait_for(there, timeout)

    def _receive(self, message: Message, _receipt: Receipt | None) -> None:
        for sender in self.for_the_dead:
            sender.hear(message)
        if self._publisher.outbox is not None:
            self._publisher.outbox.hear(message)
        self.client.take(message)
        if message.topic == topics.SESSION:
            broker = self.client.session.get("broker")
            self.connection.limits = BrokerLimits.read(broker.get("limits") if isinstance(broker, dict) else None)

    def _came_up(self, _session_present: bool) -> None:
        if self._publisher.outbox is not None:
            self._publisher.outbox.renew()
        self.client.renew_runs()

    def close(self) -> None:
        """Leave; where something was published by hand, the last numbers are told, so that nobody need wonder."""
        last, outbox = self._publisher.last, self._publisher.outbox
        if outbox is not None:
            if self.connection.connected:
                outbox.settle(5.0)
            outbox.close()
        if last and self.connection.connected:
            content = {"state": "disconnected", "boot": self.client.boot, "t": clock.now(), "last": last}
            if outbox is not None:
                content["outbox"] = "disk"  # a guest has no self-description to say so
            self.connection.publish(topics.status(self.client.name), codecs.encode(content), 1)
        self.connection.close(5.0)


def join(config: Config, only: bool) -> Guest | None:
    """Return a connection to the session that a configuration means to join; None where it starts its own.

    Raises:
        BrokerError: `only`, and no session runs.
    """
    name = config.session.name if config.session.name_given else None
    url, namespace = url_of(config), config.session.namespace
    if url is not None and config.starts and name is None and not only:
        return None
    if url is None:
        entry = None if config.starts and name is None else runtime.find(name)
        if entry is None:
            if only:
                raise BrokerError(_none_to_join(name))
            return None
        url, namespace = entry["url"], entry["namespace"]
    guest = Guest(url, namespace, tls_of(config), data=config.session.data.absolute() if config.starts else None)
    guest.open()
    if config.broker.url is not None and config.starts:
        if not guest.finds(config.session.name, _JOIN_S if only else 0.0):
            guest.close()
            if only:
                raise BrokerError(
                    f"no session {config.session.name!r} runs at {Address.parse(url)}; start it there first"
                )
            return None
    logger.info("joined the session at %s", guest.connection.address)
    return guest


def _none_to_join(name: str | None) -> str:
    others = list(dict.fromkeys(str(each["name"]) for each in runtime.running()))
    if name is None or not others:
        return "no session runs on this machine; start one with `ether up FILE`, or set ETHER_BROKER"
    return f"no session {name!r} runs on this machine; there {'is' if len(others) == 1 else 'are'}: {', '.join(others)}"


def visit(config: Config) -> Guest:
    """Return a connection to the broker of a configuration, or of the running session, whoever is there.

    Raises:
        BrokerError: no broker is named and no session runs, or nobody answers.
    """
    url, namespace = url_of(config), config.session.namespace
    if url is None:
        entry = runtime.find(config.session.name if config.session.name_given else None)
        if entry is None:
            raise BrokerError(
                "no session runs on this machine, and no broker is named: give the YAML of a session whose `broker:` "
                "is a URL, or set ETHER_BROKER (a broker that ether starts leaves nothing behind)"
            )
        url, namespace = entry["url"], entry["namespace"]
    guest = Guest(url, namespace, tls_of(config))
    guest.open()
    return guest


def tls_of(config: Config) -> Tls | None:
    """Return how our clients trust a broker that runs; one that we start has a listener without TLS for them."""
    tls = config.broker.tls
    if tls is None or config.broker.url is None:
        return None
    ca, cert, key = (None if path is None else str(path) for path in (tls.ca, tls.cert, tls.key))
    return Tls(ca, cert, key, tls.insecure)


def url_of(config: Config) -> str | None:
    """Return the configured URL with its credentials."""
    broker = config.broker
    if broker.url is None or broker.user is None:
        return broker.url
    password = f":{quote(broker.password.get_secret_value(), safe='')}" if broker.password else ""
    scheme, _, rest = broker.url.partition("://")
    return f"{scheme}://{quote(broker.user, safe='')}{password}@{rest}"
