"""Params: what of an object others may read and set."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy
import pytest

from ether import Param
from ether.errors import ComponentError, FieldError
from ether.params import Params


class Oven:
    gain: Annotated[float, Param(unit="V", ge=0, le=10, description="Of the amplifier.")] = 1.0
    mode: Annotated[Literal["heat", "cool"], Param] = "heat"

    def __init__(self) -> None:
        self.plain = 3
        self.array = numpy.zeros(2)
        self._target = 20.0

    @property
    def target(self) -> Annotated[float, Param(unit="degC")]:
        return self._target

    @target.setter
    def target(self, value: float) -> None:
        self._target = round(value)

    @property
    def serial(self) -> str:
        return "A1"

    def bake(self) -> None: ...


def test_annotations_and_names_make_parameters() -> None:
    found = Params(Oven(), {"plain": Param(), "serial": Param()}).describe()

    assert found == {
        "gain": {
            "value": 1.0, "type": "number", "minimum": 0, "maximum": 10, "unit": "V",
            "description": "Of the amplifier.",
        },
        "mode": {"value": "heat", "enum": ["heat", "cool"], "type": "string"},
        "plain": {"value": 3, "anyOf": [{"type": "integer"}, {"type": "number"}]},
        "target": {"value": 20.0, "type": "number", "unit": "degC"},
        "serial": {"value": "A1", "type": "string", "readonly": True},
    }  # fmt: skip


def test_what_is_given_of_a_parameter_leaves_the_rest_of_what_its_class_says() -> None:
    named, narrowed = Params(Oven(), {"gain": Param()}), Params(Oven(), {"gain": Param(unit="dB", le=5)})

    assert [each.describe()["gain"] for each in (named, narrowed)] == [
        {
            "value": 1.0,
            "type": "number",
            "minimum": 0,
            "maximum": most,
            "unit": unit,
            "description": "Of the amplifier.",
        }
        for most, unit in ((10, "V"), (5, "dB"))
    ]
    with pytest.raises(FieldError, match="less than or equal to 10"):
        named.set("gain", 99, "somebody", 0.0)


def test_setting_converts_and_tells_before_and_now_and_who() -> None:
    oven = Oven()
    params = Params(oven, {"plain": Param()})

    assert params.set("gain", "2.5", "ada@bench", 5.0) == (1.0, 2.5)
    assert params.set("target", 36.7, "ada@bench", 6.0) == (20.0, 37)  # as its setter makes it
    assert params.set("plain", 1.5, "", 7.0) == (3, 1.5)
    assert (oven.gain, oven.target, Oven.gain) == (2.5, 37, 1.0)
    assert params.describe()["gain"] | {"by": "ada@bench", "t": 5.0} == params.describe()["gain"]
    assert params.get("target") == 37


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("gain", 11, "gain: Input should be less than or equal to 10, got 11 (int)"),
        ("gain", "much", "gain: Input should be a valid number, unable to parse string as a number, got 'much' (str)"),
        ("mode", "boil", "mode: Input should be 'heat' or 'cool', got 'boil' (str)"),
        ("serial", "B2", "serial is only to be read: its property has no setter"),
        ("offset", 1, "no parameter 'offset'; there are: gain, mode, serial, target"),
    ],
)
def test_what_a_parameter_cannot_be_is_refused_and_changes_nothing(name, value, complaint) -> None:
    params = Params(Oven(), {"serial": Param()})
    before = params.describe()

    with pytest.raises(FieldError) as caught:
        params.set(name, value, "ada", 1.0)

    assert (str(caught.value), params.describe()) == (complaint, before)


def test_what_the_component_changes_itself_is_noticed_once() -> None:
    oven = Oven()
    params = Params(oven, {"array": Param()})
    oven.gain, oven.array, oven.target = 3.0, numpy.ones(2), 99

    assert params.changed().keys() == {"gain", "array"}  # a property is not read unasked: it may talk to hardware
    assert params.changed() == {}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("gian", "params: Oven has no attribute 'gian'; did you mean `gain`?"),
        ("bake", "params: Oven.bake is a method; call it instead"),
    ],
)
def test_what_can_be_no_parameter_is_told_in_one_line(name, complaint) -> None:
    with pytest.raises(ComponentError) as caught:
        Params(Oven(), {name: Param()})

    assert str(caught.value) == complaint


def test_an_annotation_that_cannot_be_checked_is_told_in_one_line() -> None:
    class Camera:
        region: Annotated[numpy.ndarray, Param] = numpy.zeros(2)

    with pytest.raises(ComponentError) as caught:
        Params(Camera())

    assert str(caught.value) == (
        "params: Camera.region: its annotation cannot be checked: Unable to generate pydantic-core schema for "
        "<class 'numpy.ndarray'>"
    )
