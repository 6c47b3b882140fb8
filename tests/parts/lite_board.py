"""A board that counts: python lite_board.py JSON, in MicroPython or CPython; prints what it hears, and a report."""

import gc
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


def connection():
    """Return the options for TLS, where a file of authorities is given."""
    if "ca" not in given:
        return {}
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    with open(given["ca"], "rb") as file:
        context.load_verify_locations(cadata=file.read())
    return {"ssl": context}


board = Board()
device = Ether(board, name, "127.0.0.1", given["port"], **given["options"], **connection())
device._pid = given.get("pid", 0)
worst = longest = second = connections = 0
link = None
gc.collect()
while board.taken < total and board.on is not False:
    started = ticks_ms()
    device.poll()
    took = ticks_ms() - started
    worst = max(worst, took)
    if second != int(time.time()):
        if longest > 1:
            print("longest", longest, second)  # what a list of them would take of the heap is too much
        longest = 0
        second = int(time.time())
    longest = max(longest, took)
    if getattr(device, "_up", None) and link is not device._link:
        link = device._link
        connections += 1
        print("connected", connections == 1 or "after " + repr(device.error))
    time.sleep(0.002)
error = repr(device.error)
device.close(given.get("close", 15))
left = sum([channel[11] - channel[7] for channel in device._ch])
gc.collect()
heap = gc.mem_alloc() if hasattr(gc, "mem_alloc") else 0
report = {
    "error": error,
    "left": left,
    "pid": device._pid,
    "taken": board.taken,
    "worst_ms": worst,
    "connections": connections,
    "counts": device.counts,
    "heap": heap,
}
print(json.dumps(report))
