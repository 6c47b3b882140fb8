"""Instance: one running component. Methods <-> topics, status, hooks; user code in one thread, one thing at a time.

The network thread only puts work on a queue. Whoever calls `run` (the main thread of an instance's process, a thread
of its own for one added by hand) takes it off: messages, calls, lifecycle verbs, samples that are due.
"""

from __future__ import annotations

import inspect
import logging
import os
import queue
import socket
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import ether
from ether import clock, codecs, topics
from ether.answers import Answers
from ether.component import Component, Method, Output, parameter_names, source_of
from ether.decorators import HOOKS, Subscribe
from ether.errors import ENDS, FieldError, PayloadError, TopicError
from ether.inbox import Inbox
from ether.member import Member
from ether.model import About, Envelope, Message, State
from ether.mqtt import HELD, Receipt
from ether.outbox import leftovers
from ether.params import Params
from ether.watchdog import Watchdog, stacks

if TYPE_CHECKING:
    from ether.loop import Loop

__all__ = ["ADOPTED", "Instance", "make_safe"]

logger = logging.getLogger(__name__)

ADOPTED = "__ether_adopted__"
"""Method of an object that stands for a device and learns from it what it is: it is handed the instance, which
`describe`, `listen`, `publish` and `rest` are for."""
_ALERT_HOLDS_S = 1.0  # at least, so that people and dashboards see it
_ALERT_FADES_S = 5.0  # at most, if nothing fails any more
_TIMES_KEPT = 1_000
_SAY_AGAIN_S = 10.0
_PARAMS_EVERY_S = 1.0  # between tellings of parameters that the component itself changes
_PLAIN_RESULTS = frozenset({type(None), dict, list, tuple, str, bytes, int, float, bool})


@dataclass(slots=True)
class _Timer:
    method: Method
    period_s: float
    due: float


