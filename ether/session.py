"""The `ether` object: tap, start, call, annotate, run, shutdown; and what runs in an instance's process.

Light on purpose: the configuration, MQTT and processes are imported by `tap`, so that a script which never taps in
needs none of them.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ether import clock, model
from ether.errors import BrokerError, CallError, EtherError, FieldError, SessionError
from ether.model import Annotation, Reading, Run, State, Summary

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import FrameType

    from ether.client import Client, InstanceInfo, Subscription
    from ether.config import Config
    from ether.host import Host
    from ether.instance import Instance
    from ether.member import Member
    from ether.recorder.reader import Recording
    from ether.replay import Replayed

__all__ = ["Ether", "RunHandle", "Summary", "ether", "main", "make_instance"]

logger = logging.getLogger("ether")

_LATER_KEPT = 1000
_LOOK_S = 0.05
"""How often to look whether a session of another process has ended."""

T = TypeVar("T")


class RunHandle:
    """A run that goes on; `annotate` it, or begin trials inside it."""

    def __init__(self, owner: Ether, run: Run) -> None:
        self._owner = owner
        self.run = run

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def number(self) -> int:
        return self.run.number

    def annotate(self, text: str, **options: Any) -> bool:
        """Annotate, with this run's id among the values; arguments and result as of `Ether.annotate`."""
        values = {"run": self.run.id, **(options.pop("values", None) or {})}
        return self._owner.annotate(text, values=values, **options)

    def trial(self, name: str = "trial", /, **metadata: Any) -> Any:
        """Begin a run inside this one, as a context manager."""
        return self._owner.run(name, **metadata)


