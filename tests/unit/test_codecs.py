"""Codecs: what goes in comes out, in JSON and in CBOR; what cannot travel is refused; nothing damaged gets through."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

from ether import codecs
from ether.errors import PayloadError
from ether.model import Envelope

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = TEXT.filter(lambda name: not name.startswith("_"))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=4)
ARRAYS = nst.arrays(
    st.one_of(
        nst.integer_dtypes(endianness="?"), nst.unsigned_integer_dtypes(endianness="?"),
        nst.floating_dtypes(endianness="?", sizes=(16, 32, 64)), nst.boolean_dtypes(),
    ),
    nst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
)  # fmt: skip
TIMES = st.floats(0, 4e9).map(lambda t: round(t, 6))
ENVELOPES = st.builds(
    Envelope,
    by=st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True),
    b=st.from_regex(r"[a-f0-9]{1,8}", fullmatch=True),
    n=st.integers(0, 2**53),
    t=st.none() | TIMES | st.lists(TIMES, min_size=1, max_size=3),
    ms=st.none() | TIMES,
    k=st.none() | st.integers(1, 100),
    dt=st.none() | TIMES,
)


@given(FIELDS, st.none() | ENVELOPES)
def test_fields_and_envelope_come_back(fields: dict[str, Any], envelope: Envelope | None):
    payload = codecs.encode(fields, envelope)

    assert codecs.decode(payload) == (fields, envelope)
    assert json.loads(payload).keys() == fields.keys() | ({"_ether"} if envelope else set())


@given(VALUES.filter(lambda value: not isinstance(value, dict) and value is not None), ENVELOPES)
def test_a_bare_value_comes_back_as_the_field_value(value: Any, envelope: Envelope):
    assert codecs.decode(codecs.encode(value, envelope)) == ({"value": value}, envelope)


@given(ARRAYS, st.none() | ENVELOPES)
def test_arrays_come_back_with_type_shape_and_bits(array: numpy.ndarray, envelope: Envelope | None):
    payload = codecs.encode({"image": array, "exposure": 0.5}, envelope)

    fields, found = codecs.decode(payload)
    image = numpy.asarray(fields["image"])
    assert payload.startswith(codecs.CBOR_MAGIC)
    assert (found, fields["exposure"], image.shape) == (envelope, 0.5, array.shape)
    if array.size:
        assert image.dtype == array.dtype.newbyteorder("<")
    numpy.testing.assert_array_equal(image, array)


@given(st.binary(), FIELDS)
def test_bytes_come_back(data: bytes, fields: dict[str, Any]):
    assert codecs.decode(codecs.encode({**fields, "data": data}))[0] == {**fields, "data": data}


@given(FIELDS, ENVELOPES)
def test_the_envelope_is_found_without_parsing_the_rest(fields: dict[str, Any], envelope: Envelope):
    assert codecs.envelope_of(codecs.encode(fields, envelope)) == envelope


@given(st.one_of(st.binary(), st.binary().map(lambda rest: codecs.CBOR_MAGIC + rest), TEXT.map(str.encode)))
def test_any_bytes_are_a_reading_or_a_payload_error(payload: bytes):
    try:
        fields, envelope = codecs.decode(payload)
        assert codecs.envelope_of(payload) == envelope
    except PayloadError:
        return
    assert isinstance(fields, dict)


@given(st.dictionaries(st.sampled_from(["by", "b", "n", "t", "ms", "k", "dt", "x"]), VALUES))
def test_a_strangers_envelope_is_sound_or_none(content: dict[str, Any]):
    _, envelope = codecs.decode(json.dumps({"x": 1, "_ether": content}).encode())

    if envelope is not None:
        assert codecs.decode(codecs.encode({"x": 1}, envelope)) == ({"x": 1}, envelope)


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        (b"", {}), (b"{}", {}), (b"23.4", {"value": 23.4}), (b"on", {"value": "on"}), (b"null", {"value": None}),
        (b"[1]", {"value": [1]}), (b"\xff", {"value": b"\xff"}), (b'{"a": 1', {"value": '{"a": 1'}),
        (b'{"a": 1, "_ether": 5}', {"a": 1}),
    ],
)  # fmt: skip
def test_foreign_payloads_are_taken_as_they_are(payload, fields):
    assert codecs.decode(payload) == (fields, None)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_carries_nan_as_null_and_cbor_as_it_is(number):
    assert json.loads(codecs.encode({"x": number})) == {"x": None}
    assert repr(codecs.decode(codecs.encode({"x": number, "b": b""}))[0]["x"]) == repr(number)


@pytest.mark.parametrize(
    "value", [object(), {"x": object()}, [print], {"_x": 1}, {"x": b"", "_x": 1}, {"x": {1, object()}}], ids=range(6)
)
def test_what_cannot_travel_is_refused(value):
    with pytest.raises(PayloadError):
        codecs.encode(value)


def test_a_value_that_holds_itself_is_refused():
    value: dict[str, Any] = {}
    value["x"] = value

    for each in (value, {"b": b"", "x": value}):
        with pytest.raises(PayloadError):
            codecs.encode(each)


def test_an_array_of_objects_that_cannot_travel_is_refused():
    with pytest.raises(PayloadError):
        codecs.encode(numpy.array([object()]))
    with pytest.raises(PayloadError, match="complex128"):
        codecs.encode(numpy.array([1j]))


def test_a_batch_comes_apart_into_its_readings():
    envelope = Envelope("oven", "b", 7, [1.0, 1.5], k=2)

    readings = list(codecs.unpack({"x": [1, 2], "y": ["a", "b"]}, envelope))

    assert readings == [
        ({"x": 1, "y": "a"}, Envelope("oven", "b", 7, 1.0)),
        ({"x": 2, "y": "b"}, Envelope("oven", "b", 8, 1.5)),
    ]


def test_a_batch_of_even_spacing_has_computed_times():
    readings = list(codecs.unpack({"x": [1, 2, 3]}, Envelope("oven", "b", 0, 10.0, k=3, dt=0.5)))

    assert [facts.t for _, facts in readings] == [10.0, 10.5, 11.0]


@dataclass(slots=True)
class Frame:
    image: numpy.ndarray
    exposure: float = 0.5


@pytest.mark.parametrize(
    "wrap", [lambda a: Frame(a), lambda a: OrderedDict(image=a, exposure=0.5)], ids=["slots", "ordered"]
)
def test_arrays_are_found_in_objects_with_slots_and_in_kinds_of_dicts(wrap):
    fields, _ = codecs.decode(codecs.encode(wrap(numpy.arange(3))))

    assert ({**fields, "image": fields["image"].tolist()}) == {"image": [0, 1, 2], "exposure": 0.5}


AGAIN = Envelope("replay-1", "b2", 7, 5.0, replay={"by": "oven", "n": 0})


@pytest.mark.parametrize(
    "payload",
    [
        codecs.encode({"a": 1.50, "b": "ä"}, Envelope("oven", "b1", 0, 1.0)),
        codecs.encode({"a": [1, 2]}, Envelope("oven", "b1", 0, [1.0, 2.0], k=2)),
        codecs.encode(None, Envelope("oven", "b1", 0, 1.0)),
        codecs.encode({"a": numpy.arange(6.0).reshape(2, 3), "b": b"x"}, Envelope("oven", "b1", 0, 1.0)),
        b"",
        b"{}",
        b" { } ",
        b'{"a": 1.50}\n',
        b'{"_ether": {"by": "x", "b": "y", "n": 1}, "a": 1}',
        b'{"a": "\\"_ether\\":{}"}',
        b'{"a": {"_ether": {"n": 1}}}',
        b'{"_ether": 5}',
        b"23.4",
        b"on",
        b"\xff\x00",
        b"[1, 2]",
        b"{broken",
    ],
)
def test_a_payload_under_another_envelope_has_the_same_fields(payload: bytes) -> None:
    def plain(fields: dict[str, Any]) -> str:
        return repr({name: value.tolist() if hasattr(value, "tolist") else value for name, value in fields.items()})

    fields, envelope = codecs.decode(codecs.with_envelope(payload, AGAIN))

    assert (plain(fields), envelope) == (plain(codecs.decode(payload)[0]), AGAIN)


def test_a_json_object_under_another_envelope_is_the_same_byte_for_byte() -> None:
    payload = b'{"a": 1.50,  "b":[1e3],"_ether":{"by":"oven","b":"b1","n":0}}'

    assert codecs.with_envelope(payload, Envelope("r", "b2", 1)) == (
        b'{"a": 1.50,  "b":[1e3],"_ether":{"by":"r","b":"b2","n":1}}'
    )


def test_damaged_cbor_gets_no_envelope() -> None:
    with pytest.raises(PayloadError, match="damaged CBOR"):
        codecs.with_envelope(codecs.CBOR_MAGIC + b"\xff", AGAIN)
