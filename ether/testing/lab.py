"""Lab: a whole session in this process, on a clock that the test drives.

The host, its supervisor, members, instances and connections are those of a real session; in the place of processes
stand threads that run one at a time, in that of the broker `MemoryBroker`.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from ether import clock, codecs, process, topics
from ether.client import Client, InstanceInfo
from ether.component import Component, bind, load_class, registry_marks
from ether.config import Config
from ether.config import Instance as InstanceConfig
from ether.errors import PayloadError, SessionError, suggest
from ether.host import Host
from ether.instance import Instance, make_safe
from ether.journal import Journal
from ether.log import SessionLog
from ether.member import Member
from ether.model import Message, Reading, State, Summary
from ether.mqtt import BrokerLimits, Receipt
from ether.recorder import seal
from ether.recorder.entries import Kind, journal_folder
from ether.recorder.ingest import Ingest
from ether.recorder.reader import Recording, open_recording
from ether.session import Ether, ether, make_instance
from ether.supervisor import Child
from ether.testing.fake_clock import FakeClock
from ether.testing.memory_broker import MemoryBroker, MemoryConnection

__all__ = ["Lab"]

logger = logging.getLogger("ether")

_DISK_S = 60.0
_URL = "mqtt://memory"
_KILLED = -int(getattr(signal, "SIGKILL", signal.SIGTERM))


class Lab:
    """A session in one process. Use it in a ``with`` block; `ether.ether` is in its session meanwhile.

    Time stands still until the test lets it pass, by `advance`, `wait_for`, or a call that waits.
    """

    def __init__(
        self, config: Config | Mapping[str, Any] | str | Path | None = None, *, patience_s: float = 30.0
    ) -> None:
        """Prepare; the session begins with the ``with`` block, or with `tap`.

        Args:
            config: as of `ether.tap`; ``broker:``, ``record:`` and what speaks with foreign devices are left out of
                account.
            patience_s: real seconds that a method may take; then `Stuck` says where it stands.
        """
        self.clock = FakeClock(patience_s=patience_s)
        self.broker = MemoryBroker(self.clock)
        self.summary: Summary | None = None
        """What the session was, once it has ended."""
        self._config = config
        self._host: _Host | None = None
        self._processes: dict[str, _InProcess] = {}
        self._pids = count(1)
        self._cut: set[str] = set()
        self._messages: list[tuple[Message, int, int]] = []
        """What was published, and when, on both clocks, in ns."""
        self._entered = False
        self._ours = vars(ether)
        self._open = ExitStack()

    # --- begin and end

    def __enter__(self) -> Lab:
        if ether.tapped:
            raise SessionError("this process is in a session already; end that one first, by ether.shutdown()")
        self._open.enter_context(self.clock.installed())
        self._entered = True
        self.clock.on_turn = self._turn_of
        try:
            return self.tap(self._config) if self._config is not None else self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self.close()

    def tap(self, config: Config | Mapping[str, Any] | str | Path | None = None) -> Lab:
        """Begin the session; returns when all its instances are ready.

        Raises:
            ConfigError, StartError: as `ether.tap`.
        """
        if not self._entered:
            raise SessionError("use the lab in a `with` block: `with Lab() as lab:`")
        if self._host is not None:
            raise SessionError("the lab has begun its session already")
        host = self._host = _Host(Config.load(config, ["record=off", "metrics=null"]), self)
        try:
            host.open()
        except BaseException:
            self._host = None
            raise
        host.on_stop_asked = self._stop_asked
        ether._attach(host.client, host)  # noqa: SLF001 - what `ether.tap` does
        return self

    def start(self) -> None:
        """Begin sampling and run the `ether_start` hooks, as `ether.start`."""
        ether.start()
        self.settle()

    def shutdown(self) -> Summary:
        """End the session in order, and return what it was."""
        self._shut_down()
        if self.summary is None:
            raise SessionError("the lab has not begun a session")
        return self.summary

    def close(self) -> None:
        """End the session, if it has not ended, and give the real clock back."""
        try:
            self._shut_down()
        finally:
            self.clock.close()
            vars(ether).update(Ether().__dict__)
            self._open.close()

    def _stop_asked(self) -> None:
        clock.thread(self._shut_down, name="shutdown")

    def _shut_down(self) -> None:
        if self._host is not None and ether.tapped:
            self.summary = ether.shutdown()

    # --- time

    def advance(self, seconds: float) -> None:
        """Let so much time pass; everything that is due meanwhile happens, in its order."""
        self.clock.advance(seconds)

    def settle(self) -> None:
        """Let happen what is due now; no time passes."""
        self.clock.settle()

    def wait_for(self, condition: Callable[[], Any], timeout: float = 60.0) -> None:
        """Let time pass until a condition holds.

        Raises:
            TimeoutError: it does not within `timeout` seconds of the lab's time.
        """
        if not self.clock.drive(lambda: bool(condition()), timeout):
            raise TimeoutError(f"not within {timeout:g} s of the lab's time")

    @property
    def now(self) -> float:
        """The lab's Unix time, in seconds."""
        return self.clock.now()

    # --- data and calls

    def publish(self, topic: str, value: Any = None, *, qos: int = 1, retain: bool = False, raw: bool = False) -> None:
        """Publish a value, and let happen what follows at once.

        Args:
            value: as of `ether.pub`.
            raw: it is the bytes of the payload, as from a device that knows nothing of ether.
        """
        if raw:
            self._need().client.connection.publish(topic, value, qos, retain)
        else:
            ether.pub(value, topic, qos=qos, retain=retain)
        self.settle()

    def messages(self, topic_filter: str = "#") -> list[Reading]:
        """Return the readings that were published so far, in their order; by default all but ether's own."""
        own = not topics.is_reserved(topic_filter)
        found = []
        for message, _, _ in self._messages:
            if topics.matches(topic_filter, message.topic) and not (own and topics.is_reserved(message.topic)):
                found += _readings(message)
        return found

    def record(self, path: str | Path) -> Recording:
        """Write what was published so far to a file, as the recorder would have, and open it.

        It is complete once the session has ended, as then every publisher has said its last number.

        Raises:
            SessionError: there is such a file.
        """
        target = Path(path).absolute()
        if target.exists():
            raise SessionError(f"{target} is there already; choose another name")
        host = self._need()
        nothing: Any = lambda *given: None  # noqa: E731 - nobody waits for confirmations
        ingest = Ingest(wanted=["#"], exclude=[], acknowledge=nothing, confirm=nothing, stop=nothing)
        stamps = list(self._messages[0][1:])

        def stamp(which: int) -> int:
            return stamps[which]

        with (
            Journal(journal_folder(target)) as journal,
            mock.patch.object(clock, "now_ns", partial(stamp, 0)),
            mock.patch.object(clock, "monotonic_ns", partial(stamp, 1)),
        ):
            session = {"id": host.id, "name": host.config.session.name}
            ingest.write(Kind.SESSION, {"session": session, "provenance": {"config": host.config.safe_text}})
            ingest.start(journal)
            for message, stamps[0], stamps[1] in self._messages:
                if message.payload or not topics.is_reserved(message.topic):  # else cleared behind a recorder's back
                    ingest.take(message, None)
            ingest.close("stop", _DISK_S)
        seal.recover(target)
        return open_recording(target)

    def call(self, target: str, method: str, /, **arguments: Any) -> Any:
        """Call a method of an instance and return its result, or raise CallError, as `ether.get`."""
        return ether.get(target, method, arguments)

    # --- instances

    def __getitem__(self, name: str) -> Any:
        """Return the object of the user's class that an instance runs on."""
        return self._instance(name).target

    def add(self, target: Any, name: str | None = None) -> Any:
        """Make an object of the test's an instance of the session, as `ether.add`."""
        return ether.add(target, name)

    def instances(self) -> dict[str, InstanceInfo]:
        """Return what is known of every instance, by name, as `ether.instances`."""
        return ether.instances()

    def state(self, name: str) -> str:
        """Return what an instance says of itself, or what is said of it: ``ready``, ``alert``, ``lost`` …"""
        found = ether.instances()
        if name not in found:
            raise SessionError(f"no instance {name!r}{suggest(name, found)}")
        return str(found[name].state)

    def crash(self, name: str, code: int = _KILLED) -> None:
        """End the process of an instance at once, in whatever it is doing, as ``kill -9`` does.

        Args:
            code: its exit code; negative for a signal.
        """
        self._process(name).end(code)
        self.settle()

    def cut_network(self, name: str) -> None:
        """Take the network from an instance, or from ``session``, until `restore_network`; both ends notice at once."""
        self._cut.add(name)
        self._connection(name).cut()
        self.settle()

    def restore_network(self, name: str) -> None:
        """Give it back; the connection is there again within seconds, as after any loss."""
        self._cut.discard(name)
        self._connection(name).restore()

    # --- inner

    def _need(self) -> _Host:
        if self._host is None:
            raise SessionError("the lab has no session yet: call tap(config) first")
        return self._host

    def _process(self, name: str) -> _InProcess:
        if name not in self._processes:
            raise SessionError(f"{name!r} is no process of the lab{suggest(name, self._processes)}")
        return self._processes[name]

    def _instance(self, name: str) -> Instance:
        by_hand = self._need().by_hand(name)
        found = by_hand or self._process(name).instance
        if found is None:
            raise SessionError(f"{name} does not run; it is {self.state(name)}")
        return found

    def _connection(self, name: str) -> MemoryConnection:
        if name == "session":
            found: Any = self._need().client.connection
        else:
            by_hand = self._need().by_hand(name)
            member = by_hand.member if by_hand is not None else self._process(name).member
            if member is None:
                raise SessionError(f"{name} has no connection yet")
            found = member.connection
        connection: MemoryConnection = found
        return connection

    def _turn_of(self, belongs_to: object) -> None:
        """`ether.ether` is the hold of whoever has the turn, as if it were a process of its own."""
        ether.__dict__ = belongs_to.hold.__dict__ if isinstance(belongs_to, _InProcess) else self._ours

    def note(self, message: Message) -> None:
        """Keep what was published."""
        if not message.retain:
            self._messages.append((message, clock.now_ns(), clock.monotonic_ns()))

    # as a launcher of processes

    def spawn(self, module: str, name: str, *, heard: bool = False) -> Any:
        """Stands for `process.spawn`."""
        made = _InProcess(self, name, next(self._pids))
        if not name.endswith("-safe"):
            self._processes[name] = made
        return made

    def give_orders(self, child: Any, content: dict[str, Any]) -> None:
        """Stands for `process.give_orders`."""
        child.begin(content)

    def load(self, class_path: str) -> type:
        """Return a class that the configuration names, or gave."""
        return self._need().config.classes.get(class_path) or load_class(class_path)

    def connect_as(self, name: str) -> Callable[..., MemoryConnection]:
        """Return what makes the connection of an instance."""

        def connect(url: str, **options: Any) -> MemoryConnection:
            made = self.broker.connection(url, **options)
            if name in self._cut:
                made.cut()
            return made

        return connect


