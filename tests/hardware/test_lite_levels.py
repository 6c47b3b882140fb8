"""What `ether_lite` keeps, asks and sends again: level 3 of PROTOCOL.md, against a broker in memory, on a made-up clock."""

from __future__ import annotations

import contextlib
import importlib
import json
import queue
import sys
from pathlib import Path

import pytest
from lite_wire import Wire, publish

from ether.journal import Journal
from ether.model import Message
from ether.recorder.ingest import Ingest

SOURCES = Path(__file__).parents[2] / "hardware" / "micropython"
NAME, BOOT, TOPIC = "bench1", "9f3c01aa", "lab/temp"
CONFIRM = "ether/command/recorder/confirm"


class Bench:
    """A device, its broker's end, and its clock."""

    def __init__(self, lite, monkeypatch, ring=8, target=None, **options):
        self.now = 1000
        monkeypatch.setattr(lite, "_now", lambda: self.now)
        self.device = lite.Ether(
            target, NAME, "broker", boot=BOOT, ring=ring, connect=lambda host, port: self.dial(), **options
        )
        self.acknowledges = True
        self.dialled = []

    def dial(self):
        self.wire = Wire()
        self.dialled.append(self.now)
        return self.wire

    def connect(self):
        self.device.poll()
        self.device.poll()
        self.wire.coming += b"\x20\2\0\0"
        return self.poll()

    def poll(self, ms=0):
        """Let time pass, and return what was published, as (topic, payload), acknowledging it."""
        self.now += ms
        found = []
        for _ in range(12):  # a packet each at most, and one batch between two acknowledgements
            self.device.poll()
            for topic, payload, qos, _, packet_id in self.wire.published():
                found.append((topic, json.loads(payload)))
                if qos and self.acknowledges:
                    self.wire.coming += b"\x40\2" + packet_id.to_bytes(2, "big")
        return found

    def hear(self, topic, content):
        self.wire.coming += publish(topic, json.dumps(content).encode())
        return self.poll()

    def recorder(self, state="ready", boot="11223344"):
        return self.hear("ether/status/recorder", {"state": state, "boot": boot})

    def stored(self, number=None, **more):
        return self.hear(
            f"ether/stored/{NAME}", {"boot": BOOT, "topics": {} if number is None else {TOPIC: number}, **more}
        )

    def emit(self, count):
        for _ in range(count):
            self.device.emit(TOPIC, 1.5)

    @property
    def kept(self):
        channel = self.device._find(TOPIC)
        return list(range(channel[8], channel[11]))

    @property
    def dropped(self):
        return self.device.counts.get("dropped", 0)


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(SOURCES))
    lite = importlib.import_module("ether_lite")
    yield lambda **options: Bench(lite, monkeypatch, **options)
    sys.modules.pop("ether_lite", None)


class LateRecorder:
    """A recorder's ingest, which is handed what a bench publishes from now on, and tells it what is stored."""

    def __init__(self, folder):
        self.said = queue.Queue()
        self.ingest = Ingest(
            wanted=["lab/#"], exclude=[], acknowledge=lambda receipts: None, stop=lambda: None,
            confirm=lambda name, content: self.said.put(content),
        )  # fmt: skip
        self.journal = Journal(folder)
        self.ingest.start(self.journal)

    def listens(self, bench):
        self.bench = bench
        poll = bench.poll

        def heard(ms=0):
            found = poll(ms)
            for topic, content in found:
                self.ingest.take(Message(topic, json.dumps(content).encode(), 1), None)
            return found

        bench.poll = heard

    def answers_until(self, done, steps=50):
        while not done():
            steps -= 1
            assert steps, (self.bench.kept, self.ingest.account.state())
            wait = 0.4 if self.bench.poll(100) else 0.0
            with contextlib.suppress(queue.Empty):
                self.bench.hear(f"ether/stored/{NAME}", self.said.get(wait > 0, wait))

    def stored(self):
        spans = self.ingest.account.tracks[NAME, BOOT, TOPIC].spans
        return {number for first, last in spans for number in range(first, last + 1)}

    def close(self):
        self.ingest.close("test", 5)
        self.journal.close()


@pytest.fixture
def late(tmp_path):
    recorder = LateRecorder(tmp_path / "journal")
    yield recorder
    recorder.close()


def numbers(published):
    """Return topic and numbers of what was published, without what the device says of itself."""
    found = []
    for topic, content in published:
        if "_ether" in content:
            envelope = content["_ether"]
            found.append((topic, list(range(envelope["n"], envelope["n"] + envelope.get("k", 1)))))
    return found


