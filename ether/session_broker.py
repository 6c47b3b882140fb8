"""SessionBroker: the broker of a session, from its choice to its end; started again where it was, whenever it dies."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ether import brokers
from ether.address import Address
from ether.config import Config
from ether.errors import BrokerError
from ether.guest import tls_of, url_of
from ether.mqtt import BrokerLimits
from ether.supervisor import OURS, how

__all__ = ["SessionBroker"]

logger = logging.getLogger("ether")

_QUEUE_LIMITS = {
    "embedded": "broker.limits.queue",
    "mosquitto": "max_queued_messages (Mosquitto's default is 1,000)",
}
"""By the kind of broker that counts what it drops: what limits how much may wait for a client."""


class SessionBroker:
    """One that we start, or that runs already, as the configuration says."""

    def __init__(
        self, config: Config, closing: threading.Event, on_said: Callable[[list[str]], None],
        on_failed: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Prepare.

        Args:
            config: of the session.
            closing: set once the session ends, and nothing is to be started again.
            on_said: takes lines that one of ours wrote.
            on_failed: hears that one of ours has died too often, and how.
        """
        self.backend: brokers.Broker | None = None
        self.url = ""
        self.limits = BrokerLimits()
        """What it takes of a client, as far as we know."""
        self.drops: brokers.Drops | None = None
        """What it has dropped, where it counts that."""
        self._config = config
        self._closing = closing
        self._on_said = on_said
        self._on_failed = on_failed
        self._lock = threading.Lock()
        self._restarts = 0

    def start(self) -> str:
        """Return its URL, once it answers.

        Raises:
            BrokerError: it does not start, or nothing of ether can work there.
        """
        options = self._config.broker
        broker = self.backend = brokers.choose(
            options.kind, url=url_of(self._config), listen=options.listen, security=_security(self._config),
            limits=_limits(self._config),
        )  # fmt: skip
        if isinstance(broker, brokers.ChildBroker):
            broker.on_said = self._on_said
            self.limits = broker.client_limits
        broker.__enter__()
        self.url = broker.url
        logger.info("broker: %s at %s, %s", broker.kind, Address.parse(self.url), broker.why)
        if broker.kind not in brokers.KINDS:
            self._look()
        elif broker.kind in _QUEUE_LIMITS:
            self.drops = brokers.Drops(_QUEUE_LIMITS[broker.kind])
        if isinstance(broker, brokers.ChildBroker):
            threading.Thread(target=self._guard, args=(broker,), name="broker", daemon=True).start()
        return self.url

    @property
    def kind(self) -> str:
        return "" if self.backend is None else self.backend.kind

    @property
    def why(self) -> str:
        return "" if self.backend is None else self.backend.why

    @property
    def temporary_folder(self) -> str | None:
        return None if self.backend is None else self.backend.temporary_folder

    def facts(self) -> dict[str, Any] | None:
        """Return what is known of its process; None of one that is not ours."""
        if not isinstance(self.backend, brokers.ChildBroker):
            return None
        popen = self.backend.process
        return {
            "state": "running" if popen is not None and popen.poll() is None else "exited",
            "pid": popen.pid if popen is not None else None, "restarts": self._restarts,
        }  # fmt: skip

    def close(self) -> None:
        if self.backend is not None:
            with self._lock:
                self.backend.__exit__(None, None, None)

    def _guard(self, broker: brokers.ChildBroker) -> None:
        """Start our broker again, where it was, whenever it dies; its clients come back by themselves."""
        earlier: deque[float] = deque()
        ending = f"ended unexpectedly: {how(broker.wait())}"
        while not self._closing.wait((wait := OURS.wait_s(earlier)) or 0.0):
            if wait is None:
                self._on_failed(f"the broker failed {OURS.max + 1} times within {OURS.within_s:g} s ({ending})")
                return
            logger.error("broker: %s; starting it again", ending)
            with self._lock:
                if self._closing.is_set():
                    return
                self._restarts += 1
                try:
                    broker.restart()
                except BrokerError as exc:  # somebody has its port, perhaps for a moment
                    ending = f"cannot be started again: {exc}"
                    continue
            ending = f"ended unexpectedly: {how(broker.wait())}"

    def _look(self) -> None:
        """Say what a broker that is not ours lacks, as far as it is known; our own are held to the contract.

        Raises:
            BrokerError: nothing of ether can work there.
        """
        try:
            found = brokers.keeps_retained(self.url, namespace=self._config.session.namespace, tls=tls_of(self._config))
        except BrokerError:
            return  # our connection will tell, and has more patience with a broker that is just starting
        lacking = brokers.advice(found)
        if found.retained is False and "retained" in found.notes:
            raise BrokerError(f"broker {found.address}: retained: {found.notes['retained']}; {lacking['retained']}")
        for name in brokers.MATTERS:
            if name in lacking:
                value = getattr(found, name)
                seen = "no" if value is False else value
                logger.warning("broker %s: %s: %s; %s", found.address, name.replace("_", " "), seen, lacking[name])
        if found.refused_payload is not None:
            self.limits = replace(self.limits, largest_message=found.refused_payload - 1)
        if found.spaced_topics is False:
            self.limits = replace(self.limits, spaces=False)
        if found.drops_counted:
            kind = "embedded" if found.version.startswith("ether_broker") else "mosquitto"
            self.drops = brokers.Drops(_QUEUE_LIMITS[kind])


def _security(config: Config) -> brokers.Security:
    """Return what a broker that we start demands; with users, a password for this session's own processes too."""
    broker, tls, websocket = config.broker, config.broker.tls, config.broker.websocket
    if broker.url is not None or broker.users is None:
        return brokers.Security()
    found = brokers.Security(
        users=broker.users, namespace=config.session.namespace, session_password=secrets.token_urlsafe(24)
    )
    if tls is not None:
        found = replace(found, cert=tls.cert, key=tls.key, ca=tls.ca, require_client_cert=tls.require_client_cert)
    if websocket is not None:
        found = replace(found, websocket=websocket.listen, origins=tuple(websocket.origins))
    return found


def _limits(config: Config) -> brokers.Limits | None:
    given = config.broker.limits
    if given is None:
        return None
    return brokers.Limits(given.packet, given.connections, given.queue, given.session_expiry)
