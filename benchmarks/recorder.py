"""The recorder against the least that could be done, with a goal for each figure: ``python benchmarks/recorder.py``.

    python benchmarks/recorder.py [--seconds 5] [--rounds 3] [--rows 10000000] [--case frames …]

Ratios are medians of rounds in which both sides take turns, since machines are noisy. Each line says PASS or MISSED,
how far the figure is from its goal (above 1x: met), and the load of the machine. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import paho.mqtt.client as paho

from ether import brokers, clock, codecs, ether, ether_pub, ether_start, process, topics
from ether.brokers.child import free_port
from ether.journal import Journal
from ether.model import Envelope, Message
from ether.mqtt import Connection, Receipt
from ether.recorder.entries import journal_folder
from ether.recorder.reader import open_recording
from ether.recorder.verify import verify

FRAME_BYTES = 1_000_000
COMMIT_BYTES = 4 << 20
"""The recorder commits so much at once at most."""
ROTATE = {"size": 256_000_000}
"""As a session does by default: parts are sealed while the next is recorded."""
MOST_BYTES = 4 << 30
"""A disk is not to be filled, however fast it is."""
FAR_S = 120.0
Publish = Callable[[Connection, float], dict[str, int]]


class Figure(NamedTuple):
    """One line of the result."""

    what: str
    value: float
    unit: str
    bound: float
    at_most: bool = False
    """Otherwise at least."""

    def __str__(self) -> str:
        if self.at_most:
            ratio = self.bound / self.value if self.value else float("inf")
        else:
            ratio = self.value / self.bound
        word = "PASS" if ratio >= 1 else "MISSED"
        goal = f"{'at most' if self.at_most else 'at least'} {self.bound:,g}"
        load = f"load {os.getloadavg()[0]:.1f}"
        return f"{word:6} {self.what:52} {self.value:>13,.4g} {self.unit:11} {goal:19} {ratio:5.2f}x  {load}"


class Size(NamedTuple):
    """How much is to be measured."""

    seconds: float
    rounds: int
    rows: int


# --- the journal


def journal_rate(folder: Path, head: bytes, body: bytes, together: int, seconds: float) -> float:
    """Return records a second, with a commit every 50 ms or 4 MB."""
    with Journal(folder) as journal:

        def take() -> None:
            for _ in range(together):
                journal.append(head, body)

        return _rate(take, journal.commit, together, together * (len(head) + len(body)), seconds)


def bare_rate(folder: Path, head: bytes, body: bytes, together: int, seconds: float) -> float:
    """Return records a second of a loop that only writes and syncs: no checksum, no number, no preallocation."""
    folder.mkdir()
    fd, pending = os.open(folder / "bare", os.O_RDWR | os.O_CREAT), []

    def take() -> None:
        for _ in range(together):
            if len(body) < 1000:
                pending.append(head + body)
            else:
                pending.extend((head, body))

    def commit() -> None:
        for first in range(0, len(pending), 1000):
            os.writev(fd, pending[first : first + 1000])
        os.fdatasync(fd)
        pending.clear()

    try:
        return _rate(take, commit, together, together * (len(head) + len(body)), seconds)
    finally:
        os.close(fd)


def _rate(take: Callable[[], None], commit: Callable[[], Any], count: int, size: int, seconds: float) -> float:
    """Return records a second where `take` takes `count` of them, of `size` bytes together."""
    taken = pending = 0
    committed = started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds and taken * size < MOST_BYTES:
        take()
        taken += 1
        pending += size
        if now - committed >= 0.05 or pending >= COMMIT_BYTES:
            commit()
            committed, pending = now, 0
    commit()
    return taken * count / (time.perf_counter() - started)


def versus_bare(folder: Path, size: Size, head: bytes, body: bytes, together: int) -> tuple[float, float]:
    """Return the journal's records a second, and its ratio to the bare loop."""
    ours, ratios = [], []
    for round_ in range(size.rounds):
        place = folder / f"journal-{round_}"
        ours.append(journal_rate(place / "ours", head, body, together, size.seconds))
        shutil.rmtree(place / "ours")
        ratios.append(ours[-1] / bare_rate(place / "bare", head, body, together, size.seconds))
        shutil.rmtree(place)
    return statistics.median(ours), statistics.median(ratios)