def questions(published):
    return [content for topic, content in published if topic == CONFIRM]


def test_birth_description_and_subscriptions_at_each_connection(make):
    bench = make()

    first = bench.connect()
    bench.wire.closed = True
    bench.device._drop(None)
    bench.now += 1000
    second = bench.connect()

    states = [
        [content["state"] for topic, content in each if topic == f"ether/status/{NAME}"] for each in (first, second)
    ]
    assert states == [["init", "ready"], ["ready"]]
    assert all([topic for topic, _ in each].count(f"ether/about/{NAME}") == 1 for each in (first, second))


def test_nobody_records_and_an_acknowledgement_frees(make):
    bench = make()
    bench.connect()
    bench.acknowledges = False

    bench.emit(3)
    sent = numbers(bench.poll())

    assert (sent, bench.kept) == ([(TOPIC, [0, 1, 2])], [0, 1, 2])
    bench.wire.coming += b"\x40\2" + bench.device._fly[0].to_bytes(2, "big")
    bench.poll()
    assert bench.kept == []


def test_somebody_records_and_only_what_is_stored_is_freed(make):
    bench = make()
    bench.connect()
    bench.recorder()

    bench.emit(4)
    bench.poll()

    assert bench.kept == [0, 1, 2, 3]
    bench.stored(2)
    assert bench.kept == [3]
    bench.recorder("lost")
    assert bench.kept == [3]
    bench.recorder("disconnected")
    assert bench.kept == []
    assert bench.dropped == 0


def test_asks_after_a_second_and_again_ever_more_rarely(make):
    bench = make()
    bench.connect()
    bench.recorder()
    bench.emit(2)

    asked_at = []
    for _ in range(700):
        if questions(bench.poll(100)):
            asked_at.append(bench.now - 1000)

    assert asked_at == [1000, 2000, 4000, 8000, 16000, 32000, 62000]
    (question,) = questions(bench.recorder("ready", "a new start"))
    assert question == {"by": NAME, "boot": BOOT, "id": 8, "from": {TOPIC: 0}}


def test_what_was_lost_behind_the_broker_is_sent_to_recorders_only(make):
    bench = make()
    bench.connect()
    bench.recorder()
    bench.emit(4)
    bench.poll()
    (question,) = questions(bench.poll(1100))

    again = numbers(bench.stored(1, asked=question["id"], missing={TOPIC: [[2, 3]]}, seen={TOPIC: 1}))

    assert again == [(f"ether/resend/{TOPIC}", [2, 3])]
    assert bench.kept == [2, 3]
    (question,) = questions(bench.poll(1100))
    bench.stored(3, asked=question["id"])
    assert (bench.kept, bench.dropped) == ([], 0)


def test_a_recorder_that_began_later_is_asked_before_anything_is_freed(make):
    bench = make()
    bench.connect()
    bench.recorder()
    bench.emit(6)
    bench.poll()

    bench.stored(5, first={TOPIC: 3})

    assert bench.kept == [0, 1, 2, 3, 4, 5]
    (question,) = questions(bench.poll(1100))
    assert question["from"] == {TOPIC: 0}
    answer = {"asked": question["id"], "missing": {TOPIC: [[0, 2]]}, "seen": {TOPIC: 5}}
    assert numbers(bench.stored(-1, **answer)) == [(f"ether/resend/{TOPIC}", [0, 1, 2, 3, 4, 5])]
    bench.stored(5)
    assert (bench.kept, bench.dropped) == ([], 0)


def test_numbers_that_begin_below_the_mark_free_as_ever(make):
    bench = make()
    bench.connect()
    bench.recorder()
    bench.emit(6)
    bench.poll()
    bench.stored(2)

    bench.stored(4, first={TOPIC: 3})

    assert bench.kept == [5]


@pytest.mark.parametrize("older", [0, 3], ids=["only what the dead one had not", "and what it never saw"])
def test_a_recording_that_begins_late_has_all_that_the_board_still_holds(make, late, older):
    """The recorder dies for good. Another one starts, with a recording of its own, before or amid the readings."""
    bench = make(ring=16)
    bench.connect()
    bench.recorder()
    bench.emit(6)
    bench.poll()
    bench.recorder("lost")
    bench.stored(1)  # its last word

    late.listens(bench)
    bench.recorder("init", "a new recorder")
    bench.emit(older)
    late.answers_until(lambda: not bench.kept)

    assert late.stored() == set(range(2, 6 + older))
    assert (bench.dropped, bench.device.counts) == (0, {})


