"""Supervisor: child processes: start, watch, restart policy, stop."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ether import clock, process

__all__ = ["OURS", "Child", "Launcher", "ProcessState", "Restart", "Supervisor", "how"]

logger = logging.getLogger(__name__)

_LAST_LINES = 20
_LAST_WORDS_S = 0.05
"""So long the end of what a dead child wrote is waited for: a process it started may hold its pipes open."""
_GROWTH = 4
_SIGNAL_S = 3.0
"""So long a child may take to end after a signal."""


class Launcher(Protocol):
    """What starts processes: the module `ether.process`, or what stands in for it in a test."""

    def spawn(self, module: str, name: str, *, heard: bool = False) -> subprocess.Popen[bytes]: ...

    def give_orders(self, child: subprocess.Popen[bytes], content: dict[str, Any]) -> None: ...


class ProcessState(StrEnum):
    """What the supervisor sees of a child (supervisord's words)."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    EXITED = "exited"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Restart:
    """When a child that ended is started again."""

    policy: str = "never"
    """``never``, ``on-failure`` or ``always``."""
    max: int = 5
    within_s: float = 300.0
    """More than `max` restarts in so many seconds is fatal."""
    backoff_s: tuple[float, float] = (0.2, 30.0)
    """First and longest wait. Each is `_GROWTH` times the one before: the first restart is quick, five take 45 s."""
    jitter: float = 0.25
    """By so large a share, at most, a wait is shorter, at random."""

    def wait_s(self, earlier: deque[float]) -> float | None:
        """Return the seconds to wait before another start; None where there were too many.

        Args:
            earlier: when it was started again before, which this start is added to.
        """
        now = clock.monotonic()
        while earlier and now - earlier[0] > self.within_s:
            earlier.popleft()
        if len(earlier) >= self.max:
            return None
        earlier.append(now)
        first, longest = self.backoff_s
        wait: float = min(first * _GROWTH ** (len(earlier) - 1), longest)
        return wait * random.uniform(1.0 - self.jitter, 1.0)  # noqa: S311 - jitter


OURS = Restart("on-failure", max=5, within_s=60.0, backoff_s=(0.1, 5.0))
"""For the processes that are ours: recorder and broker."""


@dataclass(slots=True)
class Child:
    """One supervised process."""

    name: str
    module: str
    orders: dict[str, Any] = field(default_factory=dict)
    restart: Restart = field(default_factory=Restart)
    state: ProcessState = ProcessState.STOPPED
    popen: subprocess.Popen[bytes] | None = None
    exit: str = ""
    """How it ended: ``exit code 1``, ``killed by SIGKILL``."""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    """What it wrote to stderr last."""
    hearing: list[threading.Thread] = field(default_factory=list)
    """Pass its stderr and stdout on."""
    patience_s: float = 0.0
    """Longer than others it may take to end after SIGTERM: the recorder seals its file."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when it has ended and is not started again."""
    restarts: deque[float] = field(default_factory=deque)
    """When it was started again lately."""
    restarted: int = 0
    """How often it was started again in all."""
    since: float = 0.0
    """Unix time of its last start."""
    again_at: float | None = None
    """Unix time of its next start, while it waits for that."""
    halt: threading.Event = field(default_factory=threading.Event)
    """Set when it is to end, and not to be started again."""

    def facts(self) -> dict[str, Any]:
        """Return what is known of the process, as `Host.processes` tells it."""
        return {
            "state": str(self.state), "pid": self.popen.pid if self.alive and self.popen else None, "exit": self.exit,
            "last_lines": list(self.last_lines), "since": self.since, "restarts": self.restarted,
            "restart": self.restart.policy, "again_at": self.again_at,
        }  # fmt: skip

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None


class Supervisor:
    """Starts children at once and gives them their orders later: they import while the broker starts."""

    def __init__(
        self,
        on_exit: Callable[[Child], None],
        on_gone: Callable[[Child], None],
        on_again: Callable[[Child], None] = lambda child: None,
        on_output: Callable[[Child, int, list[str]], None] = lambda child, number, lines: None,
        pass_on: bool = True,
        launcher: Launcher = process,
    ) -> None:
        """Prepare. What it calls is called in a thread of its own, after a child ended; `child.exit` says how.

        Args:
            on_exit: at each end that nobody asked for.
            on_gone: when it failed and is not started again.
            on_again: before it is started again; may change `child.orders`.
            on_output: called, in a thread of its own, with lines that a child wrote to stdout (1) or stderr (2).
            pass_on: whether what they write also goes where our own output goes.
            launcher: what starts processes.
        """
        self.children: dict[str, Child] = {}
        self._on_exit = on_exit
        self._on_gone = on_gone
        self._on_again = on_again
        self._on_output = on_output
        self._pass_on = pass_on
        self._launcher = launcher

    def spawn(self, name: str, module: str, restart: Restart | None = None) -> Child:
        """Start a child that waits for its orders."""
        child = self.children[name] = Child(name, module, restart=restart or Restart())
        self._start(child)
        return child

    def give_orders(self, child: Child, orders: dict[str, Any]) -> None:
        """Set a child to work; later restarts get the same orders."""
        child.orders = orders
        if child.popen is not None:
            try:
                self._launcher.give_orders(child.popen, orders)
            except BrokenPipeError:
                logger.warning("%s: ended before it got its orders", child.name)
        clock.thread(self._watch, child, name=f"watch {child.name}")

    def expect_end(self, child: Child) -> None:
        """From now on the end of a child is no failure, and it is not started again."""
        if child.alive:
            child.state = ProcessState.STOPPING
        child.halt.set()

    def end(self, child: Child) -> bool:
        """End a child that was told to stop and has not, by SIGTERM, then SIGKILL; True if it had ended by itself."""
        if child.ended.is_set():
            return True
        for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            if child.popen is not None:
                child.popen.send_signal(number)
            if clock.wait_for(child.ended, _SIGNAL_S):
                break
        return False

    def close(self, timeout: float, told: bool = True, only: Collection[str] | None = None) -> list[str]:
        """End what still runs. Returns the names that had to be killed.

        Children that were told to stop may exit by themselves for `timeout` seconds; then comes SIGTERM, and as much
        later SIGKILL.

        Args:
            timeout: seconds.
            told: False where what they were told may not have reached them: SIGTERM comes at once.
            only: names of those to end; all without it.
        """
        children = [child for child in self.children.values() if only is None or child.name in only]
        for child in children:
            child.halt.set()
        deadline = clock.monotonic() + timeout
        for child in children:
            if told and child.alive and child.state is ProcessState.STOPPING:
                _wait(child, deadline)
        deadline = clock.monotonic() + timeout
        killed = []
        living = [child for child in children if child.alive]
        for child in living:
            child.state = ProcessState.STOPPING
            assert child.popen is not None
            child.popen.terminate()
        for child in living:
            assert child.popen is not None
            if not _wait(child, deadline + child.patience_s):
                child.popen.kill()
                child.popen.wait()
                killed.append(child.name)
        for child in children:
            if child.popen is not None and child.popen.stdin is not None:
                _close_quietly(child.popen)
            _hear_out(child)
        return killed

    def _start(self, child: Child) -> None:
        child.state = ProcessState.STARTING
        child.last_lines.clear()
        child.since, child.again_at = clock.now(), None
        child.popen = self._launcher.spawn(child.module, child.name, heard=True)
        pipes = ((2, "stderr", child.popen.stderr), (1, "stdout", child.popen.stdout))
        child.hearing = [
            clock.thread(self._hear, child, number, name=f"{word} {child.name}")
            for number, word, pipe in pipes
            if pipe is not None
        ]

    def _hear(self, child: Child, number: int) -> None:
        """Pass a child's stdout or stderr on as it comes, and remember the last lines of stderr."""
        assert child.popen is not None
        pipe = child.popen.stderr if number == 2 else child.popen.stdout
        assert pipe is not None
        rest = b""
        with pipe as stream:
            while piece := os.read(stream.fileno(), 65_536):
                if self._pass_on:
                    _write(number, piece)
                *lines, rest = (rest + piece).split(b"\n")
                self._take_lines(child, number, lines)
                rest = rest[-65_536:]
        self._take_lines(child, number, [rest] if rest else [])

    def _take_lines(self, child: Child, number: int, lines: list[bytes]) -> None:
        found = [line.decode(errors="replace").rstrip("\r") for line in lines]
        if number == 2:
            child.last_lines.extend(found[-_LAST_LINES:])
        if found:
            self._on_output(child, number, found)

    def _watch(self, child: Child) -> None:
        """Wait for the end of a child, tell, and start it again where its policy says so."""
        while True:
            assert child.popen is not None
            if child.halt.is_set():  # told to end while it was being started again
                child.popen.terminate()
            else:
                child.state = ProcessState.RUNNING
            code = child.popen.wait()
            _close_quietly(child.popen)
            child.exit = how(code)
            _hear_out(child)
            expected = child.halt.is_set()
            child.state = ProcessState.EXITED
            if code != process.RESTART_CODE and (not expected or code not in (0, -signal.SIGTERM)):
                self._on_exit(child)
            if expected or not self._shall_restart(child, code):
                told = child.halt.is_set()
                if told:
                    child.state, child.again_at = ProcessState.STOPPED, None
                child.ended.set()
                if not told and code != 0:
                    self._on_gone(child)
                return
            child.restarted += 1
            self._on_again(child)
            self._start(child)
            assert child.popen is not None
            try:
                self._launcher.give_orders(child.popen, child.orders)
            except BrokenPipeError:
                continue  # it has ended already: seen in the next round

    def _shall_restart(self, child: Child, code: int) -> bool:
        """Wait out the backoff; False where the child stays ended."""
        policy = child.restart
        if code != process.RESTART_CODE:
            if code != process.HUNG_CODE and (
                policy.policy == "never" or (policy.policy == "on-failure" and code == 0)
            ):
                return False
            wait = policy.wait_s(child.restarts)
            if wait is None:
                child.state = ProcessState.FATAL
                child.exit += f"; ended {policy.max + 1} times within {policy.within_s:g} s, and is not started again"
                return False
            child.state, child.again_at = ProcessState.BACKOFF, clock.now() + wait
            logger.warning("%s: %s; starting it again in %.1f s", child.name, child.exit, wait)
            clock.wait_for(child.halt, wait)
        return not child.halt.is_set()


def _write(number: int, piece: bytes) -> None:
    try:
        while piece:
            piece = piece[os.write(number, piece) :]
    except OSError:  # our own output is closed or its reader gone: the lines are remembered all the same
        logger.debug("descriptor %d cannot be written", number, exc_info=True)


def _hear_out(child: Child) -> None:
    """Wait a moment for the end of what a child that has ended wrote."""
    deadline = clock.monotonic() + _LAST_WORDS_S
    for thread in child.hearing:
        thread.join(max(0.0, deadline - clock.monotonic()))


def _wait(child: Child, deadline: float) -> bool:
    """Wait until `deadline` for a child to end; False if it has not."""
    assert child.popen is not None
    try:
        child.popen.wait(max(0.05, deadline - clock.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def how(code: int) -> str:
    """Return how a process ended, in words: ``exit code 1``, ``killed by SIGKILL``."""
    if code == process.HUNG_CODE:
        return "hung, and was ended"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _close_quietly(popen: subprocess.Popen[bytes]) -> None:
    if popen.stdin is not None:
        try:
            popen.stdin.close()
        except BrokenPipeError:
            pass  # orders that a dead child never read
