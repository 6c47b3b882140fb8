"""Foreign devices in a session: they are seen, recorded and verified as any other."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from typing import Any

import pytest
from foreign_messages import CASES

from ether.config import profile_files

PROFILES = ("tasmota", "shelly2", "zigbee2mqtt", "homie5", "homeassistant")
TIMEOUT_S = 20.0


def config(broker: Any, ingest: list[Any], **more: Any) -> dict[str, Any]:
    return {"session": {"name": "bench"}, "broker": broker.url, "ingest": ingest, **more}


def counts(ether: Any, name: str = "ingest") -> dict[str, float]:
    return dict(ether.instances()[name].counts or {})


def heard(ether: Any, client: Any, until: Any) -> None:
    """Wait until ingest has handled all that came before."""
    client.publish("tele/marker/LWT", "Online")
    until(
        lambda: "marker" in ether.instances() and str(ether.instances()["marker"].state) == "ready", TIMEOUT_S, "ingest"
    )
    client.publish("tele/marker/LWT", "Offline")
    until(lambda: str(ether.instances()["marker"].state) == "lost", TIMEOUT_S, "ingest")


@pytest.mark.parametrize("broker_kind", ["embedded", "mosquitto"], indirect=True)
def test_devices_of_all_profiles_are_recorded_with_values_units_and_states(ether, broker, raw, until):
    client = raw(broker.url)
    client.publish("tele/plug-1/LWT", "Online", retain=True)
    client.publish("tele/plug-1/SENSOR", json.dumps({"ENERGY": {"Power": 999}}), retain=True)
    client.publish("ether/about/old", '{"class": "foreign.tasmota", "kwargs": {"by": "ingest"}}', retain=True)
    client.publish("ether/status/old", '{"state": "lost"}', retain=True)  # of a session that was killed
    for topic, payload in CASES["homeassistant"].payloads():
        if topic.endswith("/config") and payload:
            client.publish(topic, payload, retain=True)
    entries = [{"profile": name, "ignore": "pump" if name == "tasmota" else []} for name in PROFILES]
    ether.tap(config(broker, entries, record={"exclude": ["stat/#", "tele/#"]}))
    ether.start()

    for name in PROFILES:
        for topic, payload in CASES[name].payloads():
            client.publish(
                topic, payload, retain=topic.endswith(("bridge/devices", "$description", "LWT", "availability"))
            )
    client.publish("tele/plug-1/SENSOR", "{bad")
    heard(ether, client, until)
    infos = ether.instances()
    until(lambda: counts(ether).get("rejected") == 1, TIMEOUT_S, "the count of what could not be read")
    told = counts(ether)
    session = ether.shutdown()

    with ether.open(session.recording) as recording:
        for name in PROFILES:
            by_topic: dict[str, list[dict[str, Any]]] = {}
            for topic, fields in CASES[name].readings:
                by_topic.setdefault(topic, []).append(fields)
            for topic, rows in by_topic.items():
                stream = recording[topic]
                values = stream.to_numpy()
                assert len(stream) == len(rows), topic
                for row, fields in enumerate(rows):
                    assert {field: values[field][row] for field in fields} == fields, topic
            units = {
                f"{topic}:{name}": each.unit for topic in by_topic for name, each in recording[topic].fields.items()
            }
            assert {key: units[key] for key in CASES[name].units} == CASES[name].units
        report = recording.verify()
        kept = {source["file"]: source["text"] for source in recording.provenance["sources"].values()}
    assert report.complete, report
    assert kept[str(profile_files()["tasmota"])] == profile_files()["tasmota"].read_text(encoding="utf-8")
    states = {name: str(info.state) for name, info in infos.items()}
    assert [states["plug-1"], states["lamp"], states["lab_window"], states["probe"]] == [
        "lost",
        "lost",
        "ready",
        "lost",
    ]
    assert infos["plug-1"].class_name == "foreign.tasmota"
    assert infos["lab_window"].about.publishes["lab_window"]["fields"]["temperature"]["unit"] == "degC"
    assert told["replays"] == 1
    assert session.problems == ()
    assert [topic for topic in broker.retained() if "ether/" in topic] == []


def test_a_device_takes_part_as_any_other(ether, broker, raw, until, wire):
    """Another component hears it, `expect:` knows its rate, publisher and unit, and its namespace is the session's."""
    rule = {"match": "rig/{dev}/temp", "topic": "lab/{dev}", "unit": "°C", "availability": "rig/{dev}/there"}
    client = raw(broker.url)
    ether.tap(
        config(
            broker, [rule], session={"name": "bench", "namespace": "left"}, record="off",
            expect={"lab/oven": {"from": "oven", "unit": "degF"}},
        )
    )  # fmt: skip
    ether.start()
    found = wire(ether, "lab/oven")

    client.publish("rig/oven/temp", "21.5")

    until(lambda: len(found) == 1, TIMEOUT_S, "the reading")
    assert (found.readings[0].fields, found.readings[0].publisher, found.readings[0].number) == (
        {"value": 21.5},
        "oven",
        0,
    )
    until(lambda: ether.info()["alarms"], TIMEOUT_S, "the alarm about the unit")
    assert [each["detail"] for each in ether.info()["alarms"]] == ["value is in degC, degF expected"]
    assert "left/ether/status/oven" in broker.retained()


