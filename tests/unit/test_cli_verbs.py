"""What the verbs do that need no session."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from ether.cli import annotate, arguments, demo, doctor, hosting, main, output, topic
from ether.cli.demo_pipeline import Collector, Generator, Processor
from ether.config import Config, json_schema
from ether.recorder.verify import Report, Tally


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output, "settings", output.Settings())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("ETHER_LOG_LEVEL", "WARNING")
    for name in ("ETHER_BROKER", "ETHER_DATA", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------- init, check, schema


def test_init_writes_a_session_that_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "bench one"]) == 0

    assert sorted(path.name for path in Path("bench one").iterdir()) == [
        "components.py",
        "ether.schema.json",
        "session.yaml",
    ]
    assert Config.load("bench one/session.yaml").session.name == "bench one"
    capsys.readouterr()
    assert main(["check", "bench one/session.yaml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "bench one/session.yaml: heard by the recorder only: lab/heater",
        "bench one/session.yaml: ok, 2 instances",
    ]
    sys.modules.pop("components")


def test_init_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("lab").mkdir()
    Path("lab/session.yaml").write_text("mine")

    assert main(["init", "lab"]) == 2

    assert (Path("lab/session.yaml").read_text(), os.listdir("lab")) == ("mine", ["session.yaml"])
    assert "exists; choose another name" in capsys.readouterr().err


def test_check_tells_all_problems_and_exits_3(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("instances:\n  oven: {class_path: collections.Countr, perid: 1}\nextra: 1\n")

    assert main(["check", "a.yaml"]) == 3

    first, second = capsys.readouterr().err.splitlines()
    assert first == "ether: a.yaml:2:42: instances.oven.perid: unknown key; arguments of the class go under `kwargs`"
    assert second.startswith("ether: a.yaml:3:1: extra: unknown key; known here: session, broker, record, ")


def test_check_looks_at_the_classes_too_and_at_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("instances:\n  oven: {class_path: collections.Countr}\n")

    assert main(["check", "a.yaml"]) == 3
    assert "did you mean `Counter`?" in capsys.readouterr().err
    assert main(["check", "a.yaml", "--set", "instances.oven.perid=1"]) == 3
    assert "--set instances.oven.perid=1: instances.oven.perid: unknown key" in capsys.readouterr().err


def test_check_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("extra: 1\nother: 2\n")

    assert main(["check", "a.yaml", "--json"]) == 3

    told = capsys.readouterr()
    assert [json.loads(line)["where"] for line in told.out.splitlines()] == ["a.yaml:1:1", "a.yaml:2:1"]
    assert told.err == ""


def test_classes_beside_the_file_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    Path("there/beside_the_file.py").write_text("class Oven:\n    pass\n")
    Path("there/a.yaml").write_text("instances: {oven: {class_path: beside_the_file.Oven}}\n")

    assert main(["check", "there/a.yaml"]) == 0, capsys.readouterr().err


def test_schema_prints_or_writes_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()

    assert main(["schema", "--out", "s.json"]) == 0
    assert json.loads(Path("s.json").read_text()) == json_schema()
    capsys.readouterr()
    assert main(["schema", "--out", "absent/s.json"]) == 1
    assert capsys.readouterr().err == "ether: absent/s.json: cannot be written (No such file or directory)\n"


def test_a_moment_of_a_recording_is_a_time_of_its_day_or_counts_from_its_begin() -> None:
    begin = datetime(2026, 1, 16, 11, 28, 42).timestamp()

    assert arguments.moment("11:30", "--from", begin) == begin + 78
    assert arguments.moment("2026-01-17T11:28:42", "--from", begin) == begin + 86_400
    assert arguments.moment("2min", "--from", begin) == begin + 120
    assert arguments.moment(None, "--from", begin) is None
    with pytest.raises(typer.BadParameter, match="'noon' is no time; write 11:28"):
        arguments.moment("noon", "--from", begin)


def test_a_remark_that_ends_before_it_begins_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "lamp failed", "--at", "2026-01-16T11:40", "--until", "2026-01-16T11:28"]) == 2
    assert main(["annotate", "lamp failed", "--until", "2026-01-16T11:28"]) == 2

    assert capsys.readouterr().err.count("the interval ends before it begins") == 2


def test_replay_refuses_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "absent.h5"]) == 1
    assert main(["replay", "a.h5", "--speed", "0"]) == 2
    assert main(["replay", "a.h5", "--loop", "--diff"]) == 2

    missing, speed, loop = capsys.readouterr().err.splitlines()
    assert missing == "ether: absent.h5: no such file"
    assert "'0': write a number above 0, such as 10, or max" in speed
    assert "a replay that loops has no end at which to compare" in loop


# ---------------------------------------------------------------- without a session


@pytest.mark.parametrize(
    "words",
    [
        ["ps"],
        ["status"],
        ["down"],
        ["call", "a.b"],
        ["annotate", "x"],
        ["run", "start", "a"],
        ["run", "stop"],
        ["run", "list"],
        ["topic", "list"],
        ["topic", "echo", "a"],
        ["topic", "hz", "a"],
        ["topic", "pub", "a", "1"],
        ["ps", "--session", "growth"],
    ],
)
def test_verbs_that_join_say_that_no_session_runs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 4

    assert capsys.readouterr().err.startswith("ether: no session runs on this machine; start one with `ether up FILE`")


def test_up_tells_a_wrong_file_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "absent.yaml"]) == 3
    assert capsys.readouterr().err == "ether: absent.yaml: no such file\n"


# ---------------------------------------------------------------- doctor


def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0

    found = {row["subject"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"ether", "python", "pydantic", "mosquitto", "data folder", "free disk", "runtime folder"} <= set(found)
    assert found["data folder"]["found"] == str(Path("data").absolute())
    assert not Path("data").exists()


def test_doctor_gives_advice_for_a_broker_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ETHER_BROKER", "mqtt://me:hush@127.0.0.1:1")

    assert main(["doctor"]) == 1

    told = capsys.readouterr().out
    assert "`ether broker` starts one" in told and "hush" not in told


def test_doctor_says_where_data_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("ETHER_DATA", "file/data")

    assert next(doctor._data()).verdict == "failed"


def test_doctor_forgets_sessions_whose_process_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    Path("ether").mkdir()
    entry = {"id": "1", "name": "old", "namespace": "", "url": "mqtt://127.0.0.1:1", "pid": gone.pid, "started": 1.0}
    Path("ether/1.json").write_text(json.dumps(entry))

    assert main(["doctor"]) == 0

    assert "1 stale entry removed" in capsys.readouterr().out
    assert os.listdir("ether") == []


# ---------------------------------------------------------------- arguments


def test_name_value_words_are_read_as_yaml() -> None:
    assert arguments.pairs(["a=4", 'b="4"', "c=[1, 2]", "d=x=y", "e=", "f=a: b: c", "g=1e-3", "h=12:30"]) == {
        "a": 4,
        "b": "4",
        "c": [1, 2],
        "d": "x=y",
        "e": "",
        "f": "a: b: c",
        "g": 0.001,
        "h": "12:30",
    }
    assert arguments.pairs(None) == {}


def test_a_duration_option_is_seconds() -> None:
    assert (arguments.seconds("2min"), arguments.seconds("0.5"), arguments.seconds(None)) == (120.0, 0.5, None)
    with pytest.raises(typer.BadParameter):
        arguments.seconds("soon")


def test_a_time_is_of_today_or_of_its_date_and_zone() -> None:
    today = datetime.now().replace(hour=11, minute=28, second=0, microsecond=0).timestamp()

    assert annotate._time("11:28", "--at") == today
    assert annotate._time("2026-01-16T11:28:42+00:00", "--at") == 1768562922.0
    assert annotate._time(None, "--at") is None


@pytest.mark.parametrize(("text", "value"), [(None, None), ("1", 1), ('{"a": null}', {"a": None}), ("on", "on")])
def test_what_is_published_is_json_or_a_bare_word(text: str | None, value: Any) -> None:
    assert topic._value(text) == value


# ---------------------------------------------------------------- output


def test_a_table_in_a_pipe_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["NAME", "WHY"], [["oven", "x" * 300], ["pump", None]])

    assert ("x" * 300) in capsys.readouterr().out


def test_cells_and_json_are_for_people_and_programs() -> None:
    assert [output.shown(value) for value in (None, True, 12345, 1234.5678, "a", [1])] == [
        "",
        "yes",
        "12,345",
        "1,235",
        "a",
        "[1]",
    ]
    shown = output.json_text(
        {"a": np.zeros((2, 3), "int16"), "b": b"xyz", "c": np.float64(0.5), "d": {1}, "e": Path("p")}
    )
    assert json.loads(shown) == {"a": "<int16 array 2x3>", "b": "<3 bytes>", "c": 0.5, "d": [1], "e": "p"}
    assert output.json_text({"a": [float("nan"), 1.5], "b": float("inf")}) == '{"a": [null, 1.5], "b": null}'
    assert output.elapsed(3751.9) == "01:02:31"


def test_quiet_leaves_out_notes_but_no_results(capsys: pytest.CaptureFixture[str]) -> None:
    output.settings.quiet = True

    output.note("chatter")
    output.line("result")

    assert capsys.readouterr().out == "result\n"


def test_a_terminal_without_utf8_gets_replacements(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)

    assert main(["schema"]) == 0


# ---------------------------------------------------------------- running and summing up

SNAPSHOT = hosting.Snapshot(
    2, 751.0, {"oven": "ready", "pump": "init"}, {"oven": "", "pump": ""}, {"oven": {"published": 5}}, 12345, 2
)


def test_progress_is_one_line() -> None:
    assert SNAPSHOT.progress() == "1/2 ready  recorded 12,345  lost 2  00:12:31"
    assert replace(SNAPSHOT, recorded=None).progress() == "1/2 ready  00:12:31"


def test_plain_lines_are_one_per_change_and_one_every_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = hosting._Lines()
    alert: dict[str, Any] = {"states": {"oven": "alert", "pump": "init"}, "details": {"oven": "read failed"}}

    lines(replace(SNAPSHOT, elapsed_s=0.0))
    lines(replace(SNAPSHOT, elapsed_s=1.0, **alert))
    lines(replace(SNAPSHOT, elapsed_s=2.0, **alert))
    lines(replace(SNAPSHOT, elapsed_s=30.0, **alert))
    lines(replace(SNAPSHOT, elapsed_s=31.0, **alert))

    assert capsys.readouterr().out.splitlines() == [
        "oven: alert: read failed",
        "0/2 ready  recorded 12,345  lost 2  00:00:30",
    ]


def report(complete: bool) -> Report:
    hole = Tally("oven", "b1", "lab/oven", "L3", 0, 9, 9, 7, 7, 0, [[4, 4], [7, 8]], True, 0)
    return Report("a.h5", "sealed" if complete else "open", messages=1234, tallies=[] if complete else [hole])


@pytest.mark.parametrize(
    ("states", "complete", "problems", "code"),
    [
        ({"a": "ready"}, True, (), 0),
        ({"a": "alert"}, True, (), 0),
        ({"a": "exited"}, True, (), 1),
        ({"a": "lost"}, True, (), 1),
        ({"a": "ready"}, True, ("a was killed",), 1),
        ({"a": "fatal"}, False, (), 5),
    ],
)
def test_the_exit_code_says_how_it_went(
    states: dict[str, str], complete: bool, problems: tuple[str, ...], code: int
) -> None:
    last = replace(SNAPSHOT, states=states)

    assert hosting.Outcome("lab", last, Path("a.h5"), report(complete), problems=problems).exit_code == code


def test_the_summary_tells_what_ran_and_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.h5").write_bytes(bytes(2_345_678))

    hosting.tell(hosting.Outcome("lab", SNAPSHOT, Path("a.h5"), report(True)))
    hosting.tell(hosting.Outcome("lab", SNAPSHOT, Path("a.h5"), report(False)))
    hosting.tell(hosting.Outcome("lab", SNAPSHOT, None))

    told = capsys.readouterr().out
    assert "recorded: a.h5 (2.3 MB), complete, 1,234 messages\n" in told
    assert (
        "recorded: a.h5 (2.3 MB), INCOMPLETE: 3 readings are missing, it was not closed in order (it is open)\n"
        "`ether verify a.h5` tells what is missing\n"
    ) in told
    assert told.endswith("lab: ran 00:12:31\nnothing was recorded\n")


def test_what_was_published_is_what_was_recorded() -> None:
    assert hosting.Outcome("lab", SNAPSHOT, Path("a.h5"), report(False)).published("oven") == 7
    assert hosting.Outcome("lab", SNAPSHOT, None).published("oven") == 5


def test_paths_below_the_working_directory_are_shown_relative() -> None:
    assert output.path(Path("a/b.h5").absolute()) == "a/b.h5"
    assert output.path(Path("/elsewhere/b.h5")) == "/elsewhere/b.h5"


def test_the_first_signal_asks_to_stop_and_handlers_come_back() -> None:
    from ether.cli.stopping import stop_on_signals

    before, stop = signal.getsignal(signal.SIGINT), threading.Event()

    with stop_on_signals(stop):
        signal.raise_signal(signal.SIGINT)

    assert stop.is_set() and signal.getsignal(signal.SIGINT) is before


def test_verify_lists_the_holes_and_exits_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ether.recorder.verify.verify", lambda path: report(False))

    assert main(["verify", "a.h5"]) == 5
    shown = capsys.readouterr().out
    assert main(["verify", "a.h5", "--json"]) == 5

    assert "4 7-8" in shown and shown.endswith("it was not closed in order (it is open)\n")
    assert json.loads(capsys.readouterr().out)["missing"] == 3


def test_verify_of_a_complete_recording_exits_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ether.recorder.verify.verify", lambda path: report(True))

    assert main(["verify", "a.h5"]) == 0
    assert capsys.readouterr().out.endswith("a.h5: complete, 1,234 messages\n")


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_what_is_no_recording_is_one_line(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.h5").write_text("not this")

    for file in ("a.h5", "absent.h5"):
        assert main([verb, file]) == 1
        told = capsys.readouterr().err
        assert file in told and told.count("\n") == 1


# ---------------------------------------------------------------- the demo


def test_the_demo_takes_a_fresh_folder() -> None:
    assert demo._fresh_folder() == Path("ether-demo")
    Path("ether-demo").mkdir()
    assert demo._fresh_folder() == Path("ether-demo-2")


def test_the_classes_of_the_demo_work_by_hand() -> None:
    generator, processor, collector = Generator(), Processor(3), Collector()

    for _ in range(2):
        product = processor.multiply(**generator.count())
        collector.collect(product["factor"], product["product"])

    assert collector.summary() == {"3": {"count": 2, "sum": 9}}
