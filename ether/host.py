"""Host: the process that began a session: its broker, recorder and instances, from the first start to the last stop."""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import json
import logging
import os
import platform
import secrets
import shlex
import socket
import subprocess
import sys
import threading
from collections import ChainMap, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import MISSING, asdict, replace
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import ether as package
from ether import brokers, clock, codecs, ghosts, log, process, runtime, topics
from ether.address import Address
from ether.client import LOG, MEMBERS, PROCESSES, Client
from ether.component import Component, check, load_class, registry_marks, source_of
from ether.config import Config
from ether.config import Instance as InstanceConfig
from ether.errors import (
    BrokerError,
    ConfigError,
    EtherError,
    PayloadError,
    PreflightError,
    SessionError,
    StartError,
    suggest,
)
from ether.expect import Expectations, Shortfall
from ether.foreign import bridge, ingest
from ether.instance import Instance
from ether.log import Line, SessionLog
from ether.member import LOST_CONNECTION, Member, new_boot
from ether.metrics import Metrics
from ether.model import About, Annotation, Message, State, Status, Summary
from ether.mqtt import MAX_PAYLOAD, Connection, Receipt, Tls
from ether.outbox import Sender, leftovers, outbox_folder
from ether.recorder.entries import journal_folder
from ether.recorder.parts import is_taken
from ether.supervisor import Child, Launcher, ProcessState, Restart, Supervisor, how
from ether.wiring import Wiring

__all__ = ["Guest", "Host", "add", "join", "provenance_of", "visit"]

logger = logging.getLogger("ether")

_GONE = (State.LOST, State.DISCONNECTED)
_STOP_AGAIN_S = 1.0
_AT_WORK = (State.READY, State.ALERT, State.SLEEPING)
_RECORDER_SEALS_S = 120.0
_SOURCE_BYTES = 1_000_000
_RECORDER_PATIENCE_S = 2.0
_OUTBOX_S = 5.0
_JOIN_S = 5.0
_REMARK_S = 1.0
_WATCH_S = 1.0
_QUEUE_LIMITS = {
    "embedded": "broker.limits.queue",
    "mosquitto": "max_queued_messages (Mosquitto's default is 1,000)",
}
"""By the kind of broker that counts what it drops: what limits how much may wait for a client."""
_OURS = Restart("on-failure", max=5, within_s=60.0, backoff_s=(0.1, 5.0))
"""For the processes that are ours: recorder and broker."""
_ANSWERS_KEPT = 256
_OURS_BY_NAME = ("session", "recorder", ingest.NAME, bridge.NAME)


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
        self.client = Client(self.connection, name, boot)
        self.connection.on_message = self._receive
        self.connection.on_up = self._came_up

    def open(self, timeout: float = 5.0) -> None:
        self.connection.open(timeout)
        self.client.watch()
        given = self.outbox_orders(self.client.name)
        if given is not None:
            self.client.outbox = Sender.ordered(given, self.connection, self.client.name, self.client.boot)

    def outbox_orders(self, name: str) -> dict[str, Any] | None:
        """Return where a publisher keeps what the session's recorder has not confirmed; None where nobody records."""
        about = self.client.abouts.get("recorder")
        recording = self.recording_here or self.recording_elsewhere
        if about is None or recording is None:
            return None
        filters = [each for each, entry in about.subscribes.items() if entry.get("records")]
        return _outbox_orders(recording, name, filters, about.kwargs.get("exclude", []), about.kwargs.get("outbox"))

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
        if known is not None and known.state not in _GONE and self.client.lives(name):
            where = f" on {known.host}" if known.host else ""
            raise SessionError(f"there is an instance {name!r} already{where}; choose another --name")

    def finds(self, name: str, timeout: float) -> bool:
        """Return whether the session of this name lives here, or comes up within `timeout` seconds."""

        def there() -> bool:
            status = self.client.statuses.get("session")
            alive = status is not None and status.state not in _GONE
            return alive and self.client.session.get("name") == name

        return self.client.wait_for(there, timeout)

    def _receive(self, message: Message, _receipt: Receipt | None) -> None:
        for sender in self.for_the_dead:
            sender.hear(message)
        if self.client.outbox is not None:
            self.client.outbox.hear(message)
        self.client.take(message)

    def _came_up(self, _session_present: bool) -> None:
        if self.client.outbox is not None:
            self.client.outbox.renew()
        self.client.renew_runs()

    def close(self) -> None:
        """Leave; where something was published by hand, the last numbers are told, so that nobody need wonder."""
        last = self.client.last_numbers()
        outbox = self.client.outbox
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
    url, namespace = _url(config), config.session.namespace
    if url is not None and config.starts and name is None and not only:
        return None
    if url is None:
        entry = None if config.starts and name is None else runtime.find(name)
        if entry is None:
            if only:
                raise BrokerError(
                    "no session runs on this machine; start one with `ether up FILE`, or set ETHER_BROKER"
                )
            return None
        url, namespace = entry["url"], entry["namespace"]
    guest = Guest(url, namespace, _tls(config), data=config.session.data.absolute() if config.starts else None)
    guest.open()
    if config.broker.url is not None and config.starts:
        if not guest.finds(config.session.name, _JOIN_S if only else 0.0):
            guest.close()
            if only:
                raise BrokerError(f"no session {config.session.name!r} runs at {_plain(url)}; start it there first")
            return None
    logger.info("joined the session at %s", guest.connection.address)
    return guest


def visit(config: Config) -> Guest:
    """Return a connection to the broker of a configuration, or of the running session, whoever is there.

    Raises:
        BrokerError: no broker is named and no session runs, or nobody answers.
    """
    url, namespace = _url(config), config.session.namespace
    if url is None:
        entry = runtime.find(config.session.name if config.session.name_given else None)
        if entry is None:
            raise BrokerError(
                "no session runs on this machine, and no broker is named: give the YAML of a session whose `broker:` "
                "is a URL, or set ETHER_BROKER (a broker that ether starts leaves nothing behind)"
            )
        url, namespace = entry["url"], entry["namespace"]
    guest = Guest(url, namespace, _tls(config))
    guest.open()
    return guest


def _tls(config: Config) -> Tls | None:
    """Return how our clients trust a broker that runs; one that we start has a listener without TLS for them."""
    tls = config.broker.tls
    if tls is None or config.broker.url is None:
        return None
    ca, cert, key = (None if path is None else str(path) for path in (tls.ca, tls.cert, tls.key))
    return Tls(ca, cert, key, tls.insecure)


def _url(config: Config) -> str | None:
    """Return the configured URL with its credentials."""
    broker = config.broker
    if broker.url is None or broker.user is None:
        return broker.url
    password = f":{quote(broker.password.get_secret_value(), safe='')}" if broker.password else ""
    scheme, _, rest = broker.url.partition("://")
    return f"{scheme}://{quote(broker.user, safe='')}{password}@{rest}"


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


