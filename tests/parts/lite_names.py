"""Publishes values of every kind in MicroPython; prints how many names it has interned, before and after."""

import ether_lite
import micropython
from lite_wire import Wire

VALUES = [12345.678, -9, 0, True, None, "text", "x", "", {"a": 1}, {}, [5, 6], float("nan"), {"b": "é"}, 7, 8, 3, 4]


def main():
    """Publish each alone and all in a row, while a recorder comes, is asked, and goes."""
    wire = Wire()
    device = ether_lite.Ether(None, "b", "broker", ring=64, connect=lambda host, port: wire)
    device.poll()
    device.poll()
    wire.coming = b"\x20\2\0\0"
    device.poll()
    micropython.qstr_info()
    for state in (b'{"state":"ready","boot":"z"}', b'{"state":"disconnected","boot":"z"}'):
        wire.coming += b"\x30" + bytes([23 + len(state)]) + b"\0\x15ether/status/recorder" + state
        for value in VALUES * 3:
            device.emit("lab/temp", value)
            device.poll()
        for _ in VALUES * 6:
            for _, _, _, _, packet_id in wire.published():
                if packet_id:
                    wire.coming += b"\x40\2" + packet_id.to_bytes(2, "big")
            device.poll()
    micropython.qstr_info()
    print(device.counts, device.error, [channel[11] for channel in device._ch])


main()
