"""Sends 20,000 readings through `ether_lite` and has them acknowledged; prints how the heap grew, as JSON."""

import gc
import json

import ether_lite
from lite_wire import Wire


def main():
    """Publish; every message is confirmed, and everything is collected before each look at the heap."""
    wire = Wire()
    device = ether_lite.Ether(None, "b", "broker", ring=16, connect=lambda host, port: wire)
    device.poll()
    device.poll()
    wire.coming = b"\x20\2\0\0"
    sent = before = 0
    for number in range(20_000):
        device.emit("lab/temp", number * 0.1)
        device.poll()
        for topic, payload, _, _, packet_id in wire.published():
            if topic == "lab/temp":
                sent += json.loads(payload)["_ether"].get("k", 1)
                wire.coming += b"\x40\2" + packet_id.to_bytes(2, "big")
        if number == 200:
            gc.collect()
            before = gc.mem_alloc()
    device.poll()
    gc.collect()
    print(json.dumps({"sent": sent, "counts": device.counts, "growth": gc.mem_alloc() - before}))


main()
