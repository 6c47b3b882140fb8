"""The broker: amqtt's with the data plane replaced.

Kept of amqtt: its configuration, listeners, state machine, and authentication plug-ins. Replaced, each for what was
measured on 0.12.1: sessions and persistence (restored partly or not at all, #255, #256), fan-out (a dictionary iterated
across awaits, so that clients connecting together became zombies), retained messages (sent to clients that never
asked), CONNECT (a wrong password ended the session it named), keepalive (#308), redelivery (#391).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

# amqtt ships no py.typed.
from amqtt.broker import Broker  # type: ignore[import-untyped]
from amqtt.contexts import BrokerConfig, ListenerType  # type: ignore[import-untyped]
from amqtt.errors import BrokerError  # type: ignore[import-untyped]
from amqtt.events import BrokerEvents  # type: ignore[import-untyped]
from amqtt.session import Session as AmqttSession  # type: ignore[import-untyped]

from . import packets, sys_topics
from .acl import Access
from .authentication import Guard
from .connection import Connection
from .limits import Limits
from .matching import Route, Subscriptions, kept_for, matches, split_shared, valid_filter
from .packets import MalformedPacket, Message, UnacceptableProtocol
from .sessions import Counters, Session
from .store import Store
from .users import User
from .websocket import WebSocket

__all__ = ["LOOK_EVERY_S", "EtherBroker"]

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
_TLS_HANDSHAKE_S = 10.0
_DENIALS = 10_000
"""Denied (client, topic) pairs that are not told again."""
_NOWHERE = Route([], [], ignored=True)
_ROUTES = 20_000
"""Topics whose subscribers are remembered between messages, ..."""
_ROUTE_BYTES = 500
"""... if they are no longer than this."""
_BROKERS_OWN = ("$SYS", "$CONTROL", "$share")
"""What clients publish below these is accepted and ignored, as by Mosquitto; amqtt then ignores all that follows."""


class _Credentials(AmqttSession):  # type: ignore[misc]  # amqtt is untyped
    """amqtt's session as its authentication plug-ins expect it, without its state machine (45 KB a client)."""

    def _init_states(self) -> None:
        pass