class Host:
    """One session begun by this process."""

    def __init__(
        self, config: Config, guest: Guest | None = None, *, launcher: Launcher = process,
        connect: Callable[..., Connection] = Connection,
    ) -> None:  # fmt: skip
        """Prepare; `open` starts everything.

        Args:
            config: with the instances to run.
            guest: a session to join, whose broker and recorder then serve these instances too.
            launcher: starts processes.
            connect: makes connections.
        """
        self.config = config
        self.id = secrets.token_hex(4)
        self.started = False
        self.on_stop_asked: Callable[[], None] = lambda: None
        self.recording: Path | None = None
        self.client: Client
        self._guest = guest
        self._boot = new_boot()
        self._broker: brokers.Broker | None = None
        self._starting: _Later | None = None
        self._member: Member | None = None
        self._log: SessionLog
        self._log_handler: _LogToFile
        self._logged: dict[str, State | None] = {}
        """Members, by the state that the log names last."""
        self._supervisor = Supervisor(
            self._child_ended, self._child_gone, self._child_again, self._child_said,
            pass_on=process.DETACHED not in os.environ, launcher=launcher,
        )  # fmt: skip
        self._launcher = launcher
        self._connect_by = connect
        self._for_the_dead: list[Sender] = guest.for_the_dead if guest else []
        self._by_hand: dict[str, tuple[Instance, threading.Thread]] = {}
        self._metrics: Metrics | None = None
        self._endings: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._problems: list[str] = []
        self._since = clock.now()
        self._closing = threading.Event()
        self._broker_lock = threading.Lock()
        self._broker_restarts = 0
        self._ordering = threading.RLock()
        """Held by whoever starts or stops instances."""
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        """Orders and questions by their id, to what was answered; empty while it is being worked out."""
        self._critical = {name for name, (_, each) in config.named().items() if each.critical}
        self._expected = Expectations(config.expect) if config.expect else None
        self._drops: brokers.Drops | None = None
        self._watcher: threading.Thread | None = None
        self._looked_at = self._hearing_since = clock.monotonic()
        self._unstored: dict[str, Annotation] = {}
        """Remarks about alarms that the recorder has not confirmed yet, by their identity."""
        self._safe_within: dict[str, float] = {}
        """Instances that know how to make their hardware safe, and the seconds they may take."""
        self._unsafe: dict[str, str] = {}
        """Those of them for which that failed, and why."""
        self._namespace = guest.namespace if guest else config.session.namespace
        self._largest_payload = MAX_PAYLOAD
        self._recovery: subprocess.Popen[bytes] | None = None

    # --- begin

    def open(self) -> None:
        """Start broker, recorder and instances; return when all are ready, or stop them all again and raise."""
        _log_if_nobody_does()
        problems = check(self.config)
        if problems:
            raise ConfigError(problems)
        for line in _not_yet(self.config):
            logger.warning("%s", line)
        try:
            with self._ordering:
                self._open()
        except BaseException:
            self._abort()
            raise

    def _open(self) -> None:
        self._log = self._new_log()
        self._log_handler = _LogToFile(self._log)
        logger.addHandler(self._log_handler)
        wanted = {name: each for name, each in self.config.named().items() if each[1].autorun}
        self._starting = _Later(self._start_broker)  # the longest step first, and the others beside it
        waiting = {name: self._spawn(name, each) for name, (_, each) in wanted.items()}
        recorder = None
        if self._guest is None and self.config.record is not None:
            recorder = self._supervisor.spawn("recorder", "ether.recorder.ingest", _OURS)
            recorder.patience_s = _RECORDER_PATIENCE_S
            provenance = _Later(provenance_of, self.config)
        conveyors = self._spawn_conveyors()
        url = self._starting.result()
        self._connect(url)
        ours = [*conveyors, *(["recorder"] if recorder is not None else [])]
        self._take_names([*waiting, *ours])
        if recorder is not None:
            self._supervisor.give_orders(recorder, self._recorder_orders(url, provenance.result()))
        for name, child in waiting.items():
            self._supervisor.give_orders(child, self._orders(name, *wanted[name], url=url))
        for name, child in conveyors.items():
            self._supervisor.give_orders(child, self._conveyor_orders(name, url))
        self._await_ready([*waiting, *ours])
        if self.config.metrics is not None:
            self._metrics = Metrics(self.config.metrics, self.client.instances, lambda: self.client.alarms)
        if self._member is not None:
            self._member.set_status(State.READY)
        if self.recording is not None:
            self._recover_the_killed(self.recording)
        if self._broker is not None and self._broker.kind == "external":
            threading.Thread(target=self._lay_ghosts, name="ghosts", daemon=True).start()

    def _lay_ghosts(self) -> None:
        """Clear what killed sessions left on a broker that outlived them, and say so; devices are left alone."""
        own = {"session", *self.processes()}
        try:
            found = [
                each for each in ghosts.find(self.client, own, self._closing.wait)
                if each.pid is not None and each.name not in self._by_hand
            ]  # fmt: skip
            if found:
                names = ", ".join(f"{each.name} ({each.why})" for each in found)
                logger.warning("cleared what a session that was killed left on the broker: %s", names)
                ghosts.clear(self.client, found)
        except EtherError as exc:  # the session has ended meanwhile
            logger.debug("ghosts: %s", exc)

    def _new_log(self) -> SessionLog:
        """Begin this session's log, and say where that of the last one is if that was killed."""
        name, running = self.config.session.name, [str(each["id"]) for each in runtime.running()]
        last = log.unfinished(name)
        killed = last if last is not None and not runtime.alive(int(log.header(last).get("pid", 0))) else None
        begun = SessionLog(name, self.id, self.config.named(), running)
        if killed is not None:
            told = f"the last session {name!r} was killed; what it said is in {killed}"
            logger.warning("%s", told)
            begun.say("WARNING", told)
        return begun

    def _recover_the_killed(self, ours: Path) -> None:
        """Have recordings made of what killed sessions left where ours is written, while this one goes on."""
        left = {journal_folder(ours).suffix, outbox_folder(ours).suffix}
        if any(path.suffix in left and path.stem != f".{ours.stem}" for path in ours.parent.glob(".*")):
            self._recovery = process.spawn("ether.recorder.recovery", "recovery")
            process.give_orders(self._recovery, {"ours": str(ours), "log_level": _log_level()})

    def _end_recovery(self) -> None:
        """It may be killed at any point; the next session goes on with it."""
        if self._recovery is not None and self._recovery.stdin is not None:
            self._recovery.kill()
            self._recovery.wait()
            with contextlib.suppress(OSError):
                self._recovery.stdin.close()

    def _take_names(self, names: list[str]) -> None:
        """Forget what dead instances of these names left on a broker; SessionError where a joined session has them."""
        if self._guest is None and self.client.open_runs:
            self.client.open_runs.clear()
            self.client.connection.publish(topics.RUN, b"", 1, retain=True)
        for name in self._foreign_devices() if self._guest is None else ():  # of a session that was killed
            for topic in (topics.status(name), topics.about(name)):
                self.client.connection.publish(topic, b"", 1, retain=True)
        for name in names:
            known = self.client.statuses.pop(name, None)
            if self._guest is not None and known is not None and known.state not in _GONE:
                raise SessionError(f"the session has an instance {name!r} already; choose another name")

    def _spawn(self, name: str, instance: InstanceConfig) -> Child:
        given = instance.restart
        policy = Restart(given.policy, given.max, given.within, (given.backoff[0], given.backoff[1]))
        return self._supervisor.spawn(name, "ether.session", policy)

    def _spawn_conveyors(self) -> dict[str, Child]:
        """Start the processes that speak other conventions than ours."""
        wanted = {ingest.NAME: bool(self.config.ingest), bridge.NAME: self.config.bridge is not None}
        return {
            name: self._supervisor.spawn(name, f"ether.foreign.{name}", _OURS) for name, each in wanted.items() if each
        }

    def _conveyor_orders(self, name: str, url: str) -> dict[str, Any]:
        return {
            "url": url,
            "tls": _as_orders(_tls(self.config)),
            "namespace": self._namespace,
            "log_level": _log_level(),
            "largest_payload": self._largest_payload,
            "start_timeout": self.config.session.start_timeout,
            "recorded": self.config.record is not None and self._guest is None,
            "outbox": self._outbox(name),
            "bridge": None if self.config.bridge is None else self.config.bridge.model_dump(mode="json"),
            "sources": [each.model_dump(mode="json") for each in self.config.sources],
            "taken": [*_OURS_BY_NAME, *self.config.named()],
        }

    def _start_broker(self) -> str:
        if self._guest is not None:
            self._url = self._guest.url
            return self._url
        options = self.config.broker
        self._broker = brokers.choose(
            options.kind, url=_url(self.config), listen=options.listen, security=_security(self.config),
            limits=_limits(self.config),
        )  # fmt: skip
        if isinstance(self._broker, brokers.ChildBroker):
            self._broker.on_said = lambda lines: self._log.hear("broker", None, "stderr", lines)
        self._broker.__enter__()
        self._url = self._broker.url
        logger.info("broker: %s at %s, %s", self._broker.kind, _plain(self._url), self._broker.why)
        if self._broker.kind not in brokers.KINDS:
            self._look_at_broker()
        elif self._broker.kind in _QUEUE_LIMITS:
            self._drops = brokers.Drops(_QUEUE_LIMITS[self._broker.kind])
        if isinstance(self._broker, brokers.ChildBroker):
            threading.Thread(target=self._guard, args=(self._broker,), name="broker", daemon=True).start()
        return self._url

    def _guard(self, broker: brokers.ChildBroker) -> None:
        """Start our broker again, where it was, whenever it dies; its clients come back by themselves."""
        earlier: deque[float] = deque()
        ending = f"ended unexpectedly: {how(broker.wait())}"
        while not self._closing.wait((wait := _OURS.wait_s(earlier)) or 0.0):
            if wait is None:
                self._problems.append(f"the broker failed {_OURS.max + 1} times within {_OURS.within_s:g} s ({ending})")
                logger.error("%s; the session ends", self._problems[-1])
                self.on_stop_asked()
                return
            logger.error("broker: %s; starting it again", ending)
            with self._broker_lock:
                if self._closing.is_set():
                    return
                self._broker_restarts += 1
                try:
                    broker.restart()
                except BrokerError as exc:  # somebody has its port, perhaps for a moment
                    ending = f"cannot be started again: {exc}"
                    continue
            ending = f"ended unexpectedly: {how(broker.wait())}"

    def _look_at_broker(self) -> None:
        """Say what a broker that is not ours lacks, as far as it is known; our own are held to the contract.

        Raises:
            BrokerError: nothing of ether can work there.
        """
        try:
            found = brokers.keeps_retained(self._url, namespace=self._namespace, tls=_tls(self.config))
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
            self._largest_payload = found.refused_payload - 1
        if found.drops_counted:
            kind = "embedded" if found.version.startswith("ether_broker") else "mosquitto"
            self._drops = brokers.Drops(_QUEUE_LIMITS[kind])

    def _connect(self, url: str) -> None:
        tls = _tls(self.config)
        if self._guest is not None:
            self.client = self._guest.client
            self.client.on_change = self._status_changed
            self.client.connection.on_down = lambda reason: self.client.poke()
            return
        member = self._member = self._new_member("session", boot=self._boot)
        member.connection.largest_payload = self._largest_payload
        self.client = Client(member.connection, "session", member.boot)
        self.client.on_change = self._status_changed
        member.on_message = self._receive
        member.connection.on_down = lambda reason: self.client.poke()
        member.connection.subscribe([topics.command("session", "+"), topics.call("session", "+")])
        member.connection.subscribe([topics.log("+")], qos=0)
        if self._expected is not None:
            member.connection.subscribe(list(self.config.expect), qos=0)
        if self._drops is not None:
            member.connection.subscribe([brokers.DROPPED], qos=0)
        self._watcher = clock.thread(self._watch, name="alarms")
        member.on_up = lambda present: self._announce()
        if self._broker is not None and self._broker.kind == "external":
            self._refuse_second_session(url, tls)
        member.open()
        self._describe(member)
        self.client.watch()
        self._remember(url)

    def _new_member(self, name: str, **options: Any) -> Member:
        tls = _tls(self.config)
        return Member(self._url, name, namespace=self._namespace, tls=tls, connect=self._connect_by, **options)

    def _remember(self, url: str) -> None:
        """Write down that we are there, for who wants to join."""
        runtime.remember(
            {
                "id": self.id, "name": self.config.session.name, "namespace": self._namespace, "url": url,
                "pid": os.getpid(), "started": self._since,
                "folder": self._broker.temporary_folder if self._broker else None, "log": str(self._log.path),
            }
        )  # fmt: skip

    def _refuse_second_session(self, url: str, tls: Tls | None) -> None:
        """Two sessions in one namespace would answer to the same names."""
        guest = Guest(url, self._namespace, tls)
        guest.open()
        other = guest.client.instances().get("session")
        lives = other is not None and other.state not in _GONE and guest.client.lives("session")
        guest.close()
        if other is not None and lives:
            raise SessionError(
                f"a session runs already at {_plain(url)} (process {other.pid} on {other.host}); "
                "set session.namespace to run beside it"
            )

    @staticmethod
    def _describe(member: Member) -> None:
        calls = {name: {"params": {}, "kind": "get"} for name in (PROCESSES, MEMBERS, LOG)}
        about = About("session", host=socket.gethostname(), pid=os.getpid(), version=package.__version__, calls=calls)
        member.set_about(about)

    def _announce(self) -> None:
        assert self._member is not None and self._broker is not None
        content = {
            "id": self.id,
            "name": self.config.session.name,
            "started": self._since,
            "host": socket.gethostname(),
            "user": runtime.user(),
            "versions": {"ether": package.__version__, "python": platform.python_version()},
            "config": f"sha256:{sha256(self.config.text.encode()).hexdigest()}",
            "broker": {"url": _plain(self._url), "kind": self._broker.kind, "why": self._broker.why},
            "recording": None if self.recording is None else str(self.recording),
        }
        self._member.connection.publish(topics.SESSION, codecs.encode(content), 1, retain=True)

    def _recorder_orders(self, url: str, provenance: dict[str, Any]) -> dict[str, Any]:
        record = self.config.record
        assert record is not None
        name = record.file_for(self.config.session.name, clock.compact(self._since))
        path = _unused(Path(self.config.session.data).absolute() / name)
        self.recording = path
        self._announce()
        if self._member is not None:
            self._member.outbox = self.client.outbox = self._sender("session", self._member)
            self._describe(self._member)
        return {
            "name": "recorder",
            "url": url,
            "tls": _as_orders(_tls(self.config)),
            "namespace": self._namespace,
            "file": str(path),
            "topics": record.topics,
            "exclude": record.exclude,
            "reserve": record.reserve,
            "rotate": None if record.rotate is None else record.rotate.model_dump(),
            "outbox": record.outbox.model_dump(),
            "session": {"id": self.id, "name": self.config.session.name, "started": self._since},
            "provenance": provenance,
            "log_level": _log_level(),
        }

    def _outbox(self, name: str) -> dict[str, Any] | None:
        """Return where an instance keeps what is not recorded yet; None where nobody records."""
        if self._guest is not None:
            return self._guest.outbox_orders(name)
        record = self.config.record
        if record is None or self.recording is None:
            return None
        return _outbox_orders(self.recording, name, record.topics, record.exclude, record.outbox.model_dump())

    def _sender(self, name: str, member: Member) -> Sender | None:
        given = self._outbox(name)
        if given is None:
            return None
        return Sender.ordered(given, member.connection, name, member.boot, member.counts)

    def _orders(self, name: str, key: str, instance: InstanceConfig, url: str) -> dict[str, Any]:
        entry = self.config.registry.get(instance.class_path)
        target = self.config.classes.get(instance.class_path) or load_class(instance.class_path)
        if Component.of(target, registry_marks(entry.methods if entry else {})).hooks("safe"):
            self._safe_within[name] = instance.health.safe_within
        shown = self.config.resolved()["instances"][key]
        orders: dict[str, Any] = {
            "name": name,
            "url": url,
            "tls": _as_orders(_tls(self.config)),
            "namespace": self._namespace,
            "cwd": str(Path.cwd()),
            "log_level": _log_level(),
            "class_path": instance.class_path,
            "args": instance.args,
            "kwargs": instance.kwargs,
            "shown": {name: shown[name] for name in ("args", "kwargs") if name in shown},
            "pickled": "",
            "marks": entry.methods if entry else {},
            "params": {name: each.model_dump() for name, each in instance.params.items()},
            "outbox": self._outbox(name),
            "recorded": self.config.record is not None and self._guest is None,
            "largest_payload": self._largest_payload,
            "started": self.started,
            "start_timeout": self.config.session.start_timeout,
            "drain_timeout": self.config.session.stop_timeout,
            "hang_after": instance.health.hang_after,
            "restart_hung": instance.health.on_hang == "restart",
            "reload": self.config.session.reload,
        }
        if self._needs_pickle(instance):
            orders |= {"pickled": self._pickle(name, instance), "args": [], "kwargs": {}}
        return orders

    def _needs_pickle(self, instance: InstanceConfig) -> bool:
        """Return whether JSON and an import would not do: a class of the running script, or objects as arguments."""
        target = self.config.classes.get(instance.class_path) or load_class(instance.class_path)
        if target.__module__ == "__main__" or "<locals>" in target.__qualname__:
            return True
        try:
            return bool(json.loads(json.dumps([instance.args, instance.kwargs])) != [instance.args, instance.kwargs])
        except (TypeError, ValueError):
            return True

    def _pickle(self, name: str, instance: InstanceConfig) -> str:
        target = self.config.classes.get(instance.class_path) or load_class(instance.class_path)
        local = target.__module__ == "__main__" or "<locals>" in target.__qualname__
        try:
            named = _named_in_annotations(target) if local else {}
            content = (target if local else instance.class_path, instance.args, instance.kwargs, named)
            return base64.b64encode(_pickled(content)).decode()
        except Exception as exc:
            raise StartError(
                {name: f"{instance.class_path} or its arguments cannot go to another process: {exc}; "
                 "put the class into a module of its own"}
            ) from exc  # fmt: skip

    def _await_ready(self, names: list[str]) -> None:
        """Wait, on the retained statuses, until every one is ready; StartError names those that are not."""
        timeout = self.config.session.start_timeout
        client = self.client

        def state(name: str) -> State | None:
            status = client.statuses.get(name)
            return status.state if status else None

        def settled() -> bool:
            return bool(self._failures) or all(state(name) is State.READY for name in names)

        client.wait_for(settled, timeout)
        late = [name for name in names if state(name) is not State.READY and name not in self._failures]
        if self._failures:
            # One failure is enough to give up, but others that failed at the same moment are worth a line too.
            client.wait_for(lambda: all(name in self._failures or state(name) is State.READY for name in names), 0.3)
            raise StartError(dict(self._failures))
        if late:
            raise StartError(
                {name: f"not ready within {timeout:g} s (it is {state(name) or 'silent'})" for name in late}
            )

    def sampling_began(self) -> None:
        """Whoever is started again from now on samples at once."""
        self.started = True
        if self._expected is not None:
            self._expected.begin()
        for child in self._supervisor.children.values():
            if "started" in child.orders:
                child.orders["started"] = True

    def launch(self, names: list[str]) -> None:
        """Start instances that are declared and do not run; return when they are ready."""
        declared = self.config.named()
        with self._ordering:
            for name in names:
                if name not in declared:
                    raise SessionError(f"no instance {name!r} is declared; there are {', '.join(declared) or 'none'}")
                child = self._supervisor.children.get(name)
                # One that has just exited is told of before it counts as ended.
                if child is not None and not clock.wait_for(child.ended, 0.0 if child.alive else 2.0):
                    raise SessionError(f"{name} runs already")
            if self._closing.is_set():
                raise SessionError("the session ends")
            self.client.echo()  # what was said of the former process has come then
            self._failures.clear()
            for name in names:
                self.client.statuses.pop(name, None)
                self._endings.pop(name, None)
                child = self._spawn(name, declared[name][1])
                self._supervisor.give_orders(child, self._orders(name, *declared[name], url=self._url))
            self._await_ready(names)

    def stop(self, names: list[str], safe: bool = False) -> dict[str, str]:
        """Stop instances in order, publishers before their subscribers; they stay stopped. Returns how each ended.

        Args:
            safe: they run their `ether_safe` hooks as they end; where one cannot, another object of its class does.

        Raises:
            SessionError: one of them cannot be stopped; then none is.
        """
        with self._ordering:
            self._check_known(names)
            without = [name for name in names if safe and not self._knows_safety(name)]
            if without:
                raise SessionError(f"{', '.join(without)}: no method is marked @ether_safe; stop without it")
            running = [name for name in names if name in self._by_hand or not self._child(name).ended.is_set()]
            found = dict.fromkeys(names, "stopped")
            for group in self._stop_order(running):
                found |= self._stop_now(group, safe)
            for name in names:
                if safe and name not in running:
                    self._make_safe(self._child(name))
            if unsafe := [self._unsafe[name] for name in names if safe and name in self._unsafe]:
                raise SessionError("\n".join(unsafe))
            return found

    def restart(self, names: list[str]) -> dict[str, str]:
        """Stop instances in order and start them anew; return when they are ready."""
        with self._ordering:
            by_hand = [name for name in names if name in self._by_hand]
            if by_hand:
                raise SessionError(f"{', '.join(by_hand)}: added by a script, which alone can renew it")
            self.stop(names)
            self.launch(names)
            return dict.fromkeys(names, "ready")

    def _check_known(self, names: list[str]) -> None:
        known = [*self.config.named(), *self._by_hand]
        for name in names:
            if name == "recorder":
                raise SessionError("the recorder ends with its session, by `ether down`")
            if name not in known:
                raise SessionError(f"the session has no instance {name!r}{suggest(name, known)}")

    def _child(self, name: str) -> Child:
        """Return the process of an instance; of one that was never started, one that has ended."""
        child = self._supervisor.children.get(name)
        if child is None:
            child = Child(name, "", self._orders(name, *self.config.named()[name], url=self._url))
            child.ended.set()
        return child

    def _knows_safety(self, name: str) -> bool:
        if name in self._by_hand:
            return bool(self._by_hand[name][0].component.hooks("safe"))
        return self._child(name).name in self._safe_within

    def _stop_now(self, names: list[str], safe: bool) -> dict[str, str]:
        """Tell a group to stop; those that do not within the session's time are killed, and then made safe."""
        budget = self.config.session.stop_timeout
        hands = {name: self._by_hand[name][0] for name in names if name in self._by_hand}
        children = [self._supervisor.children[name] for name in names if name not in hands]
        for instance in hands.values():
            instance.stop(safe=safe)
        for child in children:
            self._supervisor.expect_end(child)
            self._tell_to_stop(child, safe)
        deadline = clock.monotonic() + budget + 2.0
        found = {}
        for child in children:
            while not clock.wait_for(child.ended, min(_STOP_AGAIN_S, max(0.1, deadline - clock.monotonic()))):
                if clock.monotonic() >= deadline:
                    break
                self._tell_to_stop(child, safe)
            if not self._supervisor.end(child):
                clock.wait_for(child.ended, self._safe_within.get(child.name, 0.0) + 2.0)
                found[child.name] = f"did not finish within {budget:g} s: {child.exit or 'still there'}"
            elif child.exit in ("", "exit code 0", "killed by SIGTERM"):
                found[child.name] = "stopped"
            else:
                found[child.name] = f"stopped ({child.exit})"
            self._endings[child.name] = found[child.name]
        self._stop_by_hand(list(hands), budget)
        for name, instance in hands.items():
            found[name] = self._endings[name]
            if instance.unsafe:
                self._unsafe[name] = f"{name} could not be brought to a safe state: look after the hardware"
        return found

    def _tell_to_stop(self, child: Child, safe: bool) -> None:
        status = self.client.statuses.get(child.name)
        if status is not None and status.state in _AT_WORK and self.client.connection.connected:
            self.client.command(child.name, "stop", safe=safe)
        elif child.popen is not None:  # it does not listen (yet)
            child.popen.terminate()

    def add(self, target: Any, name: str) -> None:
        """Make an object of this process an instance, with a thread that runs its handlers."""
        if name in self.client.statuses and self.client.statuses[name].state not in _GONE:
            raise SessionError(f"an instance is called {name!r} already; choose another name")
        component = Component.of(type(target))
        member = self._new_member(name)
        member.connection.largest_payload = self._largest_payload
        member.outbox = self._sender(name, member)
        instance = Instance(component, target, member, drain_timeout=self.config.session.stop_timeout)
        member.open()
        instance.open()
        if not instance.init():
            detail = member.detail
            instance.release()
            instance.close({})
            raise StartError({name: detail})
        if self.started:
            instance.start()

        def live() -> None:
            instance.run()
            instance.close({})

        thread = clock.thread(live, name=f"instance {name}")
        self._by_hand[name] = (instance, thread)

        def known() -> bool:
            status = self.client.statuses.get(name)
            return status is not None and status.boot == member.boot and status.state is not State.INIT

        self.client.wait_for(known, self.config.session.start_timeout)

    # --- while it runs

    def process_states(self) -> dict[str, str]:
        """Return what the supervisor sees of each child, by name."""
        return {name: str(child.state) for name, child in self._supervisor.children.items()}

    @cached_property
    def _declared_topics(self) -> dict[str, list[str]]:
        """What instances would publish, also those that never ran, by their classes."""
        return {node.name: list(node.publishes) for node in Wiring.of_config(self.config).nodes}

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each process of the session, and of the instances that have none yet."""
        named = self.config.named()
        found: dict[str, dict[str, Any]] = {
            name: {"state": "stopped", "autorun": each.autorun} for name, (_, each) in named.items()
        }
        for name, child in self._supervisor.children.items():
            found[name] = child.facts()
        for name in self._by_hand:
            found[name] = {"state": "running", "pid": os.getpid()}
        for name, declared in self._declared_topics.items():
            found[name]["publishes"] = declared
        found["session"] = {
            "state": "running", "pid": os.getpid(), "since": self._since, "started": self.started
        }  # fmt: skip
        if isinstance(self._broker, brokers.ChildBroker):
            popen = self._broker.process
            found["broker"] = {
                "state": "running" if popen is not None and popen.poll() is None else "exited",
                "pid": popen.pid if popen is not None else None, "restarts": self._broker_restarts,
            }  # fmt: skip
        return found

    def _receive(self, message: Message, _receipt: Receipt | None) -> None:
        if self._drops is not None and message.topic == brokers.DROPPED:
            self._drops.receive(message.payload)
            return
        if self._expected is not None and not topics.is_reserved(message.topic):
            self._expected.receive(message)
        if self.client.take(message):
            return
        reserved = topics.parse(message.topic)
        if reserved is not None and reserved.kind == "log":
            self._take_log(reserved.name, message.payload)
        if reserved is None or reserved.name != "session" or reserved.kind not in ("command", "call"):
            return
        try:
            fields = codecs.decode(message.payload)[0]
        except PayloadError as exc:
            logger.warning("session: message on %r rejected: %s", message.topic, exc)
            return
        if reserved.kind == "command" and reserved.verb == "stop" and "names" not in fields:
            self.on_stop_asked()
        else:
            asked = str(fields.get("id", ""))
            if asked and asked in self._answers:  # asked again: done once
                self._reply(fields, self._answers[asked])
                return
            self._answers[asked] = b""
            while len(self._answers) > _ANSWERS_KEPT:
                self._answers.popitem(last=False)
            clock.thread(self._obey, reserved, fields, name=reserved.verb)

    def _obey(self, order: topics.Reserved, fields: dict[str, Any]) -> None:
        """Carry out an order, or answer a question, and tell whoever asked."""
        try:
            answer = {"status": "success", "result": self._carry_out(order, fields)}
        except EtherError as exc:
            logger.error("%s: %s", order.verb, exc)
            answer = {"status": "error", "error": str(exc), "type": type(exc).__name__}
        payload = codecs.encode({"id": fields.get("id"), **answer})
        self._answers[str(fields.get("id", ""))] = payload
        self._reply(fields, payload)

    def _carry_out(self, order: topics.Reserved, fields: dict[str, Any]) -> Any:
        if order.kind == "call":
            return self._answer(order.verb, fields.get("params"))
        given = fields.get("names", fields.get("name"))
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise SessionError(f"{order.verb}: `names` is to be a list of instances, got {given!r}")
        if order.verb == "stop":
            return self.stop(names, fields.get("safe") is True)
        if order.verb == "restart":
            return self.restart(names)
        if order.verb == "launch":
            return self.launch(names)
        raise SessionError(f"unknown order {order.verb!r}; known: stop, restart, launch")

    def _answer(self, question: str, params: Any) -> Any:
        if question == LOG:
            after = params.get("after") if isinstance(params, dict) else 0
            return self._log.recent(after if isinstance(after, int) else 0)
        if question == PROCESSES:
            return self.processes()
        if question == MEMBERS:
            return self.client.members()
        raise SessionError(f"unknown question {question!r}; known: {PROCESSES}, {MEMBERS}, {LOG}")

    def _reply(self, fields: dict[str, Any], payload: bytes) -> None:
        reply_to = str(fields.get("reply_to", ""))
        connection = self.client.connection
        if (
            payload
            and reply_to.startswith(topics.reply(""))
            and not topics.is_filter(reply_to)
            and connection.connected
        ):
            connection.publish(reply_to, payload, 1)

    def preflight(self, timeout: float) -> None:
        """Wait until every expected stream comes as it should; PreflightError names those that do not."""
        expected = self._expected
        if expected is None:
            return
        if not self.started:
            raise SessionError("preflight: nothing is expected before the session has started; call start() first")
        deadline = clock.monotonic() + timeout
        while expected.waiting() or expected.look(self.client.abouts, self.client.statuses):
            if clock.monotonic() >= deadline:
                found = expected.look(self.client.abouts, self.client.statuses, patient=False)
                raise PreflightError({each.topic: each.detail for each in found})
            if clock.wait_for(self._closing, 0.1):
                raise SessionError("preflight: the session has ended")

    def _watch(self) -> None:
        """Tell what is not as it should be of streams and broker: retained, in the log, and as annotations."""
        standing: dict[tuple[str, str], tuple[float, Shortfall]] = {}
        while not clock.wait_for(self._closing, _WATCH_S):
            self._bury_the_silent()
            found = {(each.topic, each.kind): each for each in self._shortfalls()}
            if not self.client.connection.connected:
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
                self.client.connection.publish(topics.alarm("session"), payload, 1, retain=True)
            for key in new:
                self._tell_alarm(f"{found[key].topic}: {found[key].detail}", standing[key][0], None)
            for since, each in ended.values():
                self._tell_alarm(f"{each.topic}: {each.over or f'was {each.kind}'}", since, clock.now())
            self._store_remarks()

    def _bury_the_silent(self) -> None:
        """Say `lost` of members elsewhere that do not repeat their status as promised, as a will would have.

        A broker that was started again knows no wills, and what is retained would say `ready` for ever. Of our own
        processes we know when they end. Silence counts from when we hear: since the connection stands, and since we
        ourselves were not kept from running.
        """
        now, connection = clock.monotonic(), self.client.connection
        if not connection.connected or now - self._looked_at > 3 * _WATCH_S:
            self._hearing_since = now
        self._looked_at = now
        for name, after_s in self.client.silent().items():
            if name in ("session", *self._supervisor.children) or now - self._hearing_since < after_s:
                continue
            known = self.client.statuses[name]
            content = {
                "state": "lost", "boot": known.boot, "t": clock.now(), "every": known.every,
                "detail": f"silent for more than {after_s:g} s",
            }  # fmt: skip
            logger.warning("%s: lost: %s", name, content["detail"])
            connection.publish(topics.status(name), codecs.encode(content), 1, retain=True)

    def _shortfalls(self) -> list[Shortfall]:
        found = self._expected.look(self.client.abouts, self.client.statuses) if self._expected is not None else []
        return [*found, *(self._drops.look() if self._drops is not None else ())]

    def _tell_alarm(self, text: str, since: float, until: float | None) -> None:
        log = logger.error if until is None else logger.warning
        log("%s%s", text, "" if until is None else f", for {until - since:.0f} s")
        self._unstored[secrets.token_hex(8)] = Annotation(text, since, until, ("alarm",), {}, "session")

    def _store_remarks(self) -> None:
        """Have the recorder store what was told of alarms; one that hangs gets it later, as may be what is told of."""
        for identity, remark in list(self._unstored.items()):
            try:
                self.client.annotate(remark, _REMARK_S, identity)
            except SessionError:
                return
            del self._unstored[identity]

    def _status_changed(self, name: str, status: Status | None) -> None:
        state = status.state if status is not None else None
        if state is not self._logged.get(name) and name != "session":
            self._logged[name] = state
            detail = status.detail.partition("\n")[0] if status is not None else ""
            self._log.say("INFO", f"{name} is {state or 'cleared'}{f': {detail}' if detail else ''}")
        if status is not None and status.state is State.LOST:
            self.client.abandon_runs(name)
        child = self._supervisor.children.get(name)
        if child is None or status is None:
            return
        if status.state in (State.LOST, State.ALERT) and not self._closing.is_set() and name not in self._failures:
            if status.detail and status.detail != LOST_CONNECTION:
                self._failures[name] = status.detail.rstrip()

    def _take_log(self, name: str, payload: bytes) -> None:
        """Enter what a member logs whose output does not come to us."""
        if name in self._supervisor.children:
            return
        try:
            fields = codecs.decode(payload)[0]
        except PayloadError:
            return  # a stranger's
        level = str(fields.get("level", ""))
        self._log.write([Line(clock.now(), name, str(fields.get("message", "")), "topic", level)])

    def _child_said(self, child: Child, number: int, lines: list[str]) -> None:
        pid = child.popen.pid if child.popen is not None else None
        self._log.hear(child.name, pid, "stderr" if number == 2 else "stdout", lines)

    def _child_ended(self, child: Child) -> None:
        """A child ended and nobody had told it to, or had to be killed: say so to everybody."""
        logger.error("%s: ended %s: %s", child.name, "badly" if child.halt.is_set() else "unexpectedly", child.exit)
        if child.name not in self._failures and self.client.connection.connected:
            self.client.echo(0.3)  # what it said last may be on its way
        self._failures.setdefault(child.name, f"ended: {child.exit}")
        self._endings[child.name] = child.exit
        if not self._closing.is_set():  # else what it left on the broker is cleared in a moment
            known = self.client.statuses.get(child.name)
            told = known is not None and known.state is State.LOST and known.detail not in ("", LOST_CONNECTION)
            if not told:  # a constructor's own words stand; the broker's do not say how
                self._publish_lost(child)
            self.client.poke()
        self._make_safe(child)

    def _child_again(self, child: Child) -> None:
        """A child is started again: what people set outlives its process."""
        about = self.client.abouts.get(child.name)
        if about is not None:
            child.orders["set_params"] = {
                name: (each["value"], each["by"], each.get("t")) for name, each in about.params.items() if "by" in each
            }

    def _child_gone(self, child: Child) -> None:
        """A child failed for good: a crash loop is said to everybody, and a critical instance ends the session."""
        self._endings[child.name] = child.exit
        if child.state is ProcessState.FATAL:
            logger.error("%s: %s", child.name, child.exit)
            self._publish_lost(child)
        if child.name in self._critical:
            self._problems.append(f"{child.name} is critical and failed ({child.exit}): the session was ended")
            logger.error("%s is critical: the session ends", child.name)
            self.on_stop_asked()

    def _make_safe(self, child: Child) -> None:
        """Have a new object of the class run its `ether_safe` hooks in a process of its own; the lost one cannot."""
        self._unsafe.pop(child.name, None)
        within = self._safe_within.get(child.name)
        if within is None:
            return
        popen = self._launcher.spawn("ether.session", f"{child.name}-safe")
        try:
            self._launcher.give_orders(popen, {**child.orders, "only_safe": True})
            code = popen.wait(within)
            why = "" if code == 0 else how(code)
        except subprocess.TimeoutExpired:
            why = f"not done within {within:g} s"
        except BrokenPipeError:
            why = "its process died before it began"
        finally:
            popen.kill()
            popen.communicate()
        if why:
            problem = f"{child.name} could not be brought to a safe state ({why}): look after the hardware"
            self._unsafe[child.name] = problem
            self._problems.append(problem)
            logger.critical("%s", problem)
        else:
            logger.warning("%s: the hardware was brought to a safe state", child.name)

    def _publish_lost(self, child: Child) -> None:
        connection = self.client.connection
        if not self._closing.is_set() or connection.connected:  # without a connection it is said once there is one
            known = self.client.statuses.get(child.name)
            detail = "\n".join([child.exit, *child.last_lines])
            content = {"state": "lost", "boot": known.boot if known else "", "t": clock.now(), "detail": detail}
            connection.publish(topics.status(child.name), codecs.encode(content), 1, retain=True)

    # --- end

    def close(self) -> Summary:
        """Stop instances (publishers before their subscribers), then the recorder, then the broker."""
        self._closing.set()
        budget = self.config.session.stop_timeout
        names = [*self._by_hand, *(n for n, c in self._supervisor.children.items() if n != "recorder" and c.alive)]
        connection = self.client.connection
        for group in self._stop_order(names):
            if connection.connected:
                self._stop_group(group, budget)
        told = connection.connected
        if told and self._guest is not None:
            self._settle_for_the_dead()
        for topic in self._expected.never_came() if self._expected is not None and self.started else ():
            self._problems.append(f"{topic} is required, and nothing came")
        if told:
            self._stop_recorder()
        else:
            self._problems.append("the broker is gone; instances could not be told to finish")
            self._stop_by_hand(list(self._by_hand), budget)
        self._end_recovery()
        for name in self._supervisor.close(2.0, told):
            self._problems.append(f"{name} did not stop by itself and was killed")
        for name, child in self._supervisor.children.items():
            if name in self._safe_within:
                clock.wait_for(child.ended, self._safe_within[name] + 2.0)
        statuses = dict(self.client.statuses)
        self._clear_retained()
        self._release()
        self._clear_outboxes()
        for name, child in self._supervisor.children.items():
            self._endings.setdefault(name, child.exit or "stopped")
        for problem in self._problems:
            logger.warning("%s", problem)
        recording = self.recording if self.recording is not None and self.recording.exists() else None
        lasted = clock.now() - self._since
        counts = {name: status.counts for name, status in statuses.items() if name in self._endings}
        return Summary(self.config.session.name, lasted, self._endings, recording, counts, tuple(self._problems))

    def _stop_order(self, names: list[str]) -> list[list[str]]:
        """Return the names in groups: a group publishes to later groups only (within a cycle, together)."""
        abouts = self.client.abouts
        feeds: dict[str, set[str]] = {name: set() for name in names}
        for name in names:
            if name != ingest.NAME and ingest.NAME in names:
                feeds[name].add(ingest.NAME)  # whatever it takes in may be for anybody
        if bridge.NAME in names:
            feeds[bridge.NAME] |= {name for name in names if name != bridge.NAME}  # it announces to the last
        for giver in names:
            for taker in names:
                if giver != taker and giver in abouts and taker in abouts:
                    given, taken = abouts[giver].publishes, abouts[taker].subscribes
                    if any(topics.matches_any(taken, topic) for topic in given):
                        feeds[taker].add(giver)
        groups, left = [], list(names)
        while left:
            free = [name for name in left if not feeds[name] & set(left)] or left
            groups.append(free)
            left = [name for name in left if name not in free]
        return groups

    def _stop_group(self, names: list[str], budget: float) -> None:
        """Tell a group to stop and wait until each has said goodbye or is gone."""
        for name in names:
            if name in self._by_hand:
                self._by_hand[name][0].stop()
                continue
            self._supervisor.expect_end(self._supervisor.children[name])

        def gone(name: str) -> bool:
            child = self._supervisor.children.get(name)
            status = self.client.statuses.get(name)
            # One that says of itself that it is lost, at some time, lives: its device has been unplugged.
            said = status is not None and status.state in _GONE and (status.state is not State.LOST or not status.t)
            return said or (child is not None and not child.alive)

        def settled() -> bool:
            return all(map(gone, names)) or not self.client.connection.connected

        deadline = clock.monotonic() + budget + 2.0
        while not settled() and clock.monotonic() < deadline:
            for name in names:  # again and again: one that is just coming back from a lost connection has not heard it
                if name not in self._by_hand and not gone(name):
                    self.client.command(name, "stop")
            self.client.wait_for(settled, _STOP_AGAIN_S)
        if self.client.connection.connected:
            self._problems += [f"{name} did not finish within {budget:g} s" for name in names if not gone(name)]
        self._stop_by_hand([name for name in names if name in self._by_hand], 2.0)

    def _stop_by_hand(self, names: list[str], timeout: float) -> None:
        for name in names:
            self._by_hand[name][0].stop()
        deadline = clock.monotonic() + timeout
        for name in names:
            thread = self._by_hand.pop(name)[1]
            clock.join(thread, max(0.0, deadline - clock.monotonic()))
            self._endings[name] = "still at work" if thread.is_alive() else "stopped"

    def _stop_recorder(self) -> None:
        child = self._supervisor.children.get("recorder")
        if child is None or not child.alive or self._member is None:
            return
        self._settle_remarks()
        self._member.leave(self.client.last_numbers())
        self.client.connection.flush(2.0)
        self._supervisor.expect_end(child)
        self.client.command("recorder", "stop")
        if not clock.wait_for(child.ended, _RECORDER_SEALS_S):
            self._problems.append(f"the recorder did not finish within {_RECORDER_SEALS_S:g} s")
        elif self.recording is not None and journal_folder(self.recording).exists():
            way_out = f"nothing stored is lost, and `ether recover {shlex.quote(str(self.recording))}` finishes it"
            self._problems.append(f"{self.recording.name} is not sealed (recorder: {child.exit}): {way_out}")

    def _settle_remarks(self) -> None:
        assert self._watcher is not None
        self._watcher.join()
        self._store_remarks()
        self._problems += [f"not stored as a remark: {each.text}" for each in self._unstored.values()]

    def _settle_for_the_dead(self) -> None:
        """Send what instances of a guest left behind that died for good; those of a session its recorder takes over."""
        connection = self.client.connection
        for folder in self._outboxes():
            if folder.name == "session":
                continue
            sender = Sender(connection, folder.name, "", folder)
            self._for_the_dead.append(sender)
            sender.begin()
        deadline = clock.monotonic() + _OUTBOX_S
        for sender in self._for_the_dead:
            sender.settle(max(0.1, deadline - clock.monotonic()))
            sender.close()

    def _clear_outboxes(self) -> None:
        """Remove the folders of outboxes that are settled; name those that are not."""
        for folder in self._outboxes():
            for each in leftovers(folder):
                self._problems.append(f"{folder.name} published what is not recorded; it is kept in {each}")
            _remove_empty(folder)
        if (place := self._outbox_place()) is not None:
            _remove_empty(place)

    def _outboxes(self) -> list[Path]:
        """Return the folders of publishers that are ours to settle, one each."""
        place = self._outbox_place()
        found = leftovers(place) if place is not None else []
        ours = {*self._supervisor.children, *self._foreign_devices()}
        return [each for each in found if self.recording is not None or each.name in ours]

    def _outbox_place(self) -> Path | None:
        """Return where outboxes are that are ours to settle; None where there are none."""
        elsewhere = self._guest.recording_elsewhere if self._guest is not None else None
        recording = self.recording or elsewhere
        return outbox_folder(recording) if recording is not None else None

    def _foreign_devices(self) -> list[str]:
        return [name for name, each in list(self.client.abouts.items()) if ingest.is_device(each)]

    def _clear_retained(self) -> None:
        """Leave no ghosts: what nobody will look for, on a broker that outlives us."""
        connection = self.client.connection
        if not connection.connected:
            return
        # Not of a child that never got its orders: the name may be somebody else's.
        names = [*(name for name, child in self._supervisor.children.items() if child.orders), *self._endings]
        if ingest.NAME in names:
            names += self._foreign_devices()
        if self._member is not None:
            for topic in (topics.SESSION, topics.RUN, topics.alarm("session"), topics.alarm("recorder")):
                connection.publish(topic, b"", 1, retain=True)
        for name in dict.fromkeys(names):
            for topic in (topics.status(name), topics.about(name)):
                connection.publish(topic, b"", 1, retain=True)
        connection.flush(2.0)

    def _abort(self) -> None:
        """Stop whatever was begun, without ceremony."""
        self._closing.set()
        if self._starting is not None:
            self._starting.wait()  # a broker that is just starting has to be stopped too
        self._end_recovery()
        self._supervisor.close(3.0)
        if hasattr(self, "client"):
            self._clear_retained()
        self._release()
        if self.recording is not None:
            self._clear_outboxes()
            _remove_empty(self.recording.parent)

    def _release(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._member is not None:
            self._member.close(1.0, clear=True)
        elif self._guest is not None:
            self._guest.close()
        if self._broker is not None:
            with self._broker_lock:
                self._broker.__exit__(None, None, None)
        runtime.forget(self.id)
        logger.removeHandler(self._log_handler)
        self._log.close()


def add(host: Host, target: Any, name: str) -> Any:
    """Make `target` an instance of the session and return it."""
    host.add(target, name)
    return target


def _pickled(content: Any) -> bytes:
    """Return a pickle that holds classes of the running script by value."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        # Dataclasses compare with this object by identity, which a copy would break.
        dispatch_table: ClassVar[Any] = ChainMap(
            {type(MISSING): lambda _: "MISSING"}, cloudpickle.Pickler.dispatch_table
        )

    buffer = io.BytesIO()
    Pickler(buffer).dump(content)
    return buffer.getvalue()


