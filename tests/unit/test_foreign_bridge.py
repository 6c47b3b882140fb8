"""What dashboards are told of our components: documents of Home Assistant and Homie, field by field."""

from __future__ import annotations

import json
from datetime import datetime
from hashlib import sha256

import pytest
from bridge_parts import Furnace, Watcher
from jinja2 import Environment

from ether import codecs
from ether.component import Component
from ether.foreign import homeassistant, homie
from ether.foreign.outline import Shown, kinds_in, outline
from ether.model import About, Envelope
from ether.params import Params

STATUS = "{% set state = value_json.state if value_json is mapping else value %}"
MESSAGE = (
    '{% set m = value_json if value_json is mapping else {"value": value_json if value_json is defined else value} %}'
)


@pytest.fixture(scope="module")
def about():
    component = Component.of(Furnace)
    return About(
        "furnace", class_name="bridge_parts.Furnace", publishes=component.publishes(), subscribes=component.subscribes(),
        params=Params(Furnace()).describe(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def outlined(about):
    return outline(about, {}, about.publishes)


def test_an_outline_has_single_values_and_what_can_be_set(outlined):
    assert {(each.topic, each.keys): (each.kind, each.unit, each.told, each.settable) for each in outlined.shown} == {
        ("lab/furnace", ("celsius",)): ("number", "degC", True, False),
        ("lab/furnace", ("open",)): ("boolean", "", True, False),
        ("lab/furnace", ("mode",)): ("string", "", True, False),
        ("lab/setpoint", ("celsius",)): ("number", "", False, True),
        ("", ("gain",)): ("number", "dB", True, True),
        ("", ("quiet",)): ("boolean", "", True, True),
    }
    assert "lab/counted" in outlined.unknown


def test_what_a_description_does_not_say_is_learned_from_a_message(about):
    learned = {"lab/counted": kinds_in({"count": 1, "inner": {"word": "a"}, "list": [1, 2], "none": None})}

    found = outline(about, learned, about.publishes)

    assert [(each.keys, each.kind) for each in found.shown if each.topic == "lab/counted"] == [
        (("count",), "number"), (("inner", "word"), "string"),
    ]  # fmt: skip
    assert "lab/counted" not in found.unknown


def test_nobody_is_offered_to_forge_the_readings_of_another():
    component = Component.of(Watcher)
    watcher = About("watcher", subscribes=component.subscribes())

    assert outline(watcher, {}, {"lab/furnace"}).shown == ()
    assert [each.topic for each in outline(watcher, {}, set()).shown] == ["lab/furnace"]
    assert outline(watcher, {}, set(), commands=False).shown == ()


# --- Home Assistant


def test_a_document_of_home_assistant_tells_all_of_a_component(outlined):
    found = homeassistant.document(outlined, "", "0.1.0")

    value = (
        MESSAGE + '{% set v = m["KEY"] %}'
        "{{ '' if v is not defined else v[-1] if v is sequence and v is not string else v }}"
    )
    furnace = {"state_topic": "lab/furnace"}
    call = '"id": "homeassistant-{{ now().timestamp() }}", "reply_to": "ether/reply/homeassistant"'
    setting = {
        "command_topic": "ether/call/furnace/param.set",
        "entity_category": "config",
        "state_topic": "ether/about/furnace",
    }
    parts = {
        "ether_state": {
            "platform": "sensor", "unique_id": "ether_furnace_ether_state", "name": "state", "entity_category": "diagnostic",
            "state_topic": "ether/status/furnace", "value_template": "{{ value_json.state if value_json is mapping else value }}",
        },
        "lab_furnace_celsius": {
            "platform": "sensor", "unique_id": "ether_furnace_lab_furnace_celsius", "name": "lab/furnace celsius", **furnace,
            "value_template": value.replace("KEY", "celsius"), "unit_of_measurement": "°C", "device_class": "temperature",
            "state_class": "measurement",
        },
        "lab_furnace_open": {
            "platform": "binary_sensor", "unique_id": "ether_furnace_lab_furnace_open", "name": "lab/furnace open", **furnace,
            "value_template": value.replace("KEY", "open"), "payload_on": "True", "payload_off": "False",
        },
        "lab_furnace_mode": {
            "platform": "sensor", "unique_id": "ether_furnace_lab_furnace_mode", "name": "lab/furnace mode", **furnace,
            "value_template": value.replace("KEY", "mode"), "options": ["idle", "heat"], "device_class": "enum",
        },
        "lab_setpoint_celsius": {
            "platform": "number", "unique_id": "ether_furnace_lab_setpoint_celsius", "name": "lab/setpoint celsius",
            "command_topic": "lab/setpoint", "command_template": '{"celsius": {{ value }}}', "optimistic": True,
            "min": -1e9, "max": 1e9, "step": 0.001, "mode": "box",
        },
        "param_gain": {
            "platform": "number", "unique_id": "ether_furnace_param_gain", "name": "gain", "unit_of_measurement": "dB", **setting,
            "value_template": '{{ value_json["params"]["gain"]["value"] }}', "min": 0, "max": 60, "step": 0.001, "mode": "box",
            "command_template": f'{{{call}, "params": {{"param": "gain", "value": {{{{ value }}}}, "by": "homeassistant"}}}}',
        },
        "param_quiet": {
            "platform": "switch", "unique_id": "ether_furnace_param_quiet", "name": "quiet", **setting,
            "value_template": '{{ value_json["params"]["quiet"]["value"] }}',
            "payload_on": "true", "payload_off": "false", "state_on": "True", "state_off": "False",
            "command_template": f'{{{call}, "params": {{"param": "quiet", "value": {{{{ value }}}}, "by": "homeassistant"}}}}',
        },
    }  # fmt: skip
    assert found == {
        "device": {
            "identifiers": ["ether_furnace"], "name": "furnace", "manufacturer": "ether", "model": "bridge_parts.Furnace",
            "sw_version": "0.1.0", "via_device": "ether_session",
        },
        "origin": {"name": "ether", "sw_version": "0.1.0"},
        "availability_topic": "ether/status/furnace",
        "availability_template": STATUS + "{{ 'online' if state in ('ready', 'alert', 'sleeping') else 'offline' }}",
        "components": found["components"],
        "qos": 1,
    }  # fmt: skip
    assert found["components"] == parts


def test_below_a_namespace_every_topic_is_where_it_travels(outlined):
    text = json.dumps(homeassistant.document(outlined, "left/bench", "0.1.0"))

    found = json.loads(text)
    assert found["device"]["identifiers"] == ["ether_left_bench_furnace"]
    assert found["availability_topic"] == "left/bench/ether/status/furnace"
    topics = {part[key] for part in found["components"].values() for key in part if key.endswith("_topic")}
    assert all(topic.startswith("left/bench/") for topic in topics)


def rendered(template, payload):
    """Return what Home Assistant makes of a template and a message: `value_json` is there only where it is JSON."""
    known = {"value": payload.decode(), "now": lambda: datetime(2026, 1, 16)}
    try:
        known["value_json"] = json.loads(payload)
    except ValueError:
        pass
    return Environment().from_string(template).render(known)


@pytest.mark.parametrize(
    ("payload", "shows"),
    [
        (codecs.encode({"celsius": 21.5}, Envelope("furnace", "b", 0, 1.0)), "21.5"),
        (codecs.encode({"celsius": [20.0, 20.5]}, Envelope("furnace", "b", 0, [1.0, 2.0], k=2)), "20.5"),
        (b'{"celsius": 1}', "1"),
        (b'{"other": 1}', ""),
        (b"idle", ""),
    ],
)
def test_a_value_template_reads_our_messages(outlined, payload, shows):
    part = homeassistant.document(outlined, "", "")["components"]["lab_furnace_celsius"]

    assert rendered(part["value_template"], payload) == shows


@pytest.mark.parametrize(
    ("payload", "shows"), [(b"23.4", "23.4"), (b"idle", "idle"), (b"true", "True"), (b'{"value": "x"}', "x")]
)
def test_a_bare_value_of_a_small_device_is_read_too(payload, shows):
    shown = outline(About("x", publishes={"t": {"fields": {"value": {"type": "number"}}}}), {}, ())
    part = homeassistant.document(shown, "", "")["components"]["t_value"]

    assert rendered(part["value_template"], payload) == shows
    assert part["name"] == "t"


@pytest.mark.parametrize(
    ("payload", "shows"),
    [(b'{"state":"ready"}', "online"), (b'{"state":"alert"}', "online"), (b"ready", "online"), (b'{"state":"lost"}', "offline"), (b"lost", "offline"), (b"", "offline")],
)  # fmt: skip
def test_the_availability_follows_the_status(outlined, payload, shows):
    assert rendered(homeassistant.document(outlined, "", "")["availability_template"], payload) == shows


def test_what_home_assistant_sends_to_set_is_what_a_component_takes(outlined, about):
    parts = homeassistant.document(outlined, "", "")["components"]

    asked = json.loads(rendered(parts["param_gain"]["command_template"], b"12.5"))
    assert asked["params"] == {"param": "gain", "value": 12.5, "by": "homeassistant"}
    assert asked["reply_to"].startswith("ether/reply/") and asked["id"]
    assert json.loads(rendered(parts["param_quiet"]["command_template"], b"true"))["params"]["value"] is True
    assert json.loads(rendered(parts["lab_setpoint_celsius"]["command_template"], b"37.5")) == {"celsius": 37.5}
    state = codecs.to_json({"params": about.params})
    assert rendered(parts["param_gain"]["value_template"], state) == "1.0"
    assert rendered(parts["param_quiet"]["value_template"], state) == parts["param_quiet"]["state_off"]


def test_names_that_would_become_one_are_told_apart():
    assert homeassistant.identity("a.b", "") != homeassistant.identity("a_b", "") == "ether_a_b"
    assert homie.identity("A_b", ["a-b"]) == "a-b-" + sha256(b"A_b").hexdigest()[:4] != homie.identity("a.b") == "a-b"


def test_topics_and_fields_of_one_homie_id_are_told_apart():
    publishes = {
        "a/b": {"fields": {"x_y": {"type": "number"}, "x-y": {"type": "number"}}},
        "a_b": {"fields": {"x": {"type": "number"}}},
    }
    found = homie.device(outline(About("d", publishes=publishes), {}, ()), "ether")

    assert {(each.topic, each.keys) for each in found.places.values()} == {
        ("a/b", ("x_y",)),
        ("a/b", ("x-y",)),
        ("a_b", ("x",)),
    }


# --- Homie


def test_a_homie_description_tells_all_of_a_component(outlined):
    found = homie.device(outlined, "ether")

    assert found.description == {
        "homie": "5.0", "name": "furnace", "type": "ether", "root": "ether", "parent": "ether",
        "nodes": {
            "lab-furnace": {
                "name": "lab/furnace",
                "properties": {
                    "celsius": {"name": "celsius", "datatype": "float", "unit": "°C"},
                    "open": {"name": "open", "datatype": "boolean"},
                    "mode": {"name": "mode", "datatype": "enum", "format": "idle,heat"},
                },
            },
            "params": {
                "name": "parameters",
                "properties": {
                    "gain": {"name": "Of the first stage.", "datatype": "float", "format": "0:60", "unit": "dB", "settable": True},
                    "quiet": {"name": "quiet", "datatype": "boolean", "settable": True},
                },
            },
            "lab-setpoint": {
                "name": "lab/setpoint",
                "properties": {"celsius": {"name": "celsius", "datatype": "float", "settable": True}},
            },
        },
    }  # fmt: skip
    assert found.places["lab-furnace", "celsius"] == Shown("lab/furnace", ("celsius",), "number", "degC")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (21.5, "number", b"21.5"), (3, "number", b"3.0"), (3, "integer", b"3"), (True, "boolean", b"true"), ("", "string", b"\0"),
        ("x", "string", b"x"), (float("nan"), "number", None), (None, "number", None), ("warm", "number", None),
    ],
)  # fmt: skip
def test_values_are_written_as_homie_has_them(value, kind, text):
    assert homie.text_of(value, kind) == text
