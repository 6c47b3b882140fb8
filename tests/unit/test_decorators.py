"""Decorators only mark; what can never work is refused where it is written."""

from __future__ import annotations

import pytest

from ether import ether_get, ether_init, ether_pub, ether_start, ether_sub
from ether.component import Component
from ether.decorators import Hook, Publish, Subscribe, marks_of
from ether.errors import ComponentError


def test_marks_are_kept_innermost_first():
    @ether_sub(topic="a")
    @ether_pub
    @ether_start(background=True)
    def method(self): ...

    assert marks_of(method) == (Hook("start", background=True), Publish(), Subscribe("a"))


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
@pytest.mark.parametrize("decorator", [ether_sub, ether_pub, ether_get, ether_init])
def test_a_classmethod_or_staticmethod_is_refused_in_either_order(kind, decorator):
    def make(*_): ...

    with pytest.raises(TypeError, match=rf"on the {kind.__name__} .*make: only methods of an instance can be marked"):
        decorator(kind(make))

    cls = type("Odd", (), {"make": kind(decorator(make))})
    with pytest.raises(ComponentError, match=rf"Odd.make: a {kind.__name__} cannot be marked; drop @{kind.__name__}"):
        Component.of(cls)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: ether_sub("lab/topic"), "@ether_sub('lab/topic'): say what it is: @ether_sub(topic='lab/topic')"),
        (lambda: ether_pub(5), "marks methods, not a int"),
        (lambda: ether_pub(type("Oven", (), {})), "marks methods; Oven is a class"),
        (lambda: ether_sub(topik="a")(lambda self: None), "unexpected keyword argument 'topik'"),
    ],
)
def test_a_wrong_use_says_what_is_meant(wrong, says):
    with pytest.raises(TypeError) as caught:
        wrong()

    assert says in str(caught.value)


def _component(**methods):
    return Component.of(type("Lab", (), methods))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (ether_pub(topic="a/+")(lambda self: 1), "'+' and '#' are for subscribing"),
        (ether_sub(topic="ether/x")(lambda self: 1), "'ether/' is reserved"),
        (ether_pub(every=0)(lambda self: 1), "must be longer than nothing"),
        (ether_pub(every="5 parsecs")(lambda self: 1), "`parsecs` is no unit of time"),
        (ether_pub(every=1)(lambda self, x: 1), "is sampled every 1 s without arguments, but needs ['x']"),
        (ether_pub(batch=0)(lambda self: 1), "a batch holds at least one reading"),
        (ether_pub(qos=3)(lambda self: 1), "MQTT has 0, 1 and 2"),
        (ether_pub(keep="some")(lambda self: 1), "keep='some': 'all', 'last' or 'none'"),
        (ether_pub(range=(5, 1))(lambda self: 1), "range=(5, 1): the lowest and the highest value"),
        (ether_start(lambda self, x: 1), "runs at 'start' without arguments, but needs ['x']"),
    ],
)
def test_marks_that_cannot_work_are_told_with_class_and_method(method, says):
    with pytest.raises(ComponentError) as caught:
        _component(take=method)

    assert str(caught.value).startswith("Lab.take: ")
    assert says in str(caught.value)


def test_all_that_is_wrong_with_a_class_is_told_at_once():
    with pytest.raises(ComponentError) as caught:
        _component(one=ether_pub(qos=3)(lambda self: 1), two=ether_sub(topic="a#")(lambda self: 1))

    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["Lab.one", "Lab.two"]


def test_default_topics_name_the_class_that_marked():
    class Base:
        @ether_pub
        def read(self) -> float: ...

    class Oven(Base):
        @ether_sub
        def set(self, celsius: float) -> None: ...

    component = Component.of(Oven)

    assert (list(component.publishes()), component.filters()) == (["Base.read"], {"Oven.set": 1})


def test_the_description_has_fields_units_periods_and_parameters():
    class Oven:
        @ether_pub(topic="lab/oven", every="100ms", unit={"celsius": "degC"}, description="inside")
        def read(self) -> dict[str, float]: ...

        @ether_pub(topic="lab/level", unit="%")
        def level(self) -> float: ...

        @ether_sub(topic="lab/set")
        def set(self, celsius: float, soft: bool = False) -> None: ...

        @ether_get
        def status(self, verbose: bool = False) -> dict: ...

    component = Component.of(Oven)

    assert component.publishes() == {
        "lab/oven": {"fields": {"celsius": {"unit": "degC"}}, "every": 0.1, "description": "inside"},
        "lab/level": {"fields": {"value": {"type": "number", "unit": "%"}}},
    }
    assert component.subscribes() == {
        "lab/set": {"fields": {"celsius": {"type": "number"}, "soft": {"type": "boolean"}}, "methods": ["set"]}
    }
    assert component.calls() == {"status": {"params": {"verbose": {"type": "boolean"}}, "kind": "get"}}


def test_what_annotations_do_not_say_keywords_do():
    class Bench:
        @ether_pub(topic="lab/temp", unit="degC", range=(-40, 125), type=float)
        def temperature(self): ...

        @ether_pub(topic="lab/air", unit={"hum": "%", "co2": "ppm"}, range=(0, 100), type="integer")
        def air(self): ...

        @ether_sub(topic="lab/led", type=bool)
        def led(self, on): ...

    component = Component.of(Bench)

    assert component.publishes() == {
        "lab/temp": {"fields": {"value": {"type": "number", "unit": "degC", "range": [-40, 125]}}},
        "lab/air": {
            "fields": {
                "hum": {"type": "integer", "unit": "%", "range": [0, 100]},
                "co2": {"type": "integer", "unit": "ppm", "range": [0, 100]},
            }
        },
    }
    assert component.subscribes() == {"lab/led": {"fields": {"value": {"type": "boolean"}}, "methods": ["led"]}}