def _named_in_annotations(target: type) -> dict[str, Any]:
    """Return what a class's annotations name, where they are text.

    What travels with a class by value is only what its code names.
    """
    found: dict[str, Any] = {}
    todo: list[Any] = [target]
    while todo:
        cls = todo.pop()
        for owner in (each for each in cls.__mro__ if each.__module__ == target.__module__):
            around = vars(sys.modules.get(owner.__module__, sys))
            for item in (owner, *filter(inspect.isfunction, vars(owner).values())):
                names = getattr(item, "__globals__", around)
                for text in inspect.get_annotations(item).values():
                    for name in _names_in(text) - found.keys():
                        if name in names:
                            found[name] = names[name]
                            if isinstance(found[name], type) and found[name].__module__ == target.__module__:
                                todo.append(found[name])
    return found


def _names_in(annotation: Any) -> set[str]:
    try:
        return set(compile(annotation, "annotation", "eval").co_names) if isinstance(annotation, str) else set()
    except SyntaxError:
        return set()


def _plain(url: str) -> str:
    return str(Address.parse(url))


def _outbox_orders(
    recording: Path, name: str, filters: list[str], exclude: list[str], limits: dict[str, Any] | None
) -> dict[str, Any]:
    return {"folder": str(outbox_folder(recording, name)), "topics": filters, "exclude": exclude, **(limits or {})}