def test_no_two_devices_share_a_name_or_a_topic_and_no_reading_is_taken_in_again(
    ether, broker, raw, until, wire, capfd
):
    rules = [
        {"match": "a/{dev}/t", "topic": "lab/{dev}"},
        {"match": "a/{dev}/h", "topic": "lab/{dev}", "fields": {"h": {}}},  # of the same devices
        {"match": "b/{dev}/t", "topic": "lab/both", "device": "b-{dev}"},
        {"match": "rig/{dev}", "topic": "{dev}/x"},  # a device called rig is heard again
    ]
    held = {"held": {"class_path": "lab_parts.Ticker", "autorun": False}}
    client = raw(broker.url)
    ether.tap(config(broker, rules, record="off", instances=held))
    ether.start()
    found = wire(ether, "lab/#")

    for topic in ("a/x y/t", "a/x_y/t", "a/held/t", "b/1/t", "b/2/t", "b/1/t", "rig/rig", "a/x_y/h"):
        client.publish(topic, "1")

    until(lambda: (counts(ether).get("handled"), counts(ether).get("ours")) == (8, 1), TIMEOUT_S, "all eight")
    until(lambda: len(found.readings) == 6, TIMEOUT_S, "all that are below lab")
    names = Counter(str(reading.publisher).partition("-")[0] for reading in found.readings)
    second = [str(reading.publisher) for reading in found.readings if str(reading.publisher).startswith("x_y-")]
    assert names == {"x_y": 3, "held": 1, "b": 2}
    assert len(second) == 2 and second[0] == second[1]  # both rules are of the same device
    assert (counts(ether)["published"], counts(ether)["refused"]) == (7, 1)
    errors = [line for line in capfd.readouterr().err.splitlines() if " ERROR " in line]
    assert len(errors) == 3
    assert "lab/both comes from b-1; readings of b-2 for it are left out" in errors[2]


def test_a_killed_ingest_and_a_killed_broker_lose_nothing_that_was_taken_in(ether, broker, raw, until, wire):
    client = raw(broker.url)
    ether.tap(config(broker, ["tasmota"]))
    ether.start()
    found = wire(ether, "plug/power")
    client.publish("stat/plug/POWER", "ON")
    until(lambda: len(found) == 1, TIMEOUT_S, "the reading")
    first = ether.instances()["ingest"]

    os.kill(first.pid, signal.SIGKILL)
    until(lambda: str(ether.instances()["plug"].state) == "reconnecting", TIMEOUT_S, "the last will")
    until(lambda: ether.instances()["ingest"].boot != first.boot and ether.instances()["ingest"].state == "ready",
          TIMEOUT_S, "another ingest")  # fmt: skip
    client.publish("stat/plug/POWER", "OFF")
    until(lambda: len(found) == 2, TIMEOUT_S, "the device again")
    broker.kill()
    broker.start()
    client = raw(broker.url)
    until(
        lambda: b'"ready"' in client.retained().get("ether/status/plug", b""), TIMEOUT_S, "the device on the new broker"
    )
    until(lambda: heard_again(client, found), TIMEOUT_S, "what it says now")
    session = ether.shutdown()

    with ether.open(session.recording) as recording:
        assert recording["plug/power"].to_numpy()["value"].tolist()[:3] == [True, False, True]
        assert recording.verify().complete


def heard_again(client: Any, found: Any) -> bool:
    """Say something until it comes by: ingest may not have subscribed anew yet."""
    client.publish("stat/plug/POWER", "ON")
    return len(found) > 2


@pytest.fixture
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Both for the test of all profiles, one of them for the rest."""
    return getattr(request, "param", "embedded")
