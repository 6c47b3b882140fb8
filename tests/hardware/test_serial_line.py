"""The line protocol: its vectors, each piece by piece, and what damaged input does."""

import contextlib
import json
import logging
import os
import pty
import random
import shutil
import subprocess
import tty
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hardware_vectors import payload_of, vectors

from ether import codecs, topics
from ether.errors import PayloadError, TopicError
from ether.model import About, Reading, State
from ether.serial_gateway import SerialBoard
from ether.serial_line import LONGEST, Lines, read_line, write_line

SERIAL = Path(__file__).parents[2] / "hardware" / "serial"
PARTS = Path(__file__).parents[1] / "parts"
VECTORS = vectors("serial")
INCOMING = [each for each in VECTORS if each["direction"] == "in"]
OUTGOING = [each for each in VECTORS if each["direction"] == "out"]
KINDS = {"publish", "publishes", "subscribes", "class", "version", "remark", "rejected"}


class Voice:
    """What a board does with its instance, written down."""

    name = "bench1"

    def __init__(self):
        self.member = SimpleNamespace(counts=Counter(), state=State.READY)
        self.published = []
        self.subscribed = {}
        self.about = About(self.name)

    def rest(self, state, detail=""):
        pass

    def publish(self, topic, value):
        self.published.append([topics.check_topic(topic), codecs.decode(codecs.encode(value))[0]])

    def describe(self, **changes):
        self.about = About(**{**{key: getattr(self.about, key) for key in About.__slots__}, **changes})

    def listen(self, method_name, fields):
        self.subscribed |= fields

    def later(self, function, *arguments):
        function(*arguments)


class Port:
    """What a board is sent, written down."""

    def __init__(self):
        self.written = b""

    def write(self, line):
        self.written += line


@pytest.fixture
def voice():
    return Voice()


@pytest.fixture
def board(voice):
    """A board that has just sent the end of a line."""
    board = SerialBoard("nowhere")
    board.__ether_adopted__(voice)
    board.start()
    board._first = False
    return board


def by_name(vector):
    return vector["name"]


