"""`ether topic list|echo|hz|pub`: what travels."""

from __future__ import annotations

import json as json_module
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any

import typer

from ether import clock
from ether.cli import output
from ether.cli.arguments import AsJson, For, seconds
from ether.cli.joined import joined
from ether.cli.stopping import stop_on_signals
from ether.model import Reading

__all__ = ["app"]

app = typer.Typer(help="See what travels, and publish by hand.", no_args_is_help=True)
Filter = Annotated[str, typer.Argument(metavar="TOPIC", help="A topic, or a filter such as lab/+ or #.")]


@app.command("list")
def list_topics(
    listen: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long to listen for others.")] = "1s",
    json: AsJson = False,
) -> None:
    """List the topics: what instances declare, and what is heard."""
    span = seconds(listen) or 0.0
    heard: dict[str, list[Reading]] = defaultdict(list)
    with joined() as ether:
        for _, reading in _readings(ether, "#", span):
            heard[reading.topic].append(reading)
        abouts = [instance.about for instance in ether.instances().values() if instance.about]
    rows: dict[str, dict[str, Any]] = {}
    for about in abouts:
        for topic in about.publishes:
            _row(rows, topic)["from"].add(about.name)
        for topic in about.subscribes:
            _row(rows, topic)["to"].add(about.name)
    for topic, readings in heard.items():
        row = _row(rows, topic)
        row["from"] |= {reading.publisher for reading in readings if reading.publisher}
        row["hz"] = len(readings) / span if span else None
    found = [{**row, "from": sorted(row["from"]), "to": sorted(row["to"])} for _, row in sorted(rows.items())]
    if json:
        for row in found:
            output.as_json(row)
        return
    output.table(
        ["TOPIC", "HZ", "FROM", "TO"],
        [[row["topic"], row["hz"], " ".join(row["from"]), " ".join(row["to"])] for row in found],
    )


def _row(rows: dict[str, dict[str, Any]], topic: str) -> dict[str, Any]:
    return rows.setdefault(topic, {"topic": topic, "hz": None, "from": set(), "to": set()})


@app.command("echo")
def echo(
    topic: Filter,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many.")] = None,
    span: For = None,
    json: AsJson = False,
) -> None:
    """Print the messages of a topic as they come; Ctrl-C ends it."""
    limit, left = seconds(span), count
    with joined() as ether:
        for moment, reading in _readings(ether, topic, limit):
            if json:
                output.as_json(
                    {
                        "topic": reading.topic,
                        "time": reading.time or moment,
                        "number": reading.number,
                        "publisher": reading.publisher,
                        "fields": reading.fields,
                    }
                )
            else:
                by = f"{reading.publisher}#{reading.number}" if reading.publisher else "-"
                when = clock.text(reading.time or moment)
                output.line(f"{when}  {reading.topic}  {by}  {output.json_text(reading.fields)}")
            left = None if left is None else left - 1
            if left == 0:
                break


@app.command("hz")
def hz(topic: Filter, span: For = None, json: AsJson = False) -> None:
    """Print how often messages come on a topic, each second; Ctrl-C ends it."""
    limit = seconds(span)
    with joined() as ether:
        due, times, silent = clock.monotonic() + 1, defaultdict(list), False
        for _, reading in _readings(ether, topic, limit, beat=0.1):
            now = clock.monotonic()
            if reading is not None:
                times[reading.topic].append(now)
            if now >= due:
                if not (times or silent or json):
                    silent = True
                    output.note(f"nothing comes on {topic} so far; `ether topic list` shows what there is")
                _tell_rates(times, now, json)
                due += 1
        if limit is not None and limit < 1:
            _tell_rates(times, clock.monotonic(), json)


_WINDOW_S = 10.0


def _tell_rates(times: dict[str, list[float]], now: float, json: bool) -> None:
    for topic, moments in sorted(times.items()):
        moments[:] = [moment for moment in moments if now - moment <= _WINDOW_S]
        gaps = [late - early for early, late in pairwise(moments)]
        rate = len(gaps) / (moments[-1] - moments[0]) if gaps and moments[-1] > moments[0] else None
        least, most = min(gaps, default=0.0), max(gaps, default=0.0)
        if json:
            output.as_json({"topic": topic, "hz": rate, "min_s": least, "max_s": most, "count": len(moments)})
        elif rate is None:
            output.line(f"{topic}  {len(moments)} in {_WINDOW_S:g} s")
        else:
            output.line(f"{topic}  {rate:.4g} Hz  gaps {least * 1000:.1f} to {most * 1000:.1f} ms")


@app.command("pub")
def pub(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where to.")],
    value: Annotated[str | None, typer.Argument(metavar="JSON", help="What; nothing is a trigger.")] = None,
    retain: Annotated[bool, typer.Option("--retain", "-r", help="Kept by the broker for late subscribers.")] = False,
    qos: Annotated[int, typer.Option("--qos", min=0, max=2, help="Quality of service.")] = 1,
) -> None:
    """Publish one message."""
    data = _value(value)
    with joined() as ether:
        ether.pub(data, topic, retain=retain, qos=qos)


def _value(text: str | None) -> Any:
    """Return what the JSON says; a bare word is a text, as everywhere on the wire."""
    if text is None:
        return None
    try:
        return json_module.loads(text)
    except ValueError as exc:
        if text[:1] in ("{", "[", '"'):
            raise typer.BadParameter(f"{text!r} is not valid JSON: {exc}", param_hint="JSON") from None
        return text


def _readings(ether: Any, topic: str, limit: float | None, beat: float | None = None) -> Iterator[tuple[float, Any]]:
    """Yield (arrival, reading) until `limit` seconds have passed or Ctrl-C.

    Args:
        beat: yield None for a reading when nothing came for so many seconds.
    """
    came: queue.SimpleQueue[tuple[float, Reading]] = queue.SimpleQueue()
    subscription = ether.subscribe(topic, lambda reading: came.put((clock.now(), reading)))
    end = None if limit is None else clock.monotonic() + limit
    stop = threading.Event()
    try:
        with stop_on_signals(stop):  # an exception might hit whoever prints what we yield
            while not stop.is_set() and (end is None or clock.monotonic() < end):
                rest = 0.1 if end is None else min(0.1, max(end - clock.monotonic(), 0.0))
                try:
                    yield came.get(timeout=min(rest, beat or rest))
                except queue.Empty:
                    if beat is not None:
                        yield clock.now(), None
    finally:
        subscription.stop()
