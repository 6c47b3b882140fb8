"""A session under fire: whatever can die, hang or be cut off does, every few seconds; what was published is recorded.

    python benchmarks/chaos.py [--minutes 5] [--seed 1] [--broker embedded|mosquitto]

An instance, the recorder or the broker is killed (`kill -9`), stopped for two seconds (SIGSTOP) or cut off the network
(its connections are shut down under it; Linux 5.6), as a seeded schedule says. At the end the session must be alive,
with everybody ready; the recording must be complete by `ether verify` and agree with an independent count, or name its
holes; no process, file descriptor or memory may have leaked. The figures are printed, and the exit code is 1 if it is
not so.

The recorder and the broker are killed four times a minute at most: a session takes five deaths of them within a minute
for a crash loop, and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "parts"))

from fault_parts import compare  # noqa: E402  # beside the tests, whose bench it is

from ether import ether, ether_pub, ether_sub  # noqa: E402
from ether.recorder.verify import Report, verify  # noqa: E402

_PAUSE_S = (1.0, 4.0)
_STOPPED_S = 2.0
_READY_S = 60.0
_KILLS_A_MINUTE = 4
_PIDFD_GETFD = 438
_WARM_S = 45.0
"""After so long everything has been started, killed and mended once, and what still grows is a leak."""
_GROWTH_MB = 30.0
INSTANCES = ("witness", "relay", "steady-1", "steady-2")


class Steady:
    """Publishes ten times a second."""

    def __init__(self) -> None:
        self.count = 0

    @ether_pub(topic="steady/count", every=0.1)
    def tick(self) -> int:
        self.count += 1
        return self.count


class Relay:
    """Hears the witness, and publishes what it hears."""

    @ether_sub(topic="witness/reading")
    @ether_pub(topic="relay/reading")
    def relay(self, start: str, i: int) -> dict[str, Any]:
        return {"from": start, "at": i}


def config(broker: str, folder: Path) -> dict[str, Any]:
    restart = {"policy": "always", "max": 100_000, "backoff": ["100ms", "1s"]}
    classes: dict[str, dict[str, Any]] = {
        "witness": {"class_path": "fault_parts.Witness", "args": [str(folder / "witness")]},
        "relay": {"class_path": "chaos.Relay"},
        "steady-1": {"class_path": "chaos.Steady"},
        "steady-2": {"class_path": "chaos.Steady"},
    }
    with socket.create_server(("127.0.0.1", 0)) as probe:  # not 1883, which somebody else may take while it is down
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    return {
        "broker": {"kind": broker, "listen": listen},
        "session": {"name": "chaos", "data": str(folder / "data"), "stop_timeout": "30s", "start_timeout": "60s"},
        "instances": {name: {**each, "restart": restart} for name, each in classes.items()},
    }


@dataclass
class Usage:
    """What a process holds."""

    descriptors: int
    threads: int
    memory_mb: float

    @classmethod
    def of(cls, process: psutil.Process) -> Usage:
        return cls(process.num_fds(), process.num_threads(), process.memory_info().rss / 1e6)

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.threads} threads, {self.memory_mb:.0f} MB"


@dataclass
class Chaos:
    """What was done to a session, and what came of it."""

    rng: random.Random
    broker_port: int
    faults: Counter[str] = field(default_factory=Counter)
    mended_s: list[float] = field(default_factory=list)
    """From a kill until everybody was ready again, where that came before the next fault."""
    _kills: dict[str, deque[float]] = field(default_factory=dict)

    def run(self, seconds: float) -> tuple[dict[str, Usage], dict[str, Usage]]:
        """Break something every few seconds; return what each process held when warm, and at the end."""
        warm: dict[str, Usage] = {}
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            if passed > min(_WARM_S, seconds / 3) and not warm:
                warm = self.held()
            broken = time.monotonic()
            killed = self.fault()
            pause = self.rng.uniform(*_PAUSE_S)
            if killed and ready_after(pause, killed):
                self.mended_s.append(time.monotonic() - broken)
            time.sleep(max(0.0, broken + pause - time.monotonic()))
            assert ether.tapped, "the session has ended"
        return warm, self.held()

    def held(self) -> dict[str, Usage]:
        """Return what each process holds, once all are ready."""
        self.wait_until_all_are_ready()
        gc.collect()
        found = ether.processes()
        return {
            name: Usage.of(psutil.Process(found[name]["pid"])) for name in ("session", "recorder", "broker", *INSTANCES)
        }

    def fault(self) -> int | None:
        """Break something, unless it is broken already; return the process that was killed."""
        name, how = self.rng.choice([*INSTANCES, "recorder", "broker"]), self.rng.choice(["kill", "stop", "cut"])
        found = ether.processes().get(name, {})
        pid = found.get("pid")
        if pid is None or found["state"] != "running":
            self.faults["it was just starting"] += 1
            return None
        if how == "kill" and name in ("recorder", "broker") and not self._may_kill(name):
            how = "stop"
        self.faults[f"{how} {name if name in ('recorder', 'broker') else 'instance'}"] += 1
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):  # it was just dying
            if how == "kill":
                os.kill(pid, signal.SIGKILL)
                return int(pid)
            if how == "cut":
                self.cut(pid, serves=name == "broker")
            else:
                os.kill(pid, signal.SIGSTOP)
                threading.Event().wait(_STOPPED_S)
                os.kill(pid, signal.SIGCONT)
        return None

    def _may_kill(self, name: str) -> bool:
        kills, now = self._kills.setdefault(name, deque()), time.monotonic()
        while kills and now - kills[0] > 60.0:
            kills.popleft()
        if len(kills) >= _KILLS_A_MINUTE:
            return False
        kills.append(now)
        return True

    def cut(self, pid: int, serves: bool) -> None:
        """Shut down the connections of a process to the broker, or the broker's to everybody, under its hands."""
        libc = ctypes.CDLL(None, use_errno=True)
        handle = os.pidfd_open(pid)
        try:
            for each in psutil.Process(pid).net_connections("tcp"):
                ours = each.laddr if serves else each.raddr
                if each.status != psutil.CONN_ESTABLISHED or not ours or ours.port != self.broker_port:
                    continue
                copy = libc.syscall(_PIDFD_GETFD, handle, each.fd, 0)
                if copy < 0:
                    continue  # closed meanwhile
                with contextlib.suppress(OSError), socket.socket(fileno=copy) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
        finally:
            os.close(handle)

    def wait_until_all_are_ready(self) -> None:
        if not ready_after(_READY_S):
            states = {name: f"{each.state}/{each.process}" for name, each in ether.instances().items()}
            raise SystemExit(f"not ready within {_READY_S:g} s: {states}")


