"""What foreign devices say, by the profile that reads it, and what is to come of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """Messages in their order, and the readings, units and states they come to."""

    messages: list[tuple[str, Any]]
    """Topic and payload; what is no text goes as JSON."""
    readings: list[tuple[str, dict[str, Any]]]
    """Topic, and fields in the order of the messages."""
    units: dict[str, str]
    """``topic:field`` to unit."""
    states: dict[str, str] = field(default_factory=dict)
    """Device to what it says last."""
    times: list[float] = field(default_factory=list)
    """Unix time of the readings, where they say it."""
    ignored: int = 0
    """Messages that say nothing that is known."""
    options: dict[str, Any] = field(default_factory=dict)

    def payloads(self) -> list[tuple[str, bytes]]:
        return [
            (topic, (payload if isinstance(payload, str) else json.dumps(payload)).encode())
            for topic, payload in self.messages
        ]


TASMOTA = Case(
    messages=[
        ("tele/plug-1/LWT", "Online"),
        (
            "tele/plug-1/SENSOR",
            {
                "Time": "2026-01-16T11:28:42",
                "ENERGY": {
                    "TotalStartTime": "2025-10-21T22:15:00", "Total": 3.705, "Yesterday": 0.028, "Today": 0.026,
                    "Power": 5, "ApparentPower": 6, "ReactivePower": 0, "Factor": 0.83, "Voltage": 233, "Current": 0.021,
                },
            },
        ),
        (
            "tele/climate/SENSOR",
            {
                "Time": "2026-01-16T11:28:43", "DS18B20-1": {"Id": "0114", "Temperature": 20.6},
                "AM2301": {"Temperature": 68.9, "Humidity": 40, "DewPoint": 43.2}, "TempUnit": "F",
            },
        ),
        (
            "tele/plug-1/STATE",
            {
                "Time": "2026-01-16T11:28:44", "UptimeSec": 3605, "Heap": 27, "POWER": "ON",
                "Wifi": {"AP": 1, "SSId": "lab", "RSSI": 76, "Signal": -62},
            },
        ),
        ("stat/plug-1/POWER", "OFF"),
        ("stat/strip/POWER2", "ON"),
        ("stat/plug-1/RESULT", {"POWER": "OFF"}),
        ("tele/plug-1/LWT", "Offline"),
    ],
    readings=[
        (
            "plug-1/sensor",
            {
                "power": 5.0, "apparent_power": 6.0, "reactive_power": 0.0, "power_factor": 0.83, "voltage": 233.0,
                "current": 0.021, "energy_total": 3.705, "energy_today": 0.026, "energy_yesterday": 0.028,
            },
        ),
        (
            "climate/sensor",
            {"DS18B20-1_temperature": 20.6, "AM2301_temperature": 68.9, "AM2301_dew_point": 43.2, "AM2301_humidity": 40.0},
        ),
        ("plug-1/state", {"uptime": 3605.0, "heap": 27.0, "wifi_quality": 76.0, "wifi_signal": -62.0, "power": True}),
        ("plug-1/power", {"value": False}),
        ("strip/power2", {"value": True}),
    ],
    units={
        "plug-1/sensor:power": "W", "plug-1/sensor:energy_total": "kWh", "plug-1/sensor:voltage": "V",
        "climate/sensor:AM2301_temperature": "degF", "climate/sensor:AM2301_humidity": "%",
        "plug-1/state:wifi_signal": "dBm",
    },
    states={"plug-1": "lost"},
    ignored=1,
)  # fmt: skip

ESPHOME = Case(
    messages=[
        ("incubator/status", "online"),
        ("incubator/sensor/chamber_temperature/state", "37.02"),
        ("incubator/binary_sensor/door/state", "ON"),
        ("incubator/switch/heater/state", "OFF"),
        ("incubator/text_sensor/mode/state", "1"),
        ("incubator/debug", "[D][dht:048]: Got Temperature=37.0°C"),
    ],
    readings=[
        ("incubator/chamber_temperature", {"value": 37.02}),
        ("incubator/door", {"value": True}),
        ("incubator/heater", {"value": False}),
        ("incubator/mode", {"value": "1"}),
    ],
    units={},
    states={"incubator": "ready"},
    ignored=1,
)

SHELLY_1 = Case(
    messages=[
        ("shellies/announce", {"id": "shelly1pm-98F4AB", "model": "SHSW-PM", "mac": "98F4AB", "ip": "10.0.0.9"}),
        ("shellies/shelly1pm-98F4AB/online", "true"),
        ("shellies/shelly1pm-98F4AB/relay/0", "on"),
        ("shellies/shelly1pm-98F4AB/relay/0/power", "41.27"),
        ("shellies/shelly1pm-98F4AB/relay/0/energy", "2503"),
        ("shellies/shelly1pm-98F4AB/input/0", "1"),
        ("shellies/shelly1pm-98F4AB/temperature", "52.11"),
        ("shellies/shelly1pm-98F4AB/temperature_f", "125.80"),
        ("shellies/shellyem-B9E2/emeter/1/total", "12034.5"),
        ("shellies/shellyht-F3B0/sensor/humidity", "48.5"),
        ("shellies/shelly1pm-98F4AB/relay/0/command", "off"),
        ("shellies/shelly1pm-98F4AB/online", "false"),
    ],
    readings=[
        ("shelly1pm-98F4AB/relay/0", {"value": True}),
        ("shelly1pm-98F4AB/relay/0/power", {"value": 41.27}),
        ("shelly1pm-98F4AB/relay/0/energy", {"value": 2503.0}),
        ("shelly1pm-98F4AB/input/0", {"value": True}),
        ("shelly1pm-98F4AB/temperature", {"value": 52.11}),
        ("shellyem-B9E2/emeter/1/total", {"value": 12034.5}),
        ("shellyht-F3B0/sensor/humidity", {"value": 48.5}),
    ],
    units={
        "shelly1pm-98F4AB/relay/0/power:value": "W", "shelly1pm-98F4AB/relay/0/energy:value": "W min",
        "shelly1pm-98F4AB/temperature:value": "degC", "shellyem-B9E2/emeter/1/total:value": "Wh",
        "shellyht-F3B0/sensor/humidity:value": "%",
    },
    states={"shelly1pm-98F4AB": "lost"},
    ignored=3,
)  # fmt: skip

SHELLY_2 = Case(
    messages=[
        ("shellyplus1pm-44178", "hello"),
        ("shellyplus1pm-44178/online", "true"),
        (
            "shellyplus1pm-44178/status/switch:0",
            {
                "id": 0, "source": "MQTT", "output": True, "apower": 8.9, "voltage": 237.5, "current": 0.058,
                "aenergy": {"total": 6.532, "by_minute": [45.199, 47.141, 88.397], "minute_ts": 1626935779},
                "temperature": {"tC": 23.5, "tF": 74.4},
            },
        ),
        ("shellyplus1pm-44178/status/sys", {"mac": "A8032ABE54DC", "uptime": 11081}),
        ("shellyplus1pm-44178/events/rpc", {"src": "shellyplus1pm-44178", "method": "NotifyStatus", "params": {}}),
        ("shellyplusht-b8d6/status/temperature:0", {"id": 0, "tC": 19.8, "tF": 67.6}),
        ("shellyplusht-b8d6/status/humidity:0", {"id": 0, "rh": 42.2}),
        ("shellyplusht-b8d6/status/devicepower:0", {"id": 0, "battery": {"V": 5.43, "percent": 81}, "external": {"present": False}}),
        ("shellypro3em-34/status/em:0", {"id": 0, "a_current": 4.0, "a_voltage": 236.1, "a_act_power": 951.2, "total_act_power": 2413.8}),
        ("shellyplus1pm-44178/online", "false"),
    ],
    readings=[
        (
            "shellyplus1pm-44178/switch/0",
            {"output": True, "power": 8.9, "voltage": 237.5, "current": 0.058, "energy": 6.532, "temperature": 23.5},
        ),
        ("shellyplusht-b8d6/temperature/0", {"temperature": 19.8}),
        ("shellyplusht-b8d6/humidity/0", {"humidity": 42.2}),
        ("shellyplusht-b8d6/devicepower/0", {"battery": 81.0, "battery_voltage": 5.43, "external": False}),
        ("shellypro3em-34/em/0", {"a_voltage": 236.1, "a_current": 4.0, "a_power": 951.2, "power": 2413.8}),
    ],
    units={
        "shellyplus1pm-44178/switch/0:power": "W", "shellyplus1pm-44178/switch/0:energy": "Wh",
        "shellyplus1pm-44178/switch/0:temperature": "degC", "shellyplusht-b8d6/humidity/0:humidity": "%",
        "shellypro3em-34/em/0:a_current": "A",
    },
    states={"shellyplus1pm-44178": "lost"},
    ignored=3,
)  # fmt: skip

_NUMERIC = {"type": "numeric", "access": 1}
ZIGBEE2MQTT = Case(
    messages=[
        ("zigbee2mqtt/bridge/state", {"state": "online"}),
        ("zigbee2mqtt/lab/window/availability", {"state": "online"}),  # replays come in any order
        (
            "zigbee2mqtt/bridge/devices",
            [
                {"ieee_address": "0x00124b00", "type": "Coordinator", "friendly_name": "Coordinator", "definition": None},
                {
                    "ieee_address": "0x00158d00", "type": "EndDevice", "friendly_name": "lab/window",
                    "definition": {
                        "model": "WSDCGQ11LM", "vendor": "Aqara",
                        "exposes": [
                            {**_NUMERIC, "name": "temperature", "property": "temperature", "unit": "°C",
                             "description": "Measured temperature value"},
                            {**_NUMERIC, "name": "humidity", "property": "humidity", "unit": "%"},
                            {"type": "binary", "access": 1, "name": "contact", "property": "contact",
                             "value_on": False, "value_off": True},
                        ],
                    },
                },
                {
                    "ieee_address": "0x0017", "type": "Router", "friendly_name": "lamp",
                    "definition": {
                        "model": "LED1545G12", "vendor": "IKEA",
                        "exposes": [
                            {
                                "type": "light",
                                "features": [
                                    {"type": "binary", "access": 7, "name": "state", "property": "state",
                                     "value_on": "ON", "value_off": "OFF", "value_toggle": "TOGGLE"},
                                    {**_NUMERIC, "access": 7, "name": "brightness", "property": "brightness"},
                                    {"type": "composite", "access": 7, "name": "color_xy", "property": "color",
                                     "features": [{**_NUMERIC, "access": 7, "name": "x", "property": "x"},
                                                  {**_NUMERIC, "access": 7, "name": "y", "property": "y"}]},
                                ],
                            },
                            {"type": "enum", "access": 2, "name": "effect", "property": "effect", "values": ["blink"]},
                        ],
                    },
                },
            ],
        ),
        ("zigbee2mqtt/lab/window", {"temperature": 21, "humidity": None, "contact": False, "last_seen": "2026-01-16T11:28:42+00:00"}),
        ("zigbee2mqtt/lamp", {"state": "ON", "brightness": 215, "color": {"x": 0.31, "y": 0.33}, "linkquality": 80}),
        ("zigbee2mqtt/lamp/set", {"state": "OFF"}),
        ("zigbee2mqtt/stranger", {"temperature": 1}),
        ("zigbee2mqtt/lamp/availability", "offline"),
    ],
    readings=[
        ("lab_window", {"temperature": 21.0, "contact": True}),
        ("lamp", {"state": True, "brightness": 215.0, "color_x": 0.31, "color_y": 0.33}),
    ],
    units={"lab_window:temperature": "degC"},
    states={"lab/window": "ready", "lamp": "lost"},
    times=[1768562922.0],
    ignored=1,
)  # fmt: skip

HOMIE_4 = Case(
    messages=[
        ("homie/super-car/$homie", "4.0.0"),
        ("homie/super-car/$name", "Super car"),
        ("homie/super-car/$state", "init"),
        ("homie/super-car/$nodes", "engine,lights"),
        ("homie/super-car/engine/$name", "Car engine"),
        ("homie/super-car/engine/$properties", "temperature,speed"),
        ("homie/super-car/engine/temperature/$name", "Engine temperature"),
        ("homie/super-car/engine/temperature/$datatype", "float"),
        ("homie/super-car/engine/temperature/$unit", "°C"),
        ("homie/super-car/engine/temperature/$format", "-20:120"),
        ("homie/super-car/engine/speed/$datatype", "integer"),
        ("homie/super-car/lights/on/$datatype", "boolean"),
        ("homie/super-car/$state", "ready"),
        ("homie/super-car/engine/temperature", "21.5"),
        ("homie/super-car/engine/speed", "3000"),
        ("homie/super-car/lights/on", "true"),
        ("homie/super-car/lights/mode", "7"),
        ("homie/super-car/lights/on/set", "false"),
        ("homie/$broadcast/alert", "Intruder detected"),
        ("homie/super-car/$state", "lost"),
    ],
    readings=[
        ("super-car/engine/temperature", {"value": 21.5}),
        ("super-car/engine/speed", {"value": 3000}),
        ("super-car/lights/on", {"value": True}),
        ("super-car/lights/mode", {"value": "7"}),
    ],
    units={"super-car/engine/temperature:value": "degC"},
    states={"super-car": "lost"},
    ignored=1,
)

HOMIE_5 = Case(
    messages=[
        ("homie/5/gateway/$state", "ready"),
        (
            "homie/5/gateway/$description",
            {"homie": "5.0", "version": 7, "name": "Gateway", "children": ["probe"], "nodes": {}},
        ),
        ("homie/5/probe/$state", "init"),
        (
            "homie/5/probe/$description",
            {
                "homie": "5.0", "version": 1, "root": "gateway", "parent": "gateway",
                "nodes": {
                    "bath": {
                        "name": "Water bath",
                        "properties": {
                            "temperature": {"name": "Bath temperature", "datatype": "float", "unit": "°C", "format": "0:100"},
                            "mode": {"datatype": "enum", "format": "idle,heat", "settable": True},
                        },
                    }
                },
            },
        ),
        ("homie/5/probe/$state", "ready"),
        ("homie/5/probe/bath/temperature", "36.9"),
        ("homie/5/probe/bath/mode", "heat"),
        ("homie/5/probe/bath/mode/set", "idle"),
        ("homie/5/probe/bath/mode/$target", "idle"),
        ("homie/5/probe/bath/undescribed", "1"),
        ("homie/5/probe/$log/warn", "cold"),
        ("homie/5/gateway/$state", "lost"),
    ],
    readings=[("probe/bath/temperature", {"value": 36.9}), ("probe/bath/mode", {"value": "heat"})],
    units={"probe/bath/temperature:value": "degC"},
    states={"gateway": "lost", "probe": "lost"},
    ignored=1,
)  # fmt: skip

_ESP = {"ids": "84f3eb", "name": "fridge", "sw": "esphome v2026.1.0", "mdl": "d1_mini", "mf": "espressif"}
HOMEASSISTANT = Case(
    messages=[
        (  # as ESPHome writes it: abbreviated, one value a topic
            "homeassistant/sensor/fridge/temperature/config",
            {
                "dev_cla": "temperature", "unit_of_meas": "°C", "stat_cla": "measurement", "name": "Temperature",
                "stat_t": "fridge/sensor/temperature/state", "avty_t": "fridge/status", "uniq_id": "ESPsensortemperature",
                "dev": _ESP,
            },
        ),
        (
            "homeassistant/binary_sensor/fridge/door/config",
            {"name": "Door", "stat_t": "~/binary_sensor/door/state", "avty_t": "~/status", "~": "fridge", "dev": _ESP},
        ),
        (  # as Tasmota did: several values out of one message
            "homeassistant/sensor/DB12_energy_power/config",
            {
                "name": "Power", "stat_t": "tele/pump/SENSOR", "val_tpl": "{{value_json['ENERGY']['Power']}}",
                "unit_of_meas": "W", "avty_t": "tele/pump/LWT", "pl_avail": "Online", "pl_not_avail": "Offline",
                "uniq_id": "DB12_energy_power", "dev": {"ids": ["DB12"], "name": "pump"},
            },
        ),
        (
            "homeassistant/sensor/DB12_energy_total/config",
            {
                "name": "Total", "stat_t": "tele/pump/SENSOR", "val_tpl": "{{ value_json['ENERGY'].Total }}",
                "unit_of_meas": "kWh", "uniq_id": "DB12_energy_total", "dev": {"ids": ["DB12"], "name": "pump"},
            },
        ),
        (  # as zigbee2mqtt writes it: one document a device
            "homeassistant/device/0x0015/config",
            {
                "device": {"identifiers": ["zigbee2mqtt_0x0015"], "name": "desk", "manufacturer": "Aqara"},
                "origin": {"name": "Zigbee2MQTT", "sw": "2.0.0", "url": "https://www.zigbee2mqtt.io"},
                "availability": [
                    {"topic": "zigbee2mqtt/bridge/state", "value_template": "{{ value_json.state }}"},
                    {"topic": "zigbee2mqtt/desk/availability", "value_template": "{{ value_json.state }}"},
                ],
                "availability_mode": "all",
                "state_topic": "zigbee2mqtt/desk",
                "components": {
                    "temperature": {
                        "p": "sensor", "unit_of_measurement": "°C", "unique_id": "a_t",
                        "value_template": "{{ value_json.temperature }}",
                    },
                    "occupancy": {
                        "p": "binary_sensor", "unique_id": "a_o", "payload_on": True, "payload_off": False,
                        "value_template": "{{ value_json.occupancy }}",
                    },
                    "old": {"p": "sensor"},
                },
            },
        ),
        ("homeassistant/status", "online"),
        ("fridge/status", "online"),
        ("fridge/sensor/temperature/state", "4.1"),
        ("fridge/sensor/temperature/state", "unavailable"),
        ("fridge/binary_sensor/door/state", "OFF"),
        ("tele/pump/LWT", "Online"),
        ("tele/pump/SENSOR", {"Time": "2026-01-16T11:28:42", "ENERGY": {"Total": 1.5, "Power": 12}}),
        ("zigbee2mqtt/bridge/state", {"state": "online"}),
        ("zigbee2mqtt/desk/availability", {"state": "offline"}),
        ("zigbee2mqtt/desk", {"temperature": 22.5, "occupancy": True}),
        ("homeassistant/sensor/fridge/temperature/config", ""),
        ("homeassistant/binary_sensor/fridge/door/config", ""),
    ],
    readings=[
        ("fridge/temperature", {"value": 4.1}),
        ("fridge/door", {"value": False}),
        ("pump/SENSOR", {"DB12_energy_power": 12.0, "DB12_energy_total": 1.5}),
        ("desk", {"temperature": 22.5, "occupancy": True}),
    ],
    units={
        "fridge/temperature:value": "degC", "pump/SENSOR:DB12_energy_power": "W",
        "pump/SENSOR:DB12_energy_total": "kWh", "desk:temperature": "degC",
    },
    states={"fridge": "disconnected", "pump": "ready", "desk": "lost"},
    ignored=1,
)  # fmt: skip

SENML = Case(
    messages=[
        (
            "senml/station/data",
            [
                {
                    "bn": "urn:dev:ow:10e2073a01080063:",
                    "bt": 1.768562922e9,
                    "bu": "Cel",
                    "bver": 5,
                    "n": "temp",
                    "v": 23.1,
                },
                {"n": "hum", "u": "%RH", "v": 40, "t": 0},
                {"n": "temp", "v": 23.2, "t": 1},
                {"n": "open", "vb": False, "t": 1},
                {"n": "note", "vs": "ok", "t": 1},
            ],
        ),
    ],
    readings=[("station", {"temp": 23.1, "hum": 40.0}), ("station", {"temp": 23.2, "open": False, "note": "ok"})],
    units={"station:temp": "degC", "station:hum": "%RH"},
    times=[1768562922.0, 1768562923.0],
)

SCALAR = Case(
    messages=[
        ("rig/bench1/status", "online"),
        ("rig/bench1/temperature", "23.4"),
        ("rig/bench1/pump", "true"),
        ("rig/bench1/mode", "idle"),
        ("rig/bench 2/temperature", "-1e3"),
        ("rig/bench1/status", "offline"),
    ],
    readings=[
        ("bench1/temperature", {"value": 23.4}),
        ("bench1/pump", {"value": True}),
        ("bench1/mode", {"value": "idle"}),
        ("bench_2/temperature", {"value": -1000.0}),
    ],
    units={},
    states={"bench1": "lost"},
    options={"base": "rig"},
)

CASES = {
    "tasmota": TASMOTA, "esphome": ESPHOME, "shelly1": SHELLY_1, "shelly2": SHELLY_2, "zigbee2mqtt": ZIGBEE2MQTT,
    "homie4": HOMIE_4, "homie5": HOMIE_5, "homeassistant": HOMEASSISTANT, "senml": SENML, "scalar": SCALAR,
}  # fmt: skip
