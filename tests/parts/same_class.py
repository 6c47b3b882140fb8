"""One class for both worlds: `ether` on a computer, `ether_lite` on a board; there this file says what it describes."""

import sys

try:
    from ether_lite import Ether, ether_pub, ether_sub
except ImportError:
    from ether import ether_pub, ether_sub


class Bench:
    """All keywords that both have."""

    gain = 1.0

    @ether_pub(topic="lab/temp", every=0.5, unit="degC", range=(-40, 125), type=float, qos=1, keep="all")
    def temperature(self):
        return 23.5

    @ether_pub(topic="lab/air", every=2, unit={"temperature": "degC", "humidity": "%"}, type=float, qos=0, keep="last")
    def air(self):
        return {"temperature": 23.5, "humidity": 41.0}

    @ether_pub(every=1.0, type=int)
    def count(self):
        return 1

    @ether_sub(topic="lab/gain", type=float)
    @ether_pub(topic="lab/gained", type=float, unit="dB", keep="none")
    def set_gain(self, gain):
        self.gain = gain
        return gain

    @ether_sub(topic="lab/+/led", type=bool)
    def led(self, on):
        self.on = on


if __name__ == "__main__":
    device = Ether(Bench(), "bench1", "127.0.0.1", boot="9f3c01aa")
    print(device._who)
    print([[topic, int(qos)] for topic, qos, run in device._sub if isinstance(run, str)])
    sys.exit()
