"""Host: the process that began a session: its broker, recorder and instances, from the first start to the last stop."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import shlex
import socket
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import asdict
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import ether as package
from ether import brokers, clock, codecs, ghosts, log, parcel, process, runtime, topics
from ether.address import Address
from ether.alarms import Alarms
from ether.answers import Answers
from ether.client import LOG, MEMBERS, PROCESSES, Client
from ether.component import Component, check, load_class, registry_marks
from ether.config import Config
from ether.config import Instance as InstanceConfig
from ether.errors import (
    ConfigError,
    EtherError,
    PayloadError,
    PreflightError,
    SessionError,
    StartError,
    suggest,
)
from ether.expect import Expectations
from ether.foreign import bridge, ingest
from ether.guest import Guest, tls_of
from ether.instance import Instance
from ether.log import Line, SessionLog
from ether.member import LOST_CONNECTION, Member, new_boot
from ether.metrics import Metrics
from ether.model import GONE, About, Message, State, Status, Summary
from ether.mqtt import BrokerLimits, Connection, Receipt, Tls
from ether.provenance import provenance_of
from ether.safety import Safety
from ether.session_broker import SessionBroker
from ether.storage import Storage
from ether.supervisor import OURS, Child, Launcher, ProcessState, Restart, Supervisor
from ether.wiring import Wiring, stop_order

__all__ = ["Host", "add"]

logger = logging.getLogger("ether")

_STOP_AGAIN_S = 1.0
_WILL_S = 1.0
_AT_WORK = (State.READY, State.ALERT, State.SLEEPING)
_RECORDER_SEALS_S = 120.0
_RECORDER_PATIENCE_S = 2.0
_OURS_BY_NAME = ("session", "recorder", ingest.NAME, bridge.NAME)


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
        self.client: Client
        self._guest = guest
        self._boot = new_boot()
        self._broker: SessionBroker | None = None
        self._starting: _Later | None = None
        self._member: Member | None = None
        self._log: SessionLog
        self._log_handler: log.Entering
        self._logged: dict[str, State | None] = {}
        """Members, by the state that the log names last."""
        self._supervisor = Supervisor(
            self._child_ended, self._child_gone, self._child_again, self._child_said,
            pass_on=process.DETACHED not in os.environ, launcher=launcher,
        )  # fmt: skip
        self._connect_by = connect
        self._by_hand: dict[str, tuple[Instance, threading.Thread]] = {}
        self._metrics: Metrics | None = None
        self._endings: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._problems: list[str] = []
        self._late: list[str] = []
        """Who did not finish when told to stop."""
        self._since = clock.now()
        self._closing = threading.Event()
        self._ordering = threading.RLock()
        """Held by whoever starts or stops instances."""
        self._answers: Answers
        self._critical = {name for name, (_, each) in config.named().items() if each.critical}
        self._expected = Expectations(config.expect) if config.expect else None
        self._alarms: Alarms | None = None
        self._safety = Safety(launcher)
        self._namespace = guest.namespace if guest else config.session.namespace
        self._storage = Storage(config, guest)

    @property
    def _limits(self) -> BrokerLimits:
        """What the broker takes of a client, as far as it is known."""
        if self._broker is not None:
            return self._broker.limits
        return BrokerLimits() if self._guest is None else self._guest.connection.limits

    @property
    def _drops(self) -> brokers.Drops | None:
        return None if self._broker is None else self._broker.drops

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
        self._log_handler = log.Entering(self._log)
        logger.addHandler(self._log_handler)
        wanted = {name: each for name, each in self.config.named().items() if each[1].autorun}
        self._starting = _Later(self._start_broker)  # the longest step first, and the others beside it
        waiting = {name: self._spawn(name, each) for name, (_, each) in wanted.items()}
        recorder = None
        if self._guest is None and self.config.record is not None:
            recorder = self._supervisor.spawn("recorder", "ether.recorder.ingest", OURS)
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
        self._storage.recover_the_killed(_log_level())
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
            if self._guest is not None and known is not None and known.state not in GONE:
                session = self.config.session.name
                raise SessionError(
                    f"the session {session!r} runs already, and has an instance {name!r}; `ether down --session "
                    f"{session}` ends it, another `session.name` begins one beside it"
                )

    def _spawn(self, name: str, instance: InstanceConfig) -> Child:
        given = instance.restart
        policy = Restart(given.policy, given.max, given.within, (given.backoff[0], given.backoff[1]))
        return self._supervisor.spawn(name, "ether.session", policy)

    def _spawn_conveyors(self) -> dict[str, Child]:
        """Start the processes that speak other conventions than ours."""
        wanted = {ingest.NAME: bool(self.config.ingest), bridge.NAME: self.config.bridge is not None}
        return {
            name: self._supervisor.spawn(name, f"ether.foreign.{name}", OURS) for name, each in wanted.items() if each
        }

    def _conveyor_orders(self, name: str, url: str) -> dict[str, Any]:
        return {
            "url": url,
            "tls": _as_orders(tls_of(self.config)),
            "namespace": self._namespace,
            "log_level": _log_level(),
            "limits": asdict(self._limits),
            "start_timeout": self.config.session.start_timeout,
            "recorded": self.config.record is not None and self._guest is None,
            "outbox": self._storage.orders(name),
            "bridge": None if self.config.bridge is None else self.config.bridge.model_dump(mode="json"),
            "sources": [each.model_dump(mode="json") for each in self.config.sources],
            "taken": [*_OURS_BY_NAME, *self.config.named()],
        }

    def _start_broker(self) -> str:
        if self._guest is not None:
            self._url = self._guest.url
            return self._url
        self._broker = SessionBroker(self.config, self._closing, self._broker_said, self._broker_failed)
        self._url = self._broker.start()
        return self._url

    def _broker_said(self, lines: list[str]) -> None:
        self._log.hear("broker", None, "stderr", lines)

    def _broker_failed(self, problem: str) -> None:
        self._problems.append(problem)
        logger.error("%s; the session ends", problem)
        self.on_stop_asked()

    def _connect(self, url: str) -> None:
        tls = tls_of(self.config)
        if self._guest is not None:
            self.client = self._guest.client
            self.client.on_change = self._status_changed
            self.client.connection.on_down = lambda reason: self.client.poke()
            return
        member = self._member = self._new_member("session", boot=self._boot)
        member.connection.limits = self._limits
        self.client = Client(member.connection, member.publisher)
        self.client.on_change = self._status_changed
        member.on_message = self._receive
        member.connection.on_down = lambda reason: self.client.poke()
        member.connection.subscribe([topics.command("session", "+"), topics.call("session", "+")])
        member.connection.subscribe([topics.log("+")], qos=0)
        if self._expected is not None:
            member.connection.subscribe(list(self.config.expect), qos=0)
        if self._drops is not None:
            member.connection.subscribe([brokers.DROPPED], qos=0)
        self._answers = Answers(member.connection, "session")
        self._alarms = Alarms(self.client, self._closing, self._expected, self._drops, self._supervisor.children)
        member.on_up = lambda present: self._announce()
        if self._broker is not None and self._broker.kind == "external":
            self._refuse_second_session(url, tls)
        member.open()
        self._describe(member)
        self.client.watch()
        self._remember(url)

    def _new_member(self, name: str, **options: Any) -> Member:
        tls = tls_of(self.config)
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
        lives = other is not None and other.state not in GONE and guest.client.lives("session")
        guest.close()
        if other is not None and lives:
            raise SessionError(
                f"a session runs already at {Address.parse(url)} (process {other.pid} on {other.host}); "
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
            "broker": {
                "url": str(Address.parse(self._url)),
                "kind": self._broker.kind,
                "why": self._broker.why,
                "limits": asdict(self._limits),
            },
            "recording": None if self._storage.recording is None else str(self._storage.recording),
        }
        self._member.connection.publish(topics.SESSION, codecs.encode(content), 1, retain=True)

    def _recorder_orders(self, url: str, provenance: dict[str, Any]) -> dict[str, Any]:
        record = self.config.record
        assert record is not None
        name = record.file_for(self.config.session.name, clock.compact(self._since))
        path = self._storage.begin(name)
        self._announce()
        if self._member is not None:
            self._member.publisher.keep_by(self._storage.orders("session"))
            self._describe(self._member)
        return {
            "name": "recorder",
            "url": url,
            "tls": _as_orders(tls_of(self.config)),
            "namespace": self._namespace,
            "limits": asdict(self._limits),
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

    def _orders(self, name: str, key: str, instance: InstanceConfig, url: str) -> dict[str, Any]:
        entry = self.config.registry.get(instance.class_path)
        if Component.of(self._class_of(instance), registry_marks(entry.methods if entry else {})).hooks("safe"):
            self._safety.learn(name, instance.health.safe_within)
        shown = self.config.resolved()["instances"][key]
        orders: dict[str, Any] = {
            "name": name,
            "url": url,
            "tls": _as_orders(tls_of(self.config)),
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
            "outbox": self._storage.orders(name),
            "recorded": self.config.record is not None and self._guest is None,
            "limits": asdict(self._limits),
            "started": self.started,
            "start_timeout": self.config.session.start_timeout,
            "drain_timeout": self.config.session.stop_timeout,
            "hang_after": instance.health.hang_after,
            "restart_hung": instance.health.on_hang == "restart",
            "reload": self.config.session.reload,
        }
        if self._needs_parcel(instance):
            orders |= {"pickled": self._parcel(name, instance), "args": [], "kwargs": {}}
        return orders

    def _needs_parcel(self, instance: InstanceConfig) -> bool:
        return parcel.is_needed(self._class_of(instance), instance.args, instance.kwargs)

    def _parcel(self, name: str, instance: InstanceConfig) -> str:
        try:
            return parcel.pack(self._class_of(instance), instance.class_path, instance.args, instance.kwargs)
        except Exception as exc:
            raise StartError(
                {name: f"{instance.class_path} or its arguments cannot go to another process: {exc}; "
                 "put the class into a module of its own"}
            ) from exc  # fmt: skip

    def _class_of(self, instance: InstanceConfig) -> type:
        return self.config.classes.get(instance.class_path) or load_class(instance.class_path)

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
                again = name in self._supervisor.children
                child = self._spawn(name, declared[name][1])
                orders = self._orders(name, *declared[name], url=self._url)
                self._supervisor.give_orders(child, orders | (self._set_before(name) if again else {}))
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
            for group in stop_order(running, self.client.abouts, ingest.NAME, bridge.NAME):
                found |= self._stop_now(group, safe)
            for name in names:
                if safe and name not in running:
                    self._make_safe(self._child(name))
            if unsafe := [self._safety.failed[name] for name in names if safe and name in self._safety.failed]:
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
        return self._safety.knows(self._child(name).name)

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
                self._safety.wait(child)
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
                self._safety.fail(name)
        return found

    def _tell_to_stop(self, child: Child, safe: bool) -> None:
        status = self.client.statuses.get(child.name)
        if status is not None and status.state in _AT_WORK and self.client.connection.connected:
            self.client.command(child.name, "stop", safe=safe)
        elif child.popen is not None:  # it does not listen (yet)
            child.popen.terminate()

    def add(self, target: Any, name: str) -> None:
        """Make an object of this process an instance, with a thread that runs its handlers."""
        if name in self.client.statuses and self.client.statuses[name].state not in GONE:
            raise SessionError(f"an instance is called {name!r} already; choose another name")
        component = Component.of(type(target))
        member = self._new_member(name)
        member.connection.limits = self._limits
        member.publisher.keep_by(self._storage.orders(name))
        instance = Instance(component, target, member, drain_timeout=self.config.session.stop_timeout)
        member.open()
        instance.open()
        if not instance.init():
            detail = member.detail
            instance.release()
            instance.close()
            raise StartError({name: detail})
        if self.started:
            instance.start()

        def live() -> None:
            instance.run()
            instance.close()

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
        if self._broker is not None and (facts := self._broker.facts()) is not None:
            found["broker"] = facts
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
            asked, reply_to = str(fields.get("id", "")), str(fields.get("reply_to", ""))
            if not self._answers.repeats(asked, reply_to):
                work = partial(self._carry_out, reserved, fields)
                clock.thread(self._answers.give, asked, reply_to, reserved.verb, work, name=reserved.verb)

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
        """A child is started again."""
        child.orders |= self._set_before(child.name)

    def _set_before(self, name: str) -> dict[str, Any]:
        """Return, as part of the orders, the parameters that people set: they outlive an instance's process."""
        about = self.client.abouts.get(name)
        known = about.params if about is not None else {}
        found = {each: (one["value"], one["by"], one.get("t")) for each, one in known.items() if "by" in one}
        return {"set_params": found}

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
        self._safety.make(child)
        if child.name in self._safety.failed:
            self._problems.append(self._safety.failed[child.name])

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
        for group in stop_order(names, self.client.abouts, ingest.NAME, bridge.NAME):
            if connection.connected:
                self._stop_group(group, budget)
        told = connection.connected
        if told:
            self._kill(False, self._late)  # before the recorder, so that it takes what they have left
        if told and self._guest is not None:
            self._storage.settle_for_the_dead(connection, self._publishers())
        for topic in self._expected.never_came() if self._expected is not None and self.started else ():
            self._problems.append(f"{topic} is required, and nothing came")
        if told:
            self._stop_recorder()
        else:
            self._problems.append("the broker is gone; instances could not be told to finish")
            self._stop_by_hand(list(self._by_hand), budget)
        self._storage.end_recovery()
        self._kill(told)
        for name, child in self._supervisor.children.items():
            if self._safety.knows(name):
                self._safety.wait(child)
        statuses = dict(self.client.statuses)
        self._clear_retained()
        self._release()
        self._problems += self._storage.clear(self._publishers())
        for name, child in self._supervisor.children.items():
            self._endings.setdefault(name, child.exit or "stopped")
        for problem in self._problems:
            logger.warning("%s", problem)
        recording = self._storage.recording
        recording = recording if recording is not None and recording.exists() else None
        lasted = clock.now() - self._since
        counts = {name: status.counts for name, status in statuses.items() if name in self._endings}
        return Summary(self.config.session.name, lasted, self._endings, recording, counts, tuple(self._problems))

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
            said = status is not None and status.state in GONE and (status.state is not State.LOST or not status.t)
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
            late = [name for name in names if not gone(name)]
            self._late += late
            self._problems += [f"{name} did not finish within {budget:g} s" for name in late]
        self._stop_by_hand([name for name in names if name in self._by_hand], 2.0)

    def _kill(self, told: bool, only: Collection[str] | None = None) -> None:
        """End the processes of instances that are still there, whatever it takes, and let their last wills pass."""
        before = self.client.losses.copy()
        killed = self._supervisor.close(2.0, told, only)
        self._problems += [f"{name} did not stop by itself and was killed" for name in killed]
        if self.client.connection.connected:  # a will that came after all was cleared would stay
            self.client.wait_for(lambda: all(self.client.losses[each] > before[each] for each in killed), _WILL_S)

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
        assert self._alarms is not None
        self._problems += [f"not stored as a remark: {each}" for each in self._alarms.settle()]
        self._member.leave()
        self.client.connection.flush(2.0)
        self._supervisor.expect_end(child)
        deadline = clock.monotonic() + _RECORDER_SEALS_S
        while not child.ended.is_set() and clock.monotonic() < deadline:
            self.client.command("recorder", "stop")  # again: one that is just coming back has not heard it
            clock.wait_for(child.ended, _STOP_AGAIN_S)
        if not child.ended.is_set():
            self._problems.append(f"the recorder did not finish within {_RECORDER_SEALS_S:g} s")
        elif (recording := self._storage.recording) is not None and not self._storage.sealed:
            way_out = f"nothing stored is lost, and `ether recover {shlex.quote(str(recording))}` finishes it"
            self._problems.append(f"{recording.name} is not sealed (recorder: {child.exit}): {way_out}")

    def _publishers(self) -> set[str]:
        return {*self._supervisor.children, *self._foreign_devices()}

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
        self._storage.end_recovery()
        self._supervisor.close(3.0)
        if hasattr(self, "client"):
            self._clear_retained()
        self._release()
        if self._storage.recording is not None:
            self._problems += self._storage.clear(self._publishers())
            self._storage.forget()

    def _release(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._member is not None:
            self._member.close(1.0, clear=True)
        elif self._guest is not None:
            self._guest.close()
        if self._broker is not None:
            self._broker.close()
        runtime.forget(self.id)
        logger.removeHandler(self._log_handler)
        self._log.close()


def add(host: Host, target: Any, name: str) -> Any:
    """Make `target` an instance of the session and return it."""
    host.add(target, name)
    return target


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


def _not_yet(config: Config) -> list[str]:
    """Return a line for each key that is read and checked but has no effect in this version."""
    found = []
    for key, instance in config.instances.items():
        if instance.host is not None:
            found.append(
                f"{config.where('instances', key, 'host')}: started on this machine; this version has no agents"
            )
    return found


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
