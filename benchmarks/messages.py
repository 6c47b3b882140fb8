"""Latency, saturation and calls: ether against raw paho and FastStream's MQTT broker, in one run over one broker.

    python benchmarks/messages.py [--broker embedded|mosquitto] [--repeat 3] [--json FILE]

Each side has two processes, a publisher and a typed subscriber, and sends the same fields at QoS 1. Repeats of the
sides alternate, so that a slow minute of the machine meets all of them; the medians and their ratios are printed.
FastStream (`pip install "faststream[mqtt]"`) is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ether import brokers, ether, ether_get, ether_pub, ether_start, ether_sub

PACED = 600
BURST = 20_000
CALLS = 500
PAD = "x" * 60  # about 100 bytes a message, all told


class Source:
    """Publishes, paced or as fast as it can."""

    @ether_pub(topic="bench/paced", every=0.005)
    def paced(self) -> dict[str, Any]:
        return {"t_ns": time.monotonic_ns(), "number": 1, "pad": PAD}

    @ether_get
    def echo(self, number: int) -> int:
        return number


class Burst:
    @ether_start
    @ether_pub(topic="bench/burst")
    def burst(self) -> Any:
        for number in range(BURST):
            yield {"t_ns": time.monotonic_ns(), "number": number, "pad": PAD}


class Sink:
    """Receives, and tells how long it took."""

    def __init__(self) -> None:
        self.latencies_ns: list[int] = []
        self.first = self.last = 0.0
        self.count = 0

    @ether_sub(topic="bench/paced")
    def take(self, t_ns: int, number: int, pad: str) -> None:
        self.latencies_ns.append(time.monotonic_ns() - t_ns)

    @ether_sub(topic="bench/burst")
    def gulp(self, t_ns: int, number: int, pad: str) -> None:
        self.count += 1
        self.last = time.monotonic()
        self.first = self.first or self.last

    @ether_get
    def report(self) -> dict[str, Any]:
        return {"latencies": self.latencies_ns, "count": self.count, "seconds": self.last - self.first}


# --- ether


def ether_side(url: str, task: str, record: bool = False) -> dict[str, float]:
    source = {"burst": "Burst"}.get(task, "Source")
    me = f"{Path(__file__).stem}"
    config = {
        "broker": url,
        "record": record,
        "instances": {"source": {"class_path": f"{me}.{source}"}, "sink": {"class_path": f"{me}.Sink"}},
    }
    ether.tap(config)
    try:
        if task == "calls":
            return _time_calls(lambda number: ether.get("source", "echo", number=number))
        ether.start()
        while True:
            report = ether.get("sink", "report", timeout=60)
            if len(report["latencies"]) >= PACED or report["count"] >= BURST:
                break
            time.sleep(0.2)
    finally:
        ether.shutdown()
    return _figures(task, report["latencies"], report["count"], report["seconds"])


# --- raw paho


def paho_side(url: str, task: str) -> dict[str, float]:
    if task == "calls":
        return _with_child(url, "paho-answer", lambda: _paho_calls(url))
    with subprocess.Popen(
        [sys.executable, __file__, "--role", f"paho-sink-{task}", url], stdout=subprocess.PIPE
    ) as sink:
        assert sink.stdout is not None
        sink.stdout.readline()
        subprocess.run([sys.executable, __file__, "--role", f"paho-source-{task}", url], check=True)
        report = json.loads(sink.stdout.readline())
    return _figures(task, report["latencies"], report["count"], report["seconds"])


def _paho(url: str, nodelay: bool = False) -> Any:
    import paho.mqtt.client as mqtt

    host, _, port = url.removeprefix("mqtt://").rpartition(":")
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    if nodelay:
        client.on_socket_open = lambda c, u, sock: sock.setsockopt(6, 1, 1)
    client.connect(host, int(port))
    return client


def paho_sink(url: str, task: str) -> None:
    latencies: list[int] = []
    seen = [0, 0.0, 0.0]

    def on_message(client: Any, _userdata: Any, message: Any) -> None:
        fields = json.loads(message.payload)
        latencies.append(time.monotonic_ns() - int(fields["t_ns"]))
        seen[0] += 1
        seen[2] = time.monotonic()
        seen[1] = seen[1] or seen[2]
        if seen[0] >= (PACED if task == "paced" else BURST):
            client.disconnect()

    client = _paho(url)
    client.on_message = on_message
    client.on_subscribe = lambda *a: print("ready", flush=True)
    client.subscribe(f"bench/{task}", 1)
    client.loop_forever()
    print(json.dumps({"latencies": latencies, "count": seen[0], "seconds": seen[2] - seen[1]}), flush=True)


def paho_source(url: str, task: str) -> None:
    client = _paho(url)
    client.loop_start()
    due = time.monotonic()
    infos = []
    for number in range(PACED + 50 if task == "paced" else BURST):
        content = {"t_ns": time.monotonic_ns(), "number": number, "pad": PAD}
        infos.append(client.publish(f"bench/{task}", json.dumps(content), 1))
        if task == "paced":
            due += 0.005
            time.sleep(max(0.0, due - time.monotonic()))
    for info in infos:
        info.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


def paho_answer(url: str) -> None:
    client = _paho(url, nodelay=True)

    def on_message(_client: Any, _userdata: Any, message: Any) -> None:
        request = json.loads(message.payload)
        reply = {"id": request["id"], "result": request["params"]["number"]}
        client.publish(request["reply_to"], json.dumps(reply), 1)

    client.on_message = on_message
    client.on_subscribe = lambda *a: print("ready", flush=True)
    client.subscribe("bench/call", 1)
    client.loop_forever()


def _paho_calls(url: str) -> dict[str, float]:
    import queue

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client = _paho(url, nodelay=True)
    client.on_message = lambda c, u, message: answers.put(json.loads(message.payload))
    client.subscribe("bench/reply", 1)
    client.loop_start()

    def call(number: int) -> int:
        request = {"id": number, "reply_to": "bench/reply", "params": {"number": number}}
        client.publish("bench/call", json.dumps(request), 1)
        return int(answers.get(timeout=10)["result"])

    figures = _time_calls(call)
    client.disconnect()
    client.loop_stop()
    return figures


# --- FastStream


def faststream_side(url: str, task: str) -> dict[str, float]:
    with subprocess.Popen(
        [sys.executable, __file__, "--role", f"faststream-sink-{task}", url], stdout=subprocess.PIPE
    ) as sink:
        assert sink.stdout is not None
        sink.stdout.readline()
        subprocess.run([sys.executable, __file__, "--role", f"faststream-source-{task}", url], check=True)
        report = json.loads(sink.stdout.readline())
    return _figures(task, report["latencies"], report["count"], report["seconds"])


def _faststream(url: str) -> Any:
    from faststream.mqtt import MQTTBroker

    host, _, port = url.removeprefix("mqtt://").rpartition(":")
    return MQTTBroker(host=host, port=int(port), logger=None)


async def faststream_sink(url: str, task: str) -> None:
    from faststream.mqtt import QoS
    from pydantic import BaseModel

    class Fields(BaseModel):
        t_ns: int
        number: int
        pad: str

    broker = _faststream(url)
    latencies: list[int] = []
    seen = [0, 0.0, 0.0]
    done = asyncio.Event()

    @broker.subscriber(f"bench/{task}", qos=QoS.AT_LEAST_ONCE)  # type: ignore[untyped-decorator]  # untyped broker
    async def take(fields: Fields) -> None:
        latencies.append(time.monotonic_ns() - fields.t_ns)
        seen[0] += 1
        seen[2] = time.monotonic()
        seen[1] = seen[1] or seen[2]
        if seen[0] >= (PACED if task == "paced" else BURST):
            done.set()

    await broker.start()
    print("ready", flush=True)
    await done.wait()
    print(json.dumps({"latencies": latencies, "count": seen[0], "seconds": seen[2] - seen[1]}), flush=True)
    await broker.stop()


async def faststream_source(url: str, task: str) -> None:
    from faststream.mqtt import QoS

    broker = _faststream(url)
    await broker.start()
    due = time.monotonic()
    for number in range(PACED + 50 if task == "paced" else BURST):
        content = {"t_ns": time.monotonic_ns(), "number": number, "pad": PAD}
        await broker.publish(content, f"bench/{task}", qos=QoS.AT_LEAST_ONCE)
        if task == "paced":
            due += 0.005
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    await broker.stop()


# --- common


def _with_child(url: str, role: str, work: Any) -> dict[str, float]:
    with subprocess.Popen([sys.executable, __file__, "--role", role, url], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            return work()  # type: ignore[no-any-return]  # a figure's dict
        finally:
            child.kill()


def _time_calls(call: Any) -> dict[str, float]:
    for number in range(20):
        call(number)
    took = []
    for number in range(CALLS):
        begun = time.perf_counter()
        assert call(number) == number
        took.append(time.perf_counter() - begun)
    return {"p50_ms": statistics.median(took) * 1e3}


def _figures(task: str, latencies: list[int], count: int, seconds: float) -> dict[str, float]:
    if task == "burst":
        return {"per_s": (count - 1) / seconds, "lost": BURST - count}
    settled = sorted(latencies[50:])  # without the first quarter second
    return {"p50_ms": settled[len(settled) // 2] / 1e6, "p99_ms": settled[int(len(settled) * 0.99)] / 1e6}


def recorded_side(url: str, task: str) -> dict[str, float]:
    """Ether with a recorder and outboxes beside it, which the others have not."""
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        return ether_side(url, task, record=True)


SIDES = {"ether": ether_side, "recorded": recorded_side, "paho": paho_side, "faststream": faststream_side}


def _role(role: str, url: str) -> None:
    side, kind, *task = role.split("-")
    found = globals()[f"{side}_{kind}"](url, *task)
    if asyncio.iscoroutine(found):
        asyncio.run(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="mosquitto", choices=("mosquitto", "embedded"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tasks", default="paced,burst,calls")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--role", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        _role(*options.role)
        return
    sides = {name: side for name, side in SIDES.items() if name != "faststream" or find_spec("faststream")}
    if options.broker == "embedded":
        sides.pop("faststream", None)  # it asks for MQTT 5, which the embedded broker does not speak
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(options.repeat):
        for task in options.tasks.split(","):
            for name, side in sides.items():
                if (name, task) == ("faststream", "calls"):
                    continue  # its requests need MQTT 5: another game
                with brokers.choose(options.broker) as broker:
                    results.setdefault(task, {}).setdefault(name, []).append(side(broker.url, task))
    for task, per_side in results.items():
        print(f"\n{task} over {options.broker}, median of {options.repeat}")
        base = _medians(per_side["paho"])
        for name, runs in per_side.items():
            found = _medians(runs)
            print(
                f"  {name:11s}",
                "  ".join(
                    f"{k} {v:9.2f} ({v / base[k]:.2f}x)" if base[k] else f"{k} {v:.0f}" for k, v in found.items()
                ),
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


if __name__ == "__main__":
    main()
