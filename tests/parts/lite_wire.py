"""A broker's end of a connection, in memory, in MicroPython and CPython."""


class Wire:
    """What a device writes is in `sent`; what it is to read goes to `coming`."""

    def __init__(self):
        self.sent = self.coming = b""
        self.closed = False

    def write(self, data):
        self.sent += bytes(data)
        return len(data)

    def readinto(self, view):
        if self.sent[-2:] == b"\xe0\0":
            return 0  # it said goodbye
        size = min(len(view), len(self.coming))
        view[:size] = self.coming[:size]
        self.coming = self.coming[size:]
        return size or None

    def close(self):
        self.closed = True

    def packets(self):
        """Return what came since the last call, as (first byte, body, all of it)."""
        found = []
        sent, self.sent = self.sent, b""
        while sent:
            size = shift = 0
            place = 1
            while True:
                byte = sent[place]
                size |= (byte & 127) << shift
                shift += 7
                place += 1
                if byte < 128:
                    break
            found.append((sent[0], sent[place : place + size], sent[: place + size]))
            sent = sent[place + size :]
        return found

    def published(self):
        """Return what was published since the last call, as (topic, payload, qos, retain, packet id)."""
        found = []
        for kind, body, _ in self.packets():
            if kind >> 4 == 3:
                end = 2 + int.from_bytes(body[:2], "big")
                qos = kind >> 1 & 3
                start = end + 2 * (qos > 0)
                packet_id = int.from_bytes(body[end:start], "big")
                found.append((str(body[2:end], "utf-8"), body[start:], qos, kind & 1, packet_id))
        return found


def prefixed(text):
    """Return a text as MQTT writes it."""
    return len(text).to_bytes(2, "big") + text.encode()


def publish(topic, payload, qos=0, retain=0):
    """Return a PUBLISH packet."""
    body = prefixed(topic) + (b"\0\7" if qos else b"") + payload
    head = bytes([48 | qos << 1 | retain])
    size = len(body)
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + body