@pytest.mark.parametrize("size", [1000, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("vector", INCOMING, ids=by_name)
def test_what_a_line_does(vector, size, board, voice, caplog):
    caplog.set_level(logging.INFO)
    does, payload = vector["does"], payload_of(vector)
    assert does.keys() <= KINDS
    board._first = vector.get("opening", False)

    for start in range(0, len(payload), size):
        board._take(payload[start : start + size])

    assert voice.published == does.get("publish", [])
    assert voice.member.counts["rejected"] == does.get("rejected", 0)
    if "publishes" in does:
        published = {topic: {"fields": {}} for topic, _ in voice.published}
        assert voice.about.publishes == published | does["publishes"]
    assert voice.subscribed == does.get("subscribes", {})
    assert (voice.about.class_name, voice.about.version) == (does.get("class", ""), does.get("version", ""))
    remarks = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert remarks == ([f"bench1: {does['remark']}"] if "remark" in does else [])


@pytest.mark.parametrize("vector", OUTGOING, ids=by_name)
def test_what_is_written_to_a_board(vector, board):
    board._serial = port = Port()
    board._checked = vector.get("checked", False)
    message = vector["message"].encode()
    command = topics.parse(vector["topic"])

    if command is not None:
        board._command(command.verb, message)
    else:
        board.send(Reading(vector["topic"], codecs.decode(message)[0]))

    assert port.written == payload_of(vector)


def test_of_garbage_the_first_line_is_told_and_the_rest_counted(board, voice, caplog):
    board._take(b"\xff\xfe\x80\n" * 50)

    assert voice.member.counts["rejected"] == 50
    [record] = caplog.records
    assert "is it at 115200 baud?" in record.getMessage()


def test_a_line_without_an_end_is_counted_once_and_kept_nowhere(board, voice):
    for _ in range(100):
        board._take(b"x" * 1000)
    board._take(b"\ntemp 1\n")

    assert voice.member.counts["rejected"] == 1
    assert voice.published == [["bench1/temp", {"value": 1}]]


def test_lines_too_long_within_a_piece():
    lines = Lines()

    assert lines.take(b"a" * (LONGEST + 1) + b"\nb\nc") == ([b"b"], 1)
    assert lines.take(b"\n" + b"d" * LONGEST + b"\n") == ([b"c", b"d" * LONGEST], 0)


def test_the_options_say_topics_units_and_what_the_board_hears(voice):
    board = SerialBoard(
        "nowhere", topics={"temp": "lab/oven"}, units={"temp": "degC", "env.hum": "%", ".x": "mm"}, subscribes=["led"]
    )
    board.__ether_adopted__(voice)
    board.start()

    board._take(b'\nether {"publishes":{"temp":{"fields":{"value":{"range":[0,9],"unit":"K"}}},"env":{}}}\ntemp 1\n')

    assert voice.published == [["lab/oven", {"value": 1}]]
    assert voice.about.publishes == {
        "lab/oven": {"fields": {"value": {"range": [0, 9], "unit": "K"}}},  # the board knows better
        "bench1/env": {"fields": {"hum": {"unit": "%"}}},
        "bench1": {"fields": {"x": {"unit": "mm"}}},
    }
    assert voice.subscribed == {"bench1/led": {}}


def test_a_description_that_nobody_asked_for_means_that_the_board_has_started_again(board, voice):
    board._take(b"ether {}\n")
    board._take(b"ether {}\n")

    assert voice.member.counts["reboots"] == 1


def test_another_boot_id_means_that_the_board_has_started_again_and_the_same_one_does_not(board, voice):
    for boot in "aaabb":
        board._take(b'ether {"boot":"%s"}\n' % boot.encode())

    assert voice.member.counts["reboots"] == 1


def test_what_is_no_json_cannot_go_to_a_board():
    with pytest.raises(PayloadError, match="led: a bytes cannot go to a board"):
        write_line("led", b"\0", checked=False)


def test_a_topic_that_is_two_words_cannot_go_to_a_board():
    with pytest.raises(PayloadError, match="does not fit into a line"):
        write_line("lab/a b c", 1, checked=False)
    with pytest.raises(PayloadError, match="does not fit into a line"):
        write_line("led 1\nmotor", 1, checked=False)


def test_options_that_cannot_be_topics_are_refused():
    with pytest.raises(TopicError, match="reserved"):
        SerialBoard("nowhere", topics={"temp": "ether/status/oven"})
    with pytest.raises(TopicError, match="stands alone"):
        SerialBoard("nowhere", subscribes=["led#"])


def test_100_000_damaged_lines_do_no_harm():
    """Whatever comes, a line is read or rejected."""
    chance = random.Random(7)
    seeds = [payload_of(vector) for vector in INCOMING]
    read = 0
    for _ in range(100_000):
        line = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(line) + 1)
            line[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        try:
            said = read_line(bytes(line))
        except PayloadError:
            continue
        read += said is not None
        if said is not None and said.description is None and said.remark is None:
            json.dumps(said.value)
    assert 0 < read < 100_000


def test_the_arduino_sketch_says_and_obeys_what_the_protocol_has(board, voice, missing, tmp_path):
    if shutil.which("g++") is None:
        missing("g++")
    sketch, program = SERIAL / "bench" / "bench.ino", tmp_path / "bench"
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(
        ["g++", "-std=c++17", *warnings, "-I", PARTS / "arduino", "-include", "Arduino.h", "-x", "c++", sketch,
         "-o", program], check=True,
    )  # fmt: skip
    board._serial = port = Port()
    board.send(Reading("bench1/led", {"value": True}))
    board._write("ether", ...)
    board.send(Reading("bench1/led", {"value": False}))

    done = subprocess.run([program], input=port.written, capture_output=True, timeout=10, check=True)
    board._take(done.stdout)

    assert done.stderr == b"LED on\nLED off\n"
    assert done.stdout.count(b"ether {") == 2  # at the start, and as it was asked
    assert voice.published[0] == ["bench1/temp", {"value": 23.44}]
    assert voice.member.counts["rejected"] == 0
    assert voice.about.publishes == {"bench1/temp": {"fields": {"value": {"unit": "degC"}}, "every": 1}}
    assert voice.subscribed == {"bench1/led": {"value": {"type": "boolean"}}}


def test_the_micropython_example_says_and_obeys_what_the_protocol_has(board, voice, micropython, until, caplog):
    caplog.set_level(logging.INFO)
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    env = {**os.environ, "MICROPYPATH": f"{PARTS / 'pico'}:.frozen"}
    running = subprocess.Popen([micropython, SERIAL / "main.py"], stdin=theirs, stdout=theirs, env=env)
    board._serial = SimpleNamespace(write=lambda line: os.write(ours, line))
    board.send(Reading("bench1/led", {"value": True}))
    board._write("ether", ...)
    board.send(Reading("bench1/led", {"value": False}))

    def obeyed():
        with contextlib.suppress(BlockingIOError):
            board._take(os.read(ours, 1000))
        return "bench1: led false" in caplog.messages

    until(obeyed, 15.0)
    running.kill()
    running.wait()
    os.close(ours)
    os.close(theirs)

    remarks = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert remarks == [f"bench1: {each}" for each in ("LED on", "led true", "LED off", "led false")]
    assert voice.published[0] == ["bench1/temp", {"value": pytest.approx(27.6, abs=0.1)}]
    assert voice.member.counts["rejected"] == 0
    assert voice.about.publishes == {"bench1/temp": {"fields": {"value": {"unit": "degC"}}, "every": 1}}
    assert voice.subscribed == {"bench1/led": {"value": {"type": "boolean"}}}
