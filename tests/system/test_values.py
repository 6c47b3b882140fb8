"""What arrives of what a method returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal, TypedDict
from uuid import UUID

import numpy
import pytest
from numpy.testing import assert_array_equal
from pydantic import BaseModel, Field

from ether import ether_pub, ether_sub
from ether.errors import FieldError, PayloadError, TopicError


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 2


class Point(BaseModel):
    x: float
    y: float = 0.0


@dataclass
class Spot:
    x: int
    where: Point


class Typed(TypedDict):
    x: int


NOON = datetime(2026, 1, 16, 12, 0, 0, 250_000, tzinfo=UTC)
UUID_1 = UUID(int=1)


class Source:
    """Publishes whatever it is given, un-annotated."""

    @ether_pub(topic="values")
    def give(self, value):
        return value


class Sink:
    """Takes whatever comes, un-annotated."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    @ether_sub(topic="values")
    def take(self, **fields):
        self.got.append(fields)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ({"x": 1, "y": [1, {"z": None}]}, {"x": 1, "y": [1, {"z": None}]}),
        ({}, {}),
        (None, {}),
        (Point(x=1), {"x": 1.0, "y": 0.0}),
        (Spot(1, Point(x=2)), {"x": 1, "where": {"x": 2.0, "y": 0.0}}),
        (42, {"value": 42}),
        (2**53 + 1, {"value": 2**53 + 1}),
        (0.1, {"value": 0.1}),
        (True, {"value": True}),
        ("ä\n\0", {"value": "ä\n\0"}),
        ([1, 2], {"value": [1, 2]}),
        ((1, "a"), {"value": [1, "a"]}),
        ([], {"value": []}),
        ({1}, {"value": [1]}),
        (Color.RED, {"value": "red"}),
        (Level.HIGH, {"value": 2}),
        (NOON, {"value": "2026-01-16T12:00:00.250000Z"}),
        (date(2026, 1, 16), {"value": "2026-01-16"}),
        (UUID_1, {"value": str(UUID_1)}),
        (Decimal("1.10"), {"value": "1.10"}),
        (Path("a/b"), {"value": "a/b"}),
        (numpy.float32(1.5), {"value": 1.5}),
        (numpy.int64(3), {"value": 3}),
        (numpy.bool_(True), {"value": True}),
        (numpy.array(2.5), {"value": 2.5}),
        ({"a": numpy.float64(1.5), "b": [numpy.int8(1)]}, {"a": 1.5, "b": [1]}),
        ({"a": {"b": Color.RED, "c": NOON}}, {"a": {"b": "red", "c": "2026-01-16T12:00:00.250000Z"}}),
        (b"\x00\xff", {"value": b"\x00\xff"}),
        (bytearray(b"ab"), {"value": b"ab"}),
        ({"a": b"", "b": [b"x", Color.RED], "c": NOON}, {"a": b"", "b": [b"x", "red"], "c": "2026-01-16T12:00:00.250000Z"}),
        ({1: "a"}, {"1": "a"}),
    ],
    ids=repr,
)  # fmt: skip
def test_every_kind_of_result_arrives(add, until, value, arrives):
    source, sink = add(Source()), add(Sink())

    returned = source.give(value)

    until(lambda: sink.got)
    assert (returned is value, sink.got) == (True, [arrives])


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6, dtype=dtype).reshape(shape)
        for dtype in ("u1", "i2", "<f4", ">f8", "i8", "f2")
        for shape in ((6,), (2, 3))
    ]
    + [
        numpy.zeros((0, 3)),
        numpy.array([True, False]),
        numpy.arange(12).reshape(3, 4)[:, ::2],
        numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
        numpy.array([math.nan, math.inf]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_arrive_with_shape_values_and_type(add, until, array):
    source, sink = add(Source()), add(Sink())

    source.give({"image": array, "exposure": 0.5})

    until(lambda: sink.got)
    (got,) = sink.got
    image = numpy.asarray(got["image"])
    assert (image.shape, image.dtype.newbyteorder("="), got["exposure"]) == (
        array.shape, array.dtype.newbyteorder("="), 0.5,
    )  # fmt: skip
    assert_array_equal(image, array)


def test_an_array_that_arrived_is_the_receivers_to_change(add, until):
    source, sink = add(Source()), add(Sink())
    source.give(numpy.zeros(3))
    until(lambda: sink.got)

    sink.got[0]["value"][0] = 1

    assert sink.got[0]["value"].tolist() == [1, 0, 0]


class TypedSink:
    def __init__(self) -> None:
        self.got: list[Any] = []

    @ether_sub(topic="typed/model")
    def model(self, point: Point) -> None:
        self.got.append(point)

    @ether_sub(topic="typed/dataclass")
    def dataclass(self, spot: Spot) -> None:
        self.got.append(spot)

    @ether_sub(topic="typed/dict")
    def typed_dict(self, typed: Typed) -> None:
        self.got.append(typed)

    @ether_sub(topic="typed/field")
    def field(self, where: Point, x: int) -> None:
        self.got.append((where, x))

    @ether_sub(topic="typed/int")
    def integer(self, x: int) -> None:
        self.got.append(x)

    @ether_sub(topic="typed/bare")
    def bare(self, celsius: float) -> None:
        self.got.append(celsius)

    @ether_sub(topic="typed/root")
    def root(self, root: list[int]) -> None:
        self.got.append(root)

    @ether_sub(topic="typed/rootdict")
    def root_dict(self, root: dict[str, int]) -> None:
        self.got.append(root)

    @ether_sub(topic="typed/enum")
    def enum(self, color: Color, level: Level, mode: Literal["a", "b"]) -> None:
        self.got.append((color, level, mode))

    @ether_sub(topic="typed/time")
    def time(self, when: datetime) -> None:
        self.got.append(when)

    @ether_sub(topic="typed/array")
    def array(self, values: numpy.ndarray) -> None:
        self.got.append(values)

    @ether_sub(topic="typed/numpy")
    def single(self, x: numpy.float32) -> None:
        self.got.append(x)

    @ether_sub(topic="typed/default")
    def default(self, x: int, y: int = 5) -> None:
        self.got.append((x, y))

    @ether_sub(topic="typed/keyword")
    def keyword(self, x: int, *, y: int | None = None) -> None:
        self.got.append((x, y))

    @ether_sub(topic="typed/positional")
    def positional(self, x: int, /, y: int) -> None:
        self.got.append((x, y))

    @ether_sub(topic="typed/rest")
    def rest(self, x: int, **rest: Any) -> None:
        self.got.append((x, rest))

    @ether_sub(topic="typed/bytes")
    def raw(self, frame: bytes) -> None:
        self.got.append(frame)

    @ether_sub(topic="typed/list")
    def points(self, points: list[Point]) -> None:
        self.got.append(points)

    @ether_sub(topic="typed/underscore")
    def alias(self, class_: str = "none") -> None:
        self.got.append(class_)

    @ether_sub(topic="typed/nothing")
    def nothing(self) -> None:
        self.got.append("called")


@pytest.mark.parametrize(
    ("topic", "data", "arrives"),
    [
        ("model", {"x": 1, "y": "2.5", "further": 1}, Point(x=1, y=2.5)),
        ("model", {"point": {"x": 1}}, Point(x=1)),
        ("dataclass", {"x": 1, "where": {"x": 2}}, Spot(1, Point(x=2))),
        ("dict", {"x": "1"}, {"x": 1}),
        ("field", {"where": {"x": 1}, "x": 1}, (Point(x=1), 1)),
        ("int", {"x": "17"}, 17),
        ("int", {"x": 17.0}, 17),
        ("int", 17, 17),
        ("int", "17", 17),
        ("bare", 21.5, 21.5),
        ("bare", {"celsius": 21.5, "unit": "degC"}, 21.5),
        ("root", [1, 2], [1, 2]),
        ("rootdict", {"a": 1}, {"a": 1}),
        ("enum", {"color": "red", "level": 2, "mode": "b"}, (Color.RED, Level.HIGH, "b")),
        ("time", NOON, NOON),
        ("numpy", 1.5, numpy.float32(1.5)),
        ("default", {"x": 1}, (1, 5)),
        ("keyword", {"x": 1, "y": None}, (1, None)),
        ("positional", {"x": 1, "y": 2}, (1, 2)),
        ("rest", {"x": 1, "y": 2}, (1, {"y": 2})),
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("bytes", {"frame": b"\x00"}, b"\x00"),
        ("list", {"points": [{"x": 1}]}, [Point(x=1)]),
        ("underscore", {}, "none"),
        ("nothing", {"x": 1}, "called"),
        ("nothing", None, "called"),
    ],
)
def test_parameters_get_what_their_annotations_say(shared, add, until, topic, data, arrives):
    sink = add(TypedSink())

    shared.pub(data, f"typed/{topic}")

    until(lambda: sink.got)
    assert ([type(item) for item in sink.got], sink.got) == ([type(arrives)], [arrives])


@pytest.mark.parametrize("data", [[1.5, 2.5], numpy.array([1.5, 2.5]), {"values": numpy.array([1.5, 2.5])}], ids=repr)
def test_an_array_parameter_gets_an_array(shared, add, until, data):
    sink = add(TypedSink())

    shared.pub(data, "typed/array")

    until(lambda: sink.got)
    assert isinstance(sink.got[0], numpy.ndarray)
    assert sink.got[0].tolist() == [1.5, 2.5]


class Nans:
    def __init__(self) -> None:
        self.got: list[Any] = []

    @ether_pub(topic="nan/out")
    def give(self, x: float) -> dict[str, float]:
        return {"x": x}

    @ether_pub(topic="nan/model")
    def model(self, x: float) -> Point:
        return Point(x=x)

    @ether_sub(topic="nan/out")
    def field(self, x: float) -> None:
        self.got.append(x)

    @ether_sub(topic="nan/model")
    def whole(self, point: Point) -> None:
        self.got.append(point.x)

    @ether_sub(topic="nan/list")
    def items(self, xs: list[float]) -> None:
        self.got.extend(xs)


@pytest.mark.parametrize("method", ["give", "model"])
def test_nan_arrives_as_nan(add, until, method):
    nans = add(Nans())

    getattr(nans, method)(math.nan)

    until(lambda: nans.got)
    assert math.isnan(nans.got[0])


def test_nan_in_a_list_arrives_as_nan(shared, add, until):
    nans = add(Nans())

    shared.pub({"xs": [1.0, math.nan]}, "nan/list")

    until(lambda: len(nans.got) == 2)
    assert (nans.got[0], math.isnan(nans.got[1])) == (1.0, True)


# --- results that their annotation forbids


class Strict:
    @ether_pub(topic="strict")
    def integer(self, x: Any) -> int:
        return x

    @ether_pub(topic="strict")
    def model(self, x: Any) -> Point:
        return x

    @ether_pub(topic="strict")
    def mapping(self, x: Any) -> dict[str, float]:
        return x

    @ether_pub(topic="strict")
    def limited(self, x: Any) -> Limited:
        return x

    @ether_pub(topic="strict")
    def single(self, x: Any) -> numpy.float32:
        return x

    @ether_pub(topic="strict")
    def byte(self, x: Any) -> numpy.uint8:
        return x

    @ether_pub(topic="strict")
    def anything(self, x: Any) -> Any:
        return x


class Limited(BaseModel):
    x: int = Field(le=10)


@pytest.mark.parametrize(
    ("method", "value", "reason"),
    [
        ("integer", "many", "Strict.integer returned what its annotation forbids"),
        ("model", {"y": 1}, "field `x` is missing; got ['y']"),
        ("model", {"x": "much"}, "field `x`"),
        ("mapping", {"a": "b"}, "field `a`"),
        ("limited", {"x": 11}, "less than or equal to 10"),
        ("byte", 256, "Strict.byte returned what its annotation forbids"),
        ("byte", 0.5, "Strict.byte returned what its annotation forbids"),
    ],
)
def test_an_invalid_result_is_an_error_at_the_publisher_and_nothing_is_published(
    add, until, wire, shared, method, value, reason
):
    strict = add(Strict())
    out = wire(shared, "strict")

    with pytest.raises(FieldError) as caught:
        getattr(strict, method)(value)
    strict.integer(1)

    until(lambda: len(out) == 1)
    assert (reason in str(caught.value), out.fields, out.readings[0].number) == (True, [{"value": 1}], 0)


@pytest.mark.parametrize("value", [object(), {"a": object()}, print, {"_a": 1}, {"_ether": {}}], ids=range(5))
def test_a_value_that_cannot_travel_is_an_error_at_the_publisher_and_nothing_is_published(
    add, until, wire, shared, value
):
    strict = add(Strict())
    out = wire(shared, "strict")

    with pytest.raises(PayloadError):
        strict.anything(value)
    strict.integer(1)

    until(lambda: len(out) == 1)
    assert (out.fields, out.readings[0].number) == ([{"value": 1}], 0)


@pytest.mark.parametrize(
    ("method", "value", "arrives"),
    [
        ("model", {"x": 1}, {"x": 1.0, "y": 0.0}),
        ("model", Point(x=1), {"x": 1.0, "y": 0.0}),
        ("integer", "17", {"value": 17}),
        ("integer", numpy.int64(17), {"value": 17}),
        ("single", numpy.float32(0.5), {"value": 0.5}),
        ("byte", 17, {"value": 17}),
        ("mapping", {"a": numpy.float32(0.5)}, {"a": 0.5}),
    ],
)
def test_dicts_and_models_are_both_results_of_a_model_annotation(add, until, wire, shared, method, value, arrives):
    strict = add(Strict())
    out = wire(shared, "strict")

    getattr(strict, method)(value)

    until(lambda: len(out) == 1)
    assert out.fields == [arrives]


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "$SYS/x", "ether/status/x", "a\0b", "x" * 65_536])
def test_a_topic_that_cannot_be_published_to_is_refused(shared, topic):
    with pytest.raises(TopicError):
        shared.pub(1, topic)


# --- foreign clients


@pytest.mark.parametrize(
    ("payload", "arrives"),
    [(b"23.4", 23.4), (b"on", "on"), (b"", None), (b'{"x": 1}', 1), (b"\xff\xfe", b"\xff\xfe"), (b'"text"', "text")],
)
def test_one_line_of_any_mqtt_library_is_a_sensor(shared, add, until, raw, payload, arrives):
    class Any_:
        def __init__(self) -> None:
            self.got: list[Any] = []

        @ether_sub(topic="foreign")
        def take(self, x=None):
            self.got.append(x)

    sink = add(Any_())

    raw(shared.info()["broker"]["url"]).publish("foreign", payload)

    until(lambda: sink.got)
    assert sink.got == [arrives]
