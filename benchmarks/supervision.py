"""How soon a death is seen and mended, what fifty instances cost, and how long `ether ps` takes for 1,000 statuses.

    python benchmarks/supervision.py [--broker embedded|mosquitto] [--crashes 40] [--instances 50] [--idle 30]

Everything runs on this machine, with its own broker; `--part` chooses `crash`, `remote`, `many` or `ps`. Machines are
noisy: each part is printed beside the load average and a bare `python -c "import pydantic, paho.mqtt.client"`, which
each instance needs at the least, in the same run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import psutil

from ether import ether, ether_get, ether_pub, topics
from ether.model import Message
from ether.mqtt import Connection


class Idle:
    """An instance that waits for calls."""

    @ether_get
    def number(self) -> int:
        return 1


class Steady:
    """An instance that publishes once a minute."""

    @ether_pub(topic="bench/number", every=60.0)
    def number(self) -> int:
        return 1


def config(broker: str, count: int, record: str = "off", **more: Any) -> dict[str, Any]:
    instances = {f"i{number:02}": {"class_path": "supervision.Idle", **more} for number in range(count)}
    data = tempfile.mkdtemp(prefix="ether-bench-")
    return {
        "broker": broker,
        "record": record,
        "session": {"data": data, "start_timeout": "120s"},
        "instances": instances,
    }


class Watch:
    """Notes when each status comes, as any client sees it."""

    def __init__(self, url: str) -> None:
        self.seen: dict[str, list[tuple[float, str, str]]] = {}
        self.came = threading.Condition()
        self.connection = Connection(url, "bench-watch")
        self.connection.on_message = self._hear
        self.connection.subscribe([topics.status("+")])
        self.connection.open()

    def _hear(self, message: Message, _receipt: Any) -> None:
        now = time.monotonic()
        status = json.loads(message.payload or b"{}")
        with self.came:
            name = message.topic.rpartition("/")[2]
            self.seen.setdefault(name, []).append((now, status.get("state", ""), status.get("boot", "")))
            self.came.notify_all()

    def first(self, name: str, state: str, but_boot: str | None = None, within: float = 30.0) -> float:
        """Return when a status came first, since the last `clear`."""

        def found() -> float | None:
            for at, which, boot in self.seen.get(name, []):
                if which == state and (but_boot is None or boot != but_boot):
                    return at
            return None

        with self.came:
            if not self.came.wait_for(lambda: found() is not None, within):
                raise SystemExit(f"{name} was not {state} within {within:g} s")
            at = found()
            assert at is not None
            return at


def crash(broker: str, crashes: int) -> dict[str, float]:
    """Kill one instance after the other, by default restart policy, and measure."""
    ether.tap(config(broker, crashes, restart="on-failure"))
    watch = Watch(ether.info()["broker"]["url"])
    lost, ready = [], []
    for name, info in ether.instances().items():
        if not name.startswith("i"):
            continue
        watch.first(name, "ready")
        with watch.came:
            watch.seen[name] = []
        assert info.pid is not None
        os.kill(info.pid, signal.SIGKILL)
        killed = time.monotonic()
        lost.append(watch.first(name, "lost") - killed)
        ready.append(watch.first(name, "ready", info.boot) - killed)
    watch.connection.close()
    ether.shutdown()
    lost.sort()
    return {
        "crash to lost, p50 (ms)": statistics.median(lost) * 1e3,
        "crash to lost, p99 (ms)": lost[min(len(lost) - 1, len(lost) * 99 // 100)] * 1e3,
        "crash to ready again, p50 (s)": statistics.median(ready),
        "crash to ready again, worst (s)": max(ready),
    }


FAR = """
import sys, threading
from ether.member import Member
from ether.model import State
member = Member(sys.argv[1], "far")
member.open()
member.set_status(State.READY)
threading.Event().wait()
"""
"""A member that nobody here supervises, as one on another machine."""


def remote(broker: str) -> dict[str, float]:
    """Kill a member that is not ours, and stop another; measure until its status says `lost`."""
    ether.tap(config(broker, 1))
    url = ether.info()["broker"]["url"]
    watch = Watch(url)
    took = []
    for number in (signal.SIGKILL, signal.SIGSTOP):
        with watch.came:
            watch.seen.pop("far", None)
        far = subprocess.Popen([sys.executable, "-c", FAR, url])
        watch.first("far", "ready")
        begun = time.monotonic()
        far.send_signal(number)
        took.append(watch.first("far", "lost", within=60.0) - begun)
        far.kill()
        far.wait()
    watch.connection.close()
    ether.shutdown()
    return {"killed elsewhere, to lost (ms)": took[0] * 1e3, "silent elsewhere, to lost (s)": took[1]}


def many(broker: str, count: int, idle_s: float) -> dict[str, float]:
    """Start many instances at once, and let them idle."""
    begun = time.monotonic()
    ether.tap(config(broker, count, "on"))
    figures = {f"{count} instances ready (s)": time.monotonic() - begun}
    ether.start()
    time.sleep(5)
    family = {process: _role(process) for process in [psutil.Process(), *psutil.Process().children(recursive=True)]}
    figures["memory, proportional, of all (MB)"] = sum(each.memory_full_info().pss for each in family) / 1e6
    before = {process: _used(process) for process in family}
    time.sleep(idle_s)
    for role in ("instances", "broker", "recorder", "host"):
        used = sum(_used(process) - before[process] for process, which in family.items() if which == role)
        figures[f"idle, {role} (% of a core)"] = used / idle_s * 100
    figures["idle, all (% of a core)"] = sum(
        figures[f"idle, {role} (% of a core)"] for role in ("instances", "broker", "recorder", "host")
    )
    begun = time.monotonic()
    ether.shutdown()
    figures["shutdown (s)"] = time.monotonic() - begun
    return figures


def ps(broker: str, count: int = 1000) -> dict[str, float]:
    """Have `ether ps` list a thousand members."""
    ether.tap(config(broker, 1))
    url = ether.info()["broker"]["url"]
    crowd = Connection(url, "bench-crowd")
    crowd.open()
    for number in range(count):
        name = f"m{number:04}"
        status = {"state": "ready", "boot": f"{number:08x}", "t": time.time(), "counts": {"received": number}}
        about = {"ether": 1, "boot": f"{number:08x}", "class": "lab.Sensor", "host": "bench", "pid": 4000 + number}
        crowd.publish(topics.about(name), json.dumps(about).encode(), 1, retain=True)
        crowd.publish(topics.status(name), json.dumps(status).encode(), 1, retain=True)
    crowd.flush(30)
    took = []
    for _ in range(3):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "ether.cli", "ps"], stdout=subprocess.PIPE, check=True, text=True)
        took.append(time.monotonic() - begun)
        assert done.stdout.count("lab.Sensor") >= count, done.stdout[-2000:]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "ether.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
    help_s = time.monotonic() - begun
    crowd.close()
    ether.shutdown()
    return {f"ps of {count} statuses (s)": min(took), "ether --help, for scale (s)": help_s}


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    if process.pid == os.getpid():
        return "host"
    if "ether_broker" in line or "mosquitto" in line:
        return "broker"
    return "recorder" if "ether.recorder" in line else "instances"


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="embedded", choices=("embedded", "mosquitto"))
    parser.add_argument("--crashes", type=int, default=40)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--part", choices=("crash", "remote", "many", "ps"))
    options = parser.parse_args()
    logging.getLogger("ether").setLevel("CRITICAL")
    os.environ["ETHER_LOG_LEVEL"] = "CRITICAL"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled, too
    for module in ("ether.cli.ps", "ether.host", "ether.recorder.ingest", "ether_broker.broker"):
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    parts = {
        "crash": lambda: crash(options.broker, options.crashes),
        "remote": lambda: remote(options.broker),
        "many": lambda: many(options.broker, options.instances, options.idle),
        "ps": lambda: ps(options.broker),
    }
    for name, part in parts.items():
        if options.part in (None, name):
            begun = time.monotonic()
            subprocess.run(
                [sys.executable, "-c", "import pydantic, paho.mqtt.client; pydantic.TypeAdapter"], check=True
            )
            bare = time.monotonic() - begun
            load = os.getloadavg()[0]
            figures = part()
            print(f"{name} ({options.broker}; load {load:.1f} before, bare imports {bare:.2f} s)")
            for what, value in figures.items():
                print(f"  {what:36s} {value:8.2f}")


if __name__ == "__main__":
    main()
