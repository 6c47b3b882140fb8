"""One bench, run in three ways by one set of scenarios: plain Python, in one process, and distributed.

`Plain` wires undecorated behaviour by hand: it hands each value to whoever's marks name its topic, and calls methods as
any Python program would. It knows nothing of processes, brokers or time.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ether import Reading, codecs, ether, ether_get, ether_pub, ether_save, ether_save_all, ether_sub, topics
from ether.component import Component
from ether.errors import CallError, FieldError


class Doubler:
    @ether_sub(topic="numbers")
    @ether_pub(topic="doubles")
    def double(self, number: int) -> int:
        return 2 * number


class Adder:
    """Hears the doubler, and remembers."""

    def __init__(self, start: int = 0) -> None:
        self.total = start
        self.saved: list[int] = []

    @ether_sub(topic="doubles")
    @ether_pub(topic="totals")
    def add(self, value: int) -> dict[str, int]:
        self.total += value
        return {"total": self.total}

    @ether_get
    def sum(self) -> int:
        return self.total

    @ether_save
    def set(self, total: int) -> int:
        self.total = total
        return total

    @ether_save_all
    def keep(self) -> None:
        self.saved.append(self.total)

    @ether_get
    def kept(self) -> list[int]:
        return self.saved


class Splitter:
    @ether_sub(topic="words")
    @ether_pub(topic="letters")
    def split(self, text: str) -> Iterator[str]:
        yield from text

    @ether_sub(topic="words")
    @ether_pub(topic="lengths")
    async def length(self, text: str) -> int:
        await asyncio.sleep(0)
        return len(text)

    @ether_sub(topic="words")
    @ether_pub(topic="halves")
    async def halves(self, text: str) -> AsyncIterator[str]:
        middle = len(text) // 2
        for half in (text[:middle], text[middle:]):
            await asyncio.sleep(0)
            yield half


@dataclass
class Fit:
    slope: float
    offset: float


class Analysis:
    @ether_sub(topic="spectrum/+")
    @ether_pub(topic="fit")
    def fit(self, reading: Reading) -> Fit:
        values = np.asarray(reading.fields["values"], float)
        return Fit(float(values[-1] - values[0]), float(values[0]) + len(reading.topic.rpartition("/")[2]))

    @ether_sub(topic="frames")
    @ether_pub(topic="scaled")
    def scale(self, frame: np.ndarray, by: float = 2.0) -> dict[str, Any]:
        return {"frame": frame * by, "mean": float(np.mean(frame * by))}


class Fragile:
    @ether_sub(topic="risky")
    @ether_pub(topic="survived")
    def handle(self, value: float) -> float:
        if value < 0:
            raise ValueError(f"{value} is below zero")
        return math.sqrt(value)

    @ether_get
    def divide(self, a: float, b: float) -> float:
        return a / b


INSTANCES: dict[str, tuple[type, dict[str, Any]]] = {
    "doubler": (Doubler, {}),
    "adder": (Adder, {"start": 100}),
    "splitter": (Splitter, {}),
    "analysis": (Analysis, {}),
    "fragile": (Fragile, {}),
}


def config() -> dict[str, Any]:
    """Return the session that runs them."""
    instances = {
        name: {"class_path": f"scenario_parts.{cls.__name__}", "kwargs": kwargs}
        for name, (cls, kwargs) in INSTANCES.items()
    }
    return {"broker": "embedded", "record": "off", "instances": instances}


class Plain:
    """The bench in plain Python."""

    def __init__(self) -> None:
        self.objects = {name: cls(**kwargs) for name, (cls, kwargs) in INSTANCES.items()}
        self._components = {name: Component.of(cls) for name, (cls, _) in INSTANCES.items()}
        self._published: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def publish(self, topic: str, value: Any) -> None:
        waiting = deque([(topic, value)])
        while waiting:
            name, result = waiting.popleft()
            fields = codecs.fields_of(result)
            self._published[name].append(fields)
            for who, component in self._components.items():
                for method in component.methods.values():
                    if any(topics.matches(each.topic_filter, name) for each in method.inputs):
                        waiting += self._handle(self.objects[who], method, name, fields)

    def _handle(self, target: Any, method: Any, topic: str, fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        try:
            args, kwargs = method.parameters.arguments(fields, topic)
            results = _each(getattr(target, method.name)(*args, **kwargs))
        except (FieldError, ValueError):
            return
        for result in results:
            yield from ((output.topic, result) for output in method.outputs)

    def call(self, name: str, method: str, /, **arguments: Any) -> Any:
        return getattr(self.objects[name], method)(**arguments)

    def save_all(self) -> None:
        for name, component in self._components.items():
            for method, _ in component.hooks("save_all"):
                getattr(self.objects[name], method.name)()

    def readings(self, topic: str, number: int) -> list[dict[str, Any]]:
        found = self._published[topic]
        assert len(found) == number
        return found


class InProcess:
    """The bench in one process, in a lab."""

    def __init__(self, lab: Any) -> None:
        self._lab = lab

    def publish(self, topic: str, value: Any) -> None:
        self._lab.publish(topic, value)

    def call(self, name: str, method: str, /, **arguments: Any) -> Any:
        return _unwrapped(lambda: self._lab.call(name, method, **arguments))

    def save_all(self) -> None:
        ether.save_all()
        self._lab.settle()

    def readings(self, topic: str, number: int) -> list[dict[str, Any]]:
        found = [each.fields for each in self._lab.messages(topic)]
        assert len(found) == number
        return found


class Distributed:
    """The bench as processes around a broker."""

    def __init__(self, ether: Any, until: Callable[..., None]) -> None:
        self._ether = ether
        self._until = until
        self._published: dict[str, list[dict[str, Any]]] = defaultdict(list)
        ether.subscribe("#", lambda reading: self._published[reading.topic].append(reading.fields))

    def publish(self, topic: str, value: Any) -> None:
        self._ether.pub(value, topic)

    def call(self, name: str, method: str, /, **arguments: Any) -> Any:
        return _unwrapped(lambda: self._ether.get(name, method, arguments))

    def save_all(self) -> None:
        self._ether.save_all()

    def readings(self, topic: str, number: int) -> list[dict[str, Any]]:
        self._until(lambda: len(self._published[topic]) >= number, 10.0, f"{number} readings of {topic}")
        return self._published[topic]


def _each(result: Any) -> list[Any]:
    """Return what a method gives, whatever way it gives it."""
    if inspect.isawaitable(result):

        async def wait() -> Any:
            return await result

        return [asyncio.run(wait())]
    if isinstance(result, AsyncIterator):

        async def pull() -> list[Any]:
            return [item async for item in result]

        return asyncio.run(pull())
    return list(result) if inspect.isgenerator(result) else [result]


def _unwrapped(call: Callable[[], Any]) -> Any:
    """Raise what a remote method raised, as if it had been called here."""
    try:
        return call()
    except CallError as exc:
        kind = {"ZeroDivisionError": ZeroDivisionError, "FieldError": FieldError}.get(exc.type)
        if kind is None:
            raise
        raise kind(str(exc)) from exc
