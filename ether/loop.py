"""Loop: where an instance awaits its `async def` methods.

A module of its own because asyncio takes a quarter of the time that an instance without such methods needs to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["Loop", "new_event_loop"]

new_event_loop = asyncio.new_event_loop
"""For a test that puts another clock in the place of ours."""


class Loop:
    """An event loop that runs in the thread of its instance, whenever that has nothing else to do."""

    def __init__(self) -> None:
        self._loop = new_event_loop()
        self._work = asyncio.Event()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Return what `awaitable` results in; tasks begun before go on meanwhile."""

        async def wait() -> Any:
            return await awaitable

        return self._loop.run_until_complete(wait())

    def idle(self, has_work: Callable[[], bool], timeout: float | None) -> None:
        """Let tasks go on until `wake` is called, or for `timeout` seconds."""

        async def wait() -> None:
            self._work.clear()
            if not has_work():  # else it came before we listened
                await asyncio.wait_for(self._work.wait(), timeout)

        try:
            self._loop.run_until_complete(wait())
        except TimeoutError:
            pass

    def wake(self) -> None:
        """End `idle`, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._work.set)

    def close(self) -> None:
        """Cancel what still runs, let it end, and close."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
