"""A thermometer with a light on CircuitPython: copy it, `ether_lite` and `ether_circuitpython.py` to the board."""

import os

import board
import digitalio
import microcontroller
import socketpool
import wifi
from ether_circuitpython import Ether
from ether_lite import ether_pub, ether_sub


class Bench:
    """What the board does; the same class runs under `ether` on a computer."""

    def __init__(self):
        self.pin = digitalio.DigitalInOut(board.LED)
        self.pin.direction = digitalio.Direction.OUTPUT

    @ether_pub(topic="lab/temp", every=1.0, unit="degC", range=(-40, 125), type=float)
    def temperature(self):
        return microcontroller.cpu.temperature

    @ether_sub(topic="lab/led", type=bool)
    @ether_pub(topic="lab/lit", type=bool, keep="last")
    def led(self, on):
        self.pin.value = bool(on)
        return bool(on)


# CIRCUITPY_WIFI_SSID and CIRCUITPY_WIFI_PASSWORD in settings.toml have joined the Wi-Fi already.
pool = socketpool.SocketPool(wifi.radio)
name = os.getenv("ETHER_NAME")
options = {"user": name, "password": os.getenv("ETHER_PASSWORD"), "restart": microcontroller.reset}
device = Ether(pool, Bench(), name, os.getenv("ETHER_BROKER"), **options)
device.run()
