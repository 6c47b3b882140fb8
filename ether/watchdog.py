"""Watchdog: notices that user code has been at one thing for too long, and shows where it stands."""

from __future__ import annotations

import faulthandler
import sys
import threading
import traceback
from collections.abc import Callable

from ether import clock

__all__ = ["Watchdog", "stacks"]

_CLOSE_S = 5.0


class Watchdog:
    """Looks at a worker from a thread of its own.

    Code that keeps the interpreter to itself (in C, without letting go of its lock) stops this thread as well. The
    stacks then come from faulthandler, on stderr, after twice the time; everybody else sees the status fall silent.
    """

    def __init__(
        self, busy: Callable[[], tuple[str, float] | None], hang_after: float, on_hang: Callable[[str, float], None]
    ) -> None:
        """Begin watching.

        Args:
            busy: what the worker is at, and since when by the monotonic clock; None while it waits.
            hang_after: seconds at one thing that are too many.
            on_hang: called once for each hang with what, and the seconds so far.
        """
        self._busy = busy
        self._hang_after = hang_after
        self._on_hang = on_hang
        self._closed = threading.Event()
        self._thread = clock.thread(self._watch, name="watchdog")

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        clock.join(self._thread, _CLOSE_S)
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        look_every = min(1.0, self._hang_after / 4)
        told: tuple[str, float] | None = None
        while not clock.wait_for(self._closed, look_every):
            faulthandler.dump_traceback_later(2 * self._hang_after + look_every, file=sys.__stderr__ or 2)
            busy = self._busy()
            if busy is None or busy == told:
                continue
            what, since = busy
            lasted = clock.monotonic() - since
            if lasted >= self._hang_after:
                told = busy
                self._on_hang(what, lasted)


def stacks() -> str:
    """Return where each thread of this process stands, the main thread first; ours, who asks, is left out."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()  # noqa: SLF001 - the documented way, in spite of its name
    order = sorted(frames, key=lambda ident: ident != threading.main_thread().ident)
    return "\n".join(
        f"Thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frames[ident])).rstrip()
        for ident in order
        if ident != threading.get_ident()
    )
