"""Decorated classes without a session: exactly as undecorated ones."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from ether import (
    ether_cleanup,
    ether_get,
    ether_init,
    ether_pub,
    ether_save,
    ether_save_all,
    ether_shutdown,
    ether_start,
    ether_sub,
)

DECORATORS = [
    ether_pub, ether_sub, ether_get, ether_save, ether_init, ether_start, ether_save_all, ether_cleanup, ether_shutdown,
]  # fmt: skip


class Plain:
    """A lamp."""

    def __init__(self, level: int = 0) -> None:
        self.level = level

    def set(self, level: int, *, soft: bool = False) -> int:
        """Set the level.

        Returns:
            The old one.
        """
        if level < 0:
            raise ValueError("dark enough")
        old, self.level = self.level, level
        return old

    def read(self) -> object:
        """Return itself, which could never travel."""
        return self

    def ramp(self, to: int = 3) -> Iterator[int]:
        """Yield levels."""
        yield from range(to)

    async def later(self) -> int:
        """Return the level."""
        return self.level


class Marked:
    """A lamp."""

    def __init__(self, level: int = 0) -> None:
        self.level = level

    @ether_sub(topic="lamp/set")
    @ether_pub(topic="lamp/was")
    def set(self, level: int, *, soft: bool = False) -> int:
        """Set the level.

        Returns:
            The old one.
        """
        if level < 0:
            raise ValueError("dark enough")
        old, self.level = self.level, level
        return old

    @ether_get
    @ether_pub
    def read(self) -> object:
        """Return itself, which could never travel."""
        return self

    @ether_start
    @ether_pub
    def ramp(self, to: int = 3) -> Iterator[int]:
        """Yield levels."""
        yield from range(to)

    @ether_save()
    async def later(self) -> int:
        """Return the level."""
        return self.level


@dataclass(frozen=True, slots=True)
class MarkedSlots:
    level: int

    @ether_pub(topic="slots")
    def read(self) -> int:
        return self.level


class MarkedModel(BaseModel):
    level: int

    @ether_pub(topic="model")
    def read(self) -> int:
        return self.level


def behaves_as_plain(lamp: Any) -> None:
    """Check every way in which a lamp could differ from an undecorated one."""
    plain = Plain(lamp.level)

    assert (lamp.set(5), lamp.level) == (plain.set(5), plain.level)
    with pytest.raises(ValueError, match="^dark enough$"):
        lamp.set(-1)
    with pytest.raises(TypeError, match=r"set\(\) missing 1 required positional argument: 'level'"):
        lamp.set()
    assert lamp.set(2.5) == 5  # not validated
    assert lamp.read() is lamp
    assert inspect.isgenerator(lamp.ramp(1))
    assert inspect.iscoroutinefunction(lamp.later)
    assert inspect.signature(lamp.set) == inspect.signature(plain.set)
    assert inspect.ismethod(lamp.set)
    assert vars(lamp) == {"level": 2.5}
    twin, clone = pickle.loads(pickle.dumps(lamp)), copy.deepcopy(lamp)
    assert [type(each) for each in (twin, clone)] == [Marked, Marked]
    assert [vars(each) for each in (twin, clone)] == [vars(lamp)] * 2
    assert pickle.loads(pickle.dumps(lamp.set)).__func__ is Marked.set
    lamp.level = 0


def test_a_decorator_returns_the_very_function():
    for decorator in DECORATORS:

        def method(self: Any) -> None: ...

        assert decorator(method) is method
        assert decorator()(method) is method


def test_without_a_session_a_decorated_class_behaves_as_an_undecorated_one():
    behaves_as_plain(Marked())


def test_help_is_that_of_the_undecorated_class():
    def shown(cls: type) -> str:
        return pydoc.render_doc(cls, renderer=pydoc.plaintext).replace(cls.__name__, "Lamp")

    copy.copy(Plain()), copy.copy(Marked())  # which notes something on the class
    assert shown(Marked) == shown(Plain)


def test_slots_and_models_stay_what_they_are():
    slots, model = MarkedSlots(3), MarkedModel(level=3)

    assert (slots.read(), model.read(), model.model_dump()) == (3, 3, {"level": 3})
    assert pickle.loads(pickle.dumps(slots)) == slots
    assert copy.copy(model) == model


def test_in_the_process_that_ran_a_session_a_moment_before_objects_are_plain_again(ether):
    ether.tap({"broker": "embedded", "record": "off"})
    mine, other = ether.add(Marked()), Marked()
    ether.shutdown()

    behaves_as_plain(mine)
    behaves_as_plain(other)


def test_while_a_session_runs_objects_that_are_not_in_it_are_plain(ether):
    ether.tap({"broker": "embedded", "record": "off"})
    ether.add(Marked())

    behaves_as_plain(Marked())


def test_while_a_session_runs_an_object_of_it_is_copied_and_pickled_as_a_plain_one(ether):
    ether.tap({"broker": "embedded", "record": "off"})
    lamp = ether.add(Marked(2))

    twin, clone = pickle.loads(pickle.dumps(lamp)), copy.deepcopy(lamp)

    assert [(type(each), each.level) for each in (twin, clone)] == [(Marked, 2), (Marked, 2)]
    assert twin.read() is twin
    assert clone.read() is clone


def test_while_a_session_runs_signature_and_help_of_an_objects_methods_are_unchanged(ether):
    ether.tap({"broker": "embedded", "record": "off"})
    lamp = ether.add(Marked())

    assert inspect.signature(lamp.set) == inspect.signature(Plain().set)
    assert (lamp.set.__doc__, lamp.set.__name__, lamp.set.__self__) == (Plain.set.__doc__, "set", lamp)


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("paho", "pydantic", "pydantic_core", "amqtt", "yaml", "h5py", "numpy", "cbor2", "cloudpickle"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def test_a_decorated_class_works_without_ethers_dependencies(script):
    done = script(
        BLOCKED
        + """
