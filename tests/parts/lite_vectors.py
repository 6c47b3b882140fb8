"""Holds `ether_lite` to the vectors, in MicroPython and CPython: python lite_vectors.py FOLDER; prints what differs."""

import json
import sys
from array import array
from collections import OrderedDict

import ether_block
import ether_lite
from lite_wire import Wire, prefixed, publish

KINDS = {"int16": "h", "uint8": "B", "float32": "f"}
BY, BOOT = "bench1", "9f3c01aa"
MARK, NEXT = 7, 11  # places in a channel
now = 0
ether_lite._now = lambda: now & 0x3FFFFFFF  # as on a board, where the counter wraps


def pass_ms(more):
    global now
    now += more


class Bench:
    """What the vectors speak of."""

    def __init__(self):
        self.heard = []

    @ether_lite.ether_pub(topic="lab/temp", every=1.0, unit="degC", range=(-40, 125), type=float)
    def temperature(self):
        return 20.5

    @ether_lite.ether_sub(topic="lab/led", type=bool)
    def led(self, on):
        self.heard.append(on)


def device(target=None, accept=True, **options):
    """Return a device and its wire, connected."""
    wire = Wire()
    bench = ether_block.Ether(target, BY, "broker", boot=BOOT, connect=lambda host, port: wire, **options)
    bench.poll()
    bench.poll()
    if accept:
        wire.coming += b"\x20\2\0\0"
        bench.poll()
    return bench, wire


def payload_of(vector):
    if "hex" in vector:
        return bytes(int(vector["hex"][i : i + 2], 16) for i in range(0, len(vector["hex"]), 2))
    return vector["payload"].encode()


def check_outgoing(vector, text):
    given = vector["given"]
    make = vector["make"]
    bench, wire = device(accept=False, every=10)
    channel = bench._find(vector["topic"])
    if "n" in given:
        for place in range(MARK, NEXT + 1):
            channel[place] = given["n"]
    times = given.get("ms", 0)
    if make == "block":
        wire.coming += b"\x20\2\0\0"
        bench.poll()
        wire.packets()
        samples = array(KINDS[vector["given"]["value_type"]], given["values"])
        assert bench.block(vector["topic"], samples, given["dt"], KINDS[given["value_type"]], given["ms"])
        bench._flush()
    elif make in ("reading", "batch"):
        values = given.get("values", [given.get("value")])
        for value, ms in zip(values, times if isinstance(times, list) else [times]):  # noqa: B905 - MicroPython's
            if isinstance(value, dict):  # MicroPython's dicts have no order
                keys = sorted(value, key=lambda key: text.index('"' + key + '"'))
                value = OrderedDict([(key, value[key]) for key in keys])
            bench._ms = ms
            bench.ms = lambda ms=ms: ms
            bench.emit(vector["topic"], float("nan") if value == "NaN" else value)
        del bench.ms
        wire.coming += b"\x20\2\0\0"
        bench._heard = bench._ms
        bench.poll()
    elif make == "pong":
        bench._ms = given["ms"]
        bench._heard = given["ms"]
        wire.coming += b"\x20\2\0\0" + publish("ether/command/bench1/ping", given["ping"].encode(), 1, 0)
        bench.poll()
    elif make == "question":
        bench._no = given["id"] - 1
        for topic, mark in given["from"].items():
            channel = bench._find(topic)
            for place in range(MARK, NEXT + 1):
                channel[place] = mark
            bench.emit(topic, 1)
        wire.coming += b"\x20\2\0\0" + publish("ether/status/recorder", b'{"state":"ready","boot":"00000001"}', 0, 1)
        bench.poll()
        pass_ms(2000)
        wire.coming += b"\x40\2" + bench._fly[0].to_bytes(2, "big")
        bench.poll()
    elif make == "status":
        bench.counts = given.get("counts", {})
        bench._bad = given.get("detail")
        if given["state"] == "init":
            wire.coming += b"\x20\2\0\0"
            bench.poll()
        elif given["state"] == "disconnected":
            wire.coming += b"\x20\2\0\0"
            bench.poll()
            for topic, last in given["last"].items():
                channel = bench._find(topic)
                for place in range(MARK, NEXT + 1):
                    channel[place] = last + 1
            bench.close()
        else:
            bench._due = 1
            wire.coming += b"\x20\2\0\0"
            bench.poll()
    elif make == "will":
        ((_, body, _),) = wire.packets()
        place = 12 + len(prefixed(BY + "-" + BOOT)) - 2
        will = prefixed(vector["topic"]) + prefixed(vector["payload"])
        return body[10 + 2 + len(BY + "-" + BOOT) :] == will and body[7] == 0x2E
    elif make == "about":
        bench, wire = device(Bench(), version=given["version"])
    found = wire.published()
    return (vector["topic"], payload_of(vector), vector["qos"], int(vector["retain"])) in [
        each[:4] for each in found
    ] or found


