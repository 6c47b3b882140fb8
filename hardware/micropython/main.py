"""A thermometer with a light: copy it, `boot.py` and `ether_lite` to the board."""

import machine
from ether_lite import Ether, ether_pub, ether_sub

NAME = "bench1"  # one of its kind in the laboratory
BROKER = "192.168.1.10"
PASSWORD = "change me"  # of the broker's user of that name


class Bench:
    """What the board does; the same class runs under `ether` on a computer."""

    def __init__(self):
        self.adc = machine.ADC(machine.Pin(26))
        self.pin = machine.Pin(2, machine.Pin.OUT)

    @ether_pub(topic="lab/voltage", every=1.0, unit="V", range=(0, 3.3), type=float)
    def voltage(self):
        return self.adc.read_u16() * 3.3 / 65535

    @ether_sub(topic="lab/led", type=bool)
    @ether_pub(topic="lab/lit", type=bool, keep="last")
    def led(self, on):
        self.pin.value(bool(on))
        return bool(on)


device = Ether(Bench(), NAME, BROKER, user=NAME, password=PASSWORD, restart=machine.reset)
device.run()
