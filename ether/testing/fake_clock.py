"""Fake clock: time that passes only when somebody waits, and threads that live by it, one at a time, in a fixed order.

Whoever made the clock drives it: while he waits, everything that is due happens, in the order of its time; when nothing
is left to do at this moment, the clock is set to the next one. The same test gives the same each time it runs.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar
from unittest import mock

from ether import clock, loop
from ether.errors import EtherError
from ether.watchdog import stacks

__all__ = ["FakeClock", "Stuck"]

T = TypeVar("T")

_START = 1_767_225_600.0  # 2026-01-01
_MONOTONIC_START = 1_000.0
_MOST_TURNS = 100_000
"""So much may happen without time passing."""
_real_wait = clock.wait
_real_thread = clock.thread
_real_take = clock.take
_real_sleep = time.sleep
_real_event_wait = threading.Event.wait


class Stuck(EtherError, RuntimeError):
    """The code under test does not come back, or lets no time pass."""


class _Killed(KeyboardInterrupt):
    """Ends a thread of an instance that has crashed: of what user code raises, this alone ends an instance."""


class _Thread(threading.Thread):
    """A thread that goes on when it is given the turn, and gives it back when it waits."""

    def __init__(self, owner: FakeClock, work: Callable[[], object], name: str, belongs_to: object) -> None:
        super().__init__(name=name, daemon=True)
        self.owner = owner
        self.belongs_to = belongs_to
        self.go = threading.Lock()  # two locks that one side takes and the other lets go: cheaper than semaphores
        self.back = threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.done: Callable[[], bool] = lambda: True
        self.until = math.inf
        self.killed = False
        self.ending = False
        """It has been told that it is killed: what it still runs waits for nothing."""
        self.over = False
        self._work = work

    def run(self) -> None:
        self.go.acquire()
        try:
            if not self.killed:
                self._work()
        except _Killed:
            pass
        finally:
            self.over = True
            self.back.release()

    @property
    def ready(self) -> bool:
        return self.killed or self.until <= self.owner.monotonic() or self.done()

    def give_back(self, done: Callable[[], bool], until: float) -> bool:
        """Wait, in this thread, until it is given the turn again because it is ready."""
        if not self.killed:
            self.done, self.until = done, until
            self.back.release()
            self.go.acquire()
        if self.killed and not self.ending:
            self.ending = True
            raise _Killed
        return done()


class FakeClock:
    """A clock that a test drives from the thread that made it."""

    def __init__(self, *, patience_s: float = 30.0) -> None:
        """Begin at a fixed moment, 2026-01-01 00:00 UTC.

        Args:
            patience_s: real seconds within which whoever has the turn must wait for something, or come to an end.
        """
        self.on_turn: Callable[[object], None] = lambda belongs_to: None
        """Called with whom the thread that has the turn now belongs to; None for the one that drives."""
        self._patience_s = patience_s
        self._mono = _MONOTONIC_START
        self._driver = threading.current_thread()
        self._belongs_to: object = None
        self._soon: deque[Callable[[], object]] = deque()
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._threads: list[_Thread] = []
        self._next = 0

    # --- the time

    def monotonic(self) -> float:
        """Return seconds since some moment before the clock began."""
        return self._mono

    def monotonic_ns(self) -> int:
        return round(self._mono * 1e9)

    def now(self) -> float:
        """Return seconds since the Unix epoch, to the microsecond."""
        return round(_START + self._mono - _MONOTONIC_START, 6)

    def now_ns(self) -> int:
        return round(self.now() * 1e6) * 1000

    @property
    def driven_here(self) -> bool:
        """Whether the caller runs in the thread that drives it."""
        return threading.current_thread() is self._driver

    # --- what happens

    def soon(self, work: Callable[[], object]) -> None:
        """Have something done in the driving thread before time passes; any thread may ask for it."""
        self._soon.append(work)

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Have something done in the driving thread in so many seconds."""
        heapq.heappush(self._later, (self._mono + seconds, next(self._numbers), work))

    def wait(self, done: Callable[[], bool], sleep: Callable[[float], object], timeout: float) -> bool:
        """Stands for `clock.wait`; a thread of the user's own waits in real time."""
        me = threading.current_thread()
        if me is self._driver:
            return self.drive(done, timeout)
        if isinstance(me, _Thread) and me.owner is self:
            return me.give_back(done, self._mono + timeout)
        return _real_wait(done, sleep, timeout)

    def take(self, work: SimpleQueue[T], timeout: float | None) -> T:
        """Stands for `clock.take`."""
        me = threading.current_thread()
        if isinstance(me, _Thread) and me.owner is self:
            me.give_back(lambda: not work.empty(), math.inf if timeout is None else self._mono + timeout)
            return work.get_nowait()
        return _real_take(work, timeout)

    def thread(self, work: Callable[..., object], *args: Any, name: str) -> threading.Thread:
        """Stands for `clock.thread`: it has its first turn when the driving thread waits."""
        me = threading.current_thread()
        belongs_to = self._belongs_to or (me.belongs_to if isinstance(me, _Thread) else None)
        begun = _Thread(self, lambda: work(*args), name, belongs_to)
        self._threads.append(begun)
        begun.start()
        return begun

    @contextmanager
    def belonging_to(self, who: object) -> Iterator[None]:
        """What threads are begun in this block belong to `who`; otherwise to whom those belong that begin them."""
        before, self._belongs_to = self._belongs_to, who
        try:
            yield
        finally:
            self._belongs_to = before

    def drive(self, done: Callable[[], bool], seconds: float) -> bool:
        """Let happen what is due, and time pass, until something is done, for at most so many seconds.

        Raises:
            Stuck: so much happens at one moment that no time passes.
        """
        until = self._mono + seconds
        turns = 0
        while not done():
            if self._turn():
                turns += 1
                if turns > _MOST_TURNS:
                    raise Stuck(f"{_MOST_TURNS} turns, and no time has passed; what runs does not wait:\n{stacks()}")
                continue
            due = min(
                [thread.until for thread in self._threads] + [each[0] for each in self._later[:1]], default=math.inf
            )
            if due > until or due == math.inf:
                if until < math.inf:
                    self._mono = until
                return done()
            self._mono = max(self._mono, due)
            turns = 0
        return True

    def settle(self) -> None:
        """Let happen what is due at this moment."""
        self.drive(lambda: False, 0.0)

    def advance(self, seconds: float) -> None:
        """Let so much time pass, and everything happen that is due meanwhile."""
        self.drive(lambda: False, seconds)

    def kill(self, belongs_to: object) -> None:
        """End the threads that belong to somebody, wherever they wait; their `finally` blocks run.

        To be called in the thread that drives: any other leaves it to `soon`.
        """
        self._end([each for each in self._threads if each.belongs_to is belongs_to])

    def close(self) -> None:
        """End every thread that lives by it."""
        self._end(list(self._threads))

    def _end(self, threads: list[_Thread]) -> None:
        for thread in threads:
            thread.killed = True
            self._give_turn(thread)

    def _turn(self) -> bool:
        """Let one thing happen that is due; False where nothing is."""
        if self._soon:
            self._soon.popleft()()
            return True
        if self._later and self._later[0][0] <= self._mono:
            heapq.heappop(self._later)[2]()
            return True
        for offset in range(len(self._threads)):
            place = (self._next + offset) % len(self._threads)
            thread = self._threads[place]
            if thread.ready:
                self._next = place + 1
                self._give_turn(thread)
                return True
        return False

    def _give_turn(self, thread: _Thread) -> None:
        if thread.over:
            return
        self.on_turn(thread.belongs_to)
        thread.go.release()
        came_back = thread.back.acquire(timeout=self._patience_s)
        self.on_turn(None)
        if not came_back:
            thread.killed = True  # it ends where it waits next; until then, nobody counts on it
            self._threads.remove(thread)
            frame = _frame_of(thread)
            raise Stuck(
                f"{thread.name} has not come back for {self._patience_s:g} s of real time; "
                f"with a clock of a test, only time.sleep() and what ether waits for lets time pass:\n{frame}"
            )
        if thread.over:
            thread.join()  # who waits for its end must not find it ending
            self._threads.remove(thread)

    # --- in the place of the real one

    @contextmanager
    def installed(self) -> Iterator[FakeClock]:
        """Put this clock in the place of ether's, and of the module `time` for the threads that live by it."""
        with ExitStack() as stack:

            def replace(target: Any, name: str, value: Any) -> None:
                stack.enter_context(mock.patch.object(target, name, value))

            for name in ("monotonic", "monotonic_ns", "now", "now_ns", "wait", "take", "thread"):
                replace(clock, name, getattr(self, name))
            replace(loop, "new_event_loop", lambda: _event_loop(self))
            replace(time, "sleep", self._sleep)
            replace(threading.Event, "wait", self._event_wait())
            for name, ours in (
                ("time", self.now), ("time_ns", self.now_ns), ("monotonic", self.monotonic),
                ("monotonic_ns", self.monotonic_ns), ("perf_counter", self.monotonic),
                ("perf_counter_ns", self.monotonic_ns),
            ):  # fmt: skip
                replace(time, name, self._for_ours(ours, getattr(time, name)))
            yield self

    def _is_ours(self) -> bool:
        me = threading.current_thread()
        return isinstance(me, _Thread) and me.owner is self

    def _for_ours(self, ours: Callable[[], T], real: Callable[[], T]) -> Callable[[], T]:
        return lambda: ours() if self._is_ours() else real()

    def _sleep(self, seconds: float) -> None:
        me = threading.current_thread()
        if isinstance(me, _Thread) and me.owner is self:
            me.give_back(lambda: False, self._mono + seconds)
        else:
            _real_sleep(seconds)

    def _event_wait(self) -> Callable[..., bool]:
        def wait(event: threading.Event, timeout: float | None = None) -> bool:
            me = threading.current_thread()
            if timeout is not None and isinstance(me, _Thread) and me.owner is self:
                return me.give_back(event.is_set, self._mono + timeout)
            return _real_event_wait(event, timeout)

        return wait


class _Selector(selectors.DefaultSelector):
    """Waits by the fake clock."""

    fake: FakeClock

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        self.fake.wait(
            lambda: bool(super(_Selector, self).select(0)), _real_sleep, math.inf if timeout is None else timeout
        )
        return super().select(0)


def _event_loop(fake: FakeClock) -> asyncio.AbstractEventLoop:
    """Return an event loop for a thread that lives by a fake clock."""
    selector = _Selector()
    selector.fake = fake
    made = asyncio.SelectorEventLoop(selector)
    made.time = fake.monotonic  # type: ignore[method-assign]  # asyncio asks nobody else
    return made


def _frame_of(thread: threading.Thread) -> str:
    import sys

    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the documented way, in spite of its name
    return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else ""
