"""Runs and annotations: stored when they say so, from several processes at once, and whatever ends their process."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ether import clock
from ether.errors import SessionError
from ether.recorder.reader import open_recording
from ether.recorder.recovery import recover

REMARKS, KILLS = (200, 20) if os.environ.get("SOAK_ROUNDS") else (15, 2)

GUEST = """
import sys
from ether import ether

ether.tap(join_only=True)
with ether.run("Versuch 2 🧪", sample="K12", kind=sys.argv[1]) as run:
    print(run.number, flush=True)
    {body}
ether.shutdown()
"""


CUT_OFF = """connection = ether._need().connection
    connection._client.socket().shutdown(2)
    print(ether.annotate("it is back", timeout=30))
"""


def recorder(processes: Callable[[], list[psutil.Process]]) -> psutil.Process:
    (found,) = (each for each in processes() if "ether.recorder.ingest" in " ".join(each.cmdline()))
    return found


def test_an_annotation_that_was_confirmed_survives_kill_9_of_the_recorder(
    ether: Any, processes: Callable[[], list[psutil.Process]]
) -> None:
    ether.tap({"broker": "embedded"})

    assert ether.annotate("added 50 µl 🧪", tags=["feed"], values={"ul": 50}) is True
    recorder(processes).kill()
    assert ether.annotate("after the kill", timeout=30) is True  # it is started again, and is waited for

    with open_recording(ether.shutdown().recording) as recording:
        assert [note.text for note in recording.annotations] == ["added 50 µl 🧪", "after the kill"]
        assert recording.annotations[0].values == {"ul": 50}


@pytest.mark.timeout(600 if KILLS > 5 else 60)
def test_every_remark_that_was_confirmed_is_in_the_file_however_often_the_recorder_is_killed(
    ether: Any, processes: Callable[[], list[psutil.Process]], until: Callable[..., None], tell: Any
) -> None:
    ether.tap({"broker": "embedded"})
    ether.start_run("through it all")
    confirmed: list[str] = []

    def annotate() -> None:
        for number in range(REMARKS):
            if ether.annotate(f"remark {number}", timeout=60) is True:
                confirmed.append(f"remark {number}")

    thread = threading.Thread(target=annotate)
    thread.start()
    due = 0.0
    for kill in range(1, KILLS + 1):
        until(lambda wanted=kill * REMARKS // (KILLS + 1): len(confirmed) >= wanted, 60.0, "remarks")
        until(lambda at=due: KILLS <= 5 or clock.monotonic() >= at, 60.0, "so much time that it is no crash loop")
        due = clock.monotonic() + 13
        old = recorder(processes)
        old.kill()
        until(lambda pid=old.pid: ether.instances()["recorder"].pid not in (pid, None), 60.0, "a new recorder")
    thread.join()

    with open_recording(ether.shutdown().recording) as recording:
        assert [note.text for note in recording.annotations] == confirmed
        assert len(confirmed) == REMARKS
        assert [(run.name, run.outcome) for run in recording.runs] == [("through it all", "interrupted")]
    tell({"kills": KILLS, "remarks": len(confirmed)})


REMARKING = """
from ether import ether

ether.tap({"broker": "embedded"})
ether.start_run("cut short")
assert ether.annotate("said before") is True
print("said", flush=True)
ether.wait(60)
"""


def test_a_run_that_was_open_when_everything_was_killed_is_abandoned_and_its_remarks_are_there(
    script: Callable[..., Any], workdir: Path, processes: Callable[[], list[psutil.Process]]
) -> None:
    running = script(REMARKING)
    running.wait_for("said")
    for process in processes():
        process.kill()
    running.end()
    (left,) = (workdir / "data").glob(".*.journal")
    file = left.with_name(f"{left.stem[1:]}.h5")

    assert recover(file).made

    with open_recording(file) as recording:
        assert [note.text for note in recording.annotations] == ["said before"]
        ((name, outcome),) = [(run.name, run.outcome) for run in recording.runs]
    assert (name, outcome) == ("cut short", "abandoned")


def test_an_annotation_that_is_not_stored_is_an_error_and_is_stored_once(
    ether: Any, processes: Callable[[], list[psutil.Process]], raw: Callable[..., Any], until: Callable[..., None]
) -> None:
    ether.tap({"broker": "embedded"})
    writer = raw(ether.info()["broker"]["url"])
    process = recorder(processes)

    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(SessionError, match="did not confirm the annotation within 2.5 s"):
            ether.annotate("door open", timeout=2.5)  # sent twice meanwhile
    finally:
        process.send_signal(signal.SIGCONT)
    writer.subscribe("ether/reply/raw")
    writer.publish("ether/annotation", json.dumps({"text": "by hand", "id": "7", "reply_to": "ether/reply/raw"}))
    answer = json.loads(writer.next(10).payload)
    writer.publish("ether/annotation", "knob turned")
    writer.publish("ether/run", json.dumps({"id": "x1", "name": "from a button"}))
    writer.publish("ether/run", "{}")

    assert answer == {"id": "7", "status": "success", "result": "stored"}
    assert ether.annotate("last") is True
    with open_recording(ether.shutdown().recording) as recording:
        assert [note.text for note in recording.annotations] == ["door open", "by hand", "knob turned", "last"]
        (run,) = recording.runs
        assert (run.name, run.stopped is not None) == ("from a button", True)


def test_runs_of_several_processes_end_each_with_its_own_outcome(
    ether: Any, script: Callable[..., Any], until: Callable[..., None]
) -> None:
    ether.tap({"broker": "embedded", "session": {"name": "runs"}})
    joins = {"ETHER_BROKER": ether.info()["broker"]["url"]}

    with pytest.raises(ZeroDivisionError), ether.run("growth", sample="K12") as run:
        with run.trial("warm", temperature=37):
            second = script(GUEST.format(body="raise ValueError('spilled')"), "raises", name="raises.py", **joins)
            second.wait_for("2")
            second.end()
            cut_off = script(GUEST.format(body=CUT_OFF), "cut off", name="cut.py", **joins).end(40)
            assert (cut_off.code, cut_off.lines) == (0, ["3", "True"]), cut_off.transcript()
            third = script(GUEST.format(body="import time; time.sleep(60)"), "killed", name="killed.py", **joins)
            third.wait_for("4")
            until(lambda: ether.info()["run"]["metadata"].get("kind") == "killed", what="the third run")
            third.popen.kill()
            until(lambda: ether.info()["run"]["name"] == "warm", 20, "the end of the killed run")
        1 / 0
    left_on = ether.start_run("left on")
    with left_on.trial() as trial:
        assert trial.annotate("inside") is True
    recording = ether.shutdown().recording

    with open_recording(recording) as found:
        outcomes = {(each.name, each.metadata.get("kind")): each.outcome for each in found.runs}
        parents = {each.name: each.parent for each in found.runs}
        ids = {each.name: each.id for each in found.runs}
        assert all(each.stopped is not None for each in found.runs)
        back, inside = found.annotations
        assert (back.text, inside.values) == ("it is back", {"run": ids["trial"]})
    assert outcomes == {
        ("growth", None): "failed: ZeroDivisionError: division by zero",
        ("warm", None): "success",
        ("Versuch 2 🧪", "raises"): "failed: ValueError: spilled",
        ("Versuch 2 🧪", "cut off"): "success",
        ("Versuch 2 🧪", "killed"): "abandoned",
        ("left on", None): "interrupted",
        ("trial", None): "success",
    }
    assert (parents["warm"], parents["Versuch 2 🧪"], parents["trial"]) == (ids["growth"], None, ids["left on"])
