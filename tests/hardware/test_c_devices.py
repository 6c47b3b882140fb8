"""Devices of the C client in a real session: two on this machine, and two emulated boards whose serial line is their
connection. What is in the file afterwards is compared with what the devices themselves say."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hardware_c import build_devices, line_to

from ether.recorder.reader import open_recording
from ether.recorder.verify import Report, verify

pytestmark = pytest.mark.timeout(120)

BOARDS = ("m3", "uno")
TOOLS = ("gcc", "qemu-system-arm", "qemu-system-avr", "arm-none-eabi-gcc", "avr-gcc")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, missing: Any) -> dict[str, list[str]]:
    """Each device's command."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            missing(tool)
    return build_devices(tmp_path_factory.mktemp("devices"))


@pytest.fixture
def device(broker: Any, commands: dict[str, list[str]]) -> Any:
    """Start a device by its name; whatever still lives is killed in the end."""
    started = []

    def start(name: str) -> subprocess.Popen[str]:
        host = ["127.0.0.1", str(broker.port), name, "20"]
        command = commands[name] + (line_to(broker.port) if name in BOARDS else host)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Heard:
    """What is said on the wire, as far as it is heard."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.last: dict[str, Any] = {}
        """The last payload of each topic."""
        self.count: Counter[str] = Counter()
        """How many messages came on each topic."""
        self.stored: dict[tuple[str, str], int] = {}
        """By publisher and topic, up to which number the recorder says that it is on disk."""
        client.subscribe("#")

    def until(self, condition: Any, what: str, timeout: float = 20.0) -> None:
        """Listen until a condition holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}; last heard: {self.last}"
            with contextlib.suppress(queue.Empty):
                self._take(self._client.next(0.05))

    def _take(self, message: Any) -> None:
        self.count[message.topic] += 1
        self.last[message.topic] = content = json.loads(message.payload or "null")
        if message.topic.startswith("ether/stored/"):
            for topic, number in content["topics"].items():
                self.stored[message.topic.rpartition("/")[2], topic] = number

    def until_stored(self, name: str, topic: str, number: int) -> None:
        self.until(lambda: self.stored.get((name, topic), -1) >= number, f"{number} of {topic} by {name} stored")

    def tell(self, topic: str, number: int) -> tuple[float, float]:
        """Have a board take a number; return between which times it did."""
        before = time.time()
        self._client.publish(topic, str(number))
        self.until(lambda: self.last.get(f"{topic}/state", {}).get("value") == number, f"{number} on {topic}/state")
        return before, time.time()


def _check_account(report: Report, name: str, dropped: int) -> None:
    """What is missing of a device is what it says itself that it dropped, and nothing is there twice."""
    tallies = [tally for tally in report.tallies if tally.publisher == name]
    assert sum(tally.missing for tally in tallies) == dropped
    assert all(tally.from_start and tally.stored == tally.last + 1 - tally.missing for tally in tallies)


def _check_clock(recording: Path, board: str, told: list[tuple[float, float]]) -> None:
    """Each answer of a board is recorded at the time at which it was given, though its clock is 10 % too slow."""
    with open_recording(recording) as file:
        (boot,) = {row["boot"] for row in file.clocks if row["name"] == board}
        assert 1.08 < file.device_clock(board, boot).rate < 1.12
        stream = file[f"{board}/led/state"]
        assert list(stream.values("value")[0]) == list(range(len(told)))
        time_ns, bound = stream.time.view("<i8"), stream.time_error
    before, after = np.array(told).T * 1e9
    off = np.maximum(np.maximum(before - time_ns, time_ns - after), 0)
    assert (off <= bound).all()
    assert np.percentile(off[:-1], 75) < 20e6  # the last one came when the recorder had not asked for a while


def test_devices_lose_nothing_though_the_broker_restarts_and_the_recorder_comes_late(
    ether: Any, broker: Any, raw: Any, device: Any, until: Any
) -> None:
    instances = {"echo": {"class_path": "lab_parts.Echo"}}
    ether.tap({"broker": broker.url, "session": {"stop_timeout": "10s"}, "instances": instances})
    ether.start()
    heard = Heard(raw(broker.url))
    running = {name: device(name) for name in ("big", "tiny", *BOARDS)}
    for name in BOARDS:
        heard.until_stored(name, f"{name}/temp", 20)
    told = {name: [heard.tell(f"{name}/led", number) for number in range(5)] for name in BOARDS}
    for name in BOARDS:
        heard.until_stored(name, f"{name}/led/state", 4)

    recorder = psutil.Process(ether.instances()["recorder"].pid)
    recorder.suspend()
    broker.kill()
    gone = time.monotonic()
    until(lambda: time.monotonic() - gone > 2, what="an outage of two seconds")
    broker.start()
    again = Heard(raw(broker.url))
    again.until(lambda: again.count["lab/temp"] > 200, "devices that are back")
    back = time.monotonic()
    until(lambda: time.monotonic() - back > 2, what="a recorder that is late")
    recorder.resume()
    for name, topic in (("big", "lab/temp"), ("tiny", "lab/temp"), ("m3", "m3/temp"), ("uno", "uno/temp")):
        number = heard.stored[name, topic]
        again.until(
            lambda n=name, t=topic, at=number: again.stored.get((n, t), -1) > at + 10, f"what {name} says again"
        )
    for name in BOARDS:
        told[name].append(again.tell(f"{name}/led", 5))  # it hears again
        again.until_stored(name, f"{name}/led/state", 5)
    dropped = {name: again.last[f"ether/status/{name}"].get("counts", {}).get("dropped", 0) for name in BOARDS}
    for name in BOARDS:
        running[name].kill()  # power-off, of both at once: the small one drops on while it lives
    for name in BOARDS:
        again.until(lambda n=name: again.last[f"ether/status/{n}"]["state"] == "lost", f"the will of {name}")
    for name in ("big", "tiny"):
        running[name].send_signal(signal.SIGTERM)
        said, _ = running[name].communicate(timeout=20)
        assert running[name].returncode == 0, said
        dropped[name] = int(said.split(", ")[1].split()[0])
    summary = ether.shutdown()

    report = verify(summary.recording)
    assert (report.damage, summary.problems) == ([], ())
    assert dropped["big"] == dropped["m3"] == 0 < dropped["tiny"]
    for name in running:
        _check_account(report, name, dropped[name])
    for name in BOARDS:
        _check_clock(summary.recording, name, told[name])