@dataclass(slots=True)
class _Batch:
    output: Output
    fields: dict[str, list[Any]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    since: float = 0.0

    @property
    def due(self) -> float:
        return self.since + (self.output.batch_s or float("inf"))


class _Published:
    """Stands in for a marked method on the instance: calls it, publishes the result, returns it."""

    def __init__(self, instance: Instance, method: Method, plain: Callable[..., Any]) -> None:
        self._instance = instance
        self._method = method
        self._plain = plain
        self.__wrapped__ = plain
        self.__doc__ = plain.__doc__
        self.__name__ = method.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._instance.publishing(self._method, self._plain(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __reduce__(self) -> tuple[Any, ...]:
        bound: Any = self._plain
        return getattr, (bound.__self__, self._method.name)  # a copy or pickle has the plain method


class Instance:
    """One running component, on a member that is its voice."""

    def __init__(
        self, component: Component, target: Any, member: Member, *, args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None, drain_timeout: float = 10.0, params: Params | None = None,
    ) -> None:  # fmt: skip
        """Adopt `target`; nothing is subscribed or sent before `open`.

        Args:
            component: what the target's class declares.
            target: the user's object; its publishing methods are shadowed on the object itself, never on its class.
            member: opened or not yet.
            args: constructor arguments, for the self-description.
            kwargs: the same by name.
            drain_timeout: seconds that handling of delivered messages may take after a stop.
            params: the target's live parameters; default those that its class marks.
        """
        self.component = component
        self.target = target
        self.member = member
        self.name = member.name
        self.take_first: Callable[[Message], bool] = lambda message: False
        """Asked first about each message, in the network thread; True if it is settled."""
        self.on_command: Callable[[str, bytes], bool] = lambda verb, payload: False
        """Asked first about each command to it, in the network thread; True if it is settled."""
        self.restart_asked = False
        self.unsafe = False
        """Whether it was to stop safely and one of its `ether_safe` hooks failed."""
        self._safe_asked = False
        self._args = dict(zip(parameter_names(component.cls), args, strict=False))
        self._kwargs = kwargs or {}
        self._drain_timeout = drain_timeout
        self._params = Params(target) if params is None else params
        self._params_told = -_PARAMS_EVERY_S
        self._params_changed = False
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._accepting = True
        self._stop_by: float | None = None
        self._stopped = False
        self._started = False
        self._ran: set[str] = set()
        self._timers: list[_Timer] = []
        self._sources: list[tuple[Method, Iterator[Any]]] = []
        self._background: list[threading.Thread] = []
        self._batches: dict[tuple[str, str], _Batch] = {}
        self._inboxes = [
            (method, each.topic_filter, Inbox(each.policy, each.queue))
            for method in component.methods.values()
            for each in method.inputs
        ]
        self._inboxes_of: dict[str, list[tuple[Method, Inbox]]] = {}
        self._held: deque[Receipt] = deque()
        """Of messages that the broker is to count as on their way, lest it send more than we have room for."""
        self._behind: dict[str, float] = {}
        self._times: deque[float] = deque(maxlen=_TIMES_KEPT)
        """Seconds that the last runs of methods took."""
        self._seen_retained: dict[str, bytes] = {}
        self._answers = Answers(member.connection, self.name)
        self._failing: set[str] = set()
        self._failed_at = 0.0
        self._rest = State.READY, ""
        self._initialised = False
        self._busy: tuple[str, float] | None = None
        self._hung = ""
        self._unkept_why = ""
        self._plain = {name: getattr(target, name) for name in component.methods}
        self._shadowed: list[str] = []
        self._loop: Loop | None = None
        self._watchdog: Watchdog | None = None
        self._shadow()
        member.on_message = self._receive
        member.describe = self._measures
        if (adopted := getattr(target, ADOPTED, None)) is not None:
            adopted(self)

    def watch(self, hang_after: float, on_hang: Callable[[str], None] | None = None) -> None:
        """Raise the alarm about each method that runs longer than `hang_after` seconds.

        Args:
            hang_after: seconds.
            on_hang: then called with what hangs, and the stacks of all threads, in a thread of its own.
        """

        def hung(what: str, lasted: float) -> None:
            where = stacks()
            self._hung = f"{what} has not returned for {lasted:.1f} s"
            logger.error("%s: %s; it stands here:\n%s", self.name, self._hung, where)
            if on_hang is not None:
                on_hang(f"{self._hung}\n{where}")
            else:
                self.member.set_status(State.ALERT, f"{self._hung}\n{where}")

        self._watchdog = Watchdog(lambda: self._busy, hang_after, hung)

    # --- life

    def open(self) -> None:
        """Describe and subscribe; returns when the broker has granted it."""
        if any(_is_async(plain) for plain in self._plain.values()):
            self._loop = _new_loop()
        self._about = self._describe()
        self.member.set_about(self._about)
        wanted = self.component.filters()
        for qos in set(wanted.values()):
            self.member.connection.subscribe([name for name, each in wanted.items() if each == qos], qos)
        outbox = self.member.publisher.outbox
        if outbox is not None:
            outbox.on_trouble = self._unkept
            if any(method.outputs for method in self.component.methods.values()) or leftovers(outbox.folder):
                outbox.begin()
        mine = [f"{topics.command(self.name, '+')}", f"{topics.call(self.name, '+')}"]
        self.member.connection.subscribe([*mine, *(topics.control(verb) for verb in HOOKS if verb != "shutdown")])

    def init(self) -> bool:
        """Run the `init` hooks and report ready; False if a hook failed (the status tells)."""
        ok = self._run_hooks("init")
        self._initialised = True
        if ok:
            self.member.set_status(*self._rest)
        return ok

    def start(self) -> None:
        """Begin sampling and run the `start` hooks, soon, in the thread that runs the instance."""
        self._put(self._start)

    def run(self) -> None:
        """Do the work until stopped; returns when everything has been handled and every hook has run."""
        try:
            while not self._stopped:
                work = self._next_work()
                if work is not None:
                    function, arguments = work
                    function(*arguments)
                self._run_due()
                if self._params:
                    self._look_at_params()
        finally:
            self.release()

    def stop(self, reason: str = "", safe: bool = False) -> None:
        """Stop in order, soon: what was delivered before is handled, then save_all, cleanup and shutdown run.

        Args:
            reason: for the log.
            safe: the `ether_safe` hooks run first of all hooks; `unsafe` then tells whether one failed.
        """
        self._safe_asked = self._safe_asked or safe
        if self._stop_by is None:
            self._accepting = False
            self._stop_by = clock.monotonic() + self._drain_timeout
            if reason:
                logger.info("%s: stopping: %s", self.name, reason)
            self._put(self._stop)

    def restart(self, reason: str, safe: bool = False) -> None:
        """Stop as `stop` does, to be started again by the supervisor."""
        self.restart_asked = True
        self.stop(reason, safe)

    def close(self, timeout: float = 5.0) -> None:
        """Say goodbye with the last number of every topic, and disconnect.

        What is not recorded yet may take what is left of the time to stop, and `timeout` at least.
        """
        left = (self._stop_by or 0.0) - clock.monotonic()
        self.member.leave(max(timeout, left))
        if not self.member.close(timeout):
            logger.error("%s: the broker did not confirm everything within %g s", self.name, timeout)

    # --- for an object that stands for a device, in any thread

    def rest(self, state: State, detail: str = "") -> None:
        """Say this of itself from now on, whenever none of its methods fails."""
        self._rest = state, detail
        if self._initialised and self._stop_by is None and not self._failing:
            self._calm()

    def describe(self, **changes: Any) -> None:
        """Change members of the self-description: ``publishes``, ``version`` …"""
        self._about = replace(self._about, **changes)
        self.member.set_about(self._about)

    @property
    def about(self) -> About:
        """What it says of itself, once it is open."""
        return self._about

    def listen(self, method_name: str, fields: Mapping[str, Mapping[str, Any]]) -> None:
        """Have a method of the object handle topics that no mark names; what is retained there comes (again).

        Args:
            fields: topic filter to the fields of its messages, for the self-description.

        Raises:
            ComponentError: a filter that cannot be subscribed to.
        """
        marks = {method_name: [Subscribe(topic_filter) for topic_filter in fields]}
        method = Component.of(type(self.target), marks).methods[method_name]
        self.component = replace(self.component, methods={**self.component.methods, method_name: method})
        self._plain.setdefault(method_name, getattr(self.target, method_name))
        known = {topic_filter for _, topic_filter, _ in self._inboxes}
        new = [each for each in method.inputs if each.topic_filter not in known]
        self._inboxes += [(method, each.topic_filter, Inbox(each.policy, each.queue)) for each in new]
        self._inboxes_of.clear()
        for topic in [each for each in self._seen_retained.copy() if topics.matches_any(fields, each)]:
            self._seen_retained.pop(topic, None)
        self.member.connection.subscribe(fields)
        entries = {name: {"fields": dict(each), "methods": [method_name]} for name, each in fields.items()}
        self.describe(subscribes={**self._about.subscribes, **entries})

    def later(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have the thread that runs the instance call this, between two of its methods."""
        self._put(function, *arguments)

    def publish(self, topic: str, value: Any) -> None:
        """Publish its next reading on a topic that no mark names, QoS 1; TopicError, PayloadError where it cannot."""
        self.member.publisher.publish(topics.check_topic(topic), value)

    def _next_work(self) -> tuple[Callable[..., None], tuple[Any, ...]] | None:
        """Return the next thing on the queue; None when a sample is due or a generator may go on first."""
        if self._stop_by is not None and clock.monotonic() > self._stop_by:
            return self._stop, ()
        try:
            if self._sources:
                return self._queue.get_nowait()
            wait = self._wait_s()
            if self._loop is None:
                return clock.take(self._queue, wait)
            if self._queue.empty():
                self._loop.idle(lambda: not self._queue.empty(), wait)
            return self._queue.get_nowait()
        except queue.Empty:
            return None

    def _wait_s(self) -> float | None:
        """Return the seconds until the next sample or batch is due; None for no such thing."""
        due = [timer.due for timer in self._timers] if self._stop_by is None else []
        due += [batch.due for batch in self._batches.values() if batch.times]
        if self._failing:
            due.append(self._failed_at + _ALERT_FADES_S)
        if self._params_changed:
            due.append(self._params_told + _PARAMS_EVERY_S)
        if not due or min(due) == float("inf"):
            return None
        return max(0.0, min(due) - clock.monotonic())

    def _put(self, function: Callable[..., None], *arguments: Any) -> None:
        self._queue.put((function, arguments))
        if self._loop is not None:
            self._loop.wake()

    def _run_due(self) -> None:
        if self._stop_by is None:
            now = clock.monotonic()
            for timer in self._timers:
                if timer.due <= now:
                    self._sample(timer)
            for source in list(self._sources):
                self._advance(source)
        if self._batches:
            self._send_batches(clock.monotonic())
        if self._failing and clock.monotonic() - self._failed_at >= _ALERT_FADES_S:
            self._recovered(None)

    def _sample(self, timer: _Timer) -> None:
        """Take one sample. Deadlines are multiples of the period, so a late sample does not shift the next ones."""
        self._invoke(timer.method, (), {})
        timer.due += timer.period_s
        behind = clock.monotonic() - timer.due
        if behind > 0:
            missed = int(behind // timer.period_s)
            if missed:
                timer.due += missed * timer.period_s
                self.member.counts["missed"] += missed
                logger.warning(
                    "%s: %s took longer than its %g s; missed %d samples", self.name, timer.method.label,
                    timer.period_s, missed,
                )  # fmt: skip

    def _advance(self, source: tuple[Method, Iterator[Any]]) -> None:
        method, items = source
        self._busy = method.label, clock.monotonic()
        try:
            self.emit(method, next(items))
        except StopIteration:
            self._sources.remove(source)
        except ENDS:
            raise
        except BaseException as exc:  # noqa: BLE001 - the user's code, and a cancelled task of it; reported
            self._sources.remove(source)
            self._report(method, exc)
        finally:
            self._free()

    # --- lifecycle verbs

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        now = clock.monotonic()
        for method in self.component.methods.values():
            periods = [output.every for output in method.outputs if output.every]
            if periods:
                self._timers.append(_Timer(method, min(periods), now))
        for method, hook in self.component.hooks("start"):
            if hook.background:
                self._background.append(clock.thread(self._run_beside, method, name=method.label))
            else:
                self._invoke(method, (), {})

    def _run_beside(self, method: Method) -> None:
        """Run a background start method; a coroutine gets a loop of its own."""
        try:
            result = self._plain[method.name]()
            if inspect.iscoroutine(result):
                result = _run_alone(result)
            if isinstance(result, AsyncIterator):
                _run_alone(self._emit_each(method, result))
            elif inspect.isgenerator(result):
                for item in result:
                    self.emit(method, item)
                    if self._stop_by is not None:
                        result.close()
            elif method.outputs:
                self.emit(method, result)
        except ENDS:
            raise
        except BaseException as exc:  # noqa: BLE001 - the user's code, and a cancelled task of it; reported
            self._report(method, exc)

    async def _emit_each(self, method: Method, items: AsyncIterator[Any]) -> None:
        async for item in items:
            self.emit(method, item)
            if self._stop_by is not None:
                break

    def _run_hooks(self, verb: str) -> bool:
        ok = True
        for method, _hook in self.component.hooks(verb):
            ok = self._invoke(method, (), {}) and ok
        return ok

    def _verb(self, verb: str) -> None:
        if verb == "start":
            self._start()
        elif verb != "init":  # has run before we were ready
            self._run_hooks(verb)

    def _stop(self) -> None:
        """End: whatever stands before this on the queue has been handled."""
        if self._stopped:
            return
        self._stopped = True
        left = sum(inbox.clear() for _, _, inbox in self._inboxes)
        if left:
            logger.error("%s: %d delivered messages were not handled within %g s", self.name, left, self._drain_timeout)
        for _method, items in self._sources:
            close = getattr(items, "close", None)
            if close is not None:
                close()
        for thread in self._background:
            clock.join(thread, max(0.1, (self._stop_by or 0) - clock.monotonic()))
        if self._safe_asked:  # after the last message, which might have switched something on
            self.unsafe = not self._run_hooks("safe")
        for verb in ("save_all", "cleanup", "shutdown"):
            self._run_hooks(verb)
        self._send_batches()

    def release(self) -> None:
        """Give the target back as it was; `run` does so at its end."""
        for name in self._shadowed:
            vars(self.target).pop(name, None)
        if self._loop is not None:
            self._loop.close()
        if self._watchdog is not None:
            self._watchdog.close()

    # --- incoming, in the network thread

    def _receive(self, message: Message, receipt: Receipt | None) -> object:
        reserved = topics.parse(message.topic)
        taken = self.take_first(message)
        inboxes = [] if taken or reserved is not None else self._wanting(message)
        full = any(inbox.policy == "block" and inbox.full for _, inbox in inboxes)
        # MQTT wants acknowledgements in the order of the messages: once one is held, all are.
        held = receipt is not None and receipt.qos == 1 and (full or bool(self._held))
        if held and receipt is not None:
            self._held.append(receipt)
        for method, inbox in inboxes:
            self._deliver(method, inbox, message)
        if not taken and reserved is not None:
            self._receive_reserved(reserved, message)
        if held and not full:  # else the turn that the message has been given looks after it
            self._put(self._release)
        return HELD if held else None

    def _receive_reserved(self, reserved: topics.Reserved, message: Message) -> None:
        if reserved.kind == "call" and reserved.name == self.name:
            self._put(self._answer, reserved.verb, message.payload)
        elif reserved.kind == "control":
            self._put(self._verb, reserved.name)
        elif reserved.kind == "command" and reserved.name == self.name:
            try:
                self._command(reserved.verb, message.payload)
            except PayloadError as exc:
                logger.warning("%s: command %r refused: %s", self.name, reserved.verb, exc)

    def _wanting(self, message: Message) -> list[tuple[Method, Inbox]]:
        """Return where a message goes: one inbox of each method that subscribed to its topic."""
        if not self._accepting:
            self.member.counts["ignored"] += 1
            return []
        if message.retain:  # a renewed subscription replays it: once is enough
            if self._seen_retained.get(message.topic) == message.payload:
                return []
            self._seen_retained[message.topic] = message.payload
        found = self._inboxes_of.get(message.topic)
        if found is None:
            if len(self._inboxes_of) > 10_000:
                self._inboxes_of.clear()
            by_method: dict[str, tuple[Method, Inbox]] = {}
            for method, topic_filter, inbox in self._inboxes:
                if topics.matches(topic_filter, message.topic):
                    by_method.setdefault(method.name, (method, inbox))
            found = self._inboxes_of[message.topic] = list(by_method.values())
        return found

    def _deliver(self, method: Method, inbox: Inbox, message: Message) -> None:
        self.member.counts["received"] += 1
        if inbox.policy == "block" and inbox.full:
            if not message.qos:
                inbox.dropped += 1
                self._is_behind(method, inbox, "those of QoS 0 are dropped, as a broker does not keep them")
                return
            self._is_behind(method, inbox, "the broker keeps further ones until it has caught up")
        if inbox.put(message):
            self._put(self._handle, method, inbox)
        elif inbox.policy != "latest":
            self._is_behind(method, inbox, "the oldest are dropped")

    def _is_behind(self, method: Method, inbox: Inbox, so: str) -> None:
        """Warn of a method that is too slow for what it subscribed to; not too often."""
        now = clock.monotonic()
        if now - self._behind.get(method.name, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._behind[method.name] = now
            logger.warning("%s: %d messages wait for %s; %s", self.name, len(inbox), method.label, so)

    def _release(self) -> None:
        """Acknowledge what was held, if there is room again."""
        if self._held and all(inbox.relaxed for _, _, inbox in self._inboxes if inbox.policy == "block"):
            self.member.connection.acknowledge([self._held.popleft() for _ in range(len(self._held))])

    def _measures(self) -> Mapping[str, float]:
        """Return what the status tells of the queues, and of the time that methods take."""
        found: dict[str, float] = {"queued": self._queue.qsize(), "dropped": 0, "skipped": 0}
        for _, _, inbox in self._inboxes:
            found["skipped" if inbox.policy == "latest" else "dropped"] += inbox.dropped
        if (busy := self._busy) is not None and (lasts := int(clock.monotonic() - busy[1])):
            found["busy_s"] = lasts
        times = sorted(self._times.copy())
        if times:
            found["handle_ms_p50"] = round(times[len(times) // 2] * 1e3, 3)
            found["handle_ms_p99"] = round(times[len(times) * 99 // 100] * 1e3, 3)
        return found

    def _command(self, verb: str, payload: bytes) -> None:
        if self.on_command(verb, payload):
            return
        if verb in ("stop", "restart"):
            (self.stop if verb == "stop" else self.restart)(f"told to {verb}", _asks_safety(payload))
        elif verb == "start":
            self._put(self._start)
        elif verb == "ping":
            fields, _ = codecs.decode(payload)
            answer = codecs.to_json({"id": fields.get("id"), "ms": clock.monotonic_ns() // 1_000_000})
            self.member.connection.publish(topics.pong(self.name), answer, 0)
        elif verb == "every":
            self._put(self._set_every, payload)
        else:
            logger.warning("%s: unknown command %r; known: stop, restart, start, every, ping", self.name, verb)

    def _set_every(self, payload: bytes) -> None:
        """``{"topic": …, "every": seconds}`` changes how often a topic is sampled; without a topic, all of them."""
        try:
            fields, _ = codecs.decode(payload)
            period = clock.seconds(fields.get("every", fields.get("value")))
            if period <= 0:
                raise ValueError("must be longer than nothing")
        except (PayloadError, ValueError) as exc:
            logger.warning("%s: command 'every' refused: %s", self.name, exc)
            return
        for timer in self._timers:
            if fields.get("topic") in (None, *(output.topic for output in timer.method.outputs)):
                timer.period_s, timer.due = period, clock.monotonic()

    # --- work, in the thread of `run`

    def _handle(self, method: Method, inbox: Inbox) -> None:
        message = inbox.take()
        if message is None:
            return  # dropped for one that was larger
        try:
            calls = self._calls_of(method, message)
        except PayloadError as exc:
            self._reject(message, exc)
        else:
            for args, kwargs in calls:
                self._invoke(method, args, kwargs, message)
        self.member.counts["handled"] += 1
        if self._held:
            self._release()

    def _calls_of(self, method: Method, message: Message) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Return the arguments of each reading in a message: one, or as many as its batch holds."""
        if method.hooks and method.parameters.required == []:
            return [((), {})]
        if b'"k":' in message.payload or message.payload.startswith(codecs.CBOR_MAGIC):
            fields, envelope = codecs.decode(message.payload)
            readings = [(fields, envelope)]
            if envelope is not None and envelope.k is not None:
                readings = list(codecs.unpack(fields, envelope))
            return [method.parameters.arguments(one, message.topic, facts) for one, facts in readings]
        return [method.parameters.accept(message.topic, message.payload)]

    def _reject(self, message: Message, exc: PayloadError) -> None:
        self.member.counts["rejected"] += 1
        logger.warning("%s: %s rejected: %s", self.name, _described(message), exc)

    def _invoke(
        self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], message: Message | None = None
    ) -> bool:
        """Run a method and publish its result; False if it failed, which is reported."""
        began = clock.monotonic()
        self._busy = method.label, began
        try:
            result = self._settle(self._plain[method.name](*args, **kwargs))
            if method.outputs:
                if not inspect.isgenerator(result):
                    self.emit(method, result)
                elif any(hook.verb == "start" for hook in method.hooks):  # it may never end: step by step, then
                    self._sources.append((method, result))
                else:
                    for item in result:
                        self.emit(method, item)
        except ENDS:
            raise
        except BaseException as exc:  # noqa: BLE001 - the user's code, and a cancelled task of it; reported
            self._report(method, exc, message)
            return False
        finally:
            self._times.append(clock.monotonic() - began)
            self._free()
        if self._failing:
            self._recovered(method)
        return True

    def _free(self) -> None:
        """The method has come back."""
        self._busy = None
        if self._hung:
            logger.warning("%s: it has come back: %s", self.name, self._hung)
            self._hung = ""
            if not self._failing:
                self._calm()

    def _settle(self, result: Any) -> Any:
        """Await what is to be awaited; an asynchronous generator becomes a plain one."""
        if type(result) in _PLAIN_RESULTS:  # nearly always; the checks below are slow
            return result
        if inspect.isawaitable(result):
            return self._await(result)
        if isinstance(result, AsyncIterator):
            return self._pull(result)
        return result

    def _await(self, awaitable: Any) -> Any:
        if self._loop is None:  # no `async def`, and yet something to await
            self._loop = _new_loop()
        return self._loop.run(awaitable)

    def _pull(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._await(anext(items))
            except StopAsyncIteration:
                return

    def _report(self, method: Method, exc: BaseException, message: Message | None = None) -> None:
        self.member.counts["failed"] += 1
        self._failing.add(method.name)
        first = self.member.state != State.ALERT or clock.monotonic() - self._failed_at > _ALERT_HOLDS_S
        self._failed_at = clock.monotonic()
        what = f"{method.label} raised {type(exc).__name__}: {exc}"
        where = f" (at a {_described(message)})" if message is not None else ""
        said = exc if isinstance(exc, FieldError) else what  # which names the method itself
        clear = isinstance(exc, PayloadError | TopicError)  # without a traceback: the topic says where
        logger.error("%s: %s%s", self.name, said, where, exc_info=None if clear else exc)
        if first:
            trace = "".join(traceback.format_exception(exc))
            self.member.set_status(State.ALERT, f"{what}{where}\n{trace}")

    def _recovered(self, method: Method | None) -> None:
        """The method works again (or has not failed for long): once all do, and the alert could be seen, say ready."""
        if method is None:
            self._failing.clear()
        elif clock.monotonic() - self._failed_at > _ALERT_HOLDS_S:
            self._failing.discard(method.name)
        if not self._failing and self.member.state is State.ALERT:
            self._calm()

    def _unkept(self, trouble: str) -> None:
        """Messages cannot be kept for the recorder (or can again): that is for everybody to see."""
        self._unkept_why = trouble
        if trouble:
            self.member.set_status(State.ALERT, trouble)
        elif not self._failing:
            self._calm()

    def _calm(self) -> None:
        self.member.set_status(*((State.ALERT, self._unkept_why) if self._unkept_why else self._rest))

    # --- calls

    def _answer(self, method_name: str, payload: bytes) -> None:
        try:
            request, _ = codecs.decode(payload)
            call_id, reply_to = str(request["id"]), str(request["reply_to"])
            params = dict(request.get("params") or {})
            deadline = float(request.get("deadline") or "inf")
            if not topics.is_reply(reply_to):
                raise ValueError(f"reply_to {reply_to!r} is not below {topics.reply('')}")
        except (PayloadError, KeyError, TypeError, ValueError) as exc:
            self.member.counts["rejected"] += 1
            logger.warning("%s: a call of %r was not understood: %s", self.name, method_name, exc)
            return
        if self._answers.repeats(call_id, reply_to):
            return
        if clock.now() > deadline:
            logger.warning("%s: a call of %s came after its deadline and was dropped", self.name, method_name)
            return
        self._answers.give(call_id, reply_to, f"call of {method_name}", lambda: self._perform(method_name, params))

    def _perform(self, method_name: str, params: dict[str, Any]) -> Any:
        """Do what a call asks for, and return its result."""
        try:
            if method_name in (topics.PARAM_GET, topics.PARAM_SET):
                return self._parameter(method_name, **params)
            method = self.component.methods.get(method_name)
            if method is None or not (method.call or method.inputs):
                known = ", ".join(sorted(self.component.calls())) or "none"
                raise LookupError(f"{self.name} has no method {method_name!r} to call; it has {known}")
            args, kwargs = method.parameters.arguments(params)
            self._busy = method.label, clock.monotonic()
            result = self._settle(self._plain[method_name](*args, **kwargs))
            if inspect.isgenerator(result):
                result = list(result)
                for item in result if method.outputs else ():
                    self.emit(method, item)
            elif method.outputs:
                self.emit(method, result)
            return result
        finally:
            self._free()

    # --- live parameters

    def _parameter(self, verb: str, param: str, value: Any = None, by: str = "") -> Any:
        """Read or set one, as a call asks; return its value."""
        if verb == topics.PARAM_GET:
            return self._params.get(param)
        before, now = self._params.set(param, value, by, clock.now())
        self._tell_params()
        logger.info("%s: %s: %r -> %r, by %s", self.name, param, before, now, by or "somebody")
        content = {
            "text": f"{self.name}.{param}: {before!r:.200} -> {now!r:.200}",
            "t": clock.now(),
            "by": by,
            "tags": ["param"],
            "values": {"instance": self.name, "param": param, "before": _recorded(before), "value": _recorded(now)},
        }
        self.member.connection.publish(topics.ANNOTATION, codecs.encode(content), 1)
        return now

    def _look_at_params(self) -> None:
        """Tell what the component itself has changed, not too often."""
        self._params_changed = bool(self._params.changed()) or self._params_changed
        if self._params_changed and clock.monotonic() - self._params_told >= _PARAMS_EVERY_S:
            self._tell_params()

    def _tell_params(self) -> None:
        self._params_told, self._params_changed = clock.monotonic(), False
        self.member.set_about(replace(self._about, params=self._params.describe()))

    # --- outgoing, in any thread

    def emit(self, method: Method, result: Any) -> None:
        """Publish one result of a method: number it, stamp it, encode it, send it.

        Raises:
            FieldError: the result does not fit the method's return annotation; nothing is published.
            PayloadError: the result cannot travel; nothing is published.
        """
        value = method.checked(result)
        for output in method.outputs:
            if output.batch_count or output.batch_s:
                self._collect(method, output, value)
            else:
                keep = output.keep == "all"
                self.member.publisher.publish(output.topic, value, output.qos, output.retain, keep=keep)

    def _collect(self, method: Method, output: Output, value: Any) -> None:
        """Add a result to a batch, which is sent when it is full, or due."""
        fields = codecs.fields_of(value)
        codecs.encode(value)  # what cannot travel is refused here, not with its neighbours later
        with self.member.publisher.lock:
            batch = self._batches.setdefault((method.name, output.topic), _Batch(output))
            if batch.times and batch.fields.keys() != fields.keys():
                self._send(batch)
            if not batch.times:
                batch.since = clock.monotonic()
                batch.fields = {name: [] for name in fields}
                self._put(lambda: None)  # whoever waits for work learns when the batch is due
            for name, item in fields.items():
                batch.fields[name].append(item)
            batch.times.append(clock.now())
            if output.batch_count and len(batch.times) >= output.batch_count:
                self._send(batch)

    def _send_batches(self, until: float = float("inf")) -> None:
        """Send the batches that are due by then."""
        with self.member.publisher.lock:
            for batch in self._batches.values():
                if batch.times and batch.due <= until:
                    self._send(batch)

    def _send(self, batch: _Batch) -> None:
        fields, times, output = batch.fields, batch.times, batch.output
        batch.times = []

        def encode(number: int) -> bytes:
            return codecs.encode(fields, Envelope(self.name, self.member.boot, number, times, k=len(times)))

        keep = output.keep == "all"
        self.member.publisher.send(output.topic, encode, len(times), output.qos, output.retain, keep)

    def publishing(self, method: Method, result: Any) -> Any:
        """Publish what a call by hand returned, and return it; a generator or coroutine when it comes to be."""
        if inspect.isawaitable(result):
            return self._publish_awaited(method, result)
        if isinstance(result, AsyncIterator):
            return self._publish_pulled(method, result)
        if inspect.isgenerator(result):
            return self._publish_each(method, result)
        self.emit(method, result)
        return result

    async def _publish_awaited(self, method: Method, awaitable: Any) -> Any:
        result = await awaitable
        self.emit(method, result)
        return result

    async def _publish_pulled(self, method: Method, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            self.emit(method, item)
            yield item

    def _publish_each(self, method: Method, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.emit(method, item)
            yield item

    def _shadow(self) -> None:
        """Let calls by hand publish: on this object, where it has a place for attributes; its class stays as it is."""
        try:
            own = vars(self.target)
        except TypeError:  # slots, or written in C: calls by hand stay plain
            for method in self.component.methods.values():
                if method.outputs and not (method.inputs or method.hooks or method.call or method.outputs[0].every):
                    logger.warning(
                        "%s: nothing triggers %s, and calls by hand do not publish, as objects of this class take no "
                        "attributes; drop its slots", self.name, method.label,
                    )  # fmt: skip
            return
        for name, method in self.component.methods.items():
            if method.outputs and isinstance(own, dict):
                own[name] = _Published(self, method, self._plain[name])
                self._shadowed.append(name)

    def _describe(self) -> About:
        source = source_of(self.component.cls)
        return About(
            self.name,
            class_name=f"{self.component.cls.__module__}.{self.component.cls.__qualname__}",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=ether.__version__,
            source=f"sha256:{sha256(source[1]).hexdigest()}" if source else "",
            file=str(source[0]) if source else "",
            args=self._args,
            kwargs=self._kwargs,
            publishes=self.component.publishes(),
            subscribes=self.component.subscribes(),
            calls=self.component.calls(),
            params=self._params.describe(),
        )


def make_safe(component: Component, target: Any) -> None:
    """Run the `ether_safe` hooks of an object, all of them, whatever one raises; SystemExit(1) if one did."""
    failed = False
    for method, _hook in component.hooks("safe"):
        try:
            result = getattr(target, method.name)()
            if inspect.isawaitable(result):
                _run_alone(result)
        except Exception as exc:
            logger.error("%s raised %s: %s", method.label, type(exc).__name__, exc, exc_info=exc)
            failed = True
    if failed:
        raise SystemExit(1)


def _asks_safety(payload: bytes) -> bool:
    """Return whether a command to stop says ``"safe": true``."""
    try:
        return codecs.decode(payload)[0].get("safe") is True
    except PayloadError:
        return False


def _recorded(value: Any) -> Any:
    """Return the value of a parameter as the recording holds it: as JSON, else as Python shows it."""
    try:
        return codecs.plain(value)
    except PayloadError:
        return f"{value!r:.200}"


def _described(message: Message) -> str:
    """Return topic and publisher of a message, for people."""
    try:
        envelope = codecs.envelope_of(message.payload)
    except PayloadError:
        envelope = None
    sender = "a client that does not say its name" if envelope is None else f"{envelope.by}, number {envelope.n}"
    return f"message on {message.topic!r} from {sender}"


def _new_loop() -> Loop:
    from ether.loop import Loop

    return Loop()


def _run_alone(awaitable: Any) -> Any:
    """Return what an awaitable results in, in a loop of its own."""
    loop = _new_loop()
    try:
        return loop.run(awaitable)
    finally:
        loop.close()


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
