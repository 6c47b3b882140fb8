"""What needs more room than `ether_lite`: waveforms, and asyncio. Use this module's `Ether` in place of the other."""

import asyncio
import struct

import ether_lite


def _head(kind, number):
    """Return the head of a CBOR item: its kind and a number (RFC 8949, 3)."""
    if number < 24:
        return bytes([kind | number])
    for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if number < 1 << 8 * size:
            return bytes([kind | code]) + number.to_bytes(size, "big")


def _text(text):
    text = text.encode()
    return _head(0x60, len(text)) + text


class Ether(ether_lite.Ether):
    """An `ether_lite.Ether` that publishes blocks and runs beside other tasks."""

    def block(self, topic, samples, dt, kind, ms=None):
        """Publish evenly spaced samples as one message, sent once; False without a connection: they count as dropped.

        Args:
            samples: an array; of what else holds the bytes of one, `kind` says what they are.
            dt: milliseconds between two samples.
            kind: type code of the array, such as "h" or "f".
            ms: when the first one was taken; by default so that the last one was taken now.
        """
        tag = 64 + "B----HIQb----hiq-----fd".index(kind)  # RFC 8746, little-endian
        data = bytes(samples)
        count = len(data) // struct.calcsize(kind)
        channel = self._find(topic, 0, keep="none")
        number = channel[11]
        for place in range(7, 12):  # nothing of it stays in the ring
            channel[place] = number + count
        if not (self._s and self._up):
            self._count("dropped", count)
            return False
        ms = self.ms() - int((count - 1) * dt) if ms is None else ms
        body = b"\xd9\xd9\xf7\xa2" + _text("value") + b"\xd8" + bytes([tag]) + _head(0x40, len(data)) + data
        body += _text("_ether") + b"\xa6" + _text("by") + _text(self.name) + _text("b") + _text(self.boot)
        for key, fact in (("n", number), ("ms", max(0, ms)), ("k", count), ("dt", dt)):
            body += _text(key) + (b"\xfb" + struct.pack(">d", fact) if isinstance(fact, float) else _head(0, fact))
        self._send(0x30, ether_lite._text(topic) + body)
        return True

    async def arun(self):
        """Poll for ever beside other tasks."""
        while True:
            self.poll()
            await asyncio.sleep(0.005)
