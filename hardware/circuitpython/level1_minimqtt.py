"""A member of an ether session by `adafruit_minimqtt` alone, level 1 of ../PROTOCOL.md.

Status, will and description tell who publishes, what, in which unit, and whether it lives; readings have no numbers,
so nobody can tell what was lost. For that, and for outages, there is `ether_lite` (code.py).
"""

import json
import os
import time

import adafruit_minimqtt.adafruit_minimqtt as minimqtt

ABOUT = {
    "class": "Bench",
    "publishes": {"lab/temp": {"fields": {"value": {"type": "number", "unit": "degC"}}, "every": 1.0}},
    "subscribes": {"lab/led": {"fields": {"value": {"type": "boolean"}}, "methods": ["led"]}},
}
EVERY_S = 10


class Device:
    """Says what there is to say at each connection, and publishes.

    Args:
        mqtt: a `minimqtt.MQTT`, not connected yet.
        name: letters, digits, `_`, `-`, `.`; one of its kind.
        led: called with what comes on `lab/led`.
    """

    def __init__(self, mqtt, name, led):
        self.mqtt = mqtt
        self.boot = "".join(f"{byte:02x}" for byte in os.urandom(4))
        self.status_topic = f"ether/status/{name}"
        self.about_topic = f"ether/about/{name}"
        self.state = "init"
        self.due = 0.0
        mqtt.will_set(self.status_topic, json.dumps({"state": "lost", "boot": self.boot}), qos=1, retain=True)
        mqtt.on_connect = self.connected
        mqtt.on_message = lambda _mqtt, _topic, text: led(json.loads(text))

    def connected(self, *_):
        """Announce; at each connection, for brokers forget."""
        self.say(self.state)
        self.state = "ready"
        about = {"ether": 1, "boot": self.boot}
        about.update(ABOUT)
        self.mqtt.publish(self.about_topic, json.dumps(about), retain=True, qos=1)
        self.say(self.state)
        self.mqtt.subscribe("lab/led", 1)

    def say(self, state):
        self.due = time.monotonic() + EVERY_S
        status = {"state": state, "boot": self.boot, "every": EVERY_S}
        self.mqtt.publish(self.status_topic, json.dumps(status), retain=True, qos=1)

    def step(self, value):
        """Publish one reading, and take what has come."""
        self.mqtt.publish("lab/temp", str(value), qos=1)
        self.mqtt.loop(self.mqtt.socket_timeout if hasattr(self.mqtt, "socket_timeout") else 1)
        if time.monotonic() > self.due:
            self.say("ready")

    def run(self, read, period_s=1.0):
        """Publish what `read` returns for ever; whatever fails, connect again."""
        while True:
            try:
                if not self.mqtt.is_connected():
                    self.mqtt.connect()
                self.step(read())
                time.sleep(period_s)
            except (OSError, minimqtt.MMQTTException) as problem:
                print("connecting again after", repr(problem))
                time.sleep(1)


def main():
    """Run on a board with Wi-Fi; settings.toml as in settings.toml.example."""
    import board
    import digitalio
    import microcontroller
    import socketpool
    import wifi

    pin = digitalio.DigitalInOut(board.LED)
    pin.direction = digitalio.Direction.OUTPUT
    pool = socketpool.SocketPool(wifi.radio)
    name, password = os.getenv("ETHER_NAME"), os.getenv("ETHER_PASSWORD")
    mqtt = minimqtt.MQTT(
        broker=os.getenv("ETHER_BROKER"), username=name, password=password, socket_pool=pool, keep_alive=30
    )

    def led(on):
        pin.value = bool(on)

    Device(mqtt, name, led).run(lambda: microcontroller.cpu.temperature)


if __name__ == "__main__":
    main()