def journal(folder: Path, size: Size) -> Iterator[Figure]:
    """Records of 150 bytes, commits every 50 ms."""
    rate, ratio = versus_bare(folder, size, b"h" * 20, b"x" * 130, 100)
    yield Figure("journal, 150-byte records, 50 ms commits", rate, "records/s", 200_000)
    yield Figure("  of a bare writev + fdatasync loop", ratio, "x", 0.5)


# --- the recorder over a broker


class Recorder:
    """A recorder process as a session starts it, and what it confirms."""

    def __init__(self, url: str, file: Path, **orders: Any) -> None:
        self.file = file
        self.confirmed: dict[str, int] = {}
        self.heard: list[tuple[float, dict[str, int]]] = []
        self._ready = threading.Event()
        self._watcher = Connection(url, "watcher")
        self._watcher.on_message = self._hear
        self._watcher.subscribe([topics.status("recorder"), topics.stored("bench")])
        self._watcher.open(10)
        self.child = process.spawn("ether.recorder.ingest", "recorder")
        given = {"url": url, "limits": asdict(brokers.Mosquitto.takes), "file": str(file), "topics": ["#"]}
        process.give_orders(self.child, {**given, "log_level": "WARNING", "rotate": ROTATE, **orders})
        assert self._ready.wait(FAR_S), "the recorder is not ready"

    def _hear(self, message: Message, _: Receipt | None) -> None:
        if message.topic == topics.status("recorder"):
            if b'"ready"' in message.payload:
                self._ready.set()
            return
        said = codecs.decode(message.payload)[0]["topics"]
        self.confirmed.update(said)
        self.heard.append((time.perf_counter(), said))

    def await_all(self, last: dict[str, int]) -> float:
        """Return when everything up to these numbers was confirmed."""
        deadline = time.perf_counter() + FAR_S
        while any(self.confirmed.get(topic, -1) < number for topic, number in last.items()):
            assert time.perf_counter() < deadline, "not everything is confirmed"
            time.sleep(0.002)
        return self.heard[-1][0]

    def end(self) -> float:
        """End it; return when the file was finished and proven."""
        self._watcher.publish(topics.command("recorder", "stop"), b"{}")
        assert self.child.wait(600) == 0
        ended = time.perf_counter()
        assert self.child.stdin is not None
        self.child.stdin.close()
        self._watcher.close(1)
        assert not journal_folder(self.file).exists()
        return ended

    def usage(self) -> tuple[float, float]:
        """Return CPU seconds and proportional memory in MB of it and its writer."""
        pids = [self.child.pid]
        for task in Path(f"/proc/{self.child.pid}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
        ticks, memory = 0, 0.0
        for pid in pids:
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[11:13]))
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            memory += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        return ticks / os.sysconf("SC_CLK_TCK"), memory


@contextmanager
def broker(kind: str) -> Iterator[str]:
    """Yield the URL of a broker as a session starts it."""
    with brokers.choose(kind) as found:
        yield found.url


def _publisher(publish: Publish, url: str, seconds: float, pipe: Any) -> None:
    connection = Connection(url, "publisher")
    connection.open(10)
    pipe.send(time.perf_counter())  # CLOCK_MONOTONIC: one clock for all processes
    last = publish(connection, seconds)
    connection.flush(FAR_S)
    connection.close(1)
    pipe.send(last)


class Publisher:
    """A process that publishes for some seconds."""

    def __init__(self, publish: Publish, url: str, seconds: float) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._child = multiprocessing.get_context("spawn").Process(
            target=_publisher, args=(publish, url, seconds, theirs)
        )
        self._child.start()
        self.began: float = self._pipe.recv()

    def end(self) -> dict[str, int]:
        """Return topic to its last number, once all is sent."""
        last: dict[str, int] = self._pipe.recv()
        self._child.join()
        return last


