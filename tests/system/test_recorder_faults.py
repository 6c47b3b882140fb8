"""The recorder as a process, over a real Mosquitto with its default limits."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest

from ether import clock, codecs, process, topics
from ether.model import Envelope, Message
from ether.mqtt import Connection, Receipt
from ether.recorder.entries import journal_folder
from ether.recorder.parts import part_path, parts_of
from ether.recorder.reader import open_recording
from ether.recorder.seal import recover
from ether.recorder.verify import verify

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
if MOSQUITTO is None and os.environ.get("ETHER_TEST_REQUIRE_ALL") != "1":
    pytest.skip("MOSQUITTO IS NOT INSTALLED: the recorder is not tested over a real broker", allow_module_level=True)


def wait_for(found: Callable[[], Any], what: str, within: float = 20.0) -> Any:
    deadline = clock.monotonic() + within
    while not (result := found()):
        assert clock.monotonic() < deadline, f"{what}: not within {within:g} s"
        time.sleep(0.01)
    return result


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    assert MOSQUITTO is not None, "mosquitto is not installed"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
        "max_queued_messages 0\nmax_inflight_messages 0\n"
    )
    child = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listening() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    wait_for(listening, "mosquitto listening")
    yield f"mqtt://127.0.0.1:{port}"
    child.terminate()
    child.wait()


class Bench:
    """A recorder under test, and a client that watches and publishes."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.file = folder / "with space µ" / "growth.h5"
        self.journal = journal_folder(self.file)
        self.status: dict[str, Any] = {}
        self.stored: dict[str, dict[str, int]] = {}
        self.missing: dict[str, list[list[int]]] = {}
        self.child: subprocess.Popen[bytes] | None = None
        self.client = Connection(url, "test")
        self.client.on_message = self._hear
        self.client.subscribe([topics.status("recorder"), topics.stored("+")])
        self.client.open(10)

    def _hear(self, message: Message, _receipt: Receipt | None) -> None:
        content = json.loads(message.payload or b"{}")
        if message.topic == topics.status("recorder"):
            self.status = content
            return
        self.stored.setdefault(topics.parse(message.topic).name, {}).update(content["topics"])  # type: ignore[union-attr]
        self.missing.update(content.get("missing", {}))

    def start(self, **orders: Any) -> None:
        before = self.status.get("boot")
        self.child = process.spawn("ether.recorder.ingest", "recorder")
        process.give_orders(
            self.child,
            {
                "url": self.url, "namespace": "", "file": str(self.file), "topics": ["#"], "exclude": [],
                "session": {"id": "s1", "name": "growth"}, "log_level": "WARNING",
                "provenance": {"config": "record: on\npassword: hunter2\n", "argv": ["ether", "up"]}, **orders,
            },
        )  # fmt: skip
        wait_for(lambda: self.state() == "ready" and self.status.get("boot") != before, "the recorder being ready")

    def keeps_up(self, number: int) -> bool:
        return self.state() == "alert" or number - self.stored.get("camera", {}).get("lab/camera", 0) < 200

    def state(self) -> str:
        return str(self.status.get("state"))

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()
        assert self.child.stdin is not None
        self.child.stdin.close()

    def stop(self) -> int:
        assert self.child is not None
        self.client.publish(topics.command("recorder", "stop"), b"{}")
        return self.ended()

    def ended(self, within: float = 30.0) -> int:
        assert self.child is not None
        code = self.child.wait(within)
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        return code

    def publish(self, topic: str, number: int, by: str = "oven", boot: str = "b1") -> None:
        envelope = Envelope(by, boot, number, clock.now())
        self.client.publish(topic, codecs.encode({"value": number / 2}, envelope))

    def say(self, name: str, state: str, boot: str = "b1", **more: Any) -> None:
        content = {"state": state, "boot": boot, **more}
        self.client.publish(topics.status(name), json.dumps(content).encode(), retain=True)

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.kill()
        self.client.close(1)


