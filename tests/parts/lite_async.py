"""Runs a device beside another task, in MicroPython: both get their turns, and a block goes out in between."""

import asyncio
from array import array

import ether_block
from lite_wire import Wire


async def main():
    """Print what was published within some turns of the other task."""
    wire = Wire()
    device = ether_block.Ether(None, "b", "broker", connect=lambda host, port: wire)
    samples = array("h", range(1000))
    early = device.block("lab/scope", samples, 1, "h")  # nobody can take it yet
    polling = asyncio.create_task(device.arun())
    while not wire.sent:
        await asyncio.sleep(0)
    wire.coming = b"\x20\2\0\0"
    device.emit("lab/temp", 1.5)
    turns = 0
    while not device._find("lab/temp")[9]:
        await asyncio.sleep(0.001)
        turns += 1
    late = device.block("lab/scope", samples, 1, "h")
    while device._q or device._tx:
        await asyncio.sleep(0.001)
    (block,) = [payload for topic, payload, *_ in wire.published() if topic == "lab/scope"]
    polling.cancel()
    print(early, late, device.counts["dropped"], turns > 0, "".join(["%02x" % byte for byte in block]))  # noqa: UP031


asyncio.run(main())