class _Host(Host):
    """The host of a session whose processes are none."""

    def __init__(self, config: Config, lab: Lab) -> None:
        super().__init__(config, launcher=lab, connect=lab.broker.connection)
        self._lab = lab

    def by_hand(self, name: str) -> Instance | None:
        """Return an instance that was added by hand; None where it was not."""
        found = self._by_hand.get(name)
        return None if found is None else found[0]

    def _start_broker(self) -> str:
        self._broker = _Backend()  # type: ignore[assignment]  # as much of one as a host needs
        self._url = _URL
        return _URL

    def _connect(self, url: str) -> None:
        super()._connect(url)
        self.client.connection.subscribe(["#"])

    def _remember(self, url: str) -> None:
        """Nobody else can join."""

    def _new_log(self) -> SessionLog:
        return SessionLog(self.config.session.name, self.id, self.config.named(), on_disk=False)

    def _spawn_conveyors(self) -> dict[str, Child]:
        """Nobody converts foreign topics; a test publishes what comes of them."""
        return {}

    def _stop_recorder(self) -> None:
        assert self._member is not None
        self._member.leave()

    def _needs_parcel(self, instance: InstanceConfig) -> bool:
        return False

    def _spawn(self, name: str, instance: InstanceConfig) -> Child:
        child = super()._spawn(name, instance)
        child.restart = replace(child.restart, jitter=0.0)
        return child

    def _receive(self, message: Message, receipt: Receipt | None) -> None:
        self._lab.note(message)
        super()._receive(message, receipt)


