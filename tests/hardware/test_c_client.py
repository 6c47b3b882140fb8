"""The C client, in memory and under sanitizers: the bytes of the vectors, and what it does where things go wrong."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess

import pytest
from hardware_c import LANGUAGES, SANITIZED, SOURCES, Bench, Packet, build, publish
from hardware_vectors import payload_of, vectors

from ether import codecs

OUTGOING, INCOMING, PACKETS = vectors("outgoing"), vectors("incoming"), vectors("packets")
READY = '{"state":"ready","boot":"11223344","every":2}'
TOPICS = ["lab/temp", "lab/hum", "lab/door", "lab/air"]


def by_name(vector):
    return vector["name"]


@pytest.fixture(scope="module", params=sorted(LANGUAGES))
def program(request, tmp_path_factory, missing):
    command = LANGUAGES[request.param]
    if shutil.which(command[0]) is None:
        missing(command[0])
    return build(command, SOURCES / "bench.c", tmp_path_factory.mktemp("c") / "bench", *SANITIZED)


@pytest.fixture(scope="module")
def process(program):
    bench = Bench(program)
    yield bench
    assert bench.close() == 0


@pytest.fixture
def bench(process):
    """A new device with a connection."""
    process.new()
    return process


def recording(bench):
    bench.hear(publish("ether/status/recorder", READY, retain=True))


def fill(bench, count, first=0, topic=0):
    for number in range(first, first + count):
        assert bench("int", topic, number % 10) == "1"


def questions(sent):
    return [json.loads(packet.payload) for packet in sent if packet.topic == "ether/command/recorder/confirm"]


def numbers(sent):
    """Return topic and numbers of what was published."""
    found = []
    for packet in sent:
        envelope = json.loads(packet.payload)["_ether"]
        found.append((packet.topic, [envelope["n"] + more for more in range(envelope.get("k", 1))]))
    return found


# --- the vectors: what it writes


def made(make):
    return pytest.mark.parametrize("vector", [each for each in OUTGOING if each["make"] == make], ids=by_name)


def put(bench, topic, value):
    if value == "NaN":
        return bench("float", topic, "nan")
    if isinstance(value, bool):
        return bench("bool", topic, int(value))
    if isinstance(value, int | float):
        return bench("int" if isinstance(value, int) else "float", topic, value)
    return bench("put", topic, json.dumps(value, separators=(",", ":")))


def published(packet, vector):
    kind = 0x30 | vector["qos"] << 1 | vector["retain"]
    assert packet == Packet(kind, packet.body)
    assert (packet.topic, packet.payload) == (vector["topic"], payload_of(vector))


@made("reading")
def test_reading_written(bench, vector):
    given = vector["given"]
    topic = TOPICS.index(given["topic"])
    bench.new(connected=False)
    bench("topics", 4)
    bench("ms", given["ms"])
    bench("next", topic, given["n"])
    bench.connect()

    assert put(bench, topic, given["value"]) == "1"

    bench("poll")
    published(next(packet for packet in bench.sent() if packet.topic.startswith("lab/")), vector)


@made("batch")
def test_batch_written(bench, vector):
    given = vector["given"]
    bench.new(connected=False)
    bench("next", 0, given["n"])

    for value, ms in zip(given["values"], given["ms"], strict=True):
        bench("ms", ms)
        put(bench, 0, value)

    bench.connect()
    bench("poll")
    published(bench.sent()[0], vector)


@made("block")
def test_block_written(bench, vector):
    given = vector["given"]
    kind = {"uint8": 64, "int16": 77, "float32": 85}[given["value_type"]]
    bench.new(connected=False)
    bench("name", given["topic"])
    bench("ms", given["ms"])
    bench("next", 1, given["n"])
    bench.connect()

    assert bench("block", kind, round(given["dt"] * 1000), *given["values"]) == "1"

    bench("poll")
    published(bench.sent()[0], vector)


def test_a_block_that_cannot_be_sent_takes_no_number(bench):
    bench("chunk", -1)
    assert bench("block", 77, 1000, *range(10)) == "1"
    assert bench("block", 77, 1000, *range(10)) == "0"  # the line takes nothing
    bench("chunk", 0)
    assert bench("block", 85, 1000, *range(60)) == "0"  # too long
    assert bench("block", 77, 1000, *range(10)) == "1"
    bench("poll")

    envelopes = [codecs.numbering(packet.payload) for packet in bench.sent()]
    assert [(envelope.n, envelope.k) for envelope in envelopes] == [(0, 10), (10, 10)]


@made("status")
def test_status_written(bench, vector):
    given = vector["given"]
    bench.new(connected=False)
    if given["state"] in ("init", "ready"):
        dropped = given.get("counts", {}).get("dropped", 0)
        while bench.facts()["counts"][0] < dropped:
            fill(bench, 1)
        place = ["init", "ready"].index(given["state"])
        published(bench.connect()[1 + place], vector)
        return
    bench.connect()
    if given["state"] == "alert":
        bench("fails", 1)
        bench.hear(publish("lab/led", "true"))
        bench("alert", given["detail"])
    else:
        bench("next", 0, 18)
        bench("end")
    bench("poll")
    published(bench.sent()[0], vector)
    assert bench("poll") == ("-1" if given["state"] == "disconnected" else "1")


@made("will")
def test_will_written(bench, vector):
    bench("connect")
    bench("poll")
    (connect,) = bench.sent()

    assert payload_of(vector) in connect.body
    assert vector["topic"].encode() in connect.body


@made("about")
def test_description_written(bench, vector):
    bench.new(connected=False)

    published(next(packet for packet in bench.connect() if packet.kind == 0x33 and "about" in packet.topic), vector)


@made("pong")
def test_pong_written(bench, vector):
    bench.new(connected=False)
    bench("ms", vector["given"]["ms"])
    bench.connect()

    bench.hear(publish("ether/command/bench1/ping", vector["given"]["ping"], 1, packet_id=5))

    pong, ack = bench.sent()
    published(pong, vector)
    assert ack == Packet(0x40, b"\x00\x05")


@made("question")
def test_question_written(bench, vector):
    recording(bench)
    (topic, mark) = next(iter(vector["given"]["from"].items()))
    bench("next", TOPICS.index(topic), mark)
    bench("ask", vector["given"]["id"] - 1)
    fill(bench, 1)
    bench.ack()
    bench("pass", 1300)
    bench("poll")

    published(bench.sent()[0], vector)


@pytest.mark.parametrize("vector", [each for each in PACKETS if each["direction"] == "out"], ids=by_name)
def test_packet_written(bench, vector):
    name = vector["name"]
    bench.new(connected=False)
    if name.startswith("connect"):
        if "user" in vector:
            bench("user", vector["user"], vector["password"])
        bench("connect")
        bench("poll")
    else:
        bench.connect()
        if "topic" in vector:
            kind = f"{0x30 | vector['qos'] << 1 | vector['retain']:x}"
            assert bench("publish", kind, vector.get("packet_id", 0), vector["topic"], vector["payload"]) == "1"
            bench("poll")
        if name == "ping":
            bench("pass", 15_400)
            bench("poll")
            bench("poll")
        if name == "puback":
            bench.hear(publish("lab/led", "1", 1, packet_id=vector["packet_id"]))
        if name == "disconnect":
            bench("end")
            bench("poll")
            bench("poll")
    assert bytes.fromhex(vector["hex"]) in bytes.fromhex(bench("out"))


# --- the vectors: what it hears


def _in_the_ring(bench):
    """Numbers 10 to 15 of lab/temp and 3 to 4 of lab/hum, sent and acknowledged."""
    recording(bench)
    bench("next", 0, 10)
    bench("next", 1, 3)
    fill(bench, 6)
    fill(bench, 2, topic=1)
    bench.ack()
    assert (bench.ring(0), bench.ring(1)) == (list(range(10, 16)), [3, 4])


@pytest.mark.parametrize("vector", INCOMING, ids=by_name)
def test_heard(bench, vector):
    does = vector["does"]
    _in_the_ring(bench)
    if "recorder" in vector["topic"] and does.get("recording") is False:
        assert bench.facts()["recording"]
    bench.sent()

    state = bench.hear(publish(vector["topic"], payload_of(vector), vector["qos"], vector["retain"]))

    assert state == 1
    facts, sent = bench.facts(), bench.sent()
    assert bench.counts().get("rejected", 0) == int(does.get("reject", False))
    if "announce" in does:
        bench("pass", 1100)
        bench("poll")
        sent += bench.sent()
    assert facts["restart"] == int(does.get("restart", False))
    assert facts["period_ms"] == does.get("period_ms", 1000)
    assert facts["recording"] == int(does.get("recording", True))
    assert bench.ring(0) == does.get("free", list(range(10, 16)) if facts["recording"] else [])
    pongs = [packet.payload.decode() for packet in sent if packet.topic == "ether/pong/bench1"]
    assert [pong.startswith(does["pong"]) for pong in pongs] == [True] if "pong" in does else pongs == []
    announced = [packet.topic for packet in sent if packet.kind == 0x33]
    assert announced == (["ether/about/bench1", "ether/status/bench1"] if does.get("announce") else [])
    call = does.get("call", "")
    assert bench("heard") == (call if isinstance(call, str) else json.dumps(call))


@pytest.mark.parametrize("vector", [each for each in PACKETS if each["direction"] == "in"], ids=by_name)
@pytest.mark.parametrize("chunk", [0, 1])
def test_packet_heard(bench, vector, chunk):
    does = vector["does"]
    bench.new(connected=not vector["name"].startswith("connack"))
    if vector["name"].startswith("connack"):
        bench("connect")
    if does == "acked":
        bench("id", vector["packet_id"] - 1)
        fill(bench, 1)
    bench("chunk", chunk)

    state = bench.hear(bytes.fromhex(vector["hex"]))
    while chunk and state >= 0 and (again := int(bench("poll"))) != state:
        state = again
    for _ in range(20 * chunk):
        state = int(bench("poll"))

    assert (state < 0) == (does in ("drop", "refuse"))
    if does == "refuse":
        assert bench.facts()["refused"] == 5
    if does == "acked":
        assert bench.ring() == []
    if does == "deliver":
        assert bench("heard") == vector["payload"]
    assert bool(bench.counts().get("rejected")) == (does == "skip" and vector["name"].startswith("malformed"))


# --- what it does where things go wrong


def test_what_is_stored_is_freed_and_the_rest_is_asked_for_and_sent_again(bench):
    recording(bench)
    fill(bench, 5)
    assert numbers(bench.ack()) == [("lab/temp", [0, 1, 2, 3, 4])]
    assert bench.ring() == [0, 1, 2, 3, 4]  # taken by the broker, and not yet by the recorder

    bench("pass", 1300)
    (question,) = bench.ack()

    assert json.loads(question.payload)["from"] == {"lab/temp": 0}
    answer = '{"boot":"9f3c01aa","topics":{"lab/temp":2},"asked":1,"missing":{},"seen":{}}'
    bench.hear(publish("ether/stored/bench1", answer))
    assert numbers(bench.ack()) == [("ether/resend/lab/temp", [3, 4])]
    bench.hear(publish("ether/stored/bench1", '{"boot":"9f3c01aa","topics":{"lab/temp":4}}'))
    assert bench.ring() == []


def test_questions_without_an_answer_come_rarer_and_at_once_after_a_new_start_of_the_recorder(bench):
    recording(bench)
    fill(bench, 1)
    bench.ack()
    asked = []
    for second in range(100):
        bench("pass", 1000)
        bench("poll")
        if questions(packet for packet in bench.sent() if packet.kind == 0x32):
            asked.append(second)
        bench.hear(b"\xd0\x00")

    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert waits[0] < waits[1] < waits[2] < waits[3]
    assert max(waits) <= 31

    bench.hear(publish("ether/status/recorder", '{"state":"lost","boot":"11223344"}'))
    assert bench.sent() == []
    recording(bench)
    assert [packet.topic for packet in bench.sent()] == ["ether/command/recorder/confirm"]


def test_a_recorder_that_began_later_is_asked_before_anything_is_freed(bench):
    recording(bench)
    fill(bench, 6)
    bench.ack()
    bench.hear(publish("ether/stored/bench1", '{"boot":"9f3c01aa","topics":{"lab/temp":5},"first":{"lab/temp":3}}'))
    assert bench.ring() == list(range(6))

    bench("pass", 1300)
    assert questions(bench.ack())[0]["from"] == {"lab/temp": 0}
    answer = (
        '{"boot":"9f3c01aa","topics":{"lab/temp":-1},"asked":1,"missing":{"lab/temp":[[0,2]]},"seen":{"lab/temp":5}}'
    )
    bench.hear(publish("ether/stored/bench1", answer))

    assert numbers(bench.ack()) == [("ether/resend/lab/temp", list(range(6)))]
    bench.hear(publish("ether/stored/bench1", '{"boot":"9f3c01aa","topics":{"lab/temp":5}}'))
    assert (bench.ring(), bench.counts()) == ([], {})


@pytest.mark.parametrize("hours", [2.5, 4.0])
def test_after_quiet_hours_it_asks_as_soon_as_ever(bench, hours):
    recording(bench)
    for _ in range(int(hours * 360)):
        bench("pass", 10_000)
        bench("in", "d000")
        bench("poll")
    bench.sent()
    fill(bench, 1)
    bench.ack()
    assert bench.ring() == [0]
    bench("pass", 1300)

    assert questions(bench.ack())


def test_a_topic_that_three_answers_do_not_mention_is_freed_as_if_nobody_recorded(bench):
    recording(bench)
    fill(bench, 1, topic=0)
    fill(bench, 1, topic=1)
    for number in range(1, 4):
        bench.ack()
        bench("pass", 1300)
        assert [packet.topic for packet in bench.ack()] == ["ether/command/recorder/confirm"]
        assert bench.ring(1) == [0]
        stored = f'{{"boot":"9f3c01aa","topics":{{"lab/temp":-1}},"asked":{number}}}'
        bench.hear(publish("ether/stored/bench1", stored))

    bench.ack()
    assert (bench.ring(0), bench.ring(1)) == ([0], [])


def test_without_a_recorder_a_puback_frees(bench):
    fill(bench, 3)
    bench.ack()

    assert bench.ring() == []
    assert bench.counts() == {}


def test_what_overflows_while_somebody_records_is_counted_as_far_as_the_recorder_misses_it(bench):
    recording(bench)
    fill(bench, 4)
    bench.ack()
    bench("dead", 1)
    assert bench("poll") == "-1"
    fill(bench, 20, first=4)
    kept = bench.ring()
    assert kept[-1] == 23
    assert bench.counts() == {}  # whether 0 to 3 are stored, only the recorder knows

    bench("dead", 0)
    bench.connect()
    recording(bench)
    question = questions(bench.ack())[-1]

    assert question["from"] == {"lab/temp": 0}
    lost = kept[0] - 4 + 1  # number 2 did not come either
    answer = {
        "boot": "9f3c01aa", "topics": {"lab/temp": 1}, "asked": question["id"],
        "missing": {"lab/temp": [[2, 2], [4, kept[0] - 1]]}, "seen": {"lab/temp": 23},
    }  # fmt: skip
    bench.hear(publish("ether/stored/bench1", json.dumps(answer)))
    assert bench.counts() == {"dropped": lost}
    assert bench.ring() == kept
    bench("pass", 300)
    bench("poll")
    (question,) = questions(bench.sent())
    assert question["from"] == {"lab/temp": kept[0]}
    bench.hear(publish("ether/stored/bench1", '{"boot":"9f3c01aa","topics":{"lab/temp":23}}'))
    assert bench.ring() == []


def test_what_is_dropped_after_the_question_is_not_judged_by_its_answer(bench):
    recording(bench)
    bench("dead", 1)
    bench("poll")
    fill(bench, 20)
    first = bench.ring()[0]
    bench("dead", 0)
    bench.connect()
    recording(bench)
    question = questions(bench.ack())[-1]
    fill(bench, 5, first=20)
    bench.ack()
    assert bench.ring()[0] > first

    answer = {
        "boot": "9f3c01aa", "topics": {"lab/temp": -1}, "asked": question["id"],
        "missing": {"lab/temp": [[0, first - 1]]}, "seen": {"lab/temp": 19},
    }  # fmt: skip
    bench.hear(publish("ether/stored/bench1", json.dumps(answer)))

    assert bench.counts() == {"dropped": first}
    bench("pass", 300)
    bench("poll")
    (question,) = questions(bench.ack())
    assert question["from"] == {"lab/temp": first}
    answer = {"boot": "9f3c01aa", "topics": {"lab/temp": 24}, "asked": question["id"]}
    bench.hear(publish("ether/stored/bench1", json.dumps(answer)))
    assert (bench.ring(), bench.counts()) == ([], {"dropped": first})


def test_an_answer_that_is_longer_than_the_buffer_counts_everything_from_the_mark_on(bench):
    recording(bench)
    bench("dead", 1)
    bench("poll")
    fill(bench, 30)
    kept = bench.ring()
    bench("dead", 0)
    bench.connect()
    recording(bench)
    question = questions(bench.ack())[-1]
    holes = ",".join(f"[{2 * each},{2 * each}]" for each in range(100))

    answer = f'{{"boot":"9f3c01aa","topics":{{"lab/temp":-1}},"asked":{question["id"]},"missing":{{"lab/temp":[{holes}'
    bench.hear(publish("ether/stored/bench1", answer + "]}}"))

    assert bench.counts() == {"dropped": kept[0]}


def test_without_a_connection_nothing_hangs_and_after_it_everything_is_sent_in_order(bench):
    bench("dead", 1)
    assert bench("poll") == "-1"
    fill(bench, 8)
    bench("dead", 0)
    said = bench.connect()

    assert [packet.topic for packet in said if packet.kind == 0x33] == ["ether/status/bench1", "ether/about/bench1"]
    filters = [packet.body[4:-1].decode() for packet in said if packet.kind == 0x82]
    assert filters == [
        "ether/status/recorder", "ether/stored/bench1", "ether/status/bench1", "ether/command/bench1/+", "lab/led",
    ]  # fmt: skip
    assert [number for _, found in numbers(bench.ack()) for number in found] == list(range(8))


def test_another_board_of_its_name_is_answered_after_a_second(bench):
    other = publish("ether/status/bench1", '{"state":"ready","boot":"11223344"}')

    def statuses():
        bench("poll")
        return len([packet for packet in bench.sent() if packet.topic == "ether/status/bench1"])

    said = []
    for _ in range(2):
        bench.hear(other * 3)
        said.append(statuses())
        bench("pass", 1100)
        said.append(statuses())

    assert said == [0, 1, 0, 1]


def test_the_first_status_of_a_boot_is_said_again_until_the_broker_has_taken_it(process):
    process.new(connected=False)
    for _ in range(2):
        process("connect")
        process.hear(b"\x20\x02\x00\x00")
        said = [packet for packet in process.sent() if packet.kind == 0x33 and "status" in packet.topic]
        states = [json.loads(packet.payload)["state"] for packet in said]
        assert states[:2] == ["init", "ready"]
    process.connect()
    assert b'"init"' not in b"".join(packet.body for packet in process.connect())


def test_a_mute_broker_a_frozen_one_and_a_missing_acknowledgement_end_the_connection(bench):
    def seconds_until_down():
        for second in range(100):
            if bench("poll") == "-1":
                return second
            bench("pass", 1000)
        return None

    bench("connect")
    assert seconds_until_down() in range(29, 33)  # no CONNACK
    bench.connect()
    assert seconds_until_down() in range(29, 33)  # no PINGRESP
    assert any(packet.kind == 0xC0 for packet in bench.sent())
    bench.connect()
    fill(bench, 1)
    seconds = 0
    while bench.hear(b"\xd0\x00") >= 0:  # lives, and never sends the PUBACK
        bench("pass", 1000)
        seconds += 1
    assert seconds in range(29, 33)
    bench.connect()
    bench("chunk", -1)
    fill(bench, 1)
    assert seconds_until_down() in range(29, 33)  # takes nothing any more


def test_bytes_that_trickle_in_both_directions_are_packets_all_the_same(bench):
    bench("chunk", 1)
    fill(bench, 3)
    for _ in range(5):
        bench("poll")
    assert numbers(bench.sent()) == [("lab/temp", [0, 1, 2])]
    bench("in", publish("lab/led", "true").hex())
    for _ in range(3):
        bench("poll")
    assert bench("heard") == "true"


def test_the_packet_id_after_65535_is_1(bench):
    bench("id", 65530)

    found = []
    for number in range(10):
        fill(bench, 1, first=number)
        found += [packet.packet_id for packet in bench.ack()]

    assert found == [65531, 65532, 65533, 65534, 65535, 1, 2, 3, 4, 5]
    assert bench.ring() == []


def test_every_packet_id_is_written_as_it_is(bench):
    """Bytes of a packet id may look like anything, such as the quote that stands for another character in our texts."""
    for packet_id in range(1, 300):
        bench.hear(publish("lab/led", "1", 1, packet_id=packet_id))
    assert [packet.body for packet in bench.sent()] == [number.to_bytes(2) for number in range(1, 300)]


def test_milliseconds_go_on_behind_the_wrap_of_a_counter_of_32_bits(process):
    process.new(connected=False)
    process("ms", 2**32 - 500)
    process.connect()
    fill(process, 1)
    process("pass", 1000)
    fill(process, 1)

    (packet,) = process.ack()

    assert json.loads(packet.payload)["_ether"]["ms"] == [2**32 - 500, 2**32 + 500]


def test_an_oversize_packet_is_skipped_counted_and_acknowledged(bench):
    bench.hear(publish("lab/led", "x" * 5000, 1, packet_id=3) + publish("lab/led", "true"))

    assert bench("heard") == "true"
    assert bench.counts() == {"rejected": 1}
    assert bench.sent()[0] == Packet(0x40, b"\x00\x03")


def test_of_a_long_status_of_the_recorder_the_beginning_will_do(bench):
    counts = ",".join(
        f'"{name}":123456' for name in ("recorded", "bytes", "L2", "commit_ms", "disk_free", "disk_left_s")
    )
    bench.hear(publish("ether/status/recorder", f'{{"state":"ready","boot":"11223344","counts":{{{counts}}}}}'))

    assert bench.facts()["recording"]
    assert bench.counts() == {}


def test_due_keeps_the_pace_and_counts_what_was_missed(bench):
    assert [bench("due", 0), bench("due", 0)] == ["1", "0"]
    bench("pass", 1000)
    assert [bench("due", 0), bench("due", 0)] == ["1", "0"]
    bench("pass", 3500)

    assert bench("due", 0) == "1"

    assert bench.counts() == {"missed": 2}
    bench("pass", 500)
    assert bench("due", 0) == "1"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("23.4", "23.4"), ("-0.1", "-0.1"), ("0", "0.0"), ("42", "42.0"), ("1013.25", "1013.25"), ("0.0001", "0.0001"),
        ("1e10", "1e10"), ("3.4028235e38", "3.402823e38"), ("1e-7", "1e-07"), ("-2.5e-30", "-2.5e-30"),
        ("16777216", "16777220.0"), ("1234567", "1234567.0"), ("9999999.5", "10000000.0"), ("1e-45", "1.401299e-45"),
        ("inf", "null"), ("-inf", "null"),
    ],
)  # fmt: skip
def test_float_written(bench, value, text):
    bench("float", 0, value)

    (packet,) = bench.ack()

    written = packet.payload.decode().removeprefix('{"value":').partition(',"_ether"')[0]
    assert written == text


def test_floats_are_right_to_seven_digits(bench):
    """A walk through all magnitudes, each against Python's own idea of the float."""
    step = struct.unpack("<I", struct.pack("<f", 1e-30))[0]
    end = struct.unpack("<I", struct.pack("<f", 1e30))[0]
    worst = 0.0
    for bits in range(step, end, (end - step) // 1500):
        value = struct.unpack("<f", struct.pack("<I", bits))[0]
        bench("float", 0, repr(value))
        (packet,) = bench.ack()
        worst = max(worst, abs(json.loads(packet.payload)["value"] / value - 1))
    assert worst < 6e-7  # half a unit of the seventh digit at worst, and a little from rounding


def test_what_cannot_be_sent_is_refused_and_counted(bench):
    assert bench("put", 0, '"' + "x" * 120 + '"') == "0"
    assert bench("put", 0, "{}") == "0"
    assert bench("put", 7, "1") == "0"
    assert bench.counts() == {"failed": 3}
    assert bench.ack() == []


# --- damaged packets


def test_a_hundred_thousand_damaged_streams_neither_stop_nor_break_it(program, request):
    cases = 100_000 if "c99" in request.node.name else 10_000  # the same code in C++

    done = subprocess.run([program, "fuzz", "20261127", str(cases)], capture_output=True, text=True, timeout=50)

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["cases"] == cases
