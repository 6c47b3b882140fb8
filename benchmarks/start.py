"""How long a four-instance session takes to be ready, what it holds in memory, and what it costs when idle.

    python benchmarks/start.py [--broker embedded|mosquitto] [--repeat 5] [--idle 10]

Every repeat is a fresh Python process, broker, recorder and four instances. Memory is the proportional set size of the
whole family of processes (Linux; psutil). For scale, a bare `python -c "import pydantic, paho.mqtt.client"`, which each
instance needs at the least, is timed in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import psutil

from ether import ether, ether_pub, ether_sub


class Source:
    @ether_pub(topic="bench/number", every=1.0)
    def number(self) -> int:
        return 1


class Double:
    @ether_sub(topic="bench/number")
    @ether_pub(topic="bench/double")
    def double(self, number: int) -> int:
        return 2 * number


def session(broker: str, idle_s: float) -> dict[str, float]:
    """Return the figures of one session."""
    config: dict[str, Any] = {
        "broker": broker,
        "session": {"data": tempfile.mkdtemp(prefix="ether-bench-")},
        "instances": {},
    }
    for name, kind in (("source", "Source"), ("a", "Double"), ("b", "Double"), ("c", "Double")):
        config["instances"][name] = {"class_path": f"start.{kind}"}
    begun = time.perf_counter()
    ether.tap(config)
    ready = time.perf_counter()
    figures = {"tap_s": ready - begun}
    if idle_s:
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        time.sleep(2)
        figures["pss_mb"] = sum(process.memory_full_info().pss for process in family) / 1e6
        used = sum(sum(process.cpu_times()[:2]) for process in family)
        time.sleep(idle_s)
        figures["idle_percent"] = (sum(sum(process.cpu_times()[:2]) for process in family) - used) / idle_s * 100
    begun = time.perf_counter()
    ether.shutdown()
    figures["shutdown_s"] = time.perf_counter() - begun
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="embedded", choices=("embedded", "mosquitto"))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--idle", type=float, default=10.0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(session(options.broker, options.idle)))
        return
    runs = []
    bare = []
    for number in range(options.repeat):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import pydantic, paho.mqtt.client; pydantic.TypeAdapter"], check=True)
        bare.append(time.perf_counter() - begun)
        idle = options.idle if number == 0 else 0.0
        command = [sys.executable, __file__, "--one", "--broker", options.broker, "--idle", str(idle)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{options.broker}, median of {options.repeat} (memory and idle: one)")
    print(f"  bare imports  {statistics.median(bare):6.2f} s")
    for key in runs[0]:
        print(f"  {key:13s} {statistics.median(run[key] for run in runs if key in run):6.2f}")


if __name__ == "__main__":
    main()