class _Backend:
    """What a host knows of its broker."""

    kind = "memory"
    why = "in a test"
    url = _URL
    temporary_folder = None
    limits = BrokerLimits()
    drops = None

    def facts(self) -> None:
        """It is no process."""

    def close(self) -> None:
        """It ends with the lab."""


class _InProcess:
    """Stands for the process of an instance: as much of a Popen as its supervisor uses, and `ether.session.main`."""

    stdin = None
    stdout = None
    stderr = None

    def __init__(self, lab: Lab, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.hold = Ether()
        self.member: Member | None = None
        self.instance: Instance | None = None
        self.returncode: int | None = None
        self._lab = lab
        self._ended = threading.Event()

    def begin(self, orders: dict[str, Any]) -> None:
        with self._lab.clock.belonging_to(self):
            clock.thread(self._run, orders, name=f"instance {self.name}")

    # as a Popen

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not clock.wait_for(self._ended, float("inf") if timeout is None else timeout):
            raise subprocess.TimeoutExpired(self.name, timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        if self.instance is not None:
            self.instance.stop("told by a signal")
        else:
            self.end(-signal.SIGTERM)

    def kill(self) -> None:
        self.end(_KILLED)

    def send_signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.terminate()
        else:
            self.end(-number)

    def communicate(self) -> None:
        """It says nothing."""

    def end(self, code: int) -> None:
        """End at once, without a goodbye."""
        if self.returncode is not None:
            return
        self.returncode = code
        if self.member is not None:
            connection: Any = self.member.connection
            connection.vanish()
        self._lab.clock.soon(self._bury)

    def _bury(self) -> None:
        self._lab.clock.kill(self)
        self._ended.set()

    # what runs in it

    def _run(self, orders: dict[str, Any]) -> None:
        try:
            code = self._live(orders)
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except Exception:
            logger.exception("%s: ended", self.name)
            code = 1
        self.returncode = code
        self._lab.clock.soon(self._bury)

    def _live(self, orders: dict[str, Any]) -> int:
        load = self._lab.load
        if orders.get("only_safe"):
            cls = load(orders["class_path"])
            args, kwargs = bind(cls, orders["args"], orders["kwargs"])
            make_safe(Component.of(cls, registry_marks(orders["marks"])), cls(*args, **kwargs))
            return 0
        connect = self._lab.connect_as(self.name)
        member = self.member = Member(_URL, self.name, namespace=orders["namespace"], connect=connect)
        client = Client(member.connection, member.publisher)
        member.on_message = lambda message, receipt: client.take(message)
        member.on_up = lambda present: client.renew_runs()
        member.open(orders["start_timeout"])
        self.hold._attach(client)  # noqa: SLF001 - what `ether.session.main` does
        try:
            instance = self.instance = make_instance(orders, member, client, load)
            if (hang_after := orders["hang_after"]) is not None:
                instance.watch(hang_after, partial(self._end_hung, member) if orders["restart_hung"] else None)
            instance.open()
        except (Exception, SystemExit) as exc:
            logger.error("%s: cannot start: %s: %s", self.name, type(exc).__name__, exc, exc_info=exc)
            trace = "".join(traceback.format_exception(exc))
            member.set_status(State.LOST, f"{type(exc).__name__}: {exc}\n{trace}")
            member.close(2.0)
            return 1
        if instance.init() and orders["started"]:
            instance.start()
        instance.run()
        instance.close()
        if instance.unsafe:
            return 1
        return process.RESTART_CODE if instance.restart_asked else 0

    def _end_hung(self, member: Member, detail: str) -> None:
        member.set_status(State.LOST, detail)
        member.connection.flush(1.0)
        self.end(process.HUNG_CODE)


def _readings(message: Message) -> list[Reading]:
    """Return what a message holds: one reading, or those of a batch; none where it is damaged."""
    try:
        fields, envelope = codecs.decode(message.payload)
    except PayloadError:
        return []
    if envelope is None:
        return [Reading(message.topic, fields)]
    parts = codecs.unpack(fields, envelope) if envelope.k is not None else [(fields, envelope)]
    return [
        Reading(
            message.topic, each, facts.t if isinstance(facts.t, int | float) else None, facts.n, facts.by, facts.b,
            facts.replay,
        )
        for each, facts in parts
    ]  # fmt: skip