def ready_after(within: float, killed: int | None = None) -> bool:
    """Wait until all are ready, and another process is in the place of the killed one; False where it takes longer."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        found, processes = ether.instances(), ether.processes().values()
        alive = all(each["state"] == "running" and each["pid"] != killed for each in processes)
        if (
            alive
            and found.keys() >= {*INSTANCES, "recorder", "session"}
            and all(each.state == "ready" for each in found.values())
        ):
            return True
        time.sleep(0.02)
    return False


def tell(
    chaos: Chaos, warm: dict[str, Usage], end: dict[str, Usage], restarts: dict[str, int], report: Report,
    left: list[str],
) -> list[str]:  # fmt: skip
    """Print the figures; return what is not as it should be."""
    mended = sorted(chaos.mended_s)
    stored = sum(each.stored for each in report.tallies)
    print(f"faults            {sum(chaos.faults.values())}: {dict(sorted(chaos.faults.items()))}")
    print(f"started again     {restarts}")
    if mended:
        half, worst = statistics.median(mended), mended[-1]
        print(f"all ready again   p50 {half:.2f} s, worst {worst:.2f} s, after {len(mended)} kills")
    print(f"messages          {stored:,} recorded, {sum(each.duplicates for each in report.tallies):,} came again")
    verdict = "complete" if report.complete else f"not complete: {report.missing} missing"
    print(f"ether verify      {verdict}; damage: {report.damage or 'none'}")
    for name, usage in end.items():
        print(f"held by {name:9s} {usage} (warm: {warm[name]})")
    print(f"left behind       {left or 'nothing'}")
    wrong = [f"left behind: {each}" for each in left]
    holes = sum(last - first + 1 for each in report.tallies for first, last in each.holes)
    if report.damage or holes != report.missing:
        wrong.append(f"{report.missing} missing, {holes} of them named; damage: {report.damage}")
    for name, usage in end.items():
        before = warm[name]
        if usage.descriptors > before.descriptors + 5 or usage.threads > before.threads + 3:
            wrong.append(f"{name} leaks descriptors or threads: {before} -> {usage}")
        if usage.memory_mb > before.memory_mb + _GROWTH_MB:
            wrong.append(f"{name} leaks memory: {before} -> {usage}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", default="embedded", choices=("embedded", "mosquitto"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ether-chaos-"))
    (folder / "witness").mkdir()
    logging.basicConfig(filename=folder / "host.log", level="INFO", format="%(asctime)s %(name)s %(message)s")
    errors = os.open(folder / "processes.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(errors, 2)  # what the processes say while they die is not the result
    print(
        f"{options.minutes:g} min of chaos, seed {options.seed}, {options.broker} broker, logs in {folder}", flush=True
    )
    print(f"load before       {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    before = Usage.of(psutil.Process())
    ether.tap(config(options.broker, folder))
    ether.start()
    chaos = Chaos(random.Random(options.seed), int(ether.info()["broker"]["url"].rpartition(":")[2]))
    warm, end = chaos.run(options.minutes * 60)
    restarts = {name: each["restarts"] for name, each in ether.processes().items() if each.get("restarts")}
    (folder / "witness" / "halt").touch()
    children = psutil.Process().children(recursive=True)
    summary = ether.shutdown()
    assert summary is not None and summary.recording is not None
    _, alive = psutil.wait_procs(children, 5.0)
    left = [f"process {each.pid}" for each in alive] + [str(each) for each in (folder / "data").glob(".*")]
    after = Usage.of(psutil.Process())
    if after.descriptors > before.descriptors + 3:
        left.append(f"{after.descriptors - before.descriptors} descriptors")
    report = verify(summary.recording)
    wrong = tell(chaos, warm, end, restarts, report, left) + list(summary.problems)
    if report.complete:
        compare(folder / "witness", summary.recording, report.as_dict())
        print("independent count agrees: every message of the witness is recorded once")
    print(f"load after        {os.getloadavg()[0]:.1f}")
    for each in wrong:
        print(f"WRONG: {each}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
