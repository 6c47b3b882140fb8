"""A device without a clock: its readings have the time at which they were taken, whatever its own clock does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ether.recorder.reader import open_recording

DEVICE = """
import json, sys, threading, time
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

DRIFT = 1.1


class Board:
    def __init__(self, client, boot):
        self.client, self.boot, self.born, self.number = client, boot, time.monotonic() - 3.0, 0
        self.asked = 0
        client.on_message = self.answer

    def ms(self):
        return int((time.monotonic() - self.born) * 1000 / DRIFT)

    def answer(self, _client, _userdata, message):
        content = {"id": json.loads(message.payload)["id"], "ms": self.ms()}
        self.client.publish("ether/pong/board", json.dumps(content))
        self.asked += 1

    def send(self, state, **more):
        content = {"state": state, "boot": self.boot, **more}
        self.client.publish("ether/status/board", json.dumps(content), 1).wait_for_publish(5)

    def live(self):
        self.send("init")
        batch = []
        while self.asked < 8:  # what it takes to know its clock
            batch.append((time.time(), self.ms(), time.time()))  # on a busy machine they are far apart
            if len(batch) == 10:  # held back, so that the receipt says little of the time
                before, ms, after = zip(*batch)
                envelope = {"by": "board", "b": self.boot, "n": self.number, "k": len(batch), "ms": ms}
                self.client.publish("board", json.dumps({"before": before, "after": after, "_ether": envelope}), 1)
                self.number += len(batch)
                batch = []
            time.sleep(0.03)
        self.send("disconnected", last={"board": self.number - 1})


client = Client(CallbackAPIVersion.VERSION2, client_id="board")
client.connect("127.0.0.1", int(sys.argv[1]))
client.subscribe("ether/command/board/ping", 1)
client.loop_start()
Board(client, "first").live()
Board(client, "second").live()  # restarted: its clock begins anew
client.disconnect()
client.loop_stop()
"""


def test_readings_of_a_board_whose_clock_drifts_and_jumps_have_the_time_at_which_they_were_taken(
    ether: Any, script: Callable[..., Any]
) -> None:
    ether.tap({"broker": "embedded"})
    url = ether.info()["broker"]["url"]

    board = script(DEVICE, url.rpartition(":")[2], name="board.py").end(40)
    assert board.code == 0, board.transcript()
    session = ether.shutdown()

    with open_recording(session.recording) as recording:
        assert recording.verify().complete
        stream = recording["board"]
        time = stream.time.view("<i8")
        before, after = (stream.values(name)[0] * 1e9 for name in ("before", "after"))
        bound = stream.time_error
        assert {row["boot"] for row in recording.clocks if row["name"] == "board"} == {"first", "second"}
        for boot in ("first", "second"):
            assert 1.08 < recording.device_clock("board", boot).rate < 1.12
    off = np.maximum(np.maximum(before - time, time - after), 0)
    assert (off <= bound).all()
    assert np.percentile(off, 90) < 20e6