class Ether:
    """One process's hold on a session. Use the object `ether.ether`; a second one would be a second client."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._host: Host | None = None
        self._close_guest: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._runs: list[Run] = []
        self._scoped: set[str] = set()
        self._later: dict[str, Future[Any]] = {}
        self._ended = threading.Event()
        self._summary: Summary | None = None
        self._sigterm: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _the_one, ()  # a class of the running script may name it: in its process that is the process's own

    Reading = Reading
    """So that a handler's parameter may be annotated ``ether.Reading``."""

    @staticmethod
    def open(path: str | Path) -> Recording:
        """Open a recording: a file, or the folder of a session."""
        from ether.recorder.reader import open_recording

        return open_recording(path)

    # --- begin and end

    @property
    def tapped(self) -> bool:
        """Whether this process takes part in a session."""
        return self._client is not None

    def tap(
        self,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        restart: bool = False,
        *,
        join_only: bool = False,
    ) -> Ether:
        """Take part in a session; returns when all its instances are ready.

        Args:
            config: a path, mapping or `Config`. With instances, a session of its own is started (beside any other),
                unless ``session.name`` names a running one, which is joined. Without, the running session is joined
                (``ETHER_BROKER``, else the newest of this user on this machine); where none runs, a private one starts.
            restart: end the session this process is in first.
            join_only: never start one; BrokerError where none runs.

        Raises:
            ConfigError: everything wrong with the configuration, at once, before anything starts.
            BrokerError: no broker.
            StartError: instances that did not become ready, with the reason for each; nothing is left running.
            SessionError: this process is in another session already.
        """
        from ether.config import Config
        from ether.guest import join
        from ether.host import Host

        with self._lock:
            if self._client is not None:
                wanted = Config.load(config) if config is not None else None
                if not restart:
                    if wanted is None or self._host is None or wanted == self._host.config:
                        return self
                    raise SessionError("this process is in a session already; use tap(…, restart=True) or shutdown()")
                self.shutdown()
            loaded = Config.load(config)
            self._ended.clear()
            self._summary = None
            guest = join(loaded, join_only)
            if guest is not None and not loaded.starts:
                self._client, self._close_guest = guest.client, guest.close
            else:
                host = Host(loaded, guest)
                self._catch_sigterm()
                try:
                    host.open()
                except BaseException:
                    self._release_sigterm()
                    raise
                host.on_stop_asked = self._stop_asked
                self._host, self._client = host, host.client
            atexit.register(self._at_exit)
            return self

    def start(self) -> None:
        """Begin: sampling starts and every `ether_start` hook runs."""
        self._need().control("start")
        if self._host is not None:
            self._host.sampling_began()

    def preflight(self, timeout: float = 30.0) -> None:
        """Wait until every stream of `expect:` comes as it should, in rate, publisher and unit.

        Raises:
            PreflightError: not within `timeout` seconds; `shortfalls` tells for each topic what is missing, and why.
            SessionError: before `start()`, or in a process that did not begin the session.
        """
        self._need()
        if self._host is None:
            raise SessionError("only the process that began the session knows what is expected")
        self._host.preflight(timeout)

    def save_all(self) -> None:
        """Run every `ether_save_all` hook."""
        self._need().control("save_all")

    def cleanup(self) -> None:
        """Run every `ether_cleanup` hook."""
        self._need().control("cleanup")

    def safe(self) -> None:
        """Run every `ether_safe` hook: bring the hardware to a safe state."""
        self._need().control("safe")

    def shutdown(self) -> Summary | None:
        """Leave the session; end it if this process began it: instances, then recorder, then broker.

        What was delivered is handled first, then `save_all`, `cleanup` and `shutdown` hooks run, each once.
        Without a session it does nothing.

        Returns:
            What the session was, also where `ether down` has ended it already; None for a guest.
        """
        with self._lock:
            host, close_guest = self._host, self._close_guest
            if self._client is None or (host is None and close_guest is None):
                # Nothing to leave: in an instance's process its host ends it; here `ether down` may have been faster.
                summary, self._summary = self._summary, None
                return summary
            atexit.unregister(self._at_exit)
            self._leave_runs(everything=host is not None)
            self._client, self._host, self._close_guest = None, None, None
            self._later.clear()
            try:
                if close_guest is not None:
                    close_guest()
                return host.close() if host is not None else None
            finally:
                self._release_sigterm()
                self._ended.set()

    @contextmanager
    def session(self, config: Config | Mapping[str, Any] | str | Path | None = None) -> Iterator[Ether]:
        """Tap in, and shut down at the end whatever happens."""
        self.tap(config)
        try:
            yield self
        finally:
            self.shutdown()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the session has ended, as after `ether down`; False when `timeout` seconds have passed first."""
        return clock.wait_for(self._ended, float("inf") if timeout is None else timeout)

    def stop_session(self, timeout: float = 30.0) -> None:
        """Ask the host of the joined session to shut down, and wait until it has, its recording finished.

        Raises:
            SessionError: nobody hosts it, or it has not ended within `timeout` seconds.
        """
        from ether import runtime

        client = self._need()
        if self._host is not None:
            self.shutdown()
            return
        client.watch()
        if "session" not in client.statuses:
            raise SessionError("nobody hosts a session here")
        identity = client.session.get("id")

        def here() -> bool:
            return any(each["id"] == identity for each in runtime.running())

        def cleared() -> bool:
            # After its goodbye the recorder seals the file, which is to have that too; what it retained goes last.
            status = client.statuses.get("session")
            return status is None or status.state is State.LOST or not client.connection.connected

        on_this_machine, ended = here(), clock.monotonic() + timeout
        client.command("session", "stop")
        if on_this_machine:
            client.connection.flush(timeout, patient=False)
            self.shutdown()  # the broker may end with it, and its entry goes after that
            done = _look_until(lambda: not here(), ended - clock.monotonic())
        else:
            done = _look_until(cleared, timeout)
        if not done:
            raise SessionError(f"the session did not end within {timeout:g} s")

    # --- instances

    def add(self, target: T, name: str | None = None) -> T:
        """Make an object, created by hand in this process, an instance of the session, and return it.

        From now on its handlers run in a thread of its own, its results are published when its methods are called.

        Args:
            target: an object of a marked class.
            name: unique in the session; default the class name in lower case.
        """
        self._need()
        from ether.host import add

        owner = self._host
        if owner is None:
            raise SessionError("only the process that began the session can add instances; start one with tap(config)")
        add(owner, target, name or type(target).__name__.lower())
        return target

    def launch(self, *names: str, timeout: float = 60.0) -> None:
        """Start instances that were declared with ``autorun: false`` or have ended; returns when all are ready.

        Args:
            timeout: seconds to wait where another process began the session.

        Raises:
            StartError: one did not become ready; a CallError that says so where another process began the session.
            SessionError: no such instance, or it runs.
        """
        client = self._need()
        if self._host is not None:
            self._host.launch(list(names))
        else:
            client.order("session", "launch", timeout, names=list(names))

    def stop(self, *names: str, safe: bool = False, timeout: float = 60.0) -> dict[str, str]:
        """Stop instances in order; they stay stopped, whatever their restart policy. Returns name to how each ended.

        Args:
            safe: each runs its `ether_safe` hooks as it ends; where it cannot, another object of its class does.
            timeout: seconds to wait where another process began the session.

        Raises:
            SessionError: no such instance, or with `safe` one without such a hook; then none is stopped.
        """
        return self._order("stop", names, timeout, safe=safe)

    def restart(self, *names: str, timeout: float = 60.0) -> dict[str, str]:
        """Stop instances in order and start them anew; returns when all are ready. Raises as `stop` and `launch`."""
        return self._order("restart", names, timeout)

    def _order(self, verb: str, names: tuple[str, ...], timeout: float, **options: bool) -> dict[str, str]:
        client = self._need()
        host = self._host
        if host is not None:
            return host.stop(list(names), **options) if verb == "stop" else host.restart(list(names))
        supervised = self.processes()
        others = [name for name in names if name not in supervised and name in client.statuses]
        ours = [name for name in names if name not in others]
        found: dict[str, str] = {}
        if ours:
            found = client.order("session", verb, timeout, names=ours, **options)
        for name in others:  # a device, or an instance of a script that has joined
            found[name] = client.tell(name, verb, timeout, **options)
        return found

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return what the session's supervisor knows of its processes, by name; empty where nobody hosts a session.

        ``state``, ``pid``, ``exit``, ``last_lines`` of stderr, ``since``, ``restarts``, ``restart`` (the policy),
        ``again_at``; also for instances that are declared and were never started.
        """
        from ether.client import PROCESSES

        self._need()
        return self._host.processes() if self._host is not None else self._ask_session(PROCESSES)

    def members(self) -> dict[str, dict[str, Any]]:
        """Return what the session's own process has seen of each member; empty where nobody hosts a session.

        ``state`` (also ``reconnecting``, and ``lost`` of one that fell silent), ``detail``, ``for_s``, ``heard_s``,
        ``every``, ``losses``: see `Client.members`.
        """
        from ether.client import MEMBERS

        client = self._need()
        return client.members() if self._host is not None else self._ask_session(MEMBERS)

    def _ask_session(self, question: str) -> dict[str, dict[str, Any]]:
        client = self._need()
        client.watch()
        about = client.abouts.get("session")
        if about is None or question not in about.calls:
            return {}
        found: dict[str, dict[str, Any]] = client.request("session", question)
        return found

    def instances(self) -> dict[str, InstanceInfo]:
        """Return what is known of every instance, of the recorder and of the session, by name."""
        found = self._need().instances()
        if self._host is not None:
            for name, state in self._host.process_states().items():
                if name in found:
                    found[name] = replace(found[name], process=state)
        return found

    def info(self) -> dict[str, Any]:
        """Return the session, its broker, what is recorded where, and the current run."""
        client = self._need()
        client.watch()
        session = client.session
        recorder = client.statuses.get("recorder")
        return {
            "session": {key: value for key, value in session.items() if key not in ("broker", "recording")},
            "broker": session.get("broker") or {"url": str(client.connection.address), "kind": "external", "why": ""},
            "connected": client.connection.connected,
            "namespace": client.connection.namespace,
            "recording": session.get("recording"),
            "run": client.current_run or None,
            "alarms": [{"by": name, **each} for name, found in client.alarms.items() for each in found],
            "recorder": None if recorder is None else {"state": str(recorder.state), **recorder.counts},
        }

    # --- data

    def pub(self, data: Any = None, topic: str = "", *, qos: int = 1, retain: bool = False) -> None:
        """Publish a value by hand."""
        self._need().pub(data, topic, qos, retain)

    def subscribe(self, topic_filter: str, callback: Callable[[model.Reading], None]) -> Subscription:
        """Call back with each reading of a topic filter, in the network thread; ``stop()`` ends it."""
        return self._need().subscribe(topic_filter, callback)

    # --- calls

    def request(
        self, target: str, method: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        """Call a method of an instance (or of one of a class, in turn); return its result or raise CallError."""
        return self._need().request(target, method, params, timeout)

    def get(
        self,
        target: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        **arguments: Any,
    ) -> Any:
        """Call an `ether_get` method; returns the result or raises CallError with the remote type and traceback."""
        return self.request(target, method, {**(params or {}), **arguments}, timeout=timeout)

    def params(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the live parameters of an instance: name to ``value``, JSON Schema, ``unit``, ``by`` and ``t``.

        Raises:
            SessionError: no such instance.
        """
        found = self.instances().get(name)
        if found is None or found.about is None:
            raise SessionError(f"no instance {name!r}; there are: {', '.join(self.instances())}")
        return found.about.params

    def set_param(self, name: str, param: str, value: Any, timeout: float | None = None) -> Any:
        """Set a live parameter of an instance, between two of its handlers, and return what it is then.

        The change is told to everybody, and is an annotation with the tag ``param`` in the recording.

        Raises:
            CallError: the instance refuses it, or is gone; CallTimeout: it did not answer.
        """
        from ether import runtime, topics

        return self.get(
            name, topics.PARAM_SET, {"param": param, "value": value, "by": runtime.author()}, timeout=timeout
        )

    def save(
        self,
        target: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Call an `ether_save` method; returns ``{"status": "success", "result": …}`` or ``{"status": "error", …}``."""
        try:
            result = self.request(target, method, {**(params or {}), **arguments}, timeout=timeout)
        except CallError as exc:
            return {"status": "error", "error": str(exc), "type": exc.type, "traceback": exc.traceback}
        return {"status": "success", "result": result}

    def get_later(
        self,
        target: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        **arguments: Any,
    ) -> Future[Any]:
        """Call without waiting; returns a future whose ``id`` `collect` takes too."""
        future = self._need().call(target, method, {**(params or {}), **arguments}, timeout)
        future.id = secrets.token_hex(4)  # type: ignore[attr-defined]  # a name to collect it by
        self._later[future.id] = future  # type: ignore[attr-defined]  # as above
        while len(self._later) > _LATER_KEPT:  # the oldest can still be waited for by their futures
            self._later.pop(next(iter(self._later)))
        return future

    def collect(self, call: str | Future[Any], timeout: float | None = None) -> Any:
        """Wait for a call made with `get_later`, by its future or the future's ``id``."""
        from ether.client import CALL_TIMEOUT_S
        from ether.errors import CallTimeout

        future = self._later.get(call) if isinstance(call, str) else call
        if future is None:
            raise SessionError(f"no call {call!r} was made with get_later(), or it has been collected")
        limit = CALL_TIMEOUT_S if timeout is None else timeout
        try:
            result = future.result(limit)
        except TimeoutError as exc:
            if isinstance(exc, CallError):
                raise
            raise CallTimeout(f"no answer within {limit:g} s") from None
        finally:
            if future.done():
                self._later.pop(getattr(future, "id", ""), None)
        return result

    def sync(
        self, topic: str, data: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Have all subscribers of a topic handle `data`; returns when all have finished, raises if one failed."""
        return self._need().sync(topic, data, timeout)

    def replay(
        self,
        file: str | Path,
        *,
        speed: float = 1.0,
        loop: bool = False,
        topics: Iterable[str] | str = (),
        run: Run | str | None = None,
        start: float | None = None,
        end: float | None = None,
        replace: Iterable[str] | str = (),
        diff: bool = False,
        tolerance: float = 1e-9,
        ignore: Iterable[str] | str = (),
        settle: float = 5.0,
        stop: threading.Event | None = None,
        progress: Callable[[float, float], None] = lambda done_s, total_s: None,
    ) -> Replayed:
        """Publish a recording's data again, marked as replayed; returns when all is sent.

        Args:
            file: a recording, finished or not.
            speed: 10 is ten times as fast, ``float("inf")`` as fast as the broker takes it.
            loop: begin again at the end, until stopped.
            topics: only what these filters match.
            run: only what was received during this run: the run itself, its name (all runs of it, one after the other),
                id or number.
            start: only what was received from then on, Unix seconds.
            end: only what was received before, Unix seconds.
            replace: live instances; what they had published is left out, since they publish it now.
            diff: compare what they publish with what was recorded; without `replace`, of all that are in both.
            tolerance: for floats, relative and absolute.
            ignore: fields that are not compared.
            settle: seconds of silence after which what has not come is missing.
            stop: set it to end the replay.
            progress: called with the seconds replayed and how many there are.

        Raises:
            RecordingError: not a recording, or nothing in it is what was asked for.
            SessionError: no such run, nobody of that name is live, or nothing was compared.
        """
        from ether.replay import replay as play

        def words(given: Iterable[str] | str) -> Iterable[str]:
            return (given,) if isinstance(given, str) else given

        return play(
            self._need().connection, file, speed=speed, loop=loop, topic_filters=words(topics), run=run, start=start,
            end=end, instead=words(replace), diff=diff, tolerance=tolerance, ignore=words(ignore), settle=settle,
            stop=stop, progress=progress,
        )  # fmt: skip

    # --- annotations and runs

    def annotate(
        self,
        text: str,
        *,
        at: float | None = None,
        until: float | None = None,
        tags: tuple[str, ...] | list[str] | str = (),
        values: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Add a remark to the recording; returns once it is stored.

        Args:
            text: for people.
            at: Unix time in seconds; now by default.
            until: end, for a remark over an interval.
            tags: words to find it by.
            values: further fields, of what JSON can hold; arrays become lists.
            timeout: seconds to wait for the recorder, 10 by default; 0 sends it and does not wait.

        Returns:
            True: it survives a power cut. False: nobody records, or nobody waited (`timeout` 0, or the callback of a
            subscription, which cannot).

        Raises:
            SessionError: the recorder did not confirm it in time.
            PayloadError: the values are nothing that JSON can hold.
            ValueError: the interval ends before it begins.
        """
        from ether import codecs
        from ether.client import CALL_TIMEOUT_S, tag_tuple

        client = self._need()
        when = clock.now() if at is None else float(at)
        if until is not None and until < when:
            raise ValueError("the interval ends before it begins")
        remark = Annotation(text, when, until, tag_tuple(tags), codecs.plain(dict(values or {})), client.name)
        return client.annotate(remark, CALL_TIMEOUT_S if timeout is None else timeout)

    @contextmanager
    def run(self, name: str, /, **metadata: Any) -> Iterator[RunHandle]:
        """Mark a stretch of the recording; inside another it is a trial. An exception becomes its outcome."""
        handle = self.start_run(name, **metadata)
        self._scoped.add(handle.id)
        try:
            yield handle
        except BaseException as exc:
            if self._client is not None:
                stopped = isinstance(exc, KeyboardInterrupt)
                self._end_run(handle.run, "interrupted" if stopped else f"failed: {type(exc).__name__}: {exc}")
            raise
        if self._client is not None:
            self._end_run(handle.run, "success")

    def start_run(self, name: str, /, **metadata: Any) -> RunHandle:
        """Begin a run, inside one that this process has begun a trial of it. Better: ``with ether.run(…)``."""
        return self._begin_run(name, metadata, self._runs[-1] if self._runs else None)

    def start_trial(self, name: str = "trial", /, **metadata: Any) -> RunHandle:
        """Begin a trial of the session's current run, whoever began that one; SessionError where no run is on."""
        from ether.client import read_run

        client = self._need()
        client.watch()
        if not client.current_run:
            raise SessionError("no run is on")
        return self._begin_run(name, metadata, read_run(client.current_run))

    def _begin_run(self, name: str, metadata: dict[str, Any], parent: Run | None) -> RunHandle:
        from ether import codecs

        client = self._need()
        metadata = codecs.plain(metadata)  # before it has begun
        client.watch()
        number = (client.run_count if parent is None else client.trial_counts[parent.id]) + 1
        inside = None if parent is None else parent.id
        run = Run(secrets.token_hex(8), name, number, clock.now(), metadata, inside, by=client.name)
        client.announce_run(run)
        self._runs.append(run)
        return RunHandle(self, run)

    def stop_run(self, outcome: str = "success") -> None:
        """End the innermost run of this process, or the session's current one."""
        from ether.client import read_run

        client = self._need()
        if self._runs:
            self._end_run(self._runs[-1], outcome)
            return
        client.watch()
        if not client.current_run:
            raise SessionError("no run is on")
        client.announce_run(replace(read_run(client.current_run), stopped=clock.now(), outcome=outcome))

    def _leave_runs(self, everything: bool) -> None:
        """Interrupt the runs that end with this process: those of a ``with``, and at the session's end everybody's."""
        for run in reversed(self._runs):
            if everything or run.id in self._scoped:
                self._end_run(run, "interrupted")
        self._runs.clear()
        self._scoped.clear()
        while everything and self._client is not None and self._client.current_run:
            self.stop_run("interrupted")

    def _end_run(self, run: Run, outcome: str) -> None:
        if run not in self._runs or self._client is None:
            return
        self._runs.remove(run)
        self._client.announce_run(replace(run, stopped=clock.now(), outcome=outcome))

    # --- inner

    def _need(self) -> Client:
        if self._client is None:
            raise SessionError("no session: call ether.tap() first")
        return self._client

    def _attach(self, client: Client, host: Host | None = None) -> None:
        """Be the hold of an instance's process on the session it belongs to; or, in a test, of its host's."""
        self._client, self._host = client, host

    def _stop_asked(self) -> None:
        def stop() -> None:
            self._summary = self.shutdown()

        threading.Thread(target=stop, name="shutdown").start()

    def _at_exit(self) -> None:
        try:
            self.shutdown()
        except EtherError:
            logger.exception("the session did not end in order")

    def _catch_sigterm(self) -> None:
        """SIGTERM ends the script like an exit, so that the session ends in order."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._sigterm = signal.signal(signal.SIGTERM, _exit_on_sigterm)

    def _release_sigterm(self) -> None:
        if self._sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)
            self._sigterm = None


def _look_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until something holds of which nobody tells us; False when `timeout` seconds have passed."""
    return clock.wait(condition, lambda left: threading.Event().wait(min(left, _LOOK_S)), timeout)


def _exit_on_sigterm(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


ether = Ether()
"""This process's hold on its session."""


def _the_one() -> Ether:
    return ether


# --- an instance's process


def main() -> None:
    """Run one instance as the orders say, until told to stop."""
    # Before the orders come: what every instance needs, while the broker starts.
    from ether import process, reload
    from ether.client import Client
    from ether.component import Component, bind, load_class, registry_marks
    from ether.instance import make_safe  # and what it imports
    from ether.member import Member
    from ether.mqtt import BrokerLimits, Tls

    # A handler that computes must not keep the network thread from the interpreter for Python's usual 5 ms.
    sys.setswitchinterval(0.001)
    orders = process.orders()
    name = orders["name"]
    process.log_to_stderr(name, orders["log_level"])
    os.chdir(orders["cwd"])
    if orders.get("only_safe"):
        cls, given, kwargs = _unpack(orders, load_class)
        args, kwargs = bind(cls, given, kwargs)
        make_safe(Component.of(cls, registry_marks(orders["marks"])), cls(*args, **kwargs))
        return
    tls = Tls(**orders["tls"]) if orders["tls"] else None
    member = Member(orders["url"], name, namespace=orders["namespace"], tls=tls)
    member.connection.limits = BrokerLimits(**orders["limits"])
    client = Client(member.connection, member.publisher)
    member.on_message = lambda message, receipt: client.take(message)
    member.on_up = lambda session_present: client.renew_runs()
    member.publisher.keep_by(orders["outbox"])
    try:
        member.open(orders["start_timeout"])
    except BrokerError as exc:
        raise SystemExit(f"{name}: {exc}") from None
    member.log_to_topic()
    ether._attach(client)  # noqa: SLF001 - user code in this process calls through it
    try:
        instance = make_instance(orders, member, client, load_class)
        if (hang_after := orders["hang_after"]) is not None:
            instance.watch(hang_after, partial(_end_hung, member) if orders["restart_hung"] else None)
        instance.open()
    except BaseException as exc:  # noqa: BLE001 - whatever the user's constructor raises, SystemExit too
        _fail(member, exc, orders["reload"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: instance.stop("told by a signal"))
    process.on_orphaned(lambda: _end_orphan(instance, orders["drain_timeout"]))
    if orders["reload"]:
        reload.watch(lambda path: instance.restart(f"{path} was edited"))
    if orders["recorded"]:
        client.wait_until_ready("recorder", orders["start_timeout"])
    if instance.init() and orders["started"]:
        instance.start()
    instance.run()
    instance.close()
    if instance.unsafe:
        raise SystemExit(1)  # the supervisor then has another object of the class do it
    if instance.restart_asked:
        raise SystemExit(process.RESTART_CODE)


def make_instance(orders: dict[str, Any], member: Member, client: Client, load: Callable[[str], type]) -> Instance:
    """Return an instance on an object of the class that the orders name, not opened yet.

    Args:
        orders: as its host gives them.
        member: its voice.
        client: what its user's code calls through.
        load: the class that a class path names.
    """
    from ether.component import Component, bind, registry_marks
    from ether.decorators import Param
    from ether.instance import Instance
    from ether.params import Params

    cls, given, kwargs = _unpack(orders, load)
    component = Component.of(cls, registry_marks(orders["marks"]))
    args, kwargs = bind(cls, given, kwargs)
    target = cls(*args, **kwargs)
    shown = json.loads(json.dumps(orders["shown"], default=repr))
    params = Params(target, {name: Param(**each) for name, each in orders["params"].items()})
    for param, (value, by, at) in orders.get("set_params", {}).items():  # before this start, by somebody
        try:
            params.set(param, value, by, at)
        except FieldError as exc:  # its source has been edited meanwhile
            logger.warning("%s: not set again: %s", member.name, exc)
    instance = Instance(component, target, member, **shown, drain_timeout=orders["drain_timeout"], params=params)
    instance.take_first = client.take
    return instance


def _unpack(orders: dict[str, Any], load: Callable[[str], type]) -> tuple[type, list[Any], dict[str, Any]]:
    """Return the class and its arguments; those that JSON cannot carry came pickled, by value."""
    if orders["pickled"]:
        from ether import parcel

        cls, args, kwargs = parcel.unpack(orders["pickled"])
    else:
        cls, args, kwargs = orders["class_path"], orders["args"], orders["kwargs"]
    return (load(cls) if isinstance(cls, str) else cls), args, kwargs


def _fail(member: Any, exc: BaseException, reload_it: bool) -> None:
    """Tell everybody why this instance cannot start, and exit; at once, or when its source has been edited."""
    import traceback

    from ether import process, reload

    sources = reload.Sources(reload.files_of(exc)) if reload_it else None  # before anybody knows, and mends them
    detail = f"{type(exc).__name__}: {exc}"
    ours = Path(__file__).parent
    places = [Path(frame.filename) for frame in traceback.extract_tb(exc.__traceback__)]
    if isinstance(exc, EtherError) and all(place.is_relative_to(ours) for place in places):
        logger.error("%s: cannot start: %s", member.name, detail)  # no line of the user's leads to it
    else:
        logger.error("%s: cannot start: %s", member.name, detail, exc_info=exc)
        detail += "\n" + "".join(traceback.format_exception(exc))
    member.set_status(State.LOST, detail)
    if sources is not None:
        process.on_orphaned(lambda: os._exit(1))
        path = sources.wait(threading.Event())
        logger.warning("%s: %s was edited; starting again", member.name, path)
    member.close(2.0)
    sys.stdout.flush()
    os._exit(
        process.RESTART_CODE if reload_it else 1
    )  # a thread that the constructor left behind must not keep the process


def _end_hung(member: Any, detail: str) -> None:
    """Make room for another start: what hangs cannot be told to end."""
    from ether import process

    member.set_status(State.LOST, detail)
    member.connection.flush(1.0)
    sys.stderr.flush()
    os._exit(process.HUNG_CODE)


def _end_orphan(instance: Any, drain_timeout: float) -> None:
    """The session's process is gone: end in order, and surely."""
    instance.stop("the session's process is gone")
    threading.Event().wait(min(drain_timeout, 4.0))
    os._exit(1)
