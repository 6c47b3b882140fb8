"""The static wiring check: who publishes what to whom, what cannot fit, and the drawing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict
from xml.etree import ElementTree

import numpy as np
import pytest
from pydantic import BaseModel, Field

from ether import Reading, ether_pub, ether_sub
from ether.cli.graph import mermaid, svg
from ether.config import Config
from ether.model import About
from ether.wiring import Wiring


class Celsius(TypedDict):
    celsius: float


class Point(BaseModel):
    x: float
    y: int


@dataclass
class Named:
    name: str
    value: float


def _pair(published: Any, handler: Any, **more: Any) -> Wiring:
    """Return the wiring of a class that publishes what is so annotated, and one with that handler."""

    def read(self):
        raise NotImplementedError

    read.__annotations__ = {"return": published}
    giver = type("Giver", (), {"read": ether_pub(topic="t")(read)})
    taker = type("Taker", (), {"take": ether_sub(topic="t")(handler)})
    config = Config.load({"instances": {"giver": {"class_path": giver}, "taker": {"class_path": taker}}, **more})
    return Wiring.of_config(config)


def _levels(wiring: Wiring) -> list[tuple[str | None, str]]:
    return [(edge.level, edge.detail) for edge in wiring.edges()]


def _takes_celsius(self, celsius: float) -> None: ...
def _takes_text(self, celsius: str) -> None: ...
def _takes_count(self, count: int) -> None: ...
def _takes_limited(self, celsius: Annotated[float, Field(gt=100)]) -> None: ...
def _takes_point(self, point: Point) -> None: ...
def _takes_named(self, name: str, value: float = 0.0) -> None: ...
def _takes_anything(self, **fields: Any) -> None: ...
def _takes_reading(self, reading: Reading) -> None: ...
def _takes_word(self, word: Literal["on", "off"]) -> None: ...
def _takes_numbers(self, values: list[float]) -> None: ...


@pytest.mark.parametrize(
    ("published", "handler"),
    [
        (Celsius, _takes_celsius),
        (Iterator[Celsius], _takes_celsius),
        (Point, _takes_point),
        (Named, _takes_named),
        (Celsius, _takes_anything),
        (Celsius, _takes_reading),
        (float, _takes_celsius),
        (float | None, _takes_celsius),  # null travels as NaN
        (int, _takes_celsius),
        (Literal["on", "off"], _takes_word),
        (list[int], _takes_numbers),
        (dict, _takes_celsius),  # nothing is known
        (dict[str, float], _takes_celsius),
        (Point | None, _takes_celsius),
        (np.ndarray, _takes_numbers),
        (Any, _takes_text),
    ],
)
def test_what_fits_or_may_fit_is_left_alone(published, handler):
    assert _levels(_pair(published, handler)) == [(None, "")]


@pytest.mark.parametrize(
    ("published", "handler", "said"),
    [
        (Celsius, _takes_point, "field `x` is missing"),
        (Celsius, _takes_text, "field `celsius`: Input should be a valid string"),
        (Point, _takes_celsius, "field `celsius` is missing; got ['x', 'y']"),
        (list[float], _takes_celsius, "field `celsius`: Input should be a valid number"),
        (float, _takes_numbers, "field `values`: Input should be a valid list"),
    ],
)
def test_what_a_handler_refuses_in_any_case_is_an_error(published, handler, said):
    ((level, detail),) = _levels(_pair(published, handler))

    assert level == "error"
    assert said in detail


@pytest.mark.parametrize(
    ("published", "handler", "said"),
    [
        (float, _takes_count, "got a number with a fractional part"),
        (str, _takes_celsius, "unable to parse string as a number"),
        (int | None, _takes_count, "field `count`: Input should be a valid integer, got None"),
        (Celsius, _takes_limited, "greater than 100"),
        (str, _takes_word, "Input should be 'on' or 'off'"),
    ],
)
def test_what_a_handler_may_refuse_is_a_warning(published, handler, said):
    ((level, detail),) = _levels(_pair(published, handler))

    assert level == "warning"
    assert said in detail


class Sensor:
    @ether_pub(topic="lab/temprature")
    def read(self) -> Celsius: ...


class Controller:
    @ether_sub(topic="lab/temperature")
    @ether_pub(topic="lab/heater")
    def decide(self, celsius: float) -> dict[str, bool]: ...


def _lab(**more: Any) -> Config:
    instances = {"sensor": {"class_path": Sensor, "replicas": 2}, "controller": {"class_path": Controller}}
    return Config.load({"instances": instances, **more})


def test_topics_that_nobody_publishes_or_hears_are_told_with_the_nearest_name():
    config = _lab(record="off", expect={"lab/heatr": {}, "lab/heater": {"from": "sensor-1"}})

    found = [(each.level, each.what, each.path) for each in Wiring.of_config(config).findings(config)]

    assert found == [
        ("warning", "nobody hears lab/temprature, and it is not recorded; did you mean `lab/temperature`?", ("instances", "sensor")),
        ("warning", "nobody hears lab/heater, and it is not recorded", ("instances", "controller")),
        ("warning", "hears lab/temperature, which no instance publishes; did you mean `lab/temprature`?", ("instances", "controller")),
        ("warning", "no instance publishes it; did you mean `lab/heater`?", ("expect", "lab/heatr")),
        ("warning", "sensor-1 does not publish it", ("expect", "lab/heater")),
    ]  # fmt: skip


def test_expectations_that_no_instance_promises_are_told():
    expect = {"lab/heater": {"from": "controler"}, "lab/temprature": {"unit": "K", "from": "sensor-2"}}
    config = _lab(expect=expect)

    found = [
        (each.what, each.path) for each in Wiring.of_config(config).findings(config) if each.path[:1] == ("expect",)
    ]

    assert found == [
        ("no instance is called controler; did you mean `controller`?", ("expect", "lab/heater")),
        ("sensor-2: celsius is in no unit, K expected", ("expect", "lab/temprature")),
    ]


def test_what_only_the_recorder_hears_is_a_note():
    config = _lab(record={"exclude": ["lab/heater"]})

    found = [(each.level, each.what) for each in Wiring.of_config(config).findings(config)]

    assert found[-1] == ("note", "heard by the recorder only: lab/temprature")
    assert ("warning", "nobody hears lab/heater, and it is not recorded") in found


def test_the_graph_is_mermaid_with_what_is_broken_marked():
    drawn = mermaid(Wiring.of_config(_lab(record={"exclude": ["lab/heater"]})))

    assert drawn.splitlines()[0] == "flowchart LR"
    assert '-->|"lab/temprature"| n4' in drawn and 'n4(["recorder"])' in drawn
    assert '-.->|"lab/heater"| n3' in drawn and 'n3(["nobody"])' in drawn
    assert "linkStyle 2 stroke:#e08a00" in drawn


def test_mermaid_shows_any_topic_as_it_is():
    about = About("a", class_name="x.A", publishes={'t"]|<b>;': {}})

    assert '|"t#34;#93;#124;#60;b#62;#59;"|' in mermaid(Wiring.of_abouts({"a": about}, {}))


def test_the_graph_of_a_running_session_marks_who_is_lost():
    abouts = {
        "a": About("a", class_name="x.A", publishes={"t": {}}),
        "b": About("b", class_name="x.B", subscribes={"t": {}, "u": {}}),
        "recorder": About("recorder", subscribes={"#": {"records": True}}),
        "session": About("session"),
    }

    drawn = mermaid(Wiring.of_abouts(abouts, {"a": "lost", "b": "ready"}))

    assert 'n0["a<br/>x.A<br/>lost"]' in drawn and "style n0 stroke:#d32f2f" in drawn
    assert 'n0 -->|"t"| n1' in drawn and 'n2 -.->|"u"| n1' in drawn


def _ring() -> dict[str, About]:
    return {
        name: About(name, class_name="x.Y", publishes={f"{name}<&>": {}}, subscribes={f"{before}<&>": {}})
        for name, before in (("a", "c"), ("b", "a"), ("c", "b"))
    }


@pytest.mark.parametrize("abouts", [{}, {"alone": About("alone")}, _ring()])
def test_the_picture_is_svg_with_every_name_and_topic(abouts):
    drawn = ElementTree.fromstring(svg(Wiring.of_abouts(abouts, {})))

    texts = {each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert texts >= set(abouts) | {topic for about in abouts.values() for topic in about.publishes}


def test_no_two_boxes_of_a_picture_overlap():
    abouts = {
        f"n{i}": About(f"n{i}", class_name="x.Y", publishes={f"t{i}": {}}, subscribes={f"t{i // 2}": {}})
        for i in range(1, 20)
    }

    drawn = ElementTree.fromstring(svg(Wiring.of_abouts(abouts, {})))

    boxes = [
        tuple(float(each.get(key)) for key in ("x", "y", "width", "height"))
        for each in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if each.get("x")
    ]
    assert len(boxes) >= 19
    for place, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[place + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
