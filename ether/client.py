"""Client: what any process that has tapped in can do: publish, listen, call, annotate, and see who lives."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

from ether import clock, codecs, topics
from ether.errors import CallError, CallTimeout, PayloadError, SessionError
from ether.member import LOST_CONNECTION, read_about, read_status
from ether.model import GONE, About, Annotation, Message, Reading, Run, State, Status
from ether.mqtt import Connection
from ether.outbox import RECORDER
from ether.publisher import Publisher

__all__ = [
    "CALL_TIMEOUT_S",
    "LOG",
    "MEMBERS",
    "PROCESSES",
    "Client",
    "InstanceInfo",
    "Subscription",
    "read_run",
    "tag_tuple",
]

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0
PROCESSES = "processes"
"""The call by which a session tells what it knows of its processes."""
MEMBERS = "members"
"""The call by which a session tells what it has seen of the members."""
LOG = "log"
"""The call by which a session tells its last log lines; ``after`` is the ``next`` of an earlier answer."""
_ASK_AGAIN_S = 2.0
_ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """What is known of one instance."""

    name: str
    state: State
    detail: str = ""
    class_name: str = ""
    pid: int | None = None
    host: str = ""
    boot: str = ""
    counts: Mapping[str, float] | None = None
    process: str = ""
    """What its supervisor sees (``running``, ``exited`` …); empty where it has another one."""
    about: About | None = None
    heard_at: float = 0.0
    """When its status came last, on the monotonic clock."""


class Subscription:
    """A callback on a topic filter; `stop` ends it."""

    def __init__(self, client: Client, topic_filter: str, callback: Callable[[Reading], None]) -> None:
        self.topic_filter = topic_filter
        self.callback = callback
        self._client = client

    def stop(self) -> None:
        self._client.unsubscribe(self)


class _Answer(Future[Any]):
    """What somebody will answer; waits by `ether.clock`."""

    def result(self, timeout: float | None = None) -> Any:
        """Return it, or raise what was answered; TimeoutError after `timeout` seconds."""

        def sleep(seconds: float) -> None:
            with contextlib.suppress(FutureTimeout, CancelledError):
                self.exception(seconds)

        clock.wait(self.done, sleep, math.inf if timeout is None else timeout)
        return super().result(0)


@dataclass(slots=True)
class _Pending:
    future: Future[Any]
    target: str
    boot: str
    topic: str
    request: bytes


class Client:
    """One process's hold on the system, over a connection that somebody else opens and closes."""

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        """Stand on a connection; its owner hands each message to `take`.

        Args:
            connection: opened or not yet.
            publisher: whose readings those are that are published by hand.
        """
        self.connection = connection
        self.publisher = publisher
        self.name = publisher.name
        self.boot = publisher.boot
        self.statuses: dict[str, Status] = {}
        self.abouts: dict[str, About] = {}
        self.open_runs: dict[str, dict[str, Any]] = {}
        """Runs that are on, by id, as far as we have heard; the last one is the current one."""
        self.run_count = 0
        """Runs that have begun in this session, trials not counted, as far as we have heard."""
        self.trial_counts: Counter[str] = Counter()
        """Id of a run to how many trials of it have begun, as far as we have heard."""
        self._own_runs: dict[str, Run | None] = {}
        self.alarms: dict[str, list[dict[str, Any]]] = {}
        """Name of whoever raised them, to what stands: ``topic``, ``kind``, ``detail``, ``since``."""
        self.session: dict[str, Any] = {}
        self.on_change: Callable[[str, Status | None], None] = lambda name, status: None
        """Called in the network thread when an instance's status changes; None when it was cleared."""
        self._reply_topic = topics.reply(connection.client_id)
        self._watching = False
        self._heard_at: dict[str, float] = {}
        self._since: dict[str, float] = {}
        """When a member took the state, or the boot, that it has."""
        self.losses: Counter[str] = Counter()
        """Last wills that came, by member."""
        self._grace: dict[str, float] = {}
        """Members whose last will came, by the time until which they may come back as if nothing had been."""
        self._changed = threading.Condition()
        self._call_prefix = f"{connection.client_id}-{self.boot}"
        self._call_numbers = count()
        self._pending: dict[str, _Pending] = {}
        self._echoes: dict[str, threading.Event] = {}
        self._stored_answers: dict[str, Future[dict[str, Any]]] = {}
        self._turns: dict[str, count[int]] = {}
        self._subscriptions: list[Subscription] = []

    # --- incoming, in the network thread

    def take(self, message: Message) -> bool:
        """Handle a message if it is for this client's own purposes; True if nobody else needs it."""
        reserved = topics.parse(message.topic)
        if reserved is None or reserved.kind == "annotation":
            return self._take_data(message)
        if reserved.kind == "reply" and message.topic == self._reply_topic:
            self._take_reply(message.payload)
            return True
        if reserved.kind == "status":
            self._take_status(reserved.name, message)
            return True
        if reserved.kind == "about":
            about = read_about(reserved.name, message.payload)
            with self._changed:
                if about is None:
                    self.abouts.pop(reserved.name, None)
                else:
                    self.abouts[reserved.name] = about
                self._changed.notify_all()
            return True
        if reserved.kind == "stored":
            self._take_stored(message.payload)
            return True
        if message.topic in (topics.RUN, topics.SESSION) or reserved.kind == "alarm":
            try:
                content = codecs.decode(message.payload)[0]
            except PayloadError as exc:
                logger.warning("%s: message on %r rejected: %s", self.name, message.topic, exc)
                return True
            if reserved.kind == "alarm":
                self._take_alarms(reserved.name, content.get("alarms"))
            elif message.topic == topics.RUN:
                self._take_run(content, message.retain)
            else:
                self.session = content
            return True
        return False

    def _take_run(self, content: dict[str, Any], retained: bool) -> None:
        identity = str(content.get("id") or "")
        content = dict(content)
        others = content.pop("others", None)
        count, number = content.pop("runs", 0), 0 if content.get("parent") else content.get("number")
        self.run_count = max(self.run_count, *(each for each in (count, number, 0) if type(each) is int))
        self._count_trials(identity, content.pop("trials", 0))
        self._count_trials(str(content.get("parent") or ""), content.get("number"))
        own = self._own_runs.get(identity)
        if own is None and identity in self._own_runs:
            return  # an echo of what we have ended
        if own is not None and content.get("outcome") == _ABANDONED:
            self.renew_runs()  # we were lost, and came back
            return
        with self._changed:
            if retained and isinstance(others, list):  # began before we came
                for each in others:
                    if isinstance(each, dict) and each.get("id"):
                        self.open_runs.setdefault(str(each["id"]), each)
            if not identity:
                self.open_runs.clear()
            elif content.get("stopped") or content.get("outcome"):
                self.open_runs.pop(identity, None)
            else:
                self.open_runs[identity] = content  # one that is told again stays where it is

    def _count_trials(self, parent: str, count: Any) -> None:
        if parent and type(count) is int:
            self.trial_counts[parent] = max(self.trial_counts[parent], count)

    @property
    def current_run(self) -> dict[str, Any]:
        """The run that began last of those that are on; empty for none."""
        with self._changed:
            return next(reversed(self.open_runs.values()), {})

    def _take_alarms(self, name: str, found: Any) -> None:
        with self._changed:
            self.alarms.pop(name, None)
            if isinstance(found, list) and found:
                self.alarms[name] = [each for each in found if isinstance(each, dict)]
            self._changed.notify_all()

    def _take_data(self, message: Message) -> bool:
        if not self._subscriptions:
            return False
        found = [each for each in self._subscriptions if topics.matches(each.topic_filter, message.topic)]
        if not found:
            return False
        try:
            fields, envelope = codecs.decode(message.payload)
        except PayloadError as exc:
            logger.warning("%s: message on %r rejected: %s", self.name, message.topic, exc)
            return False
        reading = Reading(message.topic, fields)
        if envelope is not None:
            time = envelope.t if isinstance(envelope.t, (int, float)) else None
            reading = Reading(message.topic, fields, time, envelope.n, envelope.by, envelope.b, envelope.replay)
        for each in found:
            try:
                each.callback(reading)
            except Exception:
                logger.exception("%s: the callback on %r failed", self.name, each.topic_filter)
        return False

    def _take_status(self, name: str, message: Message) -> None:
        status = read_status(message.payload)
        with self._changed:
            known = self.statuses.get(name)
            # Rule 1: a last will, or a goodbye, of an earlier boot says nothing about this one.
            if status and known and status.state in GONE and status.boot and known.boot != status.boot:
                return
            if status and known and known.boot == status.boot and status.detail == LOST_CONNECTION:
                if known.state is State.DISCONNECTED or (known.state is State.LOST and known.detail):
                    return  # the will comes after who knew better
            if not message.retain:
                self._note_loss(name, known, status)
            if known is None or status is None or (known.state, known.boot) != (status.state, status.boot):
                self._since[name] = clock.monotonic()
            passing = known is None and status is not None and status.state in GONE and not message.retain
            if status is None:
                self.statuses.pop(name, None)
            elif not passing:  # a guest ends who was never an instance
                self.statuses[name] = status
                if status.state is not State.LOST or name not in self._heard_at:  # which others say of it
                    self._heard_at[name] = clock.monotonic()
            self._changed.notify_all()
        for call_id, pending in list(self._pending.items()):
            if pending.target == name and (status is None or status.state in GONE or status.boot != pending.boot):
                self._pending.pop(call_id, None)
                self._fail(pending, f"{name} is gone ({status.state if status else 'cleared'}) and did not answer")
        self.on_change(name, status)

    def _note_loss(self, name: str, known: Status | None, status: Status | None) -> None:
        """Count a last will, and let its member come back for as long as it had promised to repeat its status."""
        self._grace.pop(name, None)
        if status is not None and status.state is State.LOST and status.detail in ("", LOST_CONNECTION):
            self.losses[name] += 1
            if known is not None and known.state not in GONE and known.every:
                self._grace[name] = clock.monotonic() + 3 * known.every

    @staticmethod
    def _fail(pending: _Pending, why: str) -> None:
        if not pending.future.done():
            pending.future.set_exception(CallError(why, type="Lost"))

    def _take_reply(self, payload: bytes) -> None:
        try:
            reply, _ = codecs.decode(payload)
        except PayloadError:
            logger.warning("%s: a damaged reply was dropped", self.name)
            return
        if "echo" in reply:
            event = self._echoes.pop(str(reply["echo"]), None)
            if event is not None:
                event.set()
            return
        pending = self._pending.pop(str(reply.get("id")), None)
        if pending is None or pending.future.done():
            return  # a late reply never answers another call
        if reply.get("status") == "success":
            pending.future.set_result(reply.get("result"))
        else:
            pending.future.set_exception(
                CallError(str(reply.get("error")), str(reply.get("type", "")), str(reply.get("traceback", "")))
            )

    # --- who lives

    def watch(self) -> None:
        """Know every status and description from now on; returns when the retained ones have come."""
        if self._watching:
            return
        self.connection.subscribe(
            [topics.status("+"), topics.about("+"), topics.alarm("+"), topics.RUN, topics.SESSION, self._reply_topic]
        )
        self.echo()
        self._watching = True

    def echo(self, timeout: float = 5.0) -> bool:
        """Send a message to ourselves and wait for it: what the broker owed us before it has come then."""
        token = secrets.token_hex(4)
        event = self._echoes[token] = threading.Event()
        self.connection.publish(self._reply_topic, codecs.encode({"echo": token}), 1)
        return clock.wait_for(event, timeout)

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on statuses and descriptions holds; False when `timeout` seconds have passed."""

        def holds() -> bool:
            with self._changed:
                return condition()

        def sleep(seconds: float) -> None:
            with self._changed:
                if not condition():
                    self._changed.wait(seconds)

        return clock.wait(holds, sleep, timeout)

    def stored_of(self, name: str, timeout: float = 2.0) -> dict[str, Any] | None:
        """Return what the recorder has of a member's last start; None where it does not say.

        ``topics`` (the last number that is durable, and all before it), ``missing`` (holes), ``seen``, ``first``: as
        `ether/stored/<name>` says it.
        """
        status = self.statuses.get(name)
        if status is None or not status.boot or self.statuses.get(RECORDER, _NOBODY).state in GONE:
            return None
        identity = f"{self._call_prefix}-{next(self._call_numbers)}"
        future = self._stored_answers[identity] = _Answer()
        self.connection.subscribe([topics.stored(name)])
        self.command(RECORDER, "confirm", by=name, boot=status.boot, id=identity)
        try:
            found: dict[str, Any] = future.result(timeout)
            return found
        except FutureTimeout:
            return None
        finally:
            self._stored_answers.pop(identity, None)
            self.connection.unsubscribe([topics.stored(name)])

    def _take_stored(self, payload: bytes) -> None:
        try:
            said = codecs.decode(payload)[0]
        except PayloadError:
            return
        future = self._stored_answers.get(str(said.get("asked")))
        if future is not None and not future.done():
            future.set_result(said)

    def poke(self) -> None:
        """Have waiters look at their condition again."""
        with self._changed:
            self._changed.notify_all()

    def wait_until_ready(self, name: str, timeout: float) -> bool:
        """Wait for one instance to be ready, without watching all the others."""
        topic = topics.status(name)
        only_now = not self._watching and not self.connection.subscribed(topic)
        self.connection.subscribe([topic])

        def ready() -> bool:
            status = self.statuses.get(name)
            return status is not None and status.state in (State.READY, State.ALERT)

        try:
            return self.wait_for(ready, timeout)
        finally:
            if only_now:  # fifty instances need not hear it again and again
                self.connection.unsubscribe([topic])

    def lives(self, name: str) -> bool:
        """Return whether it repeats its status as it promised: a retained one may be of the dead.

        That takes three times as long as promised where it does not; without a promise its word stands.
        """
        status, heard = self.statuses.get(name), self._heard_at.get(name)
        if status is None or status.state in GONE or not status.every:
            return status is not None and status.state not in GONE
        return self.wait_for(lambda: self._heard_at.get(name) != heard, 3 * status.every)

    def heard_at(self, name: str) -> float:
        """Return when a member's own word came last, on the monotonic clock; 0.0 for never."""
        return self._heard_at.get(name, 0.0)

    def may_be_gone(self, name: str) -> bool:
        """Return whether a member is gone, or has promised to say again that it is not."""
        status = self.statuses.get(name)
        return status is None or status.state in GONE or bool(status.every)

    def instances(self) -> dict[str, InstanceInfo]:
        """Return what is known of every member, by name."""
        self.watch()
        with self._changed:
            return {name: self._info(name, status) for name, status in sorted(self.statuses.items())}

    def members(self) -> dict[str, dict[str, Any]]:
        """Return what only they know who have been listening: each member's state, since when, and what was lost.

        ``state``, ``detail``, ``for_s`` (so long it is in that state), ``heard_s`` (so long ago its status came last),
        ``every`` (the status is to be repeated), ``losses`` (last wills that came).
        """
        now = clock.monotonic()
        return {
            name: {
                "state": str(info.state), "detail": info.detail, "for_s": round(now - self._since.get(name, now), 3),
                "heard_s": round(now - info.heard_at, 3), "every": self.statuses[name].every,
                "losses": self.losses[name],
            }
            for name, info in self.instances().items() if name in self.statuses
        }  # fmt: skip

    def silent(self) -> dict[str, float]:
        """Return the members that do not repeat their status as they promised, and after how many seconds they were."""
        now = clock.monotonic()
        with self._changed:
            return {
                name: 3 * status.every
                for name, status in self.statuses.items()
                if status.every and status.state not in GONE and now - self._heard_at[name] > 3 * status.every
            }

    def _info(self, name: str, status: Status) -> InstanceInfo:
        about = self.abouts.get(name)
        state, detail = status.state, status.detail
        if state is State.LOST and clock.monotonic() < self._grace.get(name, 0.0):
            state = State.RECONNECTING
        # Rule 3: a broker that restarts forgets wills, so a broken promise to repeat reads as a loss.
        heard_at = self._heard_at.get(name, 0.0)
        silent_s = clock.monotonic() - heard_at
        if status.every and state not in GONE and silent_s > 3 * status.every:
            state, detail = State.LOST, f"silent for more than {3 * status.every:g} s"
        info = InstanceInfo(name, state, detail, boot=status.boot, counts=status.counts, about=about, heard_at=heard_at)
        if about is not None:
            info = replace(info, class_name=about.class_name, pid=about.pid, host=about.host)
        return info

    # --- publish and listen

    def pub(self, data: Any, topic: str, qos: int = 1, retain: bool = False) -> None:
        """Publish a value by hand, numbered and stamped as this client's.

        Raises:
            TopicError, PayloadError: the topic or the value cannot travel.
        """
        topics.check_topic(topic)
        self.publisher.publish(topic, data, qos, retain)

    def subscribe(self, topic_filter: str, callback: Callable[[Reading], None]) -> Subscription:
        """Call back, in the network thread, with each reading of a topic filter."""
        if topic_filter != topics.ANNOTATION:
            topics.check_filter(topic_filter)
        subscription = Subscription(self, topic_filter, callback)
        self._subscriptions.append(subscription)
        self.connection.subscribe([topic_filter])
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            if not any(each.topic_filter == subscription.topic_filter for each in self._subscriptions):
                self.connection.unsubscribe([subscription.topic_filter])

    def control(self, verb: str) -> None:
        self.connection.publish(topics.control(verb), b"{}", 1)

    def command(self, name: str, verb: str, **fields: Any) -> None:
        self.connection.publish(topics.command(name, verb), codecs.encode(fields), 1)

    # --- calls

    def call(
        self, target: str, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Future[Any]:
        """Ask an instance (or, by class name, one of its instances in turn) and return the answer's future.

        The future raises CallError: at once for an unknown target, as soon as it dies, or with what it raised.
        """
        self.watch()
        name = self._resolve(target, method)
        call_id = f"{self._call_prefix}-{next(self._call_numbers)}"
        request: dict[str, Any] = {"id": call_id, "reply_to": self._reply_topic, "params": dict(params or {})}
        request["deadline"] = clock.now() + (CALL_TIMEOUT_S if timeout is None else timeout)
        pending = _Pending(_Answer(), name, self.statuses[name].boot, topics.call(name, method), codecs.encode(request))
        return self._ask(call_id, pending)

    def _ask(self, call_id: str, pending: _Pending) -> Future[Any]:
        self._pending[call_id] = pending
        pending.future.add_done_callback(lambda _: self._pending.pop(call_id, None))
        self.connection.publish(pending.topic, pending.request, 1)
        return pending.future

    def _resolve(self, target: str, method: str) -> str:
        """Return the living instance that a target names; CallError where there is none, or it has no such method."""
        with self._changed:
            alive = [name for name, status in self.statuses.items() if status.state not in GONE]
            if target in alive:
                found = [target]
            else:
                found = sorted(
                    name for name in alive
                    if name in self.abouts and self.abouts[name].class_name.rpartition(".")[2] == target
                )  # fmt: skip
            if not found:
                known = ", ".join(sorted(alive)) or "nobody"
                raise CallError(f"nobody is called {target!r}; alive: {known}")
            name = found[next(self._turns.setdefault(target, count())) % len(found)]
            about = self.abouts.get(name)
        if about is not None and method not in about.calls and not _handles(about, method):
            raise CallError(
                f"{name} has no method {method!r} to call; it has {', '.join(sorted(about.calls)) or 'none'}"
            )
        return name

    def request(
        self, target: str, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """Ask and wait; returns the result or raises CallError (CallTimeout when no answer came)."""
        limit = CALL_TIMEOUT_S if timeout is None else timeout
        return self._await(self.call(target, method, params, limit), f"{target}.{method}", limit)

    def order(self, name: str, verb: str, timeout: float, **fields: Any) -> Any:
        """Command a member that answers, and return what it answers.

        Raises:
            SessionError: it cannot be done, and why; or nobody is there to do it.
            CallError: the same, of any other kind; CallTimeout when no answer came.
        """
        self.watch()
        status = self.statuses.get(name, _NOBODY)
        if status.state in GONE:
            raise SessionError(f"there is no {name} to {verb} anything")
        order_id = f"{self._call_prefix}-{next(self._call_numbers)}"
        payload = codecs.encode({"id": order_id, "reply_to": self._reply_topic, **fields})
        future = self._ask(order_id, _Pending(_Answer(), name, status.boot, topics.command(name, verb), payload))
        try:
            return self._await(future, f"{name}: {verb}", timeout)
        except CallError as exc:
            if exc.type == SessionError.__name__:
                raise SessionError(str(exc)) from None
            raise

    def tell(self, name: str, verb: str, timeout: float, **fields: Any) -> str:
        """Command an instance that nobody here supervises to ``stop`` or ``restart``; returns when it has.

        Raises:
            SessionError: it had not within `timeout` seconds.
        """
        boot = self.statuses[name].boot
        self.command(name, verb, **fields)

        def done() -> bool:
            status = self.statuses.get(name, _NOBODY)
            if verb == "stop":
                return status.state in GONE
            return status.boot != boot and status.state in (State.READY, State.ALERT)

        if not self.wait_for(done, timeout):
            raise SessionError(f"{name} is not one of this session's processes; told to {verb}, it did not")
        return "stopped" if verb == "stop" else "ready"

    def _await(self, future: Future[Any], label: str, limit: float) -> Any:
        """Return what is answered; asked again after a while, and done once by its id."""
        deadline = clock.monotonic() + limit
        again_s = _ASK_AGAIN_S
        while True:
            try:
                return future.result(max(0.0, min(again_s, deadline - clock.monotonic())))
            except FutureTimeout:
                if clock.monotonic() >= deadline:
                    future.cancel()
                    raise CallTimeout(f"{label} did not answer within {limit:g} s") from None
            # The request may have met a broker that had just restarted; by its id it is never carried out twice.
            self._ask_again(future)
            again_s *= 2

    def _ask_again(self, future: Future[Any]) -> None:
        for pending in list(self._pending.values()):
            if pending.future is future:
                self.connection.publish(pending.topic, pending.request, 1)

    def sync(self, topic: str, data: Mapping[str, Any] | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Have every subscriber of a topic handle `data`, and wait until all have finished.

        Returns:
            ``instance.method`` to what it returned.

        Raises:
            CallError: of the first that failed, naming it.
        """
        self.watch()
        futures = {}
        for name, about in self.abouts.items():
            for topic_filter, entry in about.subscribes.items():
                if topics.matches(topic_filter, topic) and self.statuses.get(name, _NOBODY).state not in GONE:
                    for method in entry.get("methods", []):
                        futures[f"{name}.{method}"] = self.call(name, method, data, timeout)
        if not futures:
            raise CallError(f"nobody subscribes to {topic!r}")
        limit = CALL_TIMEOUT_S if timeout is None else timeout
        deadline = clock.monotonic() + limit
        results: dict[str, Any] = {}
        failures: list[CallError] = []
        for label, future in futures.items():
            try:
                results[label] = future.result(max(0.0, deadline - clock.monotonic()))
            except FutureTimeout:
                failures.append(CallTimeout(f"{label} did not finish within {limit:g} s"))
            except CallError as exc:
                failures.append(CallError(f"{label}: {exc}", exc.type, exc.traceback))
        if failures:
            raise failures[0]
        return results

    # --- annotations and runs

    def annotate(self, annotation: Annotation, timeout: float = CALL_TIMEOUT_S, identity: str = "") -> bool:
        """Send a remark to whoever records, and wait until it is stored.

        Args:
            annotation: the remark.
            timeout: seconds to wait; 0 does not.
            identity: that of an earlier attempt, so that it is stored once; by default a new one.

        Returns:
            True once it is durable at the recorder; False where nobody records, or nobody waits: with a `timeout` of 0,
            and in the network thread, which cannot.

        Raises:
            SessionError: not stored within `timeout`. It may be yet.
        """
        when = annotation.t0 if annotation.t1 is None else [annotation.t0, annotation.t1]
        content: dict[str, Any] = {"text": annotation.text, "t": when, "by": annotation.by}
        if annotation.tags:
            content["tags"] = list(annotation.tags)
        if annotation.values:
            content["values"] = annotation.values
        if not timeout or self.connection.in_network_thread:
            self.connection.publish(topics.ANNOTATION, codecs.encode(content), 1)
            return False
        self.watch()
        if not self._recorded():
            self.connection.publish(topics.ANNOTATION, codecs.encode(content), 1)
            return False
        content["id"] = identity or f"{self._call_prefix}-{next(self._call_numbers)}"
        self._stored(content | {"reply_to": self._reply_topic}, timeout)
        return True

    def _recorded(self) -> bool:
        """Return whether there is a recorder, be it one that has just died and is started again."""
        status = self.statuses.get(RECORDER)
        return status is not None and status.state is not State.DISCONNECTED

    def _stored(self, content: dict[str, Any], timeout: float) -> None:
        """Send an annotation, again after a while, until the recorder has stored it; by its id it is stored once."""
        future: Future[Any] = _Answer()
        payload = codecs.encode(content)
        self._pending[content["id"]] = _Pending(future, "", "", topics.ANNOTATION, payload)
        deadline = clock.monotonic() + timeout
        again_s = _ASK_AGAIN_S
        try:
            self.connection.publish(topics.ANNOTATION, payload, 1)
            while True:
                try:
                    future.result(max(0.0, min(again_s, deadline - clock.monotonic())))
                except FutureTimeout:
                    if clock.monotonic() >= deadline:
                        status = self.statuses.get(RECORDER)
                        told = f"it is {status.state}: {status.detail or 'no reason given'}" if status else "it is gone"
                        raise SessionError(
                            f"the recorder did not confirm the annotation within {timeout:g} s; {told}"
                        ) from None
                    self.connection.publish(topics.ANNOTATION, payload, 1)
                    again_s *= 2
                else:
                    return
        finally:
            self._pending.pop(content["id"], None)

    def announce_run(self, run: Run) -> None:
        """Tell of a run's begin or end; the retained message then names the run that is current, if any."""
        self._count_trials(run.parent or "", run.number)
        began = run.stopped is None
        if began and not run.parent:
            self.run_count = max(self.run_count, run.number)
        if began or run.id in self._own_runs:
            self._own_runs[run.id] = run if began else None
        with self._changed:
            current = next(reversed(self.open_runs), run.id) == run.id
            if began:
                self.open_runs[run.id] = _run_fields(run)
            else:
                self.open_runs.pop(run.id, None)
        self._tell_run(_run_fields(run), retain=began)
        if not began and current:  # otherwise what is retained is another's, which is still on
            self._tell_run(self.current_run, retain=True)

    def renew_runs(self) -> None:
        """Tell again of our runs, which were ended on our behalf if the connection was lost."""
        own = [run for run in self._own_runs.values() if run is not None]
        for run in own:
            self._tell_run(_run_fields(run), retain=False)
        if own:
            self._tell_run(self.current_run, retain=True)

    def _tell_run(self, fields: Mapping[str, Any], retain: bool) -> None:
        content = {**fields, "runs": self.run_count}
        if (identity := fields.get("id")) and retain:  # for who comes later, and ends this one or begins a trial of it
            with self._changed:
                others = [run for each, run in self.open_runs.items() if each != identity]
            content |= {"others": others} if others else {}
            content |= {"trials": self.trial_counts[identity]} if self.trial_counts[identity] else {}
        self.connection.publish(topics.RUN, codecs.encode(content), 1, retain=retain)

    def abandon_runs(self, name: str) -> None:
        """End the runs of a client that was lost, on its behalf."""
        with self._changed:
            found = [run for run in self.open_runs.values() if run.get("by") == name]
        for run in reversed(found):
            self.announce_run(replace(read_run(run), stopped=clock.now(), outcome=_ABANDONED))


_NOBODY = Status(State.LOST)


def read_run(content: Mapping[str, Any]) -> Run:
    """Return a run from the wire, where a foreign client need only say ``id`` and ``name``."""
    known = {"name": "", "number": 0, "started": clock.now(), **content}
    return Run(**{key: known[key] for key in Run.__dataclass_fields__ if key in known})


def _run_fields(run: Run) -> dict[str, Any]:
    return {key: value for key, value in asdict(run).items() if value is not None}


def _handles(about: About, method: str) -> bool:
    if method in (topics.PARAM_GET, topics.PARAM_SET):
        return bool(about.params)
    return any(method in entry.get("methods", ()) for entry in about.subscribes.values())


def tag_tuple(tags: Iterable[str] | str) -> tuple[str, ...]:
    """Return tags as a tuple; one text is one tag."""
    return (tags,) if isinstance(tags, str) else tuple(map(str, tags))