def publish_fields(connection: Connection, seconds: float) -> dict[str, int]:
    """JSON of 5 fields on 20 topics, as fast as the broker takes them."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for topic in range(20):
            fields = {"temperature": 20.5 + number, "pressure": 1013.25, "count": number, "on": True, "name": "oven"}
            connection.publish(f"bench/{topic}", codecs.encode(fields, Envelope("bench", "b", number, clock.now())))
        number += 1
    return {f"bench/{topic}": number - 1 for topic in range(20)}


def publish_batches(connection: Connection, seconds: float) -> dict[str, int]:
    """Batches of 1,000 readings of one float, on 4 topics."""
    values = np.random.default_rng(4).normal(20, 1, (50, 1000)).round(3)
    end, sent = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for topic in range(4):
            envelope = Envelope("bench", "b", sent * 1000, clock.now(), k=1000, dt=0.001)
            connection.publish(f"bench/{topic}", codecs.encode({"value": values[sent % 50]}, envelope))
        sent += 1
    return {f"bench/{topic}": sent * 1000 - 1 for topic in range(4)}


def publish_frames(connection: Connection, seconds: float) -> dict[str, int]:
    """Frames of 1 MB, which do not compress."""
    frames = np.random.default_rng(4).integers(0, 255, (8, 1000, FRAME_BYTES // 1000), "u1")
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        envelope = Envelope("bench", "b", number, clock.now())
        connection.publish("bench/camera", codecs.encode({"image": frames[number % 8]}, envelope))
        number += 1
    return {"bench/camera": number - 1}


def publish_paced(connection: Connection, seconds: float) -> dict[str, int]:
    """A reading every 5 ms, with the moment in it."""
    begin = time.perf_counter()
    for number in range(count := int(seconds * 200)):
        time.sleep(max(0.0, begin + number / 200 - time.perf_counter()))
        envelope = Envelope("bench", "b", number, time.perf_counter())
        connection.publish("bench/paced", codecs.encode({"value": number}, envelope))
    return {"bench/paced": count - 1}


def publish_widely(connection: Connection, seconds: float) -> dict[str, int]:
    """1,000 topics, each once a second, evenly."""
    begin = time.perf_counter()
    for number in range(count := int(seconds)):
        for topic in range(1000):
            time.sleep(max(0.0, begin + number + topic / 1000 - time.perf_counter()))
            envelope = Envelope("bench", "b", number, clock.now())
            connection.publish(f"bench/{topic}", codecs.encode({"value": number / 8}, envelope))
    return {f"bench/{topic}": count - 1 for topic in range(1000)}


class Flow(NamedTuple):
    """What came of one recording."""

    count: int
    """Numbers that were published."""
    durable_s: float
    """From the first message until all was confirmed."""
    finished_s: float
    """From the first message until the file was finished and proven."""


def record(kind: str, folder: Path, publish: Publish, seconds: float) -> Flow:
    """Record what a publisher sends; nothing may be missing."""
    file = folder / f"{publish.__name__}-{time.monotonic_ns()}.h5"
    with broker(kind) as url:
        recorder = Recorder(url, file)
        publisher = Publisher(publish, url, seconds)
        last = publisher.end()
        durable = recorder.await_all(last)
        finished = recorder.end()
    count = sum(number + 1 for number in last.values())
    stored = sum(tally.stored for tally in verify(file).tallies)
    assert stored == count, f"{stored} of {count} are stored"
    for path in folder.glob(f"{file.stem}*"):
        path.unlink()
    return Flow(count, durable - publisher.began, finished - publisher.began)


def paho_rate(publish: Publish, seconds: float) -> float:
    """Return what a bare paho subscriber that drops everything receives a second."""
    times: list[float] = []
    with broker("mosquitto") as url:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.on_message = lambda *_: times.append(time.perf_counter())
        client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        client.subscribe("bench/#", 1)
        client.loop_start()
        publisher = Publisher(publish, url, seconds)
        total = sum(number + 1 for number in publisher.end().values())
        while len(times) < total:
            time.sleep(0.002)
        client.loop_stop()
        client.disconnect()
    return total / (times[-1] - publisher.began)


def messages(folder: Path, size: Size) -> Iterator[Figure]:
    """JSON over Mosquitto, against a subscriber that drops it."""
    rates, ratios = [], []
    for _ in range(size.rounds):
        flow = record("mosquitto", folder, publish_fields, size.seconds)
        rates.append(flow.count / flow.durable_s)
        ratios.append(rates[-1] / paho_rate(publish_fields, size.seconds))
    print(f"       recorder, 20 topics, QoS 1, JSON of 5 fields: {statistics.median(rates):,.0f} messages/s durable")
    yield Figure("recorder over Mosquitto, of a paho that drops", statistics.median(ratios), "x", 0.9)


def batches(folder: Path, size: Size) -> Iterator[Figure]:
    """Batches of 1,000 readings, embedded broker to HDF5."""
    flow = record("embedded", folder, publish_batches, size.seconds)
    print(f"       batches of 1,000: {flow.count / flow.durable_s:,.0f} readings/s durable")
    yield Figure(
        "batches of 1,000, embedded broker to finished HDF5", flow.count / flow.finished_s, "readings/s", 1_000_000
    )


def frames(folder: Path, size: Size) -> Iterator[Figure]:
    """Frames of 1 MB: the journal alone, and all the way."""
    rate, ratio = versus_bare(folder, size, b"h" * 60, os.urandom(FRAME_BYTES), 1)
    print(f"       journal, frames of 1 MB: {rate * FRAME_BYTES / 1e6:,.0f} MB/s")
    yield Figure("journal, frames of 1 MB, of a bare loop", ratio, "x", 0.9)
    flow = record("mosquitto", folder, publish_frames, size.seconds)
    megabytes = flow.count * FRAME_BYTES / 1e6
    print(f"       frames of 1 MB: {megabytes / flow.durable_s:,.0f} MB/s durable, for {flow.durable_s:.0f} s")
    yield Figure("frames of 1 MB, Mosquitto to finished HDF5", megabytes / flow.finished_s, "MB/s", 100)


def latency(folder: Path, size: Size) -> Iterator[Figure]:
    """From publish to the confirmation that it is stored."""
    with broker("mosquitto") as url:
        recorder = Recorder(url, folder / "latency.h5")
        publisher = Publisher(publish_paced, url, max(5.0, size.seconds))
        last = publisher.end()
        recorder.await_all(last)
        heard = list(recorder.heard)
        recorder.end()
    delays = []
    with open_recording(folder / "latency.h5") as recording:
        stream = recording["bench/paced"]
        published, numbers = stream.time.astype("<i8") / 1e9, stream.number
    place = 0
    for sent, number in zip(published, numbers, strict=True):
        while heard[place][1].get("bench/paced", -1) < number:
            place += 1
        delays.append(heard[place][0] - sent)
    yield Figure("confirm latency p99, publish to stored", 1e3 * float(np.quantile(delays, 0.99)), "ms", 150, True)


def topics_1000(folder: Path, size: Size) -> Iterator[Figure]:
    """1,000 topics at 1 Hz: CPU and memory of the recorder and its writer."""
    seconds = max(20.0, size.seconds)
    with broker("mosquitto") as url:
        recorder = Recorder(url, folder / "wide.h5")
        publisher = Publisher(publish_widely, url, seconds + 30)
        time.sleep(25)  # the columns are there by then
        before, began = recorder.usage()[0], time.perf_counter()
        time.sleep(seconds)
        used, memory = recorder.usage()
        share = (used - before) / (time.perf_counter() - began)
        recorder.await_all(publisher.end())
        recorder.end()
    yield Figure("1,000 topics at 1 Hz, share of a core", 100 * share, "%", 10, True)
    yield Figure("1,000 topics at 1 Hz, memory (PSS)", memory, "MB", 250, True)


# --- repeats


class Counting:
    """Publishes 500 messages a second, until told to halt."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @ether_start(background=True)
    @ether_pub(topic="bench/number")
    def count(self) -> Iterator[dict[str, Any]]:
        number = 0
        while not (self.folder / "halt").exists():
            yield {"number": number}
            number += 1
            (self.folder / "count").write_text(str(number))
            time.sleep(0.002)


