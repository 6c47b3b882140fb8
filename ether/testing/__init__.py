"""For users' tests: a whole session in one process, a broker in memory, and the contract that every broker keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ether.testing.fake_clock import FakeClock, Stuck
    from ether.testing.lab import Lab
    from ether.testing.memory_broker import MemoryBroker

__all__ = ["FakeClock", "Lab", "MemoryBroker", "Stuck"]

_HOMES = {"FakeClock": "fake_clock", "Lab": "lab", "MemoryBroker": "memory_broker", "Stuck": "fake_clock"}


def __getattr__(name: str) -> Any:
    """Import on first use: a test run that needs none of it should not wait for amqtt."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
