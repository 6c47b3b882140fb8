"""The publisher's side of the guarantee: whoever dies, whatever was published is in the recording, once."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ether import ether_pub
from ether.mqtt import Connection
from ether.recorder import seal
from ether.recorder.verify import Report, verify
from ether.supervisor import Child, Supervisor

pytestmark = pytest.mark.timeout(120)


def _config(broker: str, folder: Path, **more: Any) -> dict[str, Any]:
    block = {
        "class_path": "lab_parts.Counting",
        "args": [str(folder)],
        "restart": {"policy": "on-failure", "backoff": ["50ms", "1s"]},
        **more,
    }
    return {"broker": broker, "session": {"stop_timeout": "10s"}, "instances": {"counting": block}}


def _counted(folder: Path) -> dict[int, int]:
    """Return how many numbers each start has counted, by process id."""
    return {int(path.name.rpartition("-")[2]): path.stat().st_size for path in folder.glob("counted-*")}


def _published(folder: Path) -> int:
    return sum(_counted(folder).values())


def _proven(recording: Path | None) -> Report:
    """Return the report of a recording that misses nothing and stands alone in its folder."""
    assert recording is not None
    report = verify(recording)
    assert (report.missing, report.unproven, report.damage) == (0, [], [])
    assert report.complete
    assert [path.name for path in recording.parent.iterdir()] == [recording.name]
    return report


def _agrees(report: Report, folder: Path, killed: set[int]) -> None:
    """Compare with the count; a start that was killed may have counted one that it did not come to publish."""
    tallies = [tally for tally in report.tallies if tally.topic == "count"]
    assert all(tally.first == 0 and tally.stored == tally.last + 1 for tally in tallies)
    stored = sorted(tally.stored for tally in tallies)
    counted = sorted(_counted(folder).values())
    assert len(stored) == len(counted)
    assert 0 <= sum(counted) - sum(stored) <= len(killed), (counted, stored)


def _pid(ether: Any, name: str) -> int:
    pid = ether.instances()[name].pid
    assert pid is not None
    return int(pid)


def _ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _kill(ether: Any, name: str, until: Callable[..., None]) -> int:
    """Kill a process of the session, and wait until its supervisor has started it again."""
    before = _pid(ether, name)
    os.kill(before, signal.SIGKILL)
    until(lambda: _ended(before))
    until(
        lambda: (info := ether.instances()[name]).state == "ready" and info.pid not in (before, None),
        20.0,
        f"a new {name}",
    )
    return before


def test_a_killed_publisher_loses_nothing_it_published(ether, workdir, broker_kind, until):
    ether.tap(_config(broker_kind, workdir))
    ether.start()
    killed = set()
    for more in (1500, 1500):
        so_far = _published(workdir)
        until(lambda wanted=so_far + more: _published(workdir) > wanted, 20.0, "messages")
        killed.add(_kill(ether, "counting", until))
    so_far = _published(workdir)
    until(lambda: _published(workdir) > so_far + 500, 20.0, "messages of the third start")

    summary = ether.shutdown()

    assert summary.problems == ()
    _agrees(_proven(summary.recording), workdir, killed)


def test_what_a_dead_publisher_left_is_sent_at_the_end_of_the_session(ether, workdir, until):
    ether.tap(_config("embedded", workdir, restart="never"))
    ether.start()
    until(lambda: _published(workdir) > 1000, 20.0, "messages")
    pid = _pid(ether, "counting")
    os.kill(pid, signal.SIGKILL)
    until(lambda: ether.instances()["counting"].state == "lost", what="its death")

    summary = ether.shutdown()

    assert summary.problems == ()
    _agrees(_proven(summary.recording), workdir, {pid})


def test_the_end_waits_for_a_slow_recorder_as_long_as_the_session_allows(ether, workdir, until):
    """It was five seconds, whatever `stop_timeout` said, and what was on its way was left out of the file."""
    ether.tap(_config("embedded", workdir) | {"session": {"stop_timeout": "60s"}})
    ether.start()
    copies: Counter[bytes] = Counter()
    onlooker = Connection(ether.info()["broker"]["url"], "onlooker")
    onlooker.on_message = lambda message, receipt: copies.update([message.payload])
    onlooker.open()
    onlooker.subscribe(["ether/resend/#"])
    until(lambda: _published(workdir) > 500, 20.0, "messages")
    recorder, summaries = _pid(ether, "recorder"), []

    os.kill(recorder, signal.SIGSTOP)
    ending = threading.Thread(target=lambda: summaries.append(ether.shutdown()))
    ending.start()
    until(lambda: copies and max(copies.values()) >= 3, 40.0, "a third copy, 2, 4 and 8 s after the last answer")
    os.kill(recorder, signal.SIGCONT)
    ending.join(60.0)
    onlooker.close(1.0)

    (summary,) = summaries
    assert summary.problems == ()
    _agrees(_proven(summary.recording), workdir, set())


def test_a_recording_that_was_not_sealed_is_a_problem_with_its_way_out(ether, workdir, until, monkeypatch):
    ether.tap(_config("embedded", workdir))
    ether.start()
    until(lambda: _published(workdir) > 500, 20.0, "messages")
    recording = Path(ether.info()["recording"])
    expect_end = Supervisor.expect_end

    def kill_the_recorder(self: Supervisor, child: Child) -> None:
        expect_end(self, child)
        if child.name == "recorder":
            os.kill(child.popen.pid, signal.SIGKILL)

    monkeypatch.setattr(Supervisor, "expect_end", kill_the_recorder)
    summary = ether.shutdown()

    told = [problem for problem in summary.problems if "not sealed" in problem]
    assert len(told) == 1 and "killed by SIGKILL" in told[0]
    assert f"ether recover '{recording}'" in told[0]  # ready to paste, with the space in the folder's name
    assert seal.recover(recording)
    assert verify(recording).state == "recovered"


def test_a_broker_killed_under_load_and_back_on_its_port_costs_nothing(ether, workdir, broker, until):
    ether.tap(_config(broker.url, workdir))
    ether.start()
    for _ in range(2):
        so_far = _published(workdir)
        until(lambda wanted=so_far + 1000: _published(workdir) > wanted, 20.0, "messages")
        broker.kill()
        broker.start()
    so_far = _published(workdir)
    until(lambda: _published(workdir) > so_far + 1000, 30.0, "messages after the last return")

    summary = ether.shutdown()

    assert summary.problems == ()
    _agrees(_proven(summary.recording), workdir, set())


def test_a_recorder_killed_under_load_misses_nothing_and_raises_no_storm(ether, workdir, broker_kind, until):
    ether.tap(_config(broker_kind, workdir))
    ether.start()
    for _ in range(3):
        so_far = _published(workdir)
        until(lambda wanted=so_far + 800: _published(workdir) > wanted, 20.0, "messages")
        _kill(ether, "recorder", until)

    summary = ether.shutdown()

    assert summary.problems == ()
    _agrees(_proven(summary.recording), workdir, set())
    assert summary.counts["counting"].get("resent", 0) <= 2 * _published(workdir)


def test_what_neither_recorder_nor_broker_ever_had_comes_from_the_outbox(ether, workdir, broker, until):
    """The recorder hangs from before the first message on, and the broker takes with it what it had queued."""
    ether.tap(_config(broker.url, workdir, autorun=False))
    ether.start()
    recorder = psutil.Process(_pid(ether, "recorder"))
    recorder.suspend()
    ether.launch("counting")
    until(lambda: _published(workdir) > 2000, 20.0, "messages")
    broker.kill()
    broker.start()
    recorder.kill()
    until(lambda: ether.instances()["recorder"].pid not in (recorder.pid, None), 20.0, "a new recorder")
    until(lambda: ether.instances()["recorder"].state == "ready", 20.0, "the new recorder being ready")

    summary = ether.shutdown()

    assert summary.problems == ()
    _agrees(_proven(summary.recording), workdir, set())
    # The embedded broker may have kept the recorder's queue on disk; then nothing needs to be sent again.
    assert summary.counts["counting"].get("resent", 0) <= 2 * _published(workdir)


class _Camera:
    @ether_pub(topic="camera")
    def shoot(self, number: int) -> dict[str, Any]:
        return {"number": number, "pixels": bytes(50_000)}


def test_a_full_outbox_is_an_alarm_and_a_count_and_passes(ether, workdir, until):
    record = {"outbox": {"size": "1MiB", "block": "200ms"}}
    ether.tap({"broker": "embedded", "record": record, "session": {"stop_timeout": "10s"}})
    camera = ether.add(_Camera(), "camera")
    outbox = ether._host._by_hand["camera"][0].member.publisher.outbox
    recorder = psutil.Process(_pid(ether, "recorder"))
    recorder.suspend()
    try:
        for number in range(50):
            camera.shoot(number)
        until(lambda: ether.instances()["camera"].state == "alert", what="an alert")
        assert "the outbox is full" in ether.instances()["camera"].detail
        until(lambda: ether.instances()["camera"].counts.get("unstored", 0) > 20, what="the count")
    finally:
        recorder.resume()
    until(lambda: outbox._boxes[0].confirmed, 10.0, "confirmation")
    camera.shoot(50)
    until(lambda: ether.instances()["camera"].state == "ready", 10.0, "the end of the alert")

    summary = ether.shutdown()

    (tally,) = [each for each in _proven(summary.recording).tallies if each.topic == "camera"]
    assert (tally.stored, tally.last) == (51, 50)


class _Panel:
    @ether_pub(topic="knob", keep="last")
    def turn(self, angle: int) -> int:
        return angle


def test_what_is_not_to_be_kept_is_recorded_and_never_waits_in_the_outbox(ether, workdir):
    ether.tap({"broker": "embedded"})
    panel = ether.add(_Panel(), "panel")
    panel.turn(5)
    boxes = list(ether._host._by_hand["panel"][0].member.publisher.outbox._boxes)

    summary = ether.shutdown()

    assert boxes == []
    (tally,) = [each for each in _proven(summary.recording).tallies if each.topic == "knob"]
    assert (tally.stored, tally.last) == (1, 0)


def test_other_components_never_see_what_is_sent_again(ether, workdir, broker_kind, until):
    ether.tap(_config(broker_kind, workdir))
    seen: list[int] = []
    ether.subscribe("count", lambda reading: seen.append(reading.number))
    ether.start()
    until(lambda: _published(workdir) > 100, 20.0, "messages")
    recorder = psutil.Process(_pid(ether, "recorder"))
    recorder.suspend()
    first = _published(workdir) + 300  # nothing of this can have been confirmed
    until(lambda: _published(workdir) > first + 100, 20.0, "messages")
    missing = {"count": [[first, first + 20]]}
    said = {"boot": ether.instances()["counting"].boot, "topics": {}, "missing": missing, "seen": {"count": first + 21}}
    ether._client.connection.publish("ether/stored/counting", json.dumps(said).encode())
    until(lambda: ether.instances()["counting"].counts.get("resent", 0) >= 21, 10.0, "repeats")
    recorder.resume()

    summary = ether.shutdown()

    report = _proven(summary.recording)
    _agrees(report, workdir, set())
    assert sum(tally.duplicates for tally in report.tallies) >= 21
    assert len(seen) == len(set(seen)) > 0


_SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "parts")!r})
from ether import ether
ether.tap(CONFIG)
ether.start()
print("runs", flush=True)
ether.wait(60)
"""


