"""ether for microcontrollers: one file for MicroPython, CircuitPython and CPython. The wire is in ../PROTOCOL.md.

Private names are short, because each costs flash and heap on the board.
"""

import time
from json import dumps, loads
from os import urandom

const = int  # MicroPython's compiler puts the numbers in place of the names

# A channel is a topic that we publish on, a list. Its readings _LOW … _NEXT - 1 are in its ring. Those below _ACKED had
# a PUBACK (or went out with QoS 0), those below _SENT went out on this connection or before, those below _MARK are
# settled. Nothing of it changes its place: tests and ether_block count on it.
_TOPIC = const(0)
_QOS = const(1)
_PERIOD = const(2)  # ms between samples; 0: none
_DUE = const(3)
_METHOD = const(4)
_KEEP = const(5)  # 3: until recorded; 2, 1, 0: the recorder left it out of so many answers in a row, or it is sent once
_RING = const(6)  # number or JSON, low 30 bits of ms, and so on; the JSON of an object lacks its closing brace
_MARK = const(7)
_LOW = const(8)
_SENT = const(9)
_ACKED = const(10)
_NEXT = const(11)
_ASKED_LOW = const(12)  # _LOW and _SENT as the last question went out
_ASKED_SENT = const(13)

_marks = []
_now = getattr(time, "ticks_ms", None) or (lambda: time.monotonic_ns() // 1000000)


def _on(*args):
    return lambda run: _marks.append((run,) + args) or run


def ether_pub(*, topic=None, every=0, unit=None, range=None, type=None, qos=1, keep="all"):
    """Publish what the method returns; with `every`, call it so often (seconds)."""
    return _on(topic, qos > 0, type, keep, unit, range, every)


def ether_sub(*, topic=None, type=None, qos=1):
    """Call the method with each message of a topic or topic filter."""
    return _on(topic, qos > 0, type, None, None, None, None)


def _json(value):
    if isinstance(value, float) and value - value:
        value = None  # JSON has neither NaN nor infinity
    value = dumps(value)
    loads(value)  # MicroPython writes what is no JSON, which would block the link: bytes, objects, lists with NaN
    return value


def _text(value):
    value = value.encode()
    return len(value).to_bytes(2, "big") + value


def _fits(topic, name):
    name = name.split("/")
    for level in topic.split("/"):
        if level == "#":
            return True
        if not name or level not in ("+", name.pop(0)):
            return False
    return not name


class Ether:
    """A device in an ether system: publishes and handles what the marked methods of `target` say.

    Args:
        target: object of a class with marked methods; None for `emit` alone.
        name: letters, digits, `_`, `-`, `.`; one of its kind.
        host, port: the broker.
        options: any of the attributes below.
    """

    boot = user = None  # boot: 8 hexadecimal digits, new at each start; random unless given
    password = version = ""
    ssl = None  # an SSLContext
    keepalive = 30  # seconds without an answer after which a connection is dead, 255 at most
    timeout = 5  # seconds that connecting may take
    every = 10  # seconds between two statuses
    ring = 64  # so many readings of a topic are kept until they are recorded
    buffer = 512  # bytes; longer packets are not received, and batches are about half as long
    connect = None  # called with host and port, returns a socket with readinto, write and close that never block
    restart = None  # called for the command `restart`, which is ignored otherwise

    recording = False  # somebody records
    error = None  # why the last connection ended

    _s = _bad = None  # socket; what a method failed of
    _ms = _pid = _no = _due = _ping = 0
    _heard = -1000  # ms at which the broker last said something, or was dialled, or began to owe an answer

    def __init__(self, target, name, host, port=1883, **options):
        self.name = name
        self.host = host, port
        self.target = target
        self.boot = "%08x" % int.from_bytes(urandom(4), "big")
        for key in options:
            getattr(self, key)  # refuses what is no option
            setattr(self, key, options[key])
        self.counts = {}
        self._ch = []
        self._sub = [
            ("ether/status/recorder", 1, self._life),
            ("ether/status/" + name, 1, self._life),
            ("ether/stored/" + name, 1, self._kept),
            ("ether/command/%s/+" % name, 1, self._do),
        ]
        self._rx = memoryview(bytearray(self.buffer))
        self._was = _now()
        kind = type(target)
        pubs = subs = ""
        for function, topic, qos, json_type, keep, unit, limits, every in _marks:
            method = function.__name__
            if getattr(kind, method, None) is function:
                topic = topic or kind.__name__ + "." + method
                text = _facts(topic, json_type, unit, limits)
                if keep:
                    self._find(topic, qos, every, keep, method)
                    setattr(target, method, self._wrap(topic, getattr(target, method)))
                    pubs += text + (',"every":%s}' % float(every) if every else "}")
                else:
                    self._sub.append((topic, qos, method))
                    subs += text + ',"methods":["%s"]}' % method
        self._who = (
            '{"ether":1,"boot":"%s","class":"%s","version":"%s","outbox":"memory","publishes":{%s},"subscribes":{%s}}'
            % (self.boot, kind.__name__, self.version, pubs[1:], subs[1:])
        )

    def _wrap(self, topic, run):
        return lambda *args, **options: self.emit(topic, run(*args, **options))

    def _find(self, topic, qos=1, every=0, keep="all", run=None):
        for channel in self._ch:
            if channel[_TOPIC] == topic:
                return channel
        keep = keep == "all"
        channel = [topic, qos, int(every * 1000), 0, run, 3 * keep, [0] * (2 * self.ring if keep else 2)] + [0] * 7
        self._ch.append(channel)
        return channel

    def ms(self):
        """Return milliseconds since the start, beyond the wrap of the board's counter."""
        now = _now()
        self._ms += now - self._was & 0x3FFFFFFF
        self._was = now
        return self._ms

    def _count(self, name, count=1):
        if count > 0:
            self.counts[name] = self.counts.get(name, 0) + count
            self._due = min(self._due, self._ms + 1000)

    # --- readings

    def emit(self, topic, value):
        """Publish a value, numbered and stamped; a dict is its own fields."""
        channel = self._find(topic)
        given = value
        value = {} if value is None else value
        if isinstance(value, dict):
            text = ""
            for key in value:
                text += ',"%s":%s' % (key, _json(value[key]))
            value = "{" + text[1:]
        elif not isinstance(value, (int, float)):
            value = _json(value)
        number = channel[_NEXT]
        ring = channel[_RING]
        mark = channel[_MARK]
        if (number - channel[_LOW]) * 2 == len(ring):
            self._free(channel, channel[_LOW] + 1)
            channel[_MARK] = mark
            self._done(channel)
        place = number * 2 % len(ring)
        ring[place] = value
        ring[place + 1] = self.ms() & 0x3FFFFFFF
        channel[_NEXT] = number + 1
        return given

    def _age(self, ring, number):
        return self._ms - ring[number * 2 % len(ring) + 1] & 0x3FFFFFFF

    def _free(self, channel, number):
        for place in range(_MARK, _NEXT):
            channel[place] = max(channel[place], min(number, channel[_NEXT]))

    def _done(self, channel, number=0):
        channel[_ACKED] = max(channel[_ACKED], number)
        if not (self.recording and channel[_KEEP]):
            self._count("dropped", channel[_LOW] - channel[_MARK])
            channel[_MARK] = channel[_LOW]
            self._free(channel, channel[_ACKED])

    def _push(self, channel):
        first = number = channel[_SENT]
        again = first < channel[_ACKED]
        ring = channel[_RING]
        values = times = ""
        while number < channel[_ACKED if again else _NEXT] and len(values) + len(times) < self.buffer >> 1:
            text = ring[number * 2 % len(ring)]
            if not isinstance(text, str):
                text = _json(text)
            if values and "{" in values[:2] + text[:1]:  # an index would intern the letter, which takes heap for ever
                break  # an object is a message of its own
            values += "," + text
            times += ",%d" % (self._ms - self._age(ring, number))
            number += 1
        if values:
            values = values[1:]
            times = times[1:]
            if number > first + 1:
                values = "[%s]" % values
                times = '[%s],"k":%d' % (times, number - first)
            if values[:1] != "{":
                values = '{"value":' + values
            if len(values) > 1:
                values += ","
            qos = channel[_QOS] or again
            self._pub(
                ("ether/resend/" if again else "") + channel[_TOPIC],
                '%s"_ether":{"by":"%s","b":"%s","n":%d,"ms":%s}}' % (values, self.name, self.boot, first, times),
                qos,
            )
            channel[_SENT] = number
            self._fly = qos and self._pid, channel, number
            if qos:
                self._heard = self._ms  # from now on the PUBACK is waited for

    # --- what the recorder says

    def _life(self, said, topic, _):
        boot = said.get("boot")
        state = said.get("state", "-")
        if topic[13:] == self.name:
            if boot != self.boot or state == "lost":
                self._due = min(self._due, self._ms + 1000)
        elif state == "disconnected":
            self.recording = False
            for channel in self._ch:
                self._done(channel)
        elif state[:1] in "ira":  # init, ready, alert
            self.recording = True
            self._next = self._ms  # it may have been away, and lives: no need to wait any longer

    def _ask(self):
        marks = ""
        late = False
        for channel in self._ch:
            channel[_ASKED_SENT] = 0
            if self.recording and channel[_KEEP] and channel[_MARK] < channel[_SENT]:
                late |= self._age(channel[_RING], channel[_LOW]) > 999
                marks += ',"%s":%d' % (channel[_TOPIC], channel[_MARK])
                channel[_ASKED_LOW] = channel[_LOW]
                channel[_ASKED_SENT] = channel[_SENT]
        if late:
            self._no += 1
            self._next = self._ms + self._wait
            self._wait = min(2 * self._wait, 30000)
            self._pub(
                "ether/command/recorder/confirm",
                '{"by":"%s","boot":"%s","id":%d,"from":{%s}}' % (self.name, self.boot, self._no, marks[1:]),
                1,
            )

    def _kept(self, said, *_):
        topics = said["topics"]
        if said["boot"] == self.boot:
            answer = said.get("asked") == self._no
            if answer:
                self._next = self._ms + 1000
                self._wait = 1000
            for channel in self._ch:
                topic = channel[_TOPIC]
                mark = channel[_MARK]
                low = channel[_ASKED_LOW]
                number = topics.get(topic, mark - 1)
                missing = said.get("missing", {}).get(topic, ())
                if said.get("first", {}).get(topic, 0) > mark:
                    continue  # the recorder began later, and has nothing below: it will be asked
                self._free(channel, len(range(number + 1)))  # refuses what is no whole number
                if answer and channel[_ASKED_SENT]:
                    self._count("dropped", low - max(mark, said.get("seen", {}).get(topic, number) + 1))
                    for first, last in missing:
                        self._count("dropped", min(last + 1, low) - max(first, mark))
                    channel[_MARK] = max(channel[_MARK], low)
                    channel[_KEEP] = 3 if missing or topic in topics else channel[_KEEP] - 1
                    self._done(channel)
                    if channel[_LOW] < channel[_ASKED_SENT]:
                        channel[_SENT] = channel[_LOW]

    # --- what is said and heard

    def _say(self, state="ready", end=""):
        self._due = self._ms + int(self.every * 1000)
        text = ""
        if self._bad:
            state = "alert"
            text = ',"detail":' + dumps(self._bad)
            self._bad = None
        text = '{"state":"%s","boot":"%s"%s,"every":%s' % (state, self.boot, text, self.every)
        if self.counts:
            text += ',"counts":' + dumps(self.counts).replace(" ", "")
        self._pub("ether/status/" + self.name, text + end + "}", 1, 1)

    def _try(self, name, said):
        try:
            run = getattr(self.target, name)
            if isinstance(said, dict):
                said.pop("_ether", None)
                if len(said) != 1:
                    return run(**said)
                said = said.popitem()[1]
            run(said)
        except Exception as problem:
            self._bad = "%s: %s" % (name, problem)
            self._count("failed")

    def _do(self, said, topic, keep):
        topic = keep or topic.split("/")[3]  # one that was kept is an old one
        if topic == "ping":
            self._pub("ether/pong/" + self.name, '{"id":%s,"ms":%d}' % (dumps(said.get("id")), self.ms()))
        if topic == "every":
            every = int(said["every"] * 1000)
            for channel in self._ch:
                if channel[_PERIOD] and said.get("topic", channel[_TOPIC]) == channel[_TOPIC]:
                    channel[_DUE] = self._ms // max(every, 0) * every  # refuses 0 and less
                    channel[_PERIOD] = every
        if topic == "restart" and self.restart:
            self._link = self._hear()  # the one that has called us cannot go on meanwhile
            self.close()
            self.restart()

    # --- MQTT 3.1.1

    def _send(self, type, body):
        head = bytearray([type])
        size = len(body)
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        head.append(size)
        self._q.append(head + body)

    def _id(self):
        self._pid = self._pid % 65535 + 1
        return self._pid.to_bytes(2, "big")

    def _pub(self, topic, body, qos=0, keep=0):
        self._send(48 | qos << 1 | keep, _text(topic) + (self._id() if qos else b"") + body.encode())

    def _dial(self):
        self._tx = b""
        self._q = []
        # _fly: packet id, channel, number of what waits for its PUBACK; or, with QoS 0 and no id, to be written
        self._up = self._fly = None
        self._heard = self._ms
        for channel in self._ch:
            channel[_SENT] = channel[_ACKED]
        host = self.host
        if self.connect:
            s = self.connect(*host)
        else:
            import socket

            self._s = s = socket.socket()  # from here on it is closed whatever happens
            s.setblocking(False)
            s.setsockopt(6, 1, 1)  # TCP_NODELAY
            self._io(s.connect, socket.getaddrinfo(*host)[0][-1])
            if self.ssl:
                s = self.ssl.wrap_socket(s, server_hostname=host[0], do_handshake_on_connect=False)
        self._s = s
        self._link = self._hear()
        body = b"\0\4MQTT\4" + bytes([0xEE if self.user else 0x2E, 0, self.keepalive])
        for text in (
            self.name + "-" + self.boot,
            "ether/status/" + self.name,
            '{"state":"lost","boot":"%s","detail":"connection lost"}' % self.boot,
            self.user,
            self.password,
        ):
            if text:
                body += _text(text)
        self._send(16, body)

    def _io(self, run, body):
        try:
            return run(body)
        except OSError as problem:  # busy, or still connecting; 119 and 128 are newlib's
            if problem.errno not in [11, 107, 115, 119, 128]:  # a list is smaller than a tuple
                raise

    def _flush(self):
        while self._tx or self._q:
            self._tx = self._tx or self._q.pop(0)
            sent = self._io(self._s.write, self._tx)
            if not sent:
                return
            self._tx = self._tx[sent:]
        self._ack(0)  # all is written, which is all that QoS 0 waits for

    def _ack(self, number):
        fly = self._fly
        if fly and number == fly[0]:
            self._fly = None
            self._done(fly[1], fly[2])

    def _read(self, size):
        size = min(size, self.buffer)
        have = 0
        while have < size:
            more = self._io(self._s.readinto, self._rx[have:size])
            if more is None:
                yield
            else:
                if not more:
                    raise OSError(104)
                have += more
                if not self._fly:
                    self._heard = self._ms
        return bytes(self._rx[:size])

    def _hear(self):
        while True:
            kind, byte = yield from self._read(2)
            size = byte & 127
            shift = 0
            while byte > 127:
                shift += 7
                if shift > 21:
                    raise OSError(71)
                byte = (yield from self._read(1))[0]
                size |= (byte & 127) << shift
            body = yield from self._read(size)
            rest = size - len(body)
            while rest > 0:
                rest -= len((yield from self._read(rest)))
            self._take(kind, body, size)
            yield True

    def _take(self, type, body, size):
        number = int.from_bytes(body[:2], "big")
        qos = type >> 1 & 3
        retain = type & 1
        type >>= 4
        if type == 3 and qos < 2:
            number += 2
            start = number + 2 * qos
            try:
                _ = body[start - 1]  # refuses a topic longer than the packet,
                if qos:
                    self._send(64, body[number:start])
                _ = body[size - 1]  # and what was longer than the buffer
                topic = str(body[2:number], "utf-8")
                body = body[start:]
                try:
                    body = loads(body)
                except ValueError:
                    body = str(body, "utf-8") or {}
                for name, _, run in self._sub:
                    if _fits(name, topic):
                        if isinstance(run, str):
                            self._try(run, body)
                        else:
                            run(body, topic, retain)
            except Exception:
                self._count("rejected")
        elif type == 4 and size == 2:
            self._ack(number)
        elif type == 2 and size == 2 and not self._up:
            if number:
                raise OSError(-number)
            self._up = True
            if not self._due:
                self._say("init")
            self._pub("ether/about/" + self.name, self._who, 1, 1)
            self._say()
            self._next = 0
            self._wait = 1000
            body = self._id()
            for topic, qos, _ in self._sub:
                body += _text(topic) + bytes([qos])
            self._send(0x82, body)
        elif type & 11 != 9:  # neither SUBACK nor PINGRESP
            raise OSError(71)

    # --- the loop

    def poll(self):
        """Sample what is due, send and receive what can be without waiting."""
        now = self.ms()
        for channel in self._ch:
            every = channel[_PERIOD]
            if every and now >= channel[_DUE]:
                late = (now - channel[_DUE]) // every
                self._count("missed", late)
                channel[_DUE] += (late + 1) * every
                self._try(channel[_METHOD], {})
        try:
            if not self._s:
                if now - self._heard > 999:
                    self._dial()
                return
            if now - self._heard > 1000 * (self.keepalive if self._up else self.timeout):
                raise OSError(110)
            self._flush()
            if self._up or not self._tx:
                while len(self._q) < 9 and next(self._link):
                    pass
            if self._up:
                if now >= self._ping:
                    self._ping = now + self.keepalive * 500
                    self._send(0xC0, b"")
                if now >= self._due:
                    self._say()
                if not self._fly and now >= self._next:
                    self._ask()
                for _ in self._ch:
                    if not self._fly and not self._tx:
                        channel = self._ch.pop(0)
                        self._ch.append(channel)
                        self._push(channel)
            self._flush()
        except Exception as problem:  # memory that ran out and a wrong certificate are among them
            self._drop(problem)

    def _drop(self, error):
        self.error = error
        s = self._s
        self._s = None
        if s:
            s.close()

    def run(self):
        """Poll for ever."""
        while True:
            self._step()

    def _step(self):
        self.poll()
        time.sleep(0.005)

    def close(self, timeout=5):
        """Wait until what was taken is settled, `timeout` seconds at most, say goodbye and disconnect."""
        timeout = self._ms + timeout * 1000
        last = ""
        for channel in list(self._ch):  # polling turns it
            channel[_PERIOD] = 0
            while channel[_MARK] < channel[_NEXT] and self._ms < timeout:
                self._step()
            if channel[_NEXT]:
                last += ',"%s":%d' % (channel[_TOPIC], channel[_NEXT] - 1)
        if self._s and self._up:
            self._say("disconnected", ',"last":{%s}' % last[1:])
            self._send(0xE0, b"")
            self._up = None
            timeout += 1000
            while self._s and self._ms < timeout:  # until the broker has read it, and closes
                self._step()
        self._drop(None)


def _facts(topic, type, unit, range):
    type = {float: "number", int: "integer", bool: "boolean", str: "string"}.get(type, type)
    text = ""
    if not isinstance(unit, dict):
        unit = {"value": unit}
    for field in unit:
        facts = ""
        if type:
            facts = ',"type":"%s"' % type
        if unit[field]:
            facts += ',"unit":"%s"' % unit[field]
        if range:
            facts += ',"range":[%s,%s]' % tuple(range)
        text += ',"%s":{%s}' % (field, facts[1:])
    return ',"%s":{"fields":{%s}' % (topic, text[1:])