def resent(folder: Path, size: Size) -> Iterator[Figure]:
    """Kill the recorder 7 times and the broker twice under load."""
    _ = size
    config = {
        "session": {"data": str(folder)},
        "broker": {"kind": "mosquitto", "listen": f"127.0.0.1:{free_port('127.0.0.1', 0)}"},
        "instances": {"counting": {"class_path": Counting, "args": [str(folder)]}},
    }
    with ether.session(config) as lab:
        lab.start()
        for victim in ["recorder"] * 4 + ["broker"] + ["recorder"] * 3 + ["broker"]:
            so_far, again_at = _count(folder), time.monotonic() + 13  # a supervisor gives up at 6 deaths a minute
            _until(lambda wanted=so_far + 500, when=again_at: _count(folder) > wanted and time.monotonic() > when)
            _kill(lab, victim)
        so_far = _count(folder)
        _until(lambda: _count(folder) > so_far + 500)
        (folder / "halt").touch()
        summary = lab.shutdown()
    assert summary.recording is not None
    tally = next(each for each in verify(summary.recording).tallies if each.topic == "bench/number")
    assert tally.missing == 0
    assert tally.stored == _count(folder), (tally, _count(folder))
    again = summary.counts["counting"].get("resent", 0)
    yield Figure("resent under 7 recorder and 2 broker kills", again / tally.stored, "x published", 3, True)


