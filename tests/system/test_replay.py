"""Replay: a recording's data come again in a live session, marked; what comes of them is compared with the recording."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ether import codecs
from ether.errors import RecordingError, SessionError
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.reader import open_recording

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/simple_pipeline"
T0_NS = 1_795_374_229_000_000_000
RUN = {"id": "r1", "name": "growth", "number": 1}


def made(file: Path, messages: list[tuple[float, str, bytes]], end: bool = True) -> Path:
    """Write a recording of messages that came at so many seconds after T0."""
    with Journal(journal_folder(file), segment_bytes=1 << 20) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "then"}, "provenance": {}}))
        for at, topic, payload in messages:
            at_ns = round(at * 1e9)
            journal.append(head(Kind.MESSAGE, 1, T0_NS + at_ns, 10**12 + at_ns, topic), payload)
        if end:
            journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return file


def oven(celsius: Any, number: int, **more: Any) -> bytes:
    more = {"t": T0_NS / 1e9, **more}
    return codecs.encode({"celsius": celsius}, Envelope("oven", "b1", number, **more))


def instances(*names: str) -> dict[str, Any]:
    every = {
        "doubler": {"class_path": "pipeline.Processor", "kwargs": {"multiplier": 2}},
        "tripler": {"class_path": "pipeline.Processor", "kwargs": {"multiplier": 3}},
        "collector": {"class_path": "pipeline.Collector", "kwargs": {"expected": 20}},
    }
    return {name: each for name, each in every.items() if name in names}


@pytest.fixture
def pipeline(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Put the example's classes, changed as told, where instances find them."""
    code = workdir / "code"
    code.mkdir()
    text = (EXAMPLE / "pipeline.py").read_text()
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(code), os.environ["PYTHONPATH"]]))
    (code / "pipeline.py").write_text(text)

    def change(old: str, new: str) -> None:
        assert old in text
        (code / "pipeline.py").write_text(text.replace(old, new))

    yield change
    sys.modules.pop("pipeline", None)


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of the example."""
    folder = tmp_path_factory.mktemp("yesterday")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "broker")])
    subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py")], cwd=folder, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, timeout=40, check=True,
    )  # fmt: skip
    return next(folder.glob("data/*.h5"))


def test_what_live_instances_make_of_yesterdays_data_is_compared_with_yesterday(
    ether: Any, pipeline: Any, yesterday: Path
) -> None:
    ether.tap({"broker": "embedded", "instances": instances("doubler", "tripler", "collector")})

    done = ether.replay(yesterday, diff=True)
    session = ether.shutdown()

    assert (done.messages, done.left_out, done.same) == (10, 21, True)
    compared = {(each.topic, each.publisher): (each.recorded, each.equal) for each in done.differences}
    assert compared == {
        ("products", "doubler"): (10, 10), ("products", "tripler"): (10, 10), ("summary", "collector"): (1, 1),
    }  # fmt: skip
    with open_recording(session.recording) as recording:
        assert recording.verify().complete
        assert recording.info()["replayed"] == 10
        marks = {(each.topic, each.replayed) for each in recording.messages() if not each.topic.startswith("ether/")}
        assert marks == {("numbers", True), ("products", False), ("summary", False)}
        begin, end = recording.annotations
        assert (begin.tags, end.values["outcome"], end.values["messages"]) == (("replay",), "done", 10)
        assert end.values["file"] == str(yesterday)


def test_only_of_what_is_replayed_it_is_said_that_a_live_instance_publishes_it_too(
    ether: Any, pipeline: Any, yesterday: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ether.tap({"broker": "embedded", "record": "off", "instances": instances("doubler")})

    ether.replay(yesterday, topics="numbers", speed=math.inf)
    quiet = "doubler is live" not in caplog.text
    ether.replay(yesterday, topics="products", speed=math.inf)

    assert (quiet, caplog.text.count("doubler is live and is in the recording too")) == (True, 1)


def test_a_comparison_of_nothing_is_no_success(ether: Any, pipeline: Any, yesterday: Path) -> None:
    ether.tap({"broker": "embedded", "record": "off", "instances": instances("collector")})

    with pytest.raises(SessionError, match="^nothing was compared: collector published nothing of it, neither then"):
        ether.replay(yesterday, topics="numbers", diff=True, settle=0.1)


def test_changed_code_is_named_with_topic_and_first_difference(ether: Any, pipeline: Any, yesterday: Path) -> None:
    pipeline("number * self.multiplier", "number * self.multiplier + (number == 4)")
    ether.tap({"broker": "embedded", "instances": instances("doubler")})
    environment = {**os.environ, "ETHER_BROKER": ether.info()["broker"]["url"]}
    command = [sys.executable, "-W", "error", "-m", "ether.cli", "replay", str(yesterday)]

    done = subprocess.run(
        [*command, "--replace", "doubler", "--diff", "--speed", "max", "--json"],
        env=environment, capture_output=True, text=True, timeout=40,
    )  # fmt: skip

    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    (found,) = told["differences"]
    assert (told["same"], found["topic"], found["publisher"]) == (False, "products", "doubler")
    assert (found["equal"], found["differing"]) == (9, 1)
    assert found["first"] == "reading 4: product: 8 recorded, 9 now"


@pytest.fixture
def live(ether: Any) -> Any:
    ether.tap({"broker": "embedded", "record": "off"})
    return ether


def test_replayed_readings_are_marked_and_keep_their_spacing(live: Any, workdir: Path) -> None:
    came: queue.Queue[Any] = queue.Queue()
    file = made(
        workdir / "a.h5",
        [(at, "lab/oven", oven(20 + number, number, t=T0_NS / 1e9 + at)) for number, at in enumerate((0.0, 0.1, 0.4))],
    )
    live.subscribe("lab/oven", came.put)

    done = live.replay(file, speed=2.0)

    readings = [came.get(timeout=5) for _ in range(3)]
    assert [each.fields["celsius"] for each in readings] == [20, 21, 22]
    assert [each.number for each in readings] == [0, 1, 2]
    assert all(each.publisher.startswith("replay-") for each in readings)
    assert readings[1].replay == {"by": "oven", "b": "b1", "n": 1, "t": pytest.approx(T0_NS / 1e9 + 0.1)}
    gaps = [late.time - early.time for early, late in pairwise(readings)]
    assert gaps == pytest.approx([0.05, 0.15], abs=1e-5)
    assert done.duration_s >= 0.2


def test_only_data_come_again_and_every_kind_of_payload_does(live: Any, workdir: Path) -> None:
    image = np.arange(6, dtype="u2").reshape(2, 3)
    file = made(
        workdir / "a.h5",
        [
            (0.0, "ether/status/oven", b'{"state": "ready", "boot": "b1"}'),
            (0.0, "ether/annotation", b"old remark"),
            (0.0, "ether/call/oven/set", b'{"id": "1", "reply_to": "ether/reply/x"}'),
            (0.0, "bare", b"23.4"),
            (0.0, "text", b"on"),
            (0.0, "bytes", b"\xff\xd8"),
            (0.0, "foreign", b'{"a": 1}'),
            (0.0, "empty", b""),
            (0.0, "damaged", codecs.CBOR_MAGIC + b"\xff"),
            (0.0, "image", codecs.encode({"image": image}, Envelope("camera", "b1", 0, 1.0))),
            (0.0, "batch", oven([1, 2, 3], 0, k=3, dt=0.5)),
            (0.0, "device", oven([1, 2], 7, t=None, ms=[100, 200], k=2)),
        ],
    )
    came: queue.Queue[Any] = queue.Queue()
    live.subscribe("+", came.put)

    done = live.replay(file, speed=float("inf"))

    readings = {each.topic: each for each in (came.get(timeout=5) for _ in range(8))}
    assert (done.messages, done.unreadable) == (8, 1)
    values = {topic: each.fields.get("value") for topic, each in readings.items()}
    assert (values["bare"], values["text"], values["bytes"]) == (23.4, "on", b"\xff\xd8")
    assert (readings["foreign"].fields, readings["empty"].fields) == ({"a": 1}, {})
    assert readings["image"].fields["image"].tolist() == image.tolist()
    assert readings["batch"].replay["n"] == 0
    assert readings["device"].replay["ms"] == 100
    assert all(each.replay is not None for each in readings.values())


def test_topic_run_and_time_choose(live: Any, workdir: Path) -> None:
    began = {**RUN, "started": T0_NS / 1e9 + 2}
    messages = [(float(at), f"lab/{'ab'[at % 2]}", b"%d" % at) for at in range(8)]
    messages[2:2] = [(2.0, "ether/run", json.dumps(began).encode())]
    messages.insert(7, (5.5, "ether/run", json.dumps({**began, "stopped": T0_NS / 1e9 + 5.5}).encode()))
    file = made(workdir / "a.h5", messages)
    came: list[Any] = []
    live.subscribe("lab/#", lambda reading: came.append(reading.fields["value"]))

    def replayed(**options: Any) -> list[Any]:
        came.clear()
        sent = live.replay(file, speed=float("inf"), **options).messages
        live._need().echo()
        assert sent == len(came)
        return list(came)

    assert replayed(topics="lab/b") == [1, 3, 5, 7]
    assert replayed(run="growth") == [2, 3, 4, 5]
    assert replayed(run="growth", topics=["lab/a"], start=T0_NS / 1e9 + 3) == [4]
    assert replayed(end=T0_NS / 1e9 + 2) == [0, 1]
    with pytest.raises(SessionError, match="no run 'other'; there are: 'growth'"):
        replayed(run="other")
    with pytest.raises(SessionError, match="no live instance 'oven' to replace what was recorded; alive: nobody"):
        replayed(replace="oven")
    with pytest.raises(SessionError, match="nothing to compare"):
        replayed(diff=True)
    with pytest.raises(RecordingError, match=r"a\.h5: no message in what was asked for"):
        replayed(topics="lab/c")


def test_all_runs_of_a_name_come_one_after_the_other_without_the_time_between(live: Any, workdir: Path) -> None:
    def run(identity: str, first: float, last: float) -> list[tuple[float, str, bytes]]:
        began = {**RUN, "id": identity, "started": T0_NS / 1e9 + first}
        ended = {**began, "stopped": T0_NS / 1e9 + last}
        return [(at, "ether/run", json.dumps(each).encode()) for at, each in ((first, began), (last, ended))]

    messages = [*run("r1", 0.0, 0.2), (0.1, "lab/a", b"1"), (1800.0, "lab/a", b"2"), (3600.1, "lab/a", b"3")]
    file = made(workdir / "a.h5", sorted([*messages, *run("r2", 3600.0, 3600.2)]))
    came: queue.Queue[Any] = queue.Queue()
    live.subscribe("lab/a", came.put)

    done = live.replay(file, run="growth")

    assert [came.get(timeout=5).fields["value"] for _ in range(done.messages)] == [1, 3]


def test_a_loop_begins_again_until_it_is_stopped(live: Any, workdir: Path) -> None:
    file = made(workdir / "a.h5", [(0.0, "lab/a", b"1"), (0.01, "lab/a", b"2")])
    came: queue.Queue[Any] = queue.Queue()
    live.subscribe("lab/a", came.put)
    stop = threading.Event()
    done: list[Any] = []
    player = threading.Thread(target=lambda: done.append(live.replay(file, loop=True, stop=stop)))

    player.start()
    values = [came.get(timeout=5).fields["value"] for _ in range(5)]
    stop.set()
    player.join(10)

    assert values == [1, 2, 1, 2, 1]
    assert (done[0].interrupted, done[0].messages >= 5) == (True, True)


def test_a_replayed_recording_that_is_replayed_again_names_its_origin(live: Any, workdir: Path) -> None:
    first = Envelope("replay-1", "b2", 0, 5.0, replay={"by": "oven", "b": "b1", "n": 3})
    file = made(workdir / "a.h5", [(0.0, "lab/oven", codecs.encode({"celsius": 1}, first))])
    came: queue.Queue[Any] = queue.Queue()
    live.subscribe("lab/oven", came.put)

    live.replay(file)

    assert came.get(timeout=5).replay == {"by": "oven", "b": "b1", "n": 3}


def test_what_has_not_ended_or_was_left_behind_by_a_crash_can_be_replayed(live: Any, workdir: Path) -> None:
    file = made(workdir / "a.h5", [(0.0, "lab/a", b"1")], end=False)

    with open_recording(file) as recording:
        assert recording.state == "recovered"
    assert live.replay(file).messages == 1


def test_a_replay_ends_when_its_session_does(ether: Any, workdir: Path) -> None:
    file = made(workdir / "a.h5", [(0.0, "lab/a", b"1"), (3600.0, "lab/a", b"2")])
    ether.tap({"broker": "embedded", "record": "off"})
    came: queue.Queue[Any] = queue.Queue()
    ether.subscribe("lab/a", came.put)
    environment = {**os.environ, "ETHER_BROKER": ether.info()["broker"]["url"]}

    command = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "ether.cli", "replay", str(file)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    came.get(timeout=20)
    ether.shutdown()
    out, errors = command.communicate(timeout=40)

    assert (command.returncode, out) == (1, "")
    assert errors.splitlines()[-1] == "ether: the session ended; 1 messages of a.h5 were replayed"


def test_ctrl_c_ends_a_replay_in_order(ether: Any, workdir: Path) -> None:
    file = made(workdir / "a.h5", [(0.0, "lab/a", b"1"), (3600.0, "lab/a", b"2")])
    ether.tap({"broker": "embedded"})
    came: queue.Queue[Any] = queue.Queue()
    ether.subscribe("lab/a", came.put)
    environment = {**os.environ, "ETHER_BROKER": ether.info()["broker"]["url"]}

    command = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "ether.cli", "replay", str(file)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    came.get(timeout=20)
    command.send_signal(signal.SIGINT)
    out, errors = command.communicate(timeout=20)

    assert (command.returncode, errors) == (0, "")
    assert out.startswith("replayed 1 messages in ") and out.endswith("; interrupted\n")
    with open_recording(ether.shutdown().recording) as recording:
        assert recording.verify().complete
        assert recording.annotations[-1].values["outcome"] == "interrupted"
