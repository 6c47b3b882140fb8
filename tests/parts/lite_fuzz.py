"""Feeds `ether_lite` damaged packets, in MicroPython or CPython: lite_fuzz.py COUNT; it must live, and go on."""

import random
import sys

import ether_lite
from lite_wire import Wire, publish

BOOT = "9f3c01aa"
now = 0
ether_lite._now = lambda: now & 0x3FFFFFFF
SEEDS = [
    b"\x20\2\0\0",
    b"\x40\2\0\5",
    b"\x90\3\0\1\1",
    b"\xd0\0",
    publish("ether/stored/b", b'{"boot":"9f3c01aa","topics":{"t":3},"asked":1,"missing":{"t":[[1,2]]},"seen":{"t":4}}'),
    publish("ether/status/recorder", b'{"state":"ready","boot":"11223344"}', 1),
    publish("ether/status/b", b'{"state":"lost","boot":"00000000"}', 0, 1),
    publish("ether/command/b/ping", b'{"id":7}', 1),
    publish("ether/command/b/every", b'{"every":0.5}', 1),
    publish("lab/led", b"true", 1),
    publish("lab/led", b'{"value":1,"_ether":{"by":"a","b":"b","n":1}}'),
    publish("lab/led", b"x" * 700, 1),
]


class Bench:
    """A device with an input and an output."""

    @ether_lite.ether_pub(topic="t", every=1.0)
    def read(self):
        return 1.5

    @ether_lite.ether_sub(topic="lab/+")
    def led(self, on=None, **more):
        pass


def damaged():
    """Return a packet, mostly hurt: bytes changed, cut, repeated, or made up."""
    packet = bytearray(SEEDS[random.randrange(len(SEEDS))])
    how = random.randrange(8)
    if how == 0:
        return bytes(packet)
    if how == 1:
        return bytes(packet[: random.randrange(len(packet))])
    if how == 2:
        return bytes([random.randrange(256) for _ in range(random.randrange(1, 12))])
    for _ in range(how):
        packet[random.randrange(len(packet))] = random.randrange(256)
    return bytes(packet)


def main(count):
    """Feed and poll; a link that was dropped is made again."""
    global now
    random.seed(1)
    wire = Wire()
    device = ether_lite.Ether(Bench(), "b", "broker", boot=BOOT, ring=8, connect=lambda host, port: Wire())
    drops = 0
    for number in range(count):
        if number % 20 == 0:  # or a made-up length would swallow most of what follows
            device._drop(None)
        if device._s is None:
            drops += 1
            now += 2000
            device.poll()
            device.poll()
            device._s.coming = SEEDS[0]
            device.poll()
        wire = device._s
        wire.coming = wire.coming[:2000] + damaged()
        wire.sent = b""
        now += 50
        device.poll()
        assert len(device._q) < 20 and len(wire.coming) < 4000, number
    print("survived", count, "dropped the link", drops, "times, rejected", device.counts["rejected"])


main(int(sys.argv[1]))
