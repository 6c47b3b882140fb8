"""A board that counts: python lite_board.py JSON, in MicroPython or CPython; prints what it hears, and a report.

It does so with few names and little code: what a test's program takes of 32 KB, ether_lite does not have.
"""

import json
import sys
import time

import ether_lite
from ether_lite import Ether, ether_pub, ether_sub

given = json.loads(sys.argv[1])
ticks_ms = ether_lite._now
if "before_wrap" in given:  # the counter of a board with 30 bits, so shortly before it starts anew
    born = ticks_ms()
    ether_lite._now = lambda: ticks_ms() - born - given["before_wrap"] & 0x3FFFFFFF
name, total = given["name"], given["total"]


class Board:
    """Publishes 0, 1, 2 … until it has `total`, or its light is switched off."""

    taken = 0
    on = None

    @ether_pub(topic=name + "/count", every=given["every"], type=int)
    def count(self):
        self.taken += 1
        return self.taken - 1

    @ether_sub(topic=name + "/led", type=bool)
    @ether_pub(topic=name + "/lit", keep="last")
    def led(self, on):
        self.on = on
        return on


def main():
    """Run the board, in a function because the variables of a module are a dictionary on the heap."""
    board = Board()
    if "ca" in given:
        from lite_tls import context

        given["options"]["ssl"] = context(given["ca"])
    device = Ether(board, name, "127.0.0.1", given["port"], **given["options"])
    device._pid = given.get("pid", 0)
    link = None
    while board.taken < total and board.on is not False:
        started = ticks_ms()
        device.poll()
        started = ticks_ms() - started
        if started > 20:
            print("poll", started, int(time.time()))
        if getattr(device, "_up", None) and link is not device._link:
            link = device._link
            print("connected", repr(device.error))
        time.sleep(0.002)
    link = repr(device.error)
    device.close(given.get("close", 15))
    left = sum([channel[11] - channel[7] for channel in device._ch])
    print(json.dumps({"error": link, "left": left, "pid": device._pid, "taken": board.taken, "counts": device.counts}))


main()