def _running(script, workdir, until):
    """Return a session in a process of its own, and the processes of it by their names."""
    running = script(_SCRIPT.replace("CONFIG", repr(_config("embedded", workdir, restart="never"))))
    running.wait_for("runs")
    until(lambda: _published(workdir) > 300, 20.0, "messages")
    children = {child.cmdline()[-1]: child for child in psutil.Process(running.popen.pid).children()}
    return running, children


def test_what_a_killed_publisher_left_is_recorded_though_its_session_is_killed_too(script, workdir, processes, until):
    running, children = _running(script, workdir, until)
    children["recorder"].suspend()  # what is published from now on, only the outbox has
    so_far = _published(workdir)
    until(lambda: _published(workdir) > so_far + 300, 20.0, "messages")
    children["counting"].kill()
    running.signal(signal.SIGKILL)
    children["recorder"].resume()
    running.end()

    until(lambda: processes() == [], 20.0, "the end of all children")
    (recording,) = (workdir / "data").glob("*.h5")
    _agrees(_proven(recording), workdir, {children["counting"].pid})


def test_what_an_instance_said_before_it_hung_at_the_end_is_recorded_and_nothing_is_left(ether):
    instances = {"stuck": {"class_path": "lab_parts.Hanging", "args": ["cleanup"]}}
    ether.tap({"broker": "embedded", "session": {"stop_timeout": "1s"}, "instances": instances})

    summary = ether.shutdown()

    assert summary.problems == ("stuck did not finish within 1 s", "stuck did not stop by itself and was killed")
    report = verify(summary.recording)
    assert (report.missing, [(each.topic, each.stored) for each in report.tallies]) == (0, [("hung", 1)])
    assert [path.name for path in summary.recording.parent.iterdir()] == [summary.recording.name]


def test_only_the_recording_is_left_of_a_session_whose_process_was_killed(script, workdir, processes, until):
    running, _ = _running(script, workdir, until)

    running.signal(signal.SIGKILL)
    running.end()

    until(lambda: processes() == [], 20.0, "the end of all children")
    (recording,) = (workdir / "data").glob("*.h5")
    assert _proven(recording).messages


def test_what_a_session_left_that_was_killed_as_a_whole_is_recovered_by_the_next(script, workdir, until):
    running, children = _running(script, workdir, until)
    children["recorder"].suspend()
    so_far = _published(workdir)
    until(lambda: _published(workdir) > so_far + 300, 20.0, "messages")
    for child in (*children.values(), running.popen):
        child.kill()
    running.end()
    (left,) = (workdir / "data").glob(".*.journal")

    script("from ether import ether\nether.tap({'broker': 'embedded'})\nether.wait(60)\n")

    until(lambda: not left.exists(), 30.0, "recovery")
    recording = left.with_name(f"{left.stem[1:]}.h5")
    report = verify(recording)
    assert (report.state, report.missing, report.damage) == ("recovered", 0, [])
    _agrees(report, workdir, {children["counting"].pid})