@pytest.fixture
def bench(broker: str, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(broker, tmp_path)
    yield bench
    bench.close()


def test_a_clean_recording_is_complete_and_leaves_nothing_behind(bench: Bench) -> None:
    bench.start()
    bench.say("oven", "init")
    for number in range(2000):
        bench.publish(f"lab/oven/{number % 4}", number // 4)
    wait_for(lambda: bench.stored.get("oven", {}) == {f"lab/oven/{n}": 499 for n in range(4)}, "confirmation")
    bench.say("oven", "disconnected", last={f"lab/oven/{n}": 499 for n in range(4)})

    assert bench.stop() == 0

    report = verify(bench.file)
    assert (report.complete, report.damage, report.missing) == (True, [], 0)
    assert [tally.received for tally in report.tallies] == [500] * 4
    assert all(tally.from_start and tally.announced == 499 for tally in report.tallies)
    assert [path.name for path in bench.file.parent.iterdir()] == ["growth.h5"]
    wait_for(lambda: bench.state() == "disconnected", "the goodbye")
    with open_recording(bench.file) as recording:
        assert recording["lab/oven/3"]["value"].tolist() == [n / 2 for n in range(500)]
        assert recording.provenance["config"] == "record: on\npassword: ***\n"
        assert [change.status.state for change in recording.status if change.name == "oven"] == ["init", "disconnected"]


def test_the_file_opens_plainly_while_it_is_recorded(bench: Bench) -> None:
    bench.start()
    stop = threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            bench.publish("lab/oven", number)
            number += 1
            stop.wait(0.001)

    thread = threading.Thread(target=load)
    thread.start()
    seen: list[int] = []

    def grown() -> bool:
        if bench.file.exists():
            with h5py.File(bench.file) as file:
                if "lab" in file["data"]:
                    group = file["data/lab/oven/readings"]
                    lengths = {len(group[name]) for name in ("time", "value", "number", "message")}
                    assert len(lengths) == 1
                    seen.append(lengths.pop())
        return len(set(seen)) >= 3

    try:
        wait_for(grown, "three publications")
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)
    assert bench.stop() == 0


def test_kill_9_under_load_loses_nothing_and_stores_everything_once(bench: Bench) -> None:
    bench.start()
    bench.say("oven", "init")
    total = 6000
    progress = threading.Event()

    def load() -> None:
        for number in range(total):
            bench.publish(f"lab/oven/{number % 3}", number // 3)
            if number % 20 == 19:
                progress.wait(0.005)

    thread = threading.Thread(target=load)
    thread.start()
    for received in (800, 2500, 4000):
        wait_for(lambda n=received: sum(bench.stored.get("oven", {}).values()) > n, f"{received} confirmed")
        bench.kill()
        bench.start()
    thread.join()
    wait_for(lambda: list(bench.stored["oven"].values()) == [total // 3 - 1] * 3, "all confirmed")
    bench.say("oven", "disconnected", last={f"lab/oven/{n}": total // 3 - 1 for n in range(3)})

    assert bench.stop() == 0

    report = verify(bench.file)
    assert report.damage == []
    assert [(tally.stored, tally.holes) for tally in report.tallies] == [(total // 3, [])] * 3
    assert report.complete
    with open_recording(bench.file) as recording:
        for n in range(3):
            assert sorted(recording[f"lab/oven/{n}"].number.tolist()) == list(range(total // 3))


def test_kill_9_around_the_roll_of_parts_loses_nothing(bench: Bench) -> None:
    rotate = {"size": 300_000}
    bench.start(rotate=rotate)
    bench.say("oven", "init")
    total, published = 6600, threading.Event()

    def load() -> None:
        for number in range(total):
            bench.publish(f"lab/oven/{number % 3}", number // 3)
            if number % 20 == 19:
                published.wait(0.01)

    def rolled(part: int) -> bool:
        return (bench.journal / f"work-{part:04d}.h5").exists()

    def sealing(part: int) -> bool:
        return part_path(bench.file, part).exists() and (bench.journal / "sealed.h5").exists()

    def sealed(part: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return int(json.loads((bench.journal / "resume.json").read_text())["part"]) > part
        return False

    thread = threading.Thread(target=load)
    thread.start()
    for at in (partial(rolled, 2), partial(sealing, 3), partial(sealed, 3)):
        wait_for(at, "the moment of the kill", 60)
        bench.kill()
        bench.start(rotate=rotate)
    thread.join()
    wait_for(lambda: list(bench.stored["oven"].values()) == [total // 3 - 1] * 3, "all confirmed", 60)
    bench.say("oven", "disconnected", last={f"lab/oven/{n}": total // 3 - 1 for n in range(3)})

    assert bench.stop() == 0

    report = verify(bench.file)
    assert report.damage == []
    assert [(tally.stored, tally.holes) for tally in report.tallies] == [(total // 3, [])] * 3
    assert report.complete
    assert report.parts >= 4
    assert {path.name for path in bench.file.parent.iterdir()} == {path.name for path in parts_of(bench.file).values()}
    with open_recording(bench.file) as recording:
        for n in range(3):
            assert sorted(recording[f"lab/oven/{n}"].number.tolist()) == list(range(total // 3))


def test_what_is_left_after_a_kill_can_be_recovered_without_the_session(bench: Bench) -> None:
    bench.start()
    for number in range(300):
        bench.publish("lab/oven", number)
    wait_for(lambda: bench.stored.get("oven", {}).get("lab/oven") == 299, "confirmation")
    bench.kill()

    assert recover(bench.file) is True
    assert recover(bench.file) is False

    report = verify(bench.file)
    assert (report.state, report.complete, report.missing, report.damage) == ("recovered", False, 0, [])
    assert len(open_recording(bench.file)["lab/oven"]) == 300


def test_holes_are_listed_exactly(bench: Bench) -> None:
    bench.start()
    bench.say("oven", "init")
    dropped = {0, 5, 6, 7, 42, 98, 99}
    for number in range(100):
        if number not in dropped:
            bench.publish("lab/oven", number)
    for number in (50, 51, 50):
        bench.publish("lab/oven", number)
    bench.say("oven", "disconnected", last={"lab/oven": 99})
    wait_for(lambda: bench.missing.get("lab/oven"), "the recorder asking for what is missing")

    assert bench.missing["lab/oven"] == [[0, 0], [5, 7], [42, 42], [98, 99]]
    assert bench.stop() == 0
    (tally,) = verify(bench.file).tallies
    assert tally.holes == [[0, 0], [5, 7], [42, 42], [98, 99]]
    assert (tally.received, tally.stored, tally.duplicates) == (93, 93, 3)
    assert verify(bench.file).complete is False
    assert [(gap["first"], gap["last"]) for gap in open_recording(bench.file).gaps] == [
        (0, 0),
        (5, 7),
        (42, 42),
        (98, 99),
    ]


def test_a_second_attempt_fills_a_hole(bench: Bench) -> None:
    bench.start()
    bench.say("oven", "init")
    for number in (0, 1, 4):
        bench.publish("lab/oven", number)
    wait_for(lambda: bench.missing.get("lab/oven"), "the recorder asking for what is missing")
    for number in (2, 3, 3):
        bench.publish(topics.resend("lab/oven"), number)
    wait_for(lambda: bench.stored["oven"].get("lab/oven") == 4, "confirmation of all")

    assert bench.stop() == 0
    (tally,) = verify(bench.file).tallies
    assert (tally.holes, tally.stored, tally.duplicates) == ([], 5, 1)


def test_a_retained_replay_is_no_reading(bench: Bench) -> None:
    bench.client.publish("lab/setpoint", b'{"celsius": 37}', retain=True)
    bench.say("oven", "ready")
    bench.start()
    bench.client.publish("lab/setpoint", b'{"celsius": 38}', retain=True)
    bench.publish("lab/oven", 1000)
    wait_for(lambda: bench.stored.get("oven", {}).get("lab/oven") == 1000, "confirmation")

    assert bench.stop() == 0
    with open_recording(bench.file) as recording:
        assert recording["lab/setpoint"]["celsius"].tolist() == [38]
        assert [(change.name, change.replay) for change in recording.status if change.name == "oven"] == [
            ("oven", True)
        ]
    report = verify(bench.file)
    assert report.complete
    assert [(tally.first, tally.from_start) for tally in report.tallies if tally.publisher] == [(1000, False)]


@pytest.mark.parametrize("way", ["SIGTERM", "orphaned"])
def test_it_ends_in_order_when_terminated_or_orphaned(bench: Bench, way: str) -> None:
    bench.start()
    for number in range(200):
        bench.publish("lab/oven", number)
    wait_for(lambda: bench.stored.get("oven", {}).get("lab/oven") == 199, "confirmation")
    assert bench.child is not None
    assert bench.child.stdin is not None
    bench.child.send_signal(signal.SIGINT)  # the parent decides, not the terminal

    bench.child.send_signal(signal.SIGTERM) if way == "SIGTERM" else bench.child.stdin.close()

    assert bench.ended(within=8) == 0
    report = verify(bench.file)
    assert (report.state, report.missing, report.damage) == ("sealed", 0, [])
    assert len(report.unproven) == 1  # the oven went on, and nobody heard how far
    assert not report.complete


def writers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = []
    for task in children.parent.parent.iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the writer through /proc")
def test_a_killed_writer_is_started_again(bench: Bench) -> None:
    bench.start()
    for number in range(1000):
        bench.publish("lab/oven", number)
        if number % 300 == 150:
            assert bench.child is not None
            (writer,) = wait_for(lambda: writers_of(bench.child.pid), "a writer")  # type: ignore[union-attr]
            os.kill(writer, signal.SIGKILL)
            wait_for(lambda old=writer: old not in writers_of(bench.child.pid), "its end")  # type: ignore[union-attr]

    assert bench.stop() == 0
    report = verify(bench.file)
    assert (report.complete, report.tallies[0].stored) == (True, 1000)
    assert any("writer died" in line.message for line in open_recording(bench.file).log)


def test_excluded_topics_are_not_recorded(bench: Bench) -> None:
    bench.start(topics=["lab/#"], exclude=["lab/video/#"])
    for topic in ("lab/oven", "lab/video/1", "other"):
        bench.publish(topic, 0)
    wait_for(lambda: bench.stored.get("oven"), "confirmation")

    assert bench.stop() == 0
    assert list(open_recording(bench.file)) == ["lab/oven"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_an_alarm_and_recording_resumes_by_itself(broker: str, small_disk: Path) -> None:
    bench = Bench(broker, small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(246 << 20))
    try:
        bench.start(max_segment_bytes=1 << 20)
        number = 0
        while bench.state() != "alert":
            envelope = Envelope("camera", "b1", number, clock.now())
            bench.client.publish("lab/camera", codecs.encode({"frame": os.urandom(20_000)}, envelope))
            number += 1
            # Not far ahead of the disk: what waits elsewhere needs room there once it is free again.
            wait_for(partial(bench.keeps_up, number), "the disk taking it, or an alarm")
            assert number < 5000
        assert "disk is full" in bench.status["detail"] or "writer" in bench.status["detail"]
        ballast.unlink()
        wait_for(lambda: bench.stored.get("camera", {}).get("lab/camera") == number - 1, "all being stored", 30)
        wait_for(lambda: bench.state() == "ready", "the alarm being over", 60)
        assert bench.stop() == 0
        report = verify(bench.file)
        assert (report.complete, report.tallies[0].stored) == (True, number)
    finally:
        bench.close()


def test_below_the_reserve_publishers_keep_what_they_have_and_recording_resumes(broker: str, small_disk: Path) -> None:
    bench = Bench(broker, small_disk)
    alarms: list[list[dict[str, Any]]] = []
    hear = bench.client.on_message

    def listen(message: Message, receipt: Receipt | None) -> object:
        if message.topic == topics.alarm("recorder"):
            alarms.append(json.loads(message.payload)["alarms"] if message.payload else [])
            return None
        return hear(message, receipt)

    bench.client.on_message = listen
    bench.client.subscribe([topics.alarm("recorder")])
    try:
        bench.start(max_segment_bytes=1 << 20, reserve=64 << 20)
        bench.publish("lab/oven", 0)
        wait_for(lambda: bench.stored.get("oven", {}).get("lab/oven") == 0, "the first being stored")
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(200 << 20))
        number = 0
        while bench.state() != "alert":
            number += 1
            bench.publish("lab/oven", number)
            wait_for(
                lambda n=number: bench.state() == "alert" or bench.stored["oven"]["lab/oven"] == n, "storing or alarm"
            )
        stored = bench.stored["oven"]["lab/oven"]
        wait_for(lambda: alarms and "nothing is stored" in str(alarms[-1]), "the alarm", 30)

        assert stored < number
        assert "reserve" in bench.status["detail"]
        assert [(each["kind"], "67.1 MB are kept as a reserve" in each["detail"]) for each in alarms[-1]] == [
            ("disk", True)
        ]
        ballast.unlink()
        wait_for(lambda: bench.stored["oven"]["lab/oven"] == number, "all being stored", 30)
        wait_for(lambda: bench.state() == "ready" and alarms[-1] == [], "the alarm being over", 30)
        assert bench.stop() == 0
        report = verify(bench.file)
        assert (report.complete, report.tallies[0].stored) == (True, number + 1)
    finally:
        bench.close()
