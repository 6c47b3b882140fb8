"""The recorder against the least that could be done, in one run: ``python benchmarks/recorder.py [--seconds 5]``.

1. Journal: records of 150 bytes, commits every 50 ms, against a bare ``writev`` + ``fdatasync`` loop of the same bytes.
2. Recorder: JSON of 5 fields on 20 topics at QoS 1 over Mosquitto, against a bare paho subscriber that drops it.
   Both get the same publisher: one client with 500 unacknowledged messages at most, as fast as the broker takes them.
3. Memory (PSS) and CPU of an idle recorder and its writer.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho

from ether import codecs, process, topics
from ether.journal import Journal
from ether.model import Message
from ether.mqtt import Connection, Receipt
from ether.recorder.verify import verify

RECORD = 150
PUBLISHER = """
import sys, time
from ether import codecs
from ether.model import Envelope
from ether.mqtt import Connection
url, seconds = sys.argv[1], float(sys.argv[2])
connection = Connection(url, "publisher")
connection.open(10)
sys.stdin.readline()
end, number = time.monotonic() + seconds, 0
while time.monotonic() < end:
    for topic in range(20):
        fields = {"temperature": 20.5 + number, "pressure": 1013.25, "count": number, "on": True, "name": "oven"}
        connection.publish(f"bench/{topic}", codecs.encode(fields, Envelope("bench", "b", number, time.time())))
    number += 1
connection.flush(30)
print(number * 20)
"""


def journal_rate(folder: Path, seconds: float) -> float:
    head, body = b"h" * 20, b"x" * (RECORD - 20)
    count, started = 0, time.perf_counter()
    with Journal(folder) as journal:
        committed = started
        while (now := time.perf_counter()) - started < seconds:
            for _ in range(100):
                journal.append(head, body)
            count += 100
            if now - committed >= 0.05:
                journal.commit()
                committed = now
        journal.commit()
        return count / (time.perf_counter() - started)


def bare_rate(file: Path, seconds: float) -> float:
    head, body = b"h" * 20, b"x" * (RECORD - 20)
    count, started = 0, time.perf_counter()
    fd = os.open(file, os.O_RDWR | os.O_CREAT)
    committed, pending = started, []
    while (now := time.perf_counter()) - started < seconds:
        for _ in range(100):
            pending.append(head + body)
        count += 100
        if now - committed >= 0.05:
            for first in range(0, len(pending), 1000):
                os.writev(fd, pending[first : first + 1000])
            os.fdatasync(fd)
            pending, committed = [], now
    os.close(fd)
    return count / (time.perf_counter() - started)


@contextlib.contextmanager
def mosquitto(folder: Path):  # type: ignore[no-untyped-def]
    binary = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if binary is None:
        sys.exit("mosquitto is not installed; try `apt install mosquitto`")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
        "max_queued_messages 0\nmax_inflight_messages 0\n"
    )
    child = subprocess.Popen([binary, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
    try:
        yield port
    finally:
        child.terminate()
        child.wait()


def publish(url: str, seconds: float) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, url, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return child


def paho_rate(port: int, seconds: float) -> float:
    """Return what a bare paho subscriber receives a second, from its first message to its last."""
    times: list[float] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda *_: times.append(time.perf_counter())
    client.connect("127.0.0.1", port)
    client.subscribe("bench/#", 1)
    client.loop_start()
    child = publish(f"mqtt://127.0.0.1:{port}", seconds)
    total = int(child.communicate()[0])
    while len(times) < total:
        time.sleep(0.01)
    client.loop_stop()
    client.disconnect()
    return total / (times[-1] - times[0])


def recorder_rate(port: int, seconds: float, folder: Path) -> tuple[float, int, int, float]:
    """Return durable messages a second, how many were published and are missing, and seconds to finish the file."""
    url, file = f"mqtt://127.0.0.1:{port}", folder / "bench.h5"
    confirmed: dict[str, int] = {}
    state = threading.Event()
    last = [0.0]

    def hear(message: Message, _: Receipt | None) -> None:
        if message.topic == topics.status("recorder"):
            if b'"ready"' in message.payload:
                state.set()
            return
        confirmed.update(codecs.decode(message.payload)[0]["topics"])
        last[0] = time.perf_counter()

    watcher = Connection(url, "watcher")
    watcher.on_message = hear
    watcher.subscribe([topics.status("recorder"), topics.stored("bench")])
    watcher.open(10)
    child = process.spawn("ether.recorder.ingest", "recorder")
    process.give_orders(child, {"url": url, "file": str(file), "topics": ["#"], "log_level": "WARNING"})
    state.wait(10)
    memory(child.pid)
    sender = publish(url, seconds)
    while not confirmed:
        time.sleep(0.005)
    began = last[0] - 0.23  # the first confirmation comes one commit and 0.2 s after the first message
    total = int(sender.communicate()[0])
    while sum(number + 1 for number in confirmed.values()) < total:
        time.sleep(0.005)
    rate = total / (last[0] - began)
    ended = time.perf_counter()
    watcher.publish(topics.command("recorder", "stop"), b"{}")
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    watcher.close(1)
    report = verify(file)
    return rate, total, total - sum(tally.stored for tally in report.tallies), time.perf_counter() - ended


def memory(pid: int) -> None:
    """Print memory and CPU of the idle recorder and its writer."""
    time.sleep(3)
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        pids += [int(child) for child in (task / "children").read_text().split()]

    def used() -> float:
        return sum(
            sum(map(int, Path(f"/proc/{each}/stat").read_text().rsplit(")")[-1].split()[11:13])) for each in pids
        )

    before = used()
    time.sleep(5)
    share = (used() - before) / os.sysconf("SC_CLK_TCK") / 5
    pss = []
    for each in pids:
        lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        pss.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)
    print(f"idle        PSS {' + '.join(f'{size:.0f}' for size in pss)} = {sum(pss):.0f} MB, CPU {share:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        ours, bare = journal_rate(folder / "j", seconds), bare_rate(folder / "bare", seconds)
        print(f"journal     {ours:,.0f} records/s, bare writev + fdatasync {bare:,.0f}: {ours / bare:.2f} x")
        with mosquitto(folder) as port:
            paho_only = paho_rate(port, seconds)
            rate, total, missing, sealing = recorder_rate(port, seconds, folder)
        print(f"recorder    {rate:,.0f} messages/s durable, bare paho {paho_only:,.0f}: {rate / paho_only:.2f} x")
        print(f"            {total:,} published, {missing} missing; file finished and proven after {sealing:.1f} s")


if __name__ == "__main__":
    main()
