"""The watchdog: each hang is told once, with the place where it stands."""

from __future__ import annotations

import subprocess
import sys
import threading

from ether import clock
from ether.watchdog import Watchdog, stacks


def test_each_hang_is_told_once() -> None:
    told: list[str] = []
    again = threading.Event()
    busy: list[tuple[str, float] | None] = [None]

    def hung(what: str, lasted: float) -> None:
        told.append(what)
        assert lasted >= 0.05
        again.set()

    watchdog = Watchdog(lambda: busy[0], 0.05, hung)
    for what in ("first", "second"):
        busy[0] = (what, clock.monotonic())
        assert again.wait(10.0)
        again.clear()

    assert not again.wait(0.2)  # many looks at what it has told already
    watchdog.close()
    assert told == ["first", "second"]


def test_stacks_name_the_thread_and_the_line() -> None:
    reached, release = threading.Event(), threading.Event()

    def stand_here() -> None:
        reached.set()
        release.wait()

    thread = threading.Thread(target=stand_here, name="worker 7")
    thread.start()
    reached.wait()
    text = stacks()
    release.set()
    thread.join()

    assert "Thread worker 7:" in text
    assert "release.wait()" in text


def test_code_that_keeps_the_interpreter_to_itself_shows_on_stderr() -> None:
    script = """
import ctypes, time
from ether.watchdog import Watchdog
Watchdog(lambda: None, 0.1, print)
time.sleep(0.3)                       # the watchdog has begun
def hold_the_lock():
    ctypes.PyDLL(None).usleep(900_000)  # PyDLL keeps the lock that CDLL lets go of
hold_the_lock()
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0
    assert "hold_the_lock" in done.stderr
