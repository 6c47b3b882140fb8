"""Rules of `ingest:`, without a broker: what a foreign message comes to, and what one line says of what is wrong."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest

from ether import topics
from ether.config import Config
from ether.errors import ConfigError, PayloadError
from ether.foreign.facts import Alive, Taken, Trouble, as_type
from ether.foreign.readers import reader_of
from ether.foreign.senml import read
from ether.jsonpath import Path
from ether.model import Message, State

NOW = 1_800_000_000.0


def take(rule, topic, payload):
    """Return the facts that one rule makes of one message."""
    (source,) = Config.load({"ingest": [rule]}).sources
    payload = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return reader_of(source).take(Message(topic, payload), NOW)


def test_a_rule_takes_fields_units_and_time_out_of_a_message():
    rule = {
        "match": "tele/{dev}/SENSOR", "topic": "lab/{dev}",
        "fields": {"celsius": {"path": "DS18B20.Temperature", "unit": "°C", "description": "of the bath"}},
        "time": {"path": "Time", "zone": "Europe/Berlin"},
    }  # fmt: skip

    (fact,) = take(rule, "tele/bath 1/SENSOR", {"Time": "2026-07-16T11:28:42", "DS18B20": {"Temperature": "20.5"}})

    schema = {"celsius": {"type": "number", "unit": "degC", "description": "of the bath"}}
    moment = datetime.fromisoformat("2026-07-16T11:28:42+02:00").timestamp()
    assert fact == Taken("bath 1", "lab/{dev}", {"celsius": 20.5}, schema, moment)


@pytest.mark.parametrize(
    ("given", "text", "moment"),
    [
        ({"format": "unix"}, 1768562922.5, 1768562922.5),
        ({"format": "unix"}, "1768562922.5", 1768562922.5),
        ({"format": "unix_ms"}, 1768562922500, 1768562922.5),
        ({}, "2026-01-16T11:28:42Z", 1768562922.0),
        ({"zone": "Asia/Tokyo"}, "2026-01-16T20:28:42", 1768562922.0),
        ({"format": "%d.%m.%Y %H:%M:%S"}, "16.01.2026 11:28:42", 1768562922.0),
    ],
)
def test_a_time_is_read_as_its_format_says(given, text, moment):
    (fact,) = take(
        {"match": "a/{dev}", "fields": {"x": "x"}, "time": {"path": "t", **given}}, "a/b", {"x": 1, "t": text}
    )

    assert fact.time == moment


@pytest.mark.parametrize("text", ["yesterday", "1970-01-01T00:01:02", [1]])
def test_a_time_that_cannot_be_right_is_told_and_the_arrival_counts(text):
    trouble, fact = take({"match": "a/{dev}", "fields": {"x": "x"}, "time": "t"}, "a/b", {"x": 1, "t": text})

    assert "its arrival counts" in trouble.what
    assert fact.time is None


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"1e400", b"1768562922500", b'"nan"'])
def test_a_number_that_is_no_time_is_told_and_the_arrival_counts(text):
    rule = {"match": "a/{dev}", "fields": {"x": "x"}, "time": {"path": "t", "format": "unix"}}

    trouble, fact = take(rule, "a/b", b'{"x":1,"t":%b}' % text)

    assert "no year before 2262; its arrival counts" in trouble.what
    assert fact.time is None


def test_without_fields_everything_in_the_message_is_taken():
    rule = {"match": "a/{dev}", "unit": {"bath.temp": "degC"}}

    (fact,) = take(rule, "a/b", {"bath": {"temp": 20}, "_type": "location", "on": True, "list": [1, 2]})

    assert fact.fields == {"bath_temp": 20.0, "type": "location", "on": True, "list": [1, 2]}
    assert fact.schema["bath_temp"] == {"type": "number", "unit": "degC"}


def test_a_bare_number_with_a_unit_is_the_field_value():
    assert take({"match": "{dev}/temp", "topic": "lab/{dev}", "unit": "degC"}, "oven/temp", b" 23\n") == [
        Taken("oven", "lab/{dev}", {"value": 23.0}, {"value": {"type": "number", "unit": "degC"}})
    ]


@pytest.mark.parametrize(
    ("rule", "topic"),
    [
        ({"match": "rig/{dev}/temp"}, "{dev}/temp"),
        ({"match": "rig/{dev}"}, "{dev}"),
        ({"match": "rig/{dev}/+/{ch}/#"}, "{dev}/{ch}"),
        ({"match": "rig/first/temp", "device": "rig-1"}, "{dev}/temp"),
        ({"match": "a/{dev}/b", "topic": "x"}, "x"),
    ],
)
def test_readings_go_to_the_device_and_what_stands_behind_it(rule, topic):
    (source,) = Config.load({"ingest": [rule]}).sources

    assert source.rules[0].goes_to == topic


def test_named_steps_of_a_path_name_the_fields():
    rule = {"match": "a/{dev}", "fields": {"{sensor}_celsius": {"path": "{sensor}.Temperature", "unit_path": "Unit"}}}
    content = {"Unit": "C", "DS18B20-1": {"Temperature": 1}, "in side": {"Temperature": 2}, "x": {"Humidity": 3}}

    (fact,) = take(rule, "a/b", content)

    assert fact.fields == {"DS18B20-1_celsius": 1.0, "in_side_celsius": 2.0}
    assert {each["unit"] for each in fact.schema.values()} == {"degC"}


def test_what_cannot_be_taken_for_its_type_leaves_the_rest_standing():
    rule = {
        "match": "a/{dev}",
        "fields": {"x": {"path": "x", "type": "number"}, "y": {"path": "y", "words": {"ON": True}}},
    }

    assert take(rule, "a/b", {"x": "warm", "y": "ON"}) == [
        Trouble("field x: 'warm' is no number"), Taken("b", "{dev}", {"y": True}, {"y": {"type": "boolean"}}),
    ]  # fmt: skip
    assert take(rule, "a/b", {"x": True, "y": "MAYBE"}) == [
        Trouble("field x: 'true' is no number"), Trouble("field y: the word 'MAYBE' is none of ON"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{bad", "no JSON"),
        (b'{"y": 1}', "it holds nothing at a.x"),
        (b"\xd9\xd9\xf7\xff", "damaged CBOR"),
        (b"[1", "no JSON"),
    ],
)
def test_a_message_that_cannot_be_read_says_why(payload, says):
    with pytest.raises(PayloadError, match=says):
        take({"match": "a/{dev}", "fields": {"x": "a.x"}}, "a/b", payload)


def test_an_empty_payload_is_no_reading():
    assert take({"match": "a/{dev}", "fields": {"x": "x"}, "availability": "a/{dev}/s"}, "a/b", b"") == []


@pytest.mark.parametrize(
    ("payload", "state"),
    [(b"up", State.READY), (b"down", State.LOST), (b"gone", State.LOST), (b"sleeping", State.SLEEPING)],
)
def test_an_availability_becomes_a_state(payload, state):
    rule = {"match": "a/{dev}", "availability": {"topic": "b/{dev}", "ready": "up", "lost": ["down", "gone"]}}

    (fact,) = take(rule, "b/x", payload)

    assert (fact.device, fact.state) == ("x", state)


def test_an_availability_may_stand_in_json_and_be_unknown():
    rule = {"match": "a/{dev}", "availability": {"topic": "b/{dev}", "path": "state"}}

    assert take(rule, "b/x", {"state": "online"}) == [Alive("x", State.READY)]
    assert take(rule, "b/x", {"state": "tired"})[0].what.startswith(
        "the availability 'tired' is none of sleeping, offline"
    )


def test_one_word_may_stand_for_all_devices():
    (source,) = Config.load({"ingest": [{"match": "a/{dev}", "availability": "gateway/state"}]}).sources
    reader = reader_of(source)

    for name in ("x", "y", "x"):
        reader.take(Message(f"a/{name}", b"1"), NOW)

    assert [fact.device for fact in reader.take(Message("gateway/state", b"offline"), NOW)] == ["x", "y"]


# --- templates of Home Assistant


@pytest.mark.parametrize(
    "template",
    ["{{ value_json.x | float }}", "{% if value %}1{% endif %}", "{{ value_json.x + 1 }}", "{{ value * 2 }}", "x"],
)
def test_a_template_that_computes_is_told_and_not_guessed(template):
    (source,) = Config.load({"ingest": "homeassistant"}).sources
    document = json.dumps({"name": "x", "stat_t": "a/b", "val_tpl": template}).encode()

    (trouble,) = reader_of(source).take(Message("homeassistant/sensor/n/x/config", document, retain=True), NOW)

    assert "is not understood; only `{{ value_json.a.b }}`" in trouble.what


def test_a_document_of_our_own_bridge_is_not_taken_in():
    (source,) = Config.load({"ingest": "homeassistant"}).sources
    reader = reader_of(source)
    document = {
        "device": {"name": "oven"},
        "origin": {"name": "ether"},
        "components": {"x": {"p": "sensor", "state_topic": "a"}},
    }

    assert reader.take(Message("homeassistant/device/oven/config", json.dumps(document).encode()), NOW) == []
    assert "a" not in reader.filters()


def test_two_devices_of_one_name_are_told_apart():
    (source,) = Config.load({"ingest": "homeassistant"}).sources
    reader = reader_of(source)
    for identity in ("A", "B"):
        document = {"stat_t": f"{identity}/t", "dev": {"ids": [identity], "name": "plug"}}
        reader.take(Message(f"homeassistant/sensor/{identity}/t/config", json.dumps(document).encode()), NOW)

    assert [reader.take(Message(f"{each}/t", b"1"), NOW)[0].device for each in "AB"] == ["plug", "plug B"]


# --- SenML


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ({"n": "x"}, "a list of records"),
        ([{"v": 1}], "without a name"),
        ([{"n": "x", "v": "1"}], "no number"),
        ([{"n": "x", "v": 1, "must_": 1}], "must be understood"),
        ([{"bver": 11, "n": "x", "v": 1}], "version 11"),
        ([{"n": "x", "v": 1}, {"n": "x", "v": 2}], "twice"),
        ([{"n": "x", "vb": 1}], "vb of 'x' is 1"),
    ],
)
def test_senml_that_cannot_be_right_says_why(records, says):
    with pytest.raises(PayloadError, match=says):
        read(records, NOW)


def test_senml_times_are_relative_to_now_and_bases_add_up():
    first, second = read([{"bn": "a:", "bv": 20, "bt": -10, "n": "x", "v": 1}, {"n": "x", "v": 2, "t": 5, "s": 7}], NOW)

    assert (first.time, first.fields) == (NOW - 10, {"x": 21.0})
    assert (second.time, second.fields) == (NOW - 5, {"x": 22.0, "x_sum": 7.0})


@pytest.mark.parametrize("time", ["NaN", "1e400", "1768562922500", "300000000"])
def test_senml_whose_time_cannot_be_right_counts_as_it_arrives(time):
    trouble, fact = take({"match": "a/{dev}", "format": "senml"}, "a/b", f'[{{"n":"x","v":1,"t":{time}}}]'.encode())

    assert "its arrival counts" in trouble.what
    assert (fact.fields, fact.time) == ({"x": 1.0}, None)


def test_senml_of_several_base_names_keeps_the_whole_names():
    (pack,) = read([{"bn": "a:", "n": "x", "v": 1}, {"bn": "b:", "n": "x", "v": 2}], NOW)

    assert pack.fields == {"a_x": 1.0, "b_x": 2.0}


# --- patterns, paths, values


@pytest.mark.parametrize(
    ("pattern", "topic", "parts"),
    [
        ("tele/{dev}/SENSOR", "tele/a b/SENSOR", {"dev": "a b"}),
        ("tele/{dev}/SENSOR", "tele/a/b/SENSOR", None),
        ("{dev}/status/switch:{ch}", "s/status/switch:0", {"dev": "s", "ch": "0"}),
        ("{dev}/status/switch:{ch}", "s/status/input:0", None),
        ("a/{dev}/#", "a/b", {"dev": "b"}),
        ("a/{dev}/#", "a/b/c/d", {"dev": "b"}),
        ("a/+/{x}", "a/b/c", {"x": "c"}),
        ("a.c/{x}", "abc/1", None),
    ],
)
def test_a_pattern_names_levels(pattern, topic, parts):
    found = topics.Pattern.parse(pattern)

    assert found.match(topic) == parts
    assert parts is None or topics.matches(found.filter, topic)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b", [1]), ("$.a.b", [1]), ("a['b']", [1]), ('a["c d"][1]', [3]), ("a.x", []), ("a.b.c", []), ("l[9]", []),
        ("{k}.b", [1]), ("$", [{"a": {"b": 1, "c d": [2, 3]}, "l": [4]}]), ("l[0]", [4]), ("l.{k}", [4]),
    ],
)  # fmt: skip
def test_a_path_finds_what_stands_there(path, found):
    content = {"a": {"b": 1, "c d": [2, 3]}, "l": [4]}

    assert [value for _, value in Path.parse(path).find(content)] == found


@pytest.mark.parametrize("path", ["", "a..b", "a[", "a[x]", ".a", "a b", 3])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        Path.parse(path)


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ("1e3", "number", 1000.0), (5, "number", 5.0), ("7", "integer", 7), (7.0, "integer", 7), (2**60 + 1, "integer", 2**60 + 1),
        ("on", "boolean", True), (0, "boolean", False), (1, "string", "1"), (True, "string", "true"), ([1, 2], None, [1, 2]),
        ([1, "2"], "number", [1.0, 2.0]),
    ],
)  # fmt: skip
def test_values_are_as_their_type_has_it(value, kind, found):
    converted = as_type(value, kind)

    assert (converted, type(converted)) == (found, type(found))


@pytest.mark.parametrize(
    ("value", "kind"), [("7.5", "integer"), ("maybe", "boolean"), ({}, "string"), (True, "number"), ("inf", "integer")]
)
def test_values_that_do_not_fit_are_refused(value, kind):
    with pytest.raises(PayloadError, match=f"is no {kind}"):
        as_type(value, kind)


# --- the configuration


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{match: 'tele/{dev}/S', topic: 'lab/{dve}'}", "1:41: ingest.0.topic: `{dve}` is no named level of `match`; did you mean `dev`?"),
        ("{match: 'tele/{dev/S'}", "1:18: ingest.0.match: topic pattern 'tele/{dev/S': write `{name}`"),
        ("{match: 'tele/+/S'}", "1:18: ingest.0.match: name the device: a level `{dev}`"),
        ("{match: 'a/{dev}', fields: {x: 'a..b'}}", "1:38: ingest.0.fields.x.path: 'a..b' is no path: not understood from `..b` on"),
        ("{match: 'a/{dev}', fields: {x: {pth: b}}}", "1:42: ingest.0.fields.x.pth: unknown key; did you mean `path`?"),
        ("{match: 'a/{dev}', fields: {_x: b}}", "1:38: ingest.0.fields._x: names starting with `_` belong to ether"),
        ("{match: 'a/{dev}', time: {path: t, zone: Europe/Berln}}", "did you mean `Europe/Berlin`?"),
        ("{match: 'a/{dev}', time: {path: t, format: isso}}", "the format 'isso' is unknown; did you mean `iso`?"),
        ("{match: 'a/{dev}', availability: {topic: 'a/{dev}/s', ready: on}}", "quote it if a text is meant"),
        ("{match: 'a/{dev}', topic: 'a/{dev}'}", "readings go to `a/{dev}`, where itself takes in foreign messages"),
        ("{match: 'a/{dev}/t'}, {match: 'b/{dev}/t'}", "ingest.1: puts the field `value` of `{dev}/t` where ingest.0 does"),
        ("{match: '{dev}'}", "set `prefix: lab`, or another `topic`"),
        ("{match: 'a/{dev}', prefix: ether}", "'ether/' is reserved"),
        ("{profile: tasmoto}", "1:20: ingest.0.profile: no profile 'tasmoto'; did you mean `tasmota`?"),
        ("{profile: homie5, base: 'a/#'}", "1:34: ingest.0.base: topic 'a/#': '+' and '#' are for subscribing"),
        ("{profile: homie5, base: ''}", "ingest.0.base: "),
        ("{profile: tasmota, base: lab}", "ingest.0.base: tasmota has no root that could be moved; drop this"),
        ("{profile: tasmota, match: 'a/{dev}'}", "`profile` has rules of its own; drop it, or `match`"),
        ("{prefix: lab}", "name a `profile` (such as tasmota), or a `match`"),
        ("{mach: a}", "1:11: ingest.0.mach: unknown key; did you mean `match`?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_entry_is_one_line(tmp_path, line, says):
    file = tmp_path / "session.yaml"
    file.write_text(f"ingest: [{line}]\n")

    with pytest.raises(ConfigError) as caught:
        Config.load(file)

    assert len(caught.value.problems) == 1
    assert says in str(caught.value)


def test_what_is_wrong_with_a_profile_stands_in_its_own_file(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text('base: bench\nrules:\n  - match: "{base}/{dev}/x"\n    topc: y\n    fields: {a: {unti: V}}\n')

    with pytest.raises(ConfigError) as caught:
        Config.load({"ingest": [{"profile": str(profile)}]})

    assert [str(each) for each in caught.value.problems] == [
        f"{profile}:4:5: rules.0.topc: unknown key; did you mean `topic`?",
        f"{profile}:5:18: rules.0.fields.a.unti: unknown key; did you mean `unit`?",
    ]


def test_a_profile_of_ones_own_has_its_base_filled_in(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text('base: bench\nrules:\n  - {match: "{base}/{dev}/x", topic: "{dev}/x"}\n')

    (source,) = Config.load({"ingest": [{"profile": str(profile), "base": "rig/a"}]}).sources

    assert (source.name, source.rules[0].match) == ("mine", "rig/a/{dev}/x")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "announces to nobody; set `homeassistant: true`"),
        ({"homeassistant": True, "homie_domian": "x"}, "unknown key; did you mean `homie_domain`?"),
        ({"homie": True, "homie_domain": "a/#"}, "a publisher names one topic"),
        ({"homie": True, "every": 0}, "at least 0 was wanted"),
    ],
)
def test_what_is_wrong_with_a_bridge_is_one_line(given, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        Config.load({"bridge": given})


def test_an_instance_may_not_be_called_as_what_takes_in():
    with pytest.raises(ConfigError, match="`ingest` is what runs `ingest:`; choose another name"):
        Config.load({"ingest": "tasmota", "instances": {"ingest": {"class_path": "a.B"}}})
