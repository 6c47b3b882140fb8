"""The session announced to dashboards that know nothing of ether: what lies retained, what moves, what is cleared."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

TIMEOUT_S = 20.0
FURNACE: dict[str, Any] = {"furnace": {"class_path": "bridge_parts.Furnace"}}
DOCUMENT = "homeassistant/device/ether_furnace/config"
HOMIE = "homie/5/ether-furnace"


@pytest.fixture
def broker_kind(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "embedded")


def foreign(broker: Any) -> dict[str, bytes]:
    """Return what is retained outside of ether's own topics."""
    return {topic: payload for topic, payload in broker.retained().items() if not topic.startswith("ether/")}


@pytest.mark.parametrize("broker_kind", ["embedded", "mosquitto"], indirect=True)
def test_a_session_is_announced_set_and_cleared(ether, broker, raw, until, wire):
    bridge = {"homeassistant": True, "homie": True, "every": "50ms"}
    ether.tap(
        {"session": {"name": "bench"}, "broker": broker.url, "instances": FURNACE, "bridge": bridge, "record": "off"}
    )
    ether.start()
    client = raw(broker.url)
    client.subscribe("homie/5/#")
    seen: dict[str, list[str]] = {}

    def homie(topic: str) -> list[str]:
        while not client.messages.empty():
            message = client.next()
            seen.setdefault(message.topic, []).append(message.payload.decode())
        return seen.get(f"{HOMIE}/{topic}", [])

    until(lambda: "heat" in homie("lab-furnace/mode") and homie("lab-counted/inner-word"), TIMEOUT_S, "values")

    document = json.loads(foreign(broker)[DOCUMENT])
    assert document["components"]["lab_counted_inner_word"]["state_topic"] == "lab/counted"  # learned from a message
    assert "lab_picture_frame" not in document["components"]
    description = json.loads(homie("$description")[-1])
    assert description["nodes"]["lab-furnace"]["properties"]["celsius"]["unit"] == "°C"
    assert homie("$state")[-1] == "ready"
    assert homie("params/gain") == ["1.0"]
    assert homie("lab-furnace/celsius")[-1] == "20.0"
    root = json.loads(seen["homie/5/ether/$description"][-1])
    assert root["children"] == ["ether-furnace", "ether-session"]

    client.publish(f"{HOMIE}/params/gain/set", "12.5")
    client.publish(f"{HOMIE}/lab-setpoint/celsius/set", "37")
    client.publish(f"{HOMIE}/lab-furnace/celsius/set", "99")  # only to be read
    client.publish(f"{HOMIE}/params/gain/set", "warm")
    until(
        lambda: homie("params/gain")[-1] == "12.5" and homie("lab-furnace/celsius")[-1] == "37.0",
        TIMEOUT_S,
        "what was set",
    )
    assert ether.params("furnace")["gain"]["by"] == "homie"
    assert homie("lab-setpoint/celsius") == ["37.0"]

    session = ether.shutdown()

    assert session.problems == ()
    until(lambda: homie("$state")[-1] == "", TIMEOUT_S, "the removal")
    assert foreign(broker) == {}


def test_who_is_gone_for_good_is_cleared_and_who_is_killed_is_offline(ether, broker, raw, until):
    ghost = {"origin": {"name": "ether"}, "availability_topic": "ether/status/ghost", "components": {}}
    theirs = {"origin": {"name": "other"}, "availability_topic": "ether/status/ghost"}
    description = {"homie": "5.0", "type": "ether", "root": "ether", "nodes": {"n": {"properties": {"p": {}}}}}
    client = raw(broker.url)
    client.publish("homeassistant/device/ether_ghost/config", json.dumps(ghost), retain=True)
    client.publish("homeassistant/device/other/config", json.dumps(theirs), retain=True)
    client.publish("homie/5/ether-ghost/$description", json.dumps(description), retain=True)
    client.publish("homie/5/ether-ghost/$state", "ready", retain=True)
    client.publish("homie/5/ether-ghost/n/p", "1", retain=True)
    bridge = {"homeassistant": True, "homie": True}
    ether.tap(
        {"session": {"name": "bench"}, "broker": broker.url, "instances": FURNACE, "bridge": bridge, "record": "off"}
    )
    until(lambda: not [topic for topic in foreign(broker) if "ghost" in topic], TIMEOUT_S, "the ghosts to go")
    assert "homeassistant/device/other/config" in foreign(broker)
    first = ether.instances()["bridge"]
    client.publish("ether/status/board", "ready", retain=True)  # a small device: a word, and a short description
    client.publish(
        "ether/about/board", '{"publishes": {"board/t": {"fields": {"value": {"type": "number"}}}}}', retain=True
    )
    until(lambda: foreign(broker).get("homie/5/ether-board/$state") == b"ready", TIMEOUT_S, "the board")
    client.publish("board/t", "23.4")
    until(lambda: foreign(broker).get("homie/5/ether-board/board-t/value") == b"23.4", TIMEOUT_S, "its value")
    client.publish("ether/about/board", b"", retain=True)
    until(lambda: not [topic for topic in foreign(broker) if "board" in topic], TIMEOUT_S, "the board to go")

    os.kill(ether.instances()["furnace"].pid, signal.SIGKILL)
    until(lambda: foreign(broker).get(f"{HOMIE}/$state") == b"lost", TIMEOUT_S, "the component to be lost")
    assert json.loads(broker.retained()["ether/status/furnace"])["state"] == "lost"
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: foreign(broker).get("homie/5/ether/$state") == b"lost", TIMEOUT_S, "the last will")
    until(lambda: foreign(broker).get("homie/5/ether/$state") == b"ready", TIMEOUT_S, "another bridge")
    ether.shutdown()

    assert list(foreign(broker)) == ["homeassistant/device/other/config"]


def test_foreign_devices_are_not_announced_back(ether, broker, raw, until):
    """A bridge and a taking in of the same convention, on one broker: neither takes the other's word for a stranger's."""
    client = raw(broker.url)
    ether.tap(
        {
            "session": {"name": "bench"}, "broker": broker.url, "record": "off", "instances": FURNACE,
            "ingest": ["homeassistant", "homie5", {"match": "rig/{dev}/t", "topic": "lab/{dev}"}],
            "bridge": {"homeassistant": True, "homie": True, "every": "20ms"},
        }
    )  # fmt: skip
    ether.start()
    client.publish("rig/probe/t", "1")
    until(lambda: "probe" in ether.instances(), TIMEOUT_S, "the device")
    until(lambda: foreign(broker).get(f"{HOMIE}/lab-furnace/celsius"), TIMEOUT_S, "the bridge at work")

    members = set(ether.instances())

    assert members == {"bridge", "furnace", "ingest", "probe", "session"}
    assert not [topic for topic in foreign(broker) if "probe" in topic]