def check_incoming(vector, _):
    target = Bench()
    restarted = []
    bench, wire = device(target, restart=lambda: restarted.append(True))
    for topic, first, last in (("lab/temp", 10, 15), ("lab/hum", 3, 4)):
        channel = bench._find(topic)
        channel[3] = 1 << 40  # no sample now
        for place in range(MARK, NEXT + 1):
            channel[place] = first
        for number in range(first, last + 1):
            bench.emit(topic, number)
        for place in range(NEXT - 2, NEXT + 1):
            channel[place] = last + 1
    bench.recording = "ready11223344"
    wire.packets()
    bench._due = bench._ms + 5000
    wire.coming += publish(vector["topic"], payload_of(vector), vector["qos"], int(vector["retain"]))
    if vector["does"].get("restart"):
        bench.close = lambda: None
    bench.poll()
    does = vector["does"]
    temp = bench._find("lab/temp")
    found = {"reject": True} if bench.counts.get("rejected") else {}
    if "free" in does:
        found["free"] = list(range(temp[8], temp[11]))
        if does["free"] != found["free"]:
            return found
    said = [(topic, payload) for topic, payload, *_ in wire.published()]
    pongs = [str(payload, "utf-8") for topic, payload in said if topic == "ether/pong/bench1"]
    if pongs:
        found["pong"] = pongs[0][: len(does.get("pong", ""))]
    if target.heard:
        found["call"] = target.heard[0]
    if "period_ms" in does:
        found["period_ms"] = temp[2]
    if restarted:
        found["restart"] = True
    if "recording" in does:
        found["recording"] = bool(bench.recording)
    pass_ms(1100)
    bench.poll()
    if not found.get("reject") and "ether/status/bench1" in [topic for topic, *_ in wire.published()]:
        found["announce"] = True
    if does.get("ignore"):
        found["ignore"] = True
    return found == does or found


def check_packets(vector, _):
    packet = payload_of({"hex": vector["hex"]})
    if vector["direction"] == "out":
        name = vector["name"]
        if name.startswith("connect"):
            _, wire = device(accept=False, **{key: vector[key] for key in ("user", "password") if key in vector})
        else:
            bench, wire = device()
            wire.packets()
            if "topic" in vector:
                bench._pid = vector.get("packet_id", 1) - 1
                bench._pub(vector["topic"], vector["payload"], vector["qos"], int(vector["retain"]))
            elif name == "ping":
                bench._ping = 0
            elif name == "puback":
                wire.coming += b"\x32\x05\0\1a" + vector["packet_id"].to_bytes(2, "big")
            else:
                bench.close()
            bench.poll()
        found = [raw for *_, raw in wire.packets()]
        return packet in found or found
    target = Bench()
    does = vector["does"]
    bench, wire = device(target, accept="connack" not in vector["name"])
    bench.recording = "ready"
    bench.emit("lab/temp", 1)
    bench.poll()
    if bench._fly:
        bench._fly = tuple([vector["packet_id"] if does == "acked" else 1] + list(bench._fly[1:]))  # noqa: RUF005 - as MicroPython can
    wire.coming += packet
    bench.poll()
    found = {
        "accept": bench._s is not None and bool(bench._up),
        "refuse": bench._s is None and wire.closed and not bench._up,
        "deliver": target.heard == [True] or (vector.get("payload") == "" and bench.counts.get("failed") == 1),
        "acked": bench._find("lab/temp")[NEXT - 1] == 1,
        "pong": bench._s is not None,
        "skip": bench._s is not None and bench._find("lab/temp")[NEXT - 1] == 0 and not target.heard,
        "drop": bench._s is None and wire.closed,
    }[does]
    if does == "deliver" and vector["qos"]:
        found = found and b"\x40\2\0\7" in wire.sent
    return found or (bench._s, bench._up, bench._fly, target.heard, bench.counts, bench.error)


def main(folder):
    checked = 0
    for name, check in (("outgoing", check_outgoing), ("incoming", check_incoming), ("packets", check_packets)):
        with open(folder + "/" + name + ".json") as file:
            for line in file:
                if line[0] == "{":
                    vector = json.loads(line.rstrip().rstrip(","))
                    checked += 1
                    found = check(vector, line)
                    if found is not True:
                        print("differs:", name, vector["name"], found)
    print("checked", checked)


main(sys.argv[1])