def test_what_had_no_acknowledgement_is_sent_again_on_its_topic_after_reconnecting(make):
    bench = make()
    bench.connect()
    bench.recorder()
    bench.acknowledges = False
    bench.emit(2)
    bench.poll()
    bench.emit(1)
    bench.device._drop(None)
    bench.acknowledges = True

    bench.now += 1000
    assert numbers(bench.connect()) == [(TOPIC, [0, 1, 2])]


def test_with_qos_0_what_was_written_is_sent_again_to_recorders_only(make):
    bench = make()
    bench.device._find(TOPIC, 0)
    bench.connect()
    bench.recorder()
    bench.emit(2)

    assert numbers(bench.poll()) == [(TOPIC, [0, 1])]

    (question,) = questions(bench.poll(1100))
    again = bench.stored(0, asked=question["id"], missing={}, seen={})
    assert numbers(again) == [(f"ether/resend/{TOPIC}", [1])]


@pytest.mark.parametrize("recorder", ["ready", "disconnected"])
def test_with_qos_0_what_was_never_written_goes_out_on_its_topic_after_reconnecting(make, recorder):
    bench = make()
    bench.device._find(TOPIC, 0)
    bench.connect()
    bench.recorder(recorder)
    taken = bench.wire.write
    bench.wire.write = lambda data: taken(data[:9]) if bench.wire.sent == b"" else None  # and then nothing any more
    bench.emit(2)
    bench.device.poll()
    assert (len(bench.wire.sent), bench.kept) == (9, [0, 1])

    bench.device._drop(None)
    bench.now += 1000

    assert numbers(bench.connect()) == [(TOPIC, [0, 1])]
    assert bench.kept == ([0, 1] if recorder == "ready" else [])


def test_topic_that_three_answers_leave_out_is_not_recorded(make):
    bench = make()
    bench.connect()
    bench.recorder()
    bench.emit(2)

    for _ in range(3):
        assert bench.kept == [0, 1]
        (question,) = questions(bench.poll(1100))
        bench.stored(asked=question["id"])

    assert bench.kept == []
    bench.emit(1)
    bench.poll()
    assert bench.kept == []  # by its acknowledgement
    assert bench.dropped == 0


def test_full_ring_drops_the_oldest_and_counts_what_the_recorder_does_not_have(make):
    bench = make(ring=4)
    bench.connect()
    bench.recorder()
    bench.emit(4)
    bench.poll()
    bench.device._drop(None)
    bench.emit(6)  # 0 to 5 are pushed out, 0 to 3 of which had been sent
    assert (bench.kept, bench.dropped) == ([6, 7, 8, 9], 0)

    bench.now += 1500
    asked = questions(bench.connect())
    assert [each["from"] for each in asked] == [{TOPIC: 0}]
    bench.stored(2, asked=asked[0]["id"], missing={TOPIC: [[3, 5]]}, seen={TOPIC: 9})

    assert bench.dropped == 3
    bench.stored(9)
    assert (bench.kept, bench.dropped) == ([], 3)


def test_what_a_recorder_never_got_counts_though_it_names_no_hole(make):
    bench = make(ring=4)
    bench.connect()
    bench.recorder()
    bench.emit(2)
    bench.poll()
    bench.device._drop(None)
    bench.emit(5)  # 0 to 2 are gone, and 2 was never sent

    bench.now += 1500
    (question,) = questions(bench.connect())
    bench.stored(1, asked=question["id"])

    assert bench.dropped == 1


def test_full_ring_where_nobody_records(make):
    bench = make(ring=4)

    bench.emit(10)

    assert (bench.kept, bench.dropped) == ([6, 7, 8, 9], 6)
    assert numbers(bench.connect()) == [(TOPIC, [6, 7, 8, 9])]
    assert bench.dropped == 6


def test_link_without_an_answer_is_given_up(make):
    bench = make(keepalive=10)
    bench.connect()
    assert bench.dialled == [1000]

    bench.wire.sent = b""
    bench.now += 5001
    bench.device.poll()
    assert [kind for kind, *_ in bench.wire.packets()] == [0xC0]
    bench.now += 5001
    bench.device.poll()

    assert (bench.wire.closed, str(bench.device.error)) == (True, "110")
    bench.poll(1000)
    assert bench.dialled == [1000, 12002]