def _as_orders(tls: Tls | None) -> dict[str, Any] | None:
    return None if tls is None else asdict(tls)


def _log_level() -> str:
    return os.environ.get("ETHER_LOG_LEVEL", "INFO").upper()


def _log_if_nobody_does() -> None:
    """Show ether's own log lines where the script has set up no logging of its own."""
    root = logging.getLogger()
    if not root.handlers and not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(process.FORMAT.format(name="ether"), process.DATE))
        logger.addHandler(handler)
        logger.setLevel(_log_level())


def _unused(path: Path) -> Path:
    """Return a path that no recording has yet: two sessions may start in the same second."""
    found, number = path, 1
    while is_taken(found) or journal_folder(found).exists():
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # something else is in it, or it was never made


def _not_yet(config: Config) -> list[str]:
    """Return a line for each key that is read and checked but has no effect in this version."""
    found = []
    for key, instance in config.instances.items():
        if instance.host is not None:
            found.append(
                f"{config.where('instances', key, 'host')}: started on this machine; this version has no agents"
            )
    return found


class _LogToFile(logging.Handler):
    """Enters what ether logs in this process into the session's log."""

    def __init__(self, log: SessionLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "ether.log":  # which says that it cannot be written
            self._log.say(record.levelname, self.format(record))


class _Later:
    """A function's result, worked out in a thread."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._future: Future[Any] = Future()
        threading.Thread(target=self._work, args=(function, *arguments), name=function.__name__, daemon=True).start()

    def _work(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._future.set_result(function(*arguments))
        except BaseException as exc:  # noqa: BLE001 - raised again by `result`
            self._future.set_exception(exc)

    def result(self) -> Any:
        return self._future.result()

    def wait(self) -> None:
        """Wait until it is done, whatever came of it."""
        self._future.exception()


def provenance_of(config: Config) -> dict[str, Any]:
    """Return what tells later how this came to be; secrets are redacted by the configuration itself."""
    return {
        "config": config.safe_text,
        "config_path": None if config.path is None else str(config.path),
        "resolved": config.resolved(),
        "command_line": sys.argv,
        "cwd": str(Path.cwd()),
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "user": runtime.user(),
        "packages": _packages(),
        "git": _git(),
        "sources": _sources(config),
    }


def _sources(config: Config) -> dict[str, dict[str, str]]:
    """Return the files that hold the instances' classes, by their checksum."""
    found = {}
    for path in {instance.class_path for instance in config.instances.values()}:
        source = source_of(config.classes.get(path) or load_class(path))
        if source is not None:
            text = source[1][:_SOURCE_BYTES].decode(errors="replace")
            found[f"sha256:{sha256(source[1]).hexdigest()}"] = {"file": str(source[0]), "text": text}
    for profile in {each.file for each in config.sources if each.file is not None}:
        content = profile.read_bytes()
        text = content[:_SOURCE_BYTES].decode(errors="replace")
        found[f"sha256:{sha256(content).hexdigest()}"] = {"file": str(profile), "text": text}
    return found


def _packages() -> dict[str, str]:
    """Return the installed distributions, name to version."""
    found = (each.metadata for each in metadata.distributions())  # once each: it reads and parses a file
    return dict(sorted((str(each["Name"]), str(each["Version"])) for each in found if each["Name"]))


def _git() -> dict[str, Any] | None:
    """Return commit, whether the work tree differs from it, and how; None outside a repository."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        status = ask("status", "--porcelain")
        return {"commit": commit, "dirty": bool(status), "diff": ask("diff", "HEAD")[:1_000_000] if status else ""}
    except (OSError, subprocess.SubprocessError):
        return None