def _count(folder: Path) -> int:
    try:
        return int((folder / "count").read_text() or 0)
    except FileNotFoundError:
        return 0


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + FAR_S
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def _kill(lab: Any, victim: str) -> None:
    if victim == "broker":
        before = lab._host._broker.backend.process
        os.killpg(before.pid, 9)
        _until(lambda: lab._host._broker.backend.process not in (before, None))
    else:
        pid = lab.instances()["recorder"].pid
        os.kill(pid, 9)
        _until(lambda: lab.instances()["recorder"].pid not in (pid, None))
    _until(lambda: lab.instances()["recorder"].state == "ready")


# --- the finished file


def rows(folder: Path, size: Size) -> Iterator[Figure]:
    """Rows of floats: how large the finished file is, and how fast it is read."""
    with broker("embedded") as url:
        recorder = Recorder(url, folder / "rows.h5", rotate={})
        connection = Connection(url, "publisher")
        connection.open(10)
        random, begin = np.random.default_rng(4), clock.now()
        for first in range(0, size.rows, 10_000):
            values = np.cumsum(random.normal(0, 0.01, 10_000)).round(3) + 20.0
            envelope = Envelope("bench", "b", first, begin + first / 1e4, k=10_000, dt=1e-4)
            connection.publish("bench/oven", codecs.encode({"temperature": values}, envelope))
        recorder.await_all({"bench/oven": size.rows - 1})
        connection.close(1)
        recorder.end()
    file = folder / "rows.h5"
    _read_by_hand(file)  # imports pandas
    ours, by_hand = [], []
    for _ in range(size.rounds):
        ours.append(_seconds(_read_pandas, file))
        by_hand.append(_seconds(_read_by_hand, file))
    scale = 10_000_000 / size.rows
    yield Figure("read 10 M rows to pandas", statistics.median(ours) * scale, "s", 1, True)
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, by_hand, strict=True))
    yield Figure("  of h5py by hand", ratio, "x", 1.3, True)
    csv = _csv_gz(file, folder / "rows.csv.gz")
    print(f"       {size.rows:,} rows: {file.stat().st_size / 1e6:,.1f} MB, as CSV gz {csv / 1e6:,.1f} MB")
    yield Figure("size of float rows, sealed, of CSV gz", file.stat().st_size / csv, "x", 0.5, True)


def _seconds(read: Callable[[Path], Any], file: Path) -> float:
    started = time.perf_counter()
    read(file)
    return time.perf_counter() - started


def _read_pandas(file: Path) -> Any:
    with open_recording(file) as recording:
        return recording["bench/oven"].to_pandas()


def _read_by_hand(file: Path) -> Any:
    import pandas as pd

    with h5py.File(file) as opened:
        group = opened["data/bench/oven/readings"]
        index = pd.DatetimeIndex(group["time"][:].view("M8[ns]"), tz="UTC")
        return pd.DataFrame({"temperature": group["temperature"][:]}, index=index)


def _csv_gz(file: Path, target: Path) -> int:
    """Return the size of time and value as CSV, as `ether export` writes times, under gzip's own default level."""
    with open_recording(file) as recording, gzip.open(target, "wt", compresslevel=6) as csv:
        for chunk in recording["bench/oven"].chunks():
            chunk.to_pandas().to_csv(csv, header=False)
    return target.stat().st_size


CASES: dict[str, Callable[[Path, Size], Iterator[Figure]]] = {
    "journal": journal,
    "messages": messages,
    "batches": batches,
    "frames": frames,
    "latency": latency,
    "resent": resent,
    "topics": topics_1000,
    "rows": rows,
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each flow; frames are promised for 60")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the file that is read back")
    parser.add_argument("--case", action="append", choices=CASES, help="only this; repeatable")
    arguments = parser.parse_args()
    size = Size(arguments.seconds, arguments.rounds, max(10_000, arguments.rows // 10_000 * 10_000))
    missed = 0
    for name in arguments.case or CASES:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
            for figure in CASES[name](Path(folder), size):
                missed += "MISSED" in str(figure)
                print(figure, flush=True)
    version = subprocess.run(["uname", "-r"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{missed} missed; {os.cpu_count()} cores, Linux {version}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
