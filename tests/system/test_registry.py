"""Classes that nobody edited, made components by a configuration alone."""

from __future__ import annotations

import sys
from typing import Any

import foreign_parts
import pytest

from ether.errors import ConfigError

METHODS: dict[str, Any] = {
    "read": {"ether_pub": {"topic": "foreign/read", "every": "50ms"}},
    "set_target": {"ether_sub": {"topic": "foreign/target"}},
    "targets_so_far": "ether_get",
    "prepare": "ether_init",
}


def _session(methods: dict[str, Any], cls: str = "foreign_parts.Thermometer", **instance: Any) -> dict[str, Any]:
    return {
        "broker": "embedded", "record": "off",
        "registry": {cls: {"methods": methods}},
        "instances": {"thermo": {"class_path": cls, **instance}},
    }  # fmt: skip


def test_an_external_class_publishes_subscribes_answers_and_runs_hooks(ether, until, wire):
    ether.tap(_session(METHODS, kwargs={"offset": 0.5}))
    out = wire(ether, "foreign/read")

    ether.start()
    ether.pub({"celsius": "37"}, "foreign/target")

    until(lambda: len(out) > 2)
    until(lambda: ether.get("thermo", "targets_so_far") == [37.0])
    assert out.fields[0] == {"celsius": 21.5}


def test_the_class_of_others_is_untouched(ether):
    before = {name: vars(foreign_parts.Thermometer)[name] for name in METHODS}

    ether.tap(_session(METHODS))

    assert {name: vars(foreign_parts.Thermometer)[name] for name in METHODS} == before
    assert [vars(function) for function in before.values()] == [{}] * len(before)
    assert foreign_parts.Thermometer.__subclasses__() == []


def test_another_instance_of_the_class_in_the_same_process_is_plain(ether, workdir, until, wire):
    (workdir / "double_parts.py").write_text(
        "import foreign_parts\n"
        "from ether import ether_get\n"
        "class Two(foreign_parts.Thermometer):\n"
        "    @ether_get\n"
        "    def both(self):\n"
        "        self.read()\n"
        "        foreign_parts.Thermometer(offset=5).read()\n"
        "        return 'ether' in repr(vars(foreign_parts.Thermometer))\n"
    )
    sys.path.insert(0, str(workdir))
    try:
        ether.tap(_session({"read": {"ether_pub": {"topic": "two"}}}, "double_parts.Two"))
    finally:
        sys.path.remove(str(workdir))
    out = wire(ether, "two")

    touched = ether.get("thermo", "both")

    until(lambda: len(out) >= 1)
    ether._need().echo()
    assert (touched, out.fields) == (False, [{"celsius": 20.0}])


def test_methods_written_in_c_take_messages_and_calls(ether, until):
    ether.tap(
        _session(
            {
                "append": {"ether_sub": {"topic": "stack/push"}},
                "pop": "ether_get",
                "items": "ether_get",
                "__len__": "ether_get",
            },
            "foreign_parts.Stack",
        )
    )

    ether.pub(1, "stack/push")
    ether.pub({"object": 2, "further": 3}, "stack/push")  # the parameter's name in help(list.append)

    until(lambda: ether.get("thermo", "items") == [1, 2])
    assert (ether.get("thermo", "pop"), ether.get("thermo", "__len__")) == (2, 1)


def test_a_class_written_in_c_is_a_component(ether):
    ether.tap(
        _session({"append": {"ether_sub": {"topic": "c/in"}}, "popleft": "ether_get"}, "collections.deque", args=[[7]])
    )

    ether.pub(1, "c/in")

    assert [ether.get("thermo", "popleft"), ether.get("thermo", "popleft", timeout=2)] == [7, 1]


def test_a_stacked_registry_entry_is_a_processor_on_several_topics(ether, until, wire):
    marks = {"ether_sub": [{"topic": "a/in"}, {"topic": "b/in"}], "ether_pub": {"topic": "count/out"}}
    ether.tap(_session({"count": marks}, "foreign_parts.Stack", args=[[1, 1, 2]]))
    out = wire(ether, "count/out")

    ether.pub(1, "a/in")
    ether.pub(2, "b/in")

    until(lambda: len(out) == 2)
    assert sorted(reading.value for reading in out.readings) == [1, 2]


@pytest.mark.parametrize(
    ("methods", "what"),
    [
        ({"reed": "ether_get"}, "Thermometer has no method `reed`; did you mean `read`?"),
        ({"helper": "ether_get"}, "Thermometer.helper: a staticmethod cannot be marked"),
        ({"set_target": "ether_start"}, "runs at 'start' without arguments, but needs ['celsius']"),
        ({"set_target": {"ether_pub": {"every": "1s"}}}, "is sampled every 1 s without arguments"),
    ],
)
def test_a_registry_that_cannot_work_is_told_before_anything_starts(ether, processes, methods, what):
    with pytest.raises(ConfigError) as caught:
        ether.tap(_session(methods))

    assert (what in str(caught.value), processes()) == (True, [])


def test_decorators_and_registry_mean_the_same():
    from ether.component import Component, registry_marks
    from ether.decorators import ether_get, ether_init, ether_pub, ether_sub

    class Thermometer(foreign_parts.Thermometer):
        @ether_pub(topic="foreign/read", every="50ms")
        def read(self) -> dict[str, float]: ...

        @ether_sub(topic="foreign/target")
        def set_target(self, celsius: float) -> None: ...

        @ether_get
        def targets_so_far(self) -> list[float]: ...

        @ether_init
        def prepare(self) -> None: ...

    given = registry_marks(
        {
            "read": [("ether_pub", {"topic": "foreign/read", "every": "50ms"})],
            "set_target": [("ether_sub", {"topic": "foreign/target"})],
            "targets_so_far": [("ether_get", {})],
            "prepare": [("ether_init", {})],
        }
    )

    marked, registered = Component.of(Thermometer), Component.of(foreign_parts.Thermometer, given)

    for ask in (Component.filters, Component.publishes, Component.subscribes, Component.calls):
        assert ask(marked) == ask(registered)
    assert [m.name for m, _ in marked.hooks("init")] == [m.name for m, _ in registered.hooks("init")] == ["prepare"]
