"""The vectors of `hardware/vectors`, held to by the Python package: what devices write, and how it is understood."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hardware_vectors import payload_of, vectors

from ether import codecs
from ether.member import _status_json, read_about, read_status
from ether.model import Envelope, State, Status

BY, BOOT = "bench1", "9f3c01aa"
OUTGOING = vectors("outgoing")


def by_name(vector):
    return vector["name"]


def made(make):
    return pytest.mark.parametrize("vector", [each for each in OUTGOING if each["make"] == make], ids=by_name)


@made("reading")
def test_encoded_reading(vector):
    given = vector["given"]
    value = math.nan if given["value"] == "NaN" else given["value"]

    assert codecs.encode(value, Envelope(BY, BOOT, given["n"], None, given["ms"])) == payload_of(vector)


@made("batch")
def test_encoded_batch(vector):
    given = vector["given"]
    envelope = Envelope(BY, BOOT, given["n"], None, given["ms"], len(given["values"]))

    assert codecs.encode({"value": given["values"]}, envelope) == payload_of(vector)


@made("block")
def test_encoded_block(vector):
    given = vector["given"]
    values = np.array(given["values"], given["value_type"])
    envelope = Envelope(BY, BOOT, given["n"], None, given["ms"], len(values), given["dt"])

    payload = payload_of(vector)

    assert codecs.encode({"value": values}, envelope) == payload
    assert codecs.numbering(payload) == envelope
    np.testing.assert_array_equal(codecs.decode(payload)[0]["value"], values)


@made("status")
def test_status_written_and_read(vector):
    given = {**vector["given"], "state": State(vector["given"]["state"])}
    status = Status(boot=BOOT, **given)

    assert _status_json(status) == payload_of(vector)
    assert read_status(payload_of(vector)) == status


@made("will")
def test_will_written(vector):
    assert _status_json(Status(State.LOST, BOOT, detail="connection lost")) == payload_of(vector)


@made("about")
def test_description_read(vector):
    about = read_about(BY, payload_of(vector))

    assert about is not None
    assert (about.boot, about.class_name, about.version) == (BOOT, "Bench", "1.2")
    assert about.publishes["lab/temp"]["fields"]["value"] == {"type": "number", "unit": "degC", "range": [-40, 125]}
    assert about.subscribes["lab/led"] == {"fields": {"value": {"type": "boolean"}}, "methods": ["led"]}


@pytest.mark.parametrize("vector", vectors("readings"), ids=by_name)
def test_received_reading(vector):
    payload = payload_of(vector)

    fields, envelope = codecs.decode(payload)

    assert {key: item.hex() if isinstance(item, bytes) else item for key, item in fields.items()} == vector["fields"]
    found = None if envelope is None else {key: item for key, item in asdict(envelope).items() if item is not None}
    assert found == vector["envelope"]


def test_no_vector_is_too_long_for_a_small_buffer():
    for name in ("outgoing", "incoming", "readings", "packets"):
        for vector in vectors(name):
            assert len(json.dumps(vector)) <= 1000, vector["name"]