def test_acknowledgement_that_does_not_come_ends_the_link(make):
    bench = make(keepalive=10)
    bench.connect()
    bench.acknowledges = False
    bench.emit(1)

    for _ in range(115):
        bench.poll(100)
        bench.wire.coming += b"\xd0\0"  # pings are answered

    assert len(bench.dialled) == 2


def test_foreign_status_is_answered_once_a_second(make):
    bench = make(every=10)
    bench.connect()
    said = []

    for _ in range(20):
        said += bench.hear(f"ether/status/{NAME}", {"state": "ready", "boot": "00000000"})
        said += bench.poll(100)

    assert 1 <= len([topic for topic, _ in said if topic == f"ether/status/{NAME}"]) <= 3


def test_failing_method_is_an_alert_and_a_count(make):
    class Broken:
        fails = True

        def read(self):
            if self.fails:
                raise OSError("no sensor")
            return 1

    lite = sys.modules["ether_lite"]
    monkey = lite.ether_pub(topic=TOPIC, every=1.0)
    Broken.read = monkey(Broken.read)
    target = Broken()
    bench = make(target=target, every=3)
    said = bench.connect()
    target.fails = False
    said += bench.poll(1100) + bench.poll(3100)
    lite._marks.pop()

    states = [(each["state"], each.get("detail")) for topic, each in said if topic == f"ether/status/{NAME}"]
    assert ("alert", "read: no sensor") in states
    assert states[-1] == ("ready", None)
    assert bench.device.counts["failed"] == 1


def test_message_longer_than_the_buffer_is_acknowledged_and_skipped(make):
    bench = make(buffer=128)
    bench.connect()

    bench.wire.coming += publish(f"ether/stored/{NAME}", b"x" * 5000, 1) + publish("t" * 500, b"x", 1)
    bench.device.poll()
    sent = [raw for *_, raw in bench.wire.packets()]
    said = bench.hear(f"ether/command/{NAME}/ping", {"id": 1})

    assert sent.count(b"\x40\2\0\7") == 1  # of the other the id was beyond the buffer
    assert ("ether/pong/bench1", {"id": 1, "ms": 0}) in said
    assert bench.device.counts["rejected"] == 2


def test_numbers_that_are_no_whole_ones_are_rejected(make):
    bench = make()
    bench.connect()
    bench.recorder()
    bench.emit(3)
    bench.poll()

    for wrong in (1.5, "1", [1]):
        bench.stored(wrong)

    assert (bench.kept, bench.device.counts["rejected"]) == ([0, 1, 2], 3)


def test_goodbye_waits_for_what_several_topics_have(make):
    class Two:
        def read(self):
            return 1

    lite = sys.modules["ether_lite"]
    for topic in ("a", "b", "c"):
        Two.read = lite.ether_pub(topic=topic, every=0.05)(Two.read)
    bench = make(target=Two())
    bench.connect()
    bench.poll(100)
    step = bench.device._step
    bench.said = []

    def poll():
        bench.said += bench.poll(20)

    bench.device._step = poll
    bench.device.close()
    bench.said += [(topic, json.loads(payload)) for topic, payload, *_ in bench.wire.published()]
    del lite._marks[-3:], step

    last = [content["last"] for topic, content in bench.said if content.get("state") == "disconnected"]
    assert [sorted(each) for each in last] == [["a", "b", "c"]]
    assert all(channel[7] == channel[11] for channel in bench.device._ch)


def test_restart_is_a_goodbye_in_order(make):
    restarted = []
    bench = make(restart=lambda: restarted.append(bench.wire.sent))
    bench.connect()

    bench.wire.coming += publish(f"ether/command/{NAME}/restart", b"{}", 1)
    bench.device.poll()

    (said,) = restarted
    assert b'"state":"disconnected"' in said
    assert said.endswith(b"\xe0\0")
    assert len(bench.dialled) == 1


def test_method_called_by_hand_publishes(make):
    class Button:
        def pressed(self, often):
            return often

    lite = sys.modules["ether_lite"]
    Button.pressed = lite.ether_pub(topic="lab/button")(Button.pressed)
    target = Button()
    bench = make(target=target)
    bench.connect()

    assert target.pressed(3) == 3

    lite._marks.pop()
    assert numbers(bench.poll()) == [("lab/button", [0])]


def test_option_that_is_none_is_refused(make):
    with pytest.raises(AttributeError, match="keepalve"):
        make(keepalve=3)