class EtherBroker(Broker):  # type: ignore[misc]  # amqtt is untyped
    """An MQTT 3.1.1 broker on a running loop: `await start()`, `await shutdown()`.

    Args:
        config: as amqtt's; `tcp` and `ws` listeners, and authentication plug-ins.
        data: folder for what must survive a restart; None keeps everything in memory.
        limits: every bound, see `Limits`.
        guard: the users and their rights; without it, and without a plug-in, everybody may do everything.
        tls: by listener.
        origins: of the pages whose scripts may connect to `ws` listeners.
        loop: has `time`, `call_soon` and `call_later`, for whoever hands over each client's bytes and calls
            `look_around` by himself; default the running one.

    Raises:
        BrokerError: the configuration asks for what is not supported here.
        FolderInUse: another broker works in `data`.
    """

    def __init__(
        self, config: BrokerConfig | dict[str, Any], data: Path | None = None, limits: Limits | None = None, *,
        guard: Guard | None = None, tls: Mapping[str, ssl.SSLContext] | None = None, origins: Sequence[str] = (),
        loop: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.guard = guard
        self._tls = tls or {}
        self._origins = origins
        self._denials: set[tuple[str, str]] = set()
        if self.plugins_manager._topic_plugins:
            raise BrokerError("topic plug-ins are not supported: they would cost a task per message")
        self.loop = loop or asyncio.get_running_loop()
        self.limits = limits or Limits()
        self.counters = Counters()
        self.started_at = time.monotonic()
        self.store = Store(data, self.limits, self.counters) if data is not None else None
        self.clients: dict[str, Session] = {} if self.store is None else self.store.sessions
        """Every session, connected or not, by client identifier."""
        self.retained: dict[str, Message] = {} if self.store is None else self.store.retained
        self.filters = Subscriptions()
        self.routes: dict[bytes, Route] = {}
        """Length-prefixed topic → its subscribers; emptied whenever a subscription changes."""
        self.connections: set[Connection] = set()
        self.held: set[Connection] = set()
        """Publishers that are not read, because a queue they fill is full."""
        self._dirty: list[Connection] = []
        self.flush_due = False
        """Somebody will call `_flush` in this turn or the next."""
        self._ready = getattr(self.loop, "_ready", (None,))
        self._disk_fails = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._sys_sent: dict[str, str] = {}
        self.watch: asyncio.Task[None] | None = None
        """Keepalive, expiry and the like; it ends only by an error of ours."""
        for session in self.clients.values():
            for topic_filter, qos in session.subscriptions.items():
                self.filters.add(topic_filter, session, qos)

    # -- start and stop --

    async def start(self) -> None:
        """Listen. amqtt's own start would begin its broadcast loop and print a traceback for a busy port.

        Raises:
            OSError: an address cannot be bound.
        """
        self.transitions.start()
        await self.plugins_manager.fire_event(BrokerEvents.PRE_START, wait=True)
        await self._start_listeners()
        self.transitions.starting_success()
        await self.plugins_manager.fire_event(BrokerEvents.POST_START, wait=True)
        self.watch = asyncio.create_task(self._watch(), name="watch")

    async def _create_server_instance(
        self, listener_name: str, listener_type: ListenerType, address: str | None, port: int,
        ssl_context: ssl.SSLContext | None,
    ) -> asyncio.Server:  # fmt: skip
        """Listen with `Connection` as the protocol, instead of a pair of streams and a task per client.

        amqtt also sets SO_REUSEADDR everywhere, which on Windows lets two brokers share a port.
        """
        tls = self._tls.get(listener_name, ssl_context)
        make: Callable[[], asyncio.BaseProtocol]
        if listener_type == ListenerType.TCP:
            make = lambda: Connection(self, listener_name)  # noqa: E731  # one of two
        elif listener_type == ListenerType.WS and self._origins and self.guard is not None:
            make = lambda: WebSocket(self, listener_name, self._origins)  # noqa: E731
        else:
            raise BrokerError(f"listener {listener_name}: {listener_type} is not served without origins and users")
        timeout_s = _TLS_HANDSHAKE_S if tls is not None else None
        return await self.loop.create_server(
            make, address, port, ssl=tls, ssl_handshake_timeout=timeout_s, backlog=1024
        )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of the first socket of every listener; the port is the real one where 0 was asked for."""
        return [server.instance.sockets[0].getsockname()[:2] for server in self._servers.values()]

    async def shutdown(self) -> None:
        """Stop in order, within two seconds: no new clients, wills as Mosquitto does on its stop, write, close."""
        self.transitions.shutdown()
        await self.plugins_manager.fire_event(BrokerEvents.PRE_SHUTDOWN, wait=True)
        for server in self._servers.values():
            server.instance.close()
        for connection in list(self.connections):
            self._publish_will(connection)
        self._flush()
        for connection in list(self.connections):
            connection.close()
        try:
            async with asyncio.timeout(1.0):
                while self.connections:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
        for task in (self.watch, *self._tasks):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self._tasks, *([self.watch] if self.watch else []), return_exceptions=True)
        if self.guard is not None:
            self.guard.close()
        if self.store is not None:
            self.store.close()
        await self.plugins_manager.fire_event(BrokerEvents.POST_SHUTDOWN, wait=True)
        await self.plugins_manager.close()
        self.transitions.stopping_success()

    # -- clients come and go --

    def opened(self, connection: Connection) -> None:
        """A socket was accepted; it has `connect_timeout_s` to say CONNECT."""
        if len(self.connections) >= self.limits.connections:
            logger.warning("%s: refused, %d clients are connected already", connection.peer, len(self.connections))
            connection.abort()
        self.connections.add(connection)

    def gone(self, connection: Connection) -> None:
        """The socket is closed."""
        self.connections.discard(connection)
        self.held.discard(connection)

    def connect(self, connection: Connection, body: bytes) -> None:
        """CONNECT: decode, authenticate, and only then touch the session it names."""
        try:
            request = packets.decode_connect(body)
        except UnacceptableProtocol as exc:
            logger.info("%s: %s", connection.peer, exc)
            self._refuse(connection, packets.CONNACK_UNACCEPTABLE_PROTOCOL)
            return
        if request.will is not None:
            self.find_route(_prefix(request.will.topic))  # malformed now rather than when it is to be published
        if not request.client_id and not request.clean_session:
            self._refuse(connection, packets.CONNACK_IDENTIFIER_REJECTED)
            return
        connection.client_id = request.client_id or f"auto-{uuid.uuid4()}"
        if self.guard is not None:
            user = self.guard.remembered(request.username, request.password)
            if user is None:
                self._later(connection, self._check_and_admit(connection, request, self.guard))
            else:
                self._admit_user(connection, request, self.guard, user)
        elif self.plugins_manager._auth_plugins:
            self._later(connection, self._authenticate_and_admit(connection, request))
        else:
            self._admit(connection, request)

    def _later(self, connection: Connection, decision: Coroutine[Any, Any, None]) -> None:
        """Read nothing of a client until it has been decided upon."""
        connection.stop_reading()
        task = self.loop.create_task(decision)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check_and_admit(self, connection: Connection, request: packets.Connect, guard: Guard) -> None:
        user = await guard.check(request.username, request.password)
        if connection.closed:
            return
        if user is None:
            guard.refused(connection.peer, connection.client_id, request.username)
            self._refuse(connection, packets.CONNACK_BAD_CREDENTIALS)
            return
        self._admit_user(connection, request, guard, user)
        connection.authenticated()

    def _admit_user(self, connection: Connection, request: packets.Connect, guard: Guard, user: User) -> None:
        """Admit with the rights of `user`, unless the session is another's: to take it over is to read its queue."""
        session = self.clients.get(connection.client_id)
        if session is not None and session.owner not in ("", user.name) and guard.exists(session.owner):
            logger.warning(
                "%s: refused, the client identifier is in use by user %s and not for %s",
                connection.name, session.owner, user.name,
            )  # fmt: skip
            self._refuse(connection, packets.CONNACK_BAD_CREDENTIALS)
            return
        connection.access = guard.access(user, connection.client_id)
        self._admit(connection, request)

    async def _authenticate_and_admit(self, connection: Connection, request: packets.Connect) -> None:
        credentials = _Credentials()
        credentials.client_id = connection.client_id
        credentials.username = request.username
        credentials.password = request.password.decode(errors="replace") if request.password is not None else None
        if not await self._authenticate(credentials, self.listeners_config[connection.listener]):
            logger.warning("%s: wrong credentials for user %r", connection.name, request.username)
            self._refuse(connection, packets.CONNACK_BAD_CREDENTIALS)
            return
        if not connection.closed:
            self._admit(connection, request)
            connection.authenticated()

    @staticmethod
    def _refuse(connection: Connection, return_code: int) -> None:
        connection.send(packets.connack(return_code))
        connection.close()

    def _admit(self, connection: Connection, request: packets.Connect) -> None:
        """Give the connection its session, taking it from an older connection of the same identifier."""
        session = self.clients.get(connection.client_id)
        if session is not None and session.connection is not None:
            logger.info("%s: taken over by %s", connection.client_id, connection.peer)
            session.connection.close()  # publishes its will and, for a clean session, forgets it
            session = self.clients.get(connection.client_id)
        if session is not None and request.clean_session:
            self._forget(session)
            session = None
        present = session is not None
        if session is None:
            persistent = not request.clean_session
            session = Session(connection.client_id, persistent, self.limits, self.counters, self.store)
            self.clients[connection.client_id] = session
        if connection.access is not None:
            session.owner = connection.access.username
            self._drop_denied(session, connection.access)
        connection.session = session
        connection.will = request.will
        connection.keepalive_s = request.keepalive_s
        session.left_at = 0.0
        self._keep_session(session)
        connection.send(packets.connack(0, present))
        session.resume(connection)
        self.counters.clients_maximum = max(self.counters.clients_maximum, len(self.connections))

    def _drop_denied(self, session: Session, access: Access) -> None:
        """End the subscriptions that a resumed session may no longer have."""
        for topic_filter in [each for each in session.subscriptions if not access.may_subscribe(each)]:
            self._tell_denied(session.client_id, "subscribe to", topic_filter)
            del session.subscriptions[topic_filter]
            self.filters.remove(topic_filter, session)
            self.routes.clear()

    def denied(self, connection: Connection, prefix: bytes) -> Route:
        """The route of a message that its publisher may not send: acknowledged and dropped, as by Mosquitto."""
        self._tell_denied(connection.client_id, "publish to", prefix[2:].decode())
        return _NOWHERE

    def _tell_denied(self, client_id: str, what: str, topic: str) -> None:
        if (client_id, topic) not in self._denials:
            if len(self._denials) >= _DENIALS:
                self._denials.clear()
            self._denials.add((client_id, topic))
            logger.warning("%s: may not %s %.200r (told once)", client_id, what, topic)

    def lost(self, connection: Connection) -> None:
        """The connection is over, for whatever reason: its will, then the end or the pause of its session."""
        session = connection.session
        if session is None:
            return
        self._publish_will(connection)
        connection.session = None
        session.connection = None
        session.release_publishers()
        session.left_at = time.time()
        if session.persistent:
            self._keep_session(session)
        else:
            self._forget(session)

    def _publish_will(self, connection: Connection) -> None:
        will, connection.will = connection.will, None
        if will is not None and not connection.clean_end:
            prefix = _prefix(will.topic)
            if connection.access is not None and not connection.access.may_publish(prefix):
                self.denied(connection, prefix)
                return
            self.publish(self.find_route(prefix), Message(prefix, will.payload, will.qos), will.retain, None)

    def _forget(self, session: Session) -> None:
        """End a session: subscriptions, queue, everything."""
        for topic_filter in session.subscriptions:
            self.filters.remove(topic_filter, session)
        self.routes.clear()
        self.clients.pop(session.client_id, None)
        if not session.persistent:
            self._hand_on(session)
        if session.durable:
            session.store.forget(session)  # type: ignore[union-attr]  # durable = has a store
            self._flush_soon()

    def _hand_on(self, session: Session) -> None:
        """Give what a lost member of shared subscriptions has not confirmed to another member (MQTT 5, 4.8.2).

        What was sent at QoS 2 may have been taken, so it must not be. What matches a plain subscription of the member
        too is handed on as well: at least once.
        """
        shared = [each for each in session.subscriptions if split_shared(each)[0] is not None]
        if not shared:
            return
        sent = [entry for entry in session.inflight.values() if entry is not None and entry[1] == 1]
        for message in dict.fromkeys(message for message, _, retained in (*sent, *session.queue) if not retained):
            for topic_filter in shared:
                group = self.filters.group(topic_filter)
                if group is not None and matches(split_shared(topic_filter)[1], message.topic):
                    copy = Message(message.prefix, message.payload, message.qos)
                    self.publish(Route([], [group]), copy, False, None)

    def _keep_session(self, session: Session) -> None:
        if session.durable:
            session.store.session(session)  # type: ignore[union-attr]
            self._flush_soon()

    # -- publish and subscribe --

    def find_route(self, prefix: bytes) -> Route:
        """The subscribers of a topic not met since the last change of subscriptions.

        Raises:
            MalformedPacket: not a topic one may publish to.
        """
        topic = packets.utf8(prefix[2:])
        if not topic or "+" in topic or "#" in topic:
            raise MalformedPacket("PUBLISH to a topic that is empty or has wildcards")
        if topic.count("/") >= self.limits.topic_levels:
            raise MalformedPacket(f"a topic of more than {self.limits.topic_levels} levels")
        if topic[0] == "$" and topic.split("/", 1)[0] in _BROKERS_OWN:
            route = Route([], [], ignored=True)
        else:
            route = self.filters.route(topic)
        if len(self.routes) >= _ROUTES:
            self.routes.clear()
        if len(prefix) <= _ROUTE_BYTES:
            self.routes[prefix] = route
        return route

    def publish_at_most_once(self, route: Route, packet: bytes, payload_size: int) -> None:
        """Pass a QoS 0 PUBLISH on, byte for byte."""
        for session, _ in route.targets if not route.groups else self._targets(route):
            connection = session.connection
            if connection is not None:
                connection.send_at_most_once(packet, payload_size)

    def publish(self, route: Route, message: Message, retain: bool, publisher: Connection | None) -> None:
        """Retain, store and deliver one message; `publisher` is held back if a queue it fills is full."""
        if route.ignored:
            return
        if retain:
            self._retain(message)
        targets = route.targets if not route.groups else self._targets(route)
        published_qos = message.qos
        if published_qos and self.store is not None:
            kept = kept_for(targets, published_qos) if route.groups else route.kept[published_qos]
            if kept:
                self.store.message(message, kept)
        for session, granted in targets:
            qos = granted if granted < published_qos else published_qos
            if qos:
                session.deliver(message, qos, False, publisher)
            elif session.connection is not None:
                session.connection.send_at_most_once(message.packet(), len(message.payload))

    @staticmethod
    def _targets(route: Route) -> list[tuple[Session, int]]:
        return route.targets + [member for group in route.groups if (member := group.pick()) is not None]

    def _retain(self, message: Message) -> None:
        kept = Message(message.prefix, message.payload, message.qos)  # of its own: it has its own place in the store
        if self.store is not None:
            self.store.retain(kept.topic, kept)
            self._flush_soon()
        elif kept.payload:
            self.retained[kept.topic] = kept
        else:
            self.retained.pop(kept.topic, None)

    def subscribe(
        self, connection: Connection, session: Session, packet_id: int, requests: list[tuple[str, int]]
    ) -> None:
        """SUBSCRIBE: SUBACK, then the retained messages of each filter."""
        return_codes, granted = [], []
        for topic_filter, qos in requests:
            group, path = split_shared(topic_filter)
            if not valid_filter(path, self.limits.topic_levels):
                raise MalformedPacket(f"SUBSCRIBE to {topic_filter[:80]!r}, which is no valid filter")
            dead = topic_filter.startswith("$share/") and (not group or "+" in group or "#" in group)
            if not dead and connection.access is not None and not connection.access.may_subscribe(topic_filter):
                self._tell_denied(connection.client_id, "subscribe to", topic_filter)
                dead = True
            return_codes.append(0x80 if dead else qos)
            if not dead:
                granted.append((topic_filter, qos))
                session.subscriptions[topic_filter] = qos
                self.filters.add(topic_filter, session, qos)
        self.routes.clear()
        self._keep_session(session)
        connection.send(packets.suback(packet_id, return_codes))
        for topic_filter, qos in granted:
            if not topic_filter.startswith("$share/"):
                self._replay(connection, session, topic_filter, qos)

    def _replay(self, connection: Connection, session: Session, topic_filter: str, granted: int) -> None:
        """Send the retained messages of one new subscription (amqtt sends those of everybody's, and at connect)."""
        wild = "+" in topic_filter or "#" in topic_filter
        for topic in list(self.retained) if wild else [topic_filter]:
            message = self.retained.get(topic)
            if message is None or not matches(topic_filter, topic):
                continue
            qos = min(granted, message.qos)
            if qos:
                copy = Message(message.prefix, message.payload, message.qos)
                if session.durable:
                    session.store.message(copy, [(session.number, qos)], retain=True)  # type: ignore[union-attr]
                session.deliver(copy, qos, True, None)
            else:  # never dropped: there is no other copy to come
                connection.send(message.packet(retain=True))
        if topic_filter.startswith("$SYS"):
            for topic, value in sys_topics.values(self).items():
                if matches(topic_filter, topic):
                    connection.send(_sys_message(topic, value).packet(retain=True))

    def unsubscribe(self, connection: Connection, session: Session, packet_id: int, filters: list[str]) -> None:
        """UNSUBSCRIBE; a filter that was not subscribed is acknowledged all the same (3.10.4)."""
        for topic_filter in filters:
            if not valid_filter(split_shared(topic_filter)[1], self.limits.topic_levels):
                raise MalformedPacket(f"UNSUBSCRIBE from {topic_filter[:80]!r}, which is no valid filter")
            if session.subscriptions.pop(topic_filter, None) is not None:
                self.filters.remove(topic_filter, session)
        self.routes.clear()
        self._keep_session(session)
        connection.send(b"\xb0\x02" + packet_id.to_bytes(2, "big"))

    # -- once per turn of the loop --

    def schedule(self, connection: Connection) -> None:
        """Flush `connection` at the end of this turn."""
        self._dirty.append(connection)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self.flush_due:
            self.flush_due = True
            self.loop.call_soon(self._flush)

    def input_handled(self) -> None:
        """One client's input is dealt with: flush now if no other socket waits in this turn, else after the others.

        A turn of the loop costs more than a small message does; asyncio's `_ready` says whether one is coming. A loop
        without it flushes a turn later.
        """
        if self._ready:
            self.loop.call_soon(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        """One commit for all, then one write per client: what a client reads is always in the store already."""
        self.flush_due = False
        if not self.commit():
            self.flush_due = True
            self.loop.call_later(1.0, self._flush)
            return
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def commit(self) -> bool:
        """Write the store. False: the disk refuses; nobody gets an answer and nobody is read until it takes it."""
        if self.store is None or not self.store.dirty:
            return True
        try:
            self.store.commit()
        except OSError as exc:
            if not self._disk_fails:
                logger.error("the data folder cannot be written, every client waits: %s", exc)
            self._disk_fails = True
            for connection in self.connections:
                connection.hold(self)
            return False
        if self._disk_fails:
            logger.warning("the data folder can be written again")
            self._disk_fails = False
            for connection in self.connections:
                connection.unhold(self)
        return True

    # -- twice a second --

    async def _watch(self) -> None:
        ticks, sys_due, held_since = 0, 0.0, set[Connection]()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            ticks += 1
            now = self.loop.time()
            self.look_around()
            if ticks % max(1, round(self.limits.hold_s / LOOK_EVERY_S)) == 0:
                for connection in held_since & self.held:
                    connection.let_one_chunk_through()
                held_since = set(self.held)
            if now >= sys_due:
                sys_due = now + self.limits.sys_interval_s
                self._publish_sys()
            if ticks % 2 == 0:
                await self._sync_store()

    def look_around(self) -> None:
        """End connections that have fallen silent or stalled, and sessions that have expired."""
        now = self.loop.time()
        self._close_silent(now)
        self._close_stalled(now)
        self._expire_sessions()

    async def _sync_store(self) -> None:
        if self.store is None or not self.commit():
            return
        self.store.drop_unwanted()
        try:
            await self.loop.run_in_executor(None, self.store.sync)
        except OSError as exc:
            logger.error("the disk has not confirmed what was written; a power cut may lose it: %s", exc)

    def _close_silent(self, now: float) -> None:
        """Keepalive (3.1.2.10, one and a half times) and the time allowed for CONNECT."""
        for connection in list(self.connections):
            if connection.waiting_auth:
                continue  # it has said CONNECT; the wait is ours
            if connection.session is None:
                if now - connection.connected_at > self.limits.connect_timeout_s:
                    logger.info("%s: no CONNECT within %g s", connection.peer, self.limits.connect_timeout_s)
                    connection.abort()
            elif connection.keepalive_s and connection.reading:
                silent_s = now - connection.heard_at
                if silent_s > 1.5 * connection.keepalive_s:
                    logger.info("%s: silent for %.1f s; its keepalive is over", connection.name, silent_s)
                    connection.close()

    def _close_stalled(self, now: float) -> None:
        for session in list(self.counters.holding):
            connection = session.connection
            if connection is not None and now - session.progress_at > self.limits.stall_timeout_s:
                logger.warning(
                    "%s: took nothing for %g s with %d messages waiting and publishers held; disconnected",
                    session.client_id, self.limits.stall_timeout_s, session.waiting,
                )  # fmt: skip
                if not session.persistent:
                    self.counters.publish_dropped += session.waiting
                connection.close()

    def _expire_sessions(self) -> None:
        deadline = time.time() - self.limits.session_expiry_s
        for session in [s for s in self.clients.values() if s.connection is None and s.left_at < deadline]:
            logger.info("%s: session expired with %d messages waiting", session.client_id, session.waiting)
            self.counters.clients_expired += 1
            self._forget(session)

    def _publish_sys(self) -> None:
        """Send what changed in `$SYS`, if anybody listens."""
        if not self.filters.watches("$SYS"):
            self._sys_sent = {}
            return
        values = sys_topics.values(self)
        for topic, value in values.items():
            if self._sys_sent.get(topic) != value:
                self.publish(self.filters.route(topic), _sys_message(topic, value), False, None)
        self._sys_sent = values


def _prefix(topic: bytes) -> bytes:
    return len(topic).to_bytes(2, "big") + topic


def _sys_message(topic: str, value: str) -> Message:
    return Message(_prefix(topic.encode()), value.encode(), 0)