from dataclasses import dataclass
from ether import ether, ether_get, ether_pub, ether_start, ether_sub

@dataclass
class Oven:
    celsius: float = 20.0

    @ether_pub(topic="lab/oven", every=0.1, unit="degC")
    def read(self) -> float:
        return self.celsius

    @ether_sub(topic="lab/setpoint")
    def set(self, celsius: float) -> None:
        self.celsius = celsius

    @ether_start
    @ether_get
    def status(self) -> dict:
        return {"celsius": self.celsius, "tapped": ether.tapped, "shutdown": ether.shutdown()}

oven = Oven()
oven.set(21.5)
print(oven.read(), oven.status())
"""
    ).end()

    assert (done.lines, done.errors) == (["21.5 {'celsius': 21.5, 'tapped': False, 'shutdown': None}"], [])


def test_importing_makes_no_folder_and_loads_nothing_heavy(script, workdir, machine):
    done = script(
        """
        import sys
        import ether
        from ether import ether_pub
        heavy = {"paho", "pydantic", "amqtt", "yaml", "h5py", "numpy", "cbor2", "cloudpickle", "asyncio", "logging"}
        print(sorted(heavy & sys.modules.keys()))
        """
    ).end()

    assert (done.lines, done.errors) == (["[]"], [])
    assert [path.name for path in workdir.iterdir()] == ["messung.py"]
    assert machine.files() == []


def test_using_the_session_before_tap_says_so(script):
    done = script(
        """
        from ether import ether
        for use in (ether.start, lambda: ether.pub(1, "a"), lambda: ether.get("a", "b"), ether.instances, ether.save_all):
            try:
                use()
            except Exception as exc:
                print(type(exc).__name__, exc)
        """
    ).end()

    assert done.lines == ["SessionError no session: call ether.tap() first"] * 5


def test_the_interpreter_needs_no_session_to_show_the_docs_of_a_decorator():
    shown = subprocess.run(
        [sys.executable, "-c", "import ether; help(ether.ether_pub)"], capture_output=True, text=True, check=True
    )

    assert "Publish the method's result when it runs inside a session." in shown.stdout
