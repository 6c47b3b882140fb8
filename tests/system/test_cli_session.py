"""The verbs against a running session: real processes, started and read as a user would."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import queue
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ether.recorder.reader import open_recording

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
COMMAND = [sys.executable, "-W", "error", "-m", "ether.cli"]


@dataclass
class Started:
    """A command that goes on; `until` waits for what it prints."""

    process: subprocess.Popen[str]
    lines: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    said: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def until(self, text: str) -> str:
        """Return the next line that contains `text`."""
        end = time.monotonic() + PATIENCE_S
        while True:
            line = self.lines.get(timeout=max(end - time.monotonic(), 0.01))
            assert line is not None, f"ended without {text!r}:\n" + "\n".join(self.said)
            self.said.append(line)
            if text in line:
                return line

    def finish(self) -> tuple[int, str]:
        """Return its exit code and all that it printed."""
        end = time.monotonic() + PATIENCE_S
        while (line := self.lines.get(timeout=max(end - time.monotonic(), 0.01))) is not None:
            self.said.append(line)
        return self.process.wait(PATIENCE_S), "\n".join(self.said)


@dataclass
class Bench:
    """A folder, a runtime directory of its own, and the command in it."""

    folder: Path
    started: list[Started] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ETHER_")}
        paths = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "broker"), kept.get("PYTHONPATH"))))
        places = {"XDG_RUNTIME_DIR": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}
        return {**kept, **places, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}

    def run(self, *words: str, code: int = 0) -> str:
        """Return what a command printed; it must exit with `code`."""
        done = subprocess.run(
            [*COMMAND, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stderr if code else done.stdout

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """Return the JSON lines that a command printed."""
        return [json.loads(line) for line in self.run(*words, "--json").splitlines()]

    def start(self, *words: str) -> Started:
        process = subprocess.Popen(
            [*COMMAND, *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        started = Started(process)
        threading.Thread(target=started.read, daemon=True).start()
        self.started.append(started)
        return started

    def close(self) -> None:
        for started in self.started:
            if started.process.poll() is None:
                started.process.terminate()
                try:
                    started.process.wait(15)
                except subprocess.TimeoutExpired:
                    started.process.kill()
                    started.process.wait()
            if started.process.stdout is not None:
                started.process.stdout.close()


class Terminal:
    """A program on a terminal of 80x24 of its own."""

    def __init__(self, bench: Bench, *words: str) -> None:
        self.main, self.side = pty.openpty()
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.side)
        take_it = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", take_it, *words], cwd=bench.folder, env={**bench.environment, "TERM": "xterm"},
            stdin=self.side, stdout=self.side, stderr=self.side, start_new_session=True,
        )  # fmt: skip
        self.said = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # hung up
            while True:
                if select.select([self.main], [], [], 0.1)[0]:
                    self.said += os.read(self.main, 65_536)
                elif self.process.poll() is not None:
                    return

    def press(self, keys: bytes) -> None:
        os.write(self.main, keys)

    def hang_up(self) -> None:
        """Close it, as closing its window does."""
        for each in (self.side, self.main):
            os.close(each)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.reader.join(5)
        with contextlib.suppress(OSError):
            self.hang_up()


@pytest.fixture(scope="module")
def new_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Bench]]:
    benches: list[Bench] = []

    def make() -> Bench:
        benches.append(Bench(tmp_path_factory.mktemp("bänch one")))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(new_bench: Callable[[], Bench]) -> Bench:
    return new_bench()


@pytest.fixture(scope="module")
def running(new_bench: Callable[[], Bench]) -> Bench:
    """A bench whose session runs throughout the module, without a recording."""
    bench = new_bench()
    bench.run("init", "lab")
    wanted = ("record=off", "instances.controller.params=[limit]")
    bench.start("up", "lab/session.yaml", *(word for each in wanted for word in ("--set", each))).until(
        "ready: sensor, controller"
    )
    return bench


# ---------------------------------------------------------------- beside a running session


@pytest.mark.timeout(240)
def test_instances_stop_start_and_restart_from_outside(running: Bench) -> None:
    def known() -> tuple[str, str]:
        row = next(row for row in running.rows("ps") if row["name"] == "controller")
        return row["state"], row["process"]

    assert running.run("stop", "controller") == "controller: stopped\n"
    assert known() == ("disconnected", "stopped")
    assert running.run("start", "controller") == "controller: ready\n"
    assert running.run("restart", "controller", "sensor") == "controller: ready\nsensor: ready\n"
    assert known() == ("ready", "running")
    assert "no instance 'sensr'; did you mean `sensor`?" in running.run("stop", "sensr", code=1)


def test_ps_lists_the_instances(running: Bench) -> None:
    rows = {row["name"]: row for row in running.rows("ps")}

    assert {name: (row["state"], row["class"]) for name, row in rows.items()} == {
        "controller": ("ready", "components.Controller"),
        "sensor": ("ready", "components.Sensor"),
    }
    assert running.run("ps").splitlines()[1].split()[:2] == ["controller", "ready"]


def test_status_shows_broker_and_recording(running: Bench) -> None:
    told = running.run("status")

    assert told.startswith("session    lab\nbroker     mqtt://127.0.0.1:")
    assert "recording  off" in told
    found = json.loads(running.run("status", "--json"))
    assert (found["session"]["name"], len(found["instances"])) == ("lab", 2)


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_fills_the_terminal_and_leaves_it_as_it_was(running: Bench, until: Any, key: bytes) -> None:
    with Terminal(running, *COMMAND, "top") as terminal:
        until(lambda: b"controller" in terminal.said and b"q ends" in terminal.said, PATIENCE_S)

        terminal.press(key)

        assert terminal.process.wait(PATIENCE_S) == 0
        terminal.reader.join()
        assert termios.tcgetattr(terminal.side) == terminal.before
    text = terminal.said.decode()
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 1, "the screen is given back"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "and the cursor"
    frame = max(text.split("\x1b[H"), key=len)
    lines = [line.rstrip("\r") for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frame).split("\n")]
    assert (len(lines), max(map(len, lines))) == (24, 80), "nothing wraps"


def test_why_tells_of_who_is_there_and_of_who_is_not(running: Bench) -> None:
    assert running.run("why", "sensor").startswith("sensor is ready, for ")
    assert "did you mean `sensor`?" in running.run("why", "sensr", "--for", "100ms", code=1)


def test_top_prints_once_for_programs(running: Bench) -> None:
    found = json.loads(running.run("top", "--once", "--json"))

    rows = {row["name"]: row for row in found["instances"]}
    assert rows["sensor"]["published_per_s"] > 0
    assert rows["controller"]["counts"]["handled"] > 0
    assert found["session"]["name"] == "lab"
    assert "wants a terminal" in running.run("top", code=1)


def test_logs_are_followed_until_ctrl_c(running: Bench) -> None:
    following = running.start("logs", "-f", "--grep", "sensor is")
    following.until("sensor is ready")

    running.run("restart", "sensor")

    following.until("sensor is disconnected")
    following.until("sensor is ready")
    following.process.send_signal(signal.SIGINT)
    assert following.finish()[0] == 0


def test_call_prints_the_result_and_tells_failures(running: Bench) -> None:
    assert json.loads(running.run("call", "controller.status"))["limit"] == 21.0
    assert json.loads(running.run("call", "Controller.status", "--timeout", "5s"))["limit"] == 21.0
    assert "has no method 'nope'" in running.run("call", "controller.nope", code=1)
    assert "nobody is called 'oven'" in running.run("call", "oven.status", code=1)


def test_parameters_are_listed_set_and_read(running: Bench) -> None:
    assert json.loads(running.run("param", "set", "controller", "limit=22.5")) == {"limit": 22.5}
    assert running.run("param", "get", "controller", "limit") == "22.5\n"
    assert json.loads(running.run("param", "list", "controller", "--json"))["controller"]["limit"]["value"] == 22.5
    row = running.run("param", "list").splitlines()[1]
    assert row.startswith("controller.limit  22.5") and "@" in row
    assert "limit: Input should be a valid number" in running.run("param", "set", "controller", "limit=high", code=1)
    assert "no instance 'oven'; there are: controller, " in running.run("param", "list", "oven", code=1)
    running.run("param", "set", "controller", "limit=21.0")


def test_topic_list_names_publishers_subscribers_and_rates(running: Bench) -> None:
    rows = {row["topic"]: row for row in running.rows("topic", "list", "--for", "1s")}

    assert (rows["lab/temperature"]["from"], rows["lab/temperature"]["to"]) == (["sensor"], ["controller"])
    assert 2 <= rows["lab/heater"]["hz"] <= 20


def test_topic_echo_prints_readings_and_ends_by_count(running: Bench) -> None:
    rows = running.rows("topic", "echo", "lab/+", "--count", "3")

    assert len(rows) == 3
    assert {row["publisher"] for row in rows} <= {"sensor", "controller"}
    assert running.run("topic", "echo", "lab/temperature", "-n", "1").split()[1] == "lab/temperature"


def test_topic_echo_ends_at_ctrl_c_with_0(running: Bench) -> None:
    echo = running.start("topic", "echo", "lab/heater")
    echo.until("lab/heater")

    echo.process.send_signal(signal.SIGINT)

    assert echo.finish()[0] == 0


def test_topic_pub_reaches_handlers_and_listeners(running: Bench) -> None:
    echo = running.start("topic", "echo", "by/hand", "--json", "--count", "2")
    for _ in range(100):  # until the listener's subscription stands
        running.run("topic", "pub", "by/hand", '{"celsius": 99}')
        if not echo.lines.empty():
            break

    assert json.loads(echo.until("celsius"))["fields"] == {"celsius": 99}


def test_topic_hz_measures_the_rate(running: Bench) -> None:
    rows = running.rows("topic", "hz", "lab/temperature", "--for", "2.5s")

    assert 5 <= rows[-1]["hz"] <= 15


def test_topic_hz_says_that_nothing_comes(running: Bench) -> None:
    said = running.run("topic", "hz", "lab/temprature", "--for", "2.2s")

    assert said == "nothing comes on lab/temprature so far; `ether topic list` shows what there is\n"
    assert running.rows("topic", "hz", "lab/temprature", "--for", "1.2s") == []


def test_reserved_topics_and_wildcards_are_not_published(running: Bench) -> None:
    assert "'ether/' is reserved" in running.run("topic", "pub", "ether/run", "{}", code=2)
    assert "a publisher names one topic" in running.run("topic", "pub", "lab/#", "1", code=2)


def test_annotate_says_when_nobody_records(running: Bench) -> None:
    told = running.run("annotate", "added glucose", "--tag", "feed", "--at", "11:00", "--value", "ul=50")

    assert told == "sent; nobody records, so it is kept nowhere\n"


def test_runs_start_and_stop_from_outside(running: Bench) -> None:
    running.run("run", "start", "growth", "sample=K12")
    (row,) = running.rows("run", "list")
    running.run("run", "stop")

    assert (row["name"], row["metadata"], row["outcome"]) == ("growth", {"sample": "K12"}, None)
    assert "no run is on" in running.run("run", "stop", code=1)


def test_a_session_is_found_by_name(running: Bench) -> None:
    assert len(running.rows("ps", "--session", "lab")) == 2
    assert "no session 'other' runs" in running.run("ps", "--session", "other", code=4)


def test_doctor_sees_the_session(running: Bench) -> None:
    assert {row["subject"]: row["verdict"] for row in running.rows("doctor")}["session lab"] == "ok"


# ---------------------------------------------------------------- up and down


def test_ctrl_c_ends_in_order_and_sums_up(bench: Bench) -> None:
    bench.run("init", "lab")
    up = bench.start("up", "lab/session.yaml", "--set", "record=off")
    up.until("ready: sensor, controller")

    up.process.send_signal(signal.SIGINT)

    code, said = up.finish()
    assert code == 0, said
    assert "controller  ready" in said and said.endswith("nothing was recorded")
    assert bench.run("ps", code=4)


SLOW = """\
import threading

from ether import ether_cleanup


class Slow:
    @ether_cleanup
    def wait(self) -> None:
        print("cleaning up", flush=True)
        threading.Event().wait(60)
"""


def test_a_second_ctrl_c_ends_at_once_with_130(bench: Bench) -> None:
    (bench.folder / "slow.py").write_text(SLOW)
    (bench.folder / "a.yaml").write_text("record: off\ninstances: {slow: {class_path: slow.Slow}}\n")
    up = bench.start("up", "a.yaml", "--set", "session.stop_timeout=60s")
    up.until("ready: slow")

    up.process.send_signal(signal.SIGINT)
    up.until("cleaning up")
    up.process.send_signal(signal.SIGINT)

    assert up.finish()[0] == 130
    bench.run("ps", code=4)


def test_sigterm_ends_in_order_too(bench: Bench) -> None:
    bench.run("init", "lab")
    up = bench.start("up", "lab/session.yaml", "--set", "record=off")
    up.until("ready: sensor, controller")

    up.process.terminate()

    code, said = up.finish()
    assert (code, said.splitlines()[-1]) == (0, "nothing was recorded")


def test_up_ends_by_itself_and_overrides_hold(bench: Bench) -> None:
    bench.run("init", "lab")

    said = bench.run("up", "lab/session.yaml", "--set", "record=off", "--set", "session.name=short", "--for", "1s")

    assert "short: ran 00:00:0" in said


@pytest.mark.timeout(180)
def test_a_detached_session_outlives_its_terminal_and_runs_until_down(bench: Bench, until: Any) -> None:
    bench.run("init", "lab")

    components = bench.folder / "lab" / "components.py"
    components.write_text(components.read_text() + "\nprint('components are imported')\n")
    command = shlex.join([*COMMAND, "up", "lab/session.yaml", "--set", "record=off", "--detach"])
    with Terminal(bench, "sh", "-c", f"{command}; read line") as terminal:
        until(lambda: b"`ether down` ends it" in terminal.said, PATIENCE_S)
        terminal.hang_up()
        terminal.process.wait(PATIENCE_S)
    assert len(bench.rows("ps")) == 2
    following = bench.start("logs", "-f")
    following.until("began")
    assert bench.run("down") == "lab: stopped\n"
    code, said = following.finish()
    assert code == 0 and " - sensor:" in said and " - stdout - components are imported" in said
    assert said.endswith("ended")
    (own,) = (bench.folder / "data").glob("*.log")
    assert "components are imported" not in own.read_text().partition("ready:")[2], "it would grow without bounds"
    assert "no session runs" in bench.run("down", code=4)


def test_down_lets_the_host_sum_up(bench: Bench) -> None:
    bench.run("init", "lab")
    up = bench.start("up", "lab/session.yaml", "--set", "record=off")
    up.until("ready: sensor, controller")

    bench.run("down")

    code, said = up.finish()
    assert (code, said.splitlines()[-1]) == (0, "nothing was recorded")


def test_what_a_session_recorded_is_finished_when_down_returns(bench: Bench) -> None:
    bench.run("init", "lab")
    bench.run("up", "lab/session.yaml", "--detach")

    bench.run("down")

    (path,) = (bench.folder / "data").glob("*.h5")
    with open_recording(path) as recording:
        assert recording.state == "sealed"
    bench.run("ps", code=4)


def test_runs_are_ended_one_by_one_and_their_trials_numbered_by_successive_commands(bench: Bench) -> None:
    bench.run("init", "lab")
    bench.run("up", "lab/session.yaml", "--detach")

    bench.run("run", "start", "growth")
    for number in (1, 2):
        bench.run("run", "start", "warm", "--trial", f"seed={number}")
        bench.run("run", "stop", "--outcome", "too warm")
    bench.run("run", "start", "beside")
    bench.run("run", "stop")
    bench.run("run", "stop", "--outcome", "done")

    assert "no run is on" in bench.run("run", "stop", code=1)
    bench.run("down")
    (path,) = (bench.folder / "data").glob("*.h5")
    with open_recording(path) as recording:
        assert [(run.name, run.number, run.outcome) for run in recording.runs] == [
            ("growth", 1, "done"), ("warm", 1, "too warm"), ("warm", 2, "too warm"), ("beside", 2, "success"),
        ]  # fmt: skip


def test_a_folder_for_recordings_that_cannot_be_written_is_named(bench: Bench) -> None:
    bench.run("init", "lab")
    (bench.folder / "file").touch()

    told = [
        bench.run("up", "lab/session.yaml", "--set", "session.data=file/below", *words, code=1)
        for words in ([], ["--detach"])
    ]

    way_out = "cannot be written (Not a directory); name another with `session.data` or ETHER_DATA\n"
    assert told == [f"ether: {bench.folder}/file/below: {way_out}", f"ether: file/below: {way_out}"]


def test_an_instance_that_cannot_start_is_named_and_nothing_stays(bench: Bench) -> None:
    (bench.folder / "broken.py").write_text(
        "class Oven:\n    def __init__(self) -> None:\n        raise OSError('no port')\n"
    )
    (bench.folder / "a.yaml").write_text("record: off\ninstances: {oven: {class_path: broken.Oven}}\n")

    told = bench.run("up", "a.yaml", code=1)

    assert "ether: oven: OSError: no port" in told
    bench.run("ps", code=4)
    assert "no port" in bench.run("up", "a.yaml", "--detach", code=1)


def test_a_wrong_configuration_exits_3(bench: Bench) -> None:
    (bench.folder / "a.yaml").write_text("instances: {oven: {class_path: nowhere.Oven}}\n")

    assert "a.yaml:1:" in bench.run("up", "a.yaml", code=3)
    assert "a.yaml:1:" in bench.run("up", "a.yaml", "--detach", code=3)


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_broker_alone_serves_a_session(bench: Bench, kind: str) -> None:
    alone = bench.start("broker", "--kind", kind)
    url = alone.until("mqtt://").split()[0]
    bench.run("init", "lab")

    said = bench.run("up", "lab/session.yaml", "--set", "record=off", "--set", f"broker={url}", "--for", "1s")
    alone.process.send_signal(signal.SIGINT)

    assert f"broker: {url} (external)" in said
    assert alone.finish()[0] == 0


# ---------------------------------------------------------------- with a recording


def test_the_demo_records_and_proves_its_recording(bench: Bench) -> None:
    said = bench.run("demo", "--for", "2s")

    assert "numbers, twenty a second" in said and "proved by the publishers' own numbers" in said
    (recording,) = (bench.folder / "ether-demo").glob("*.h5")
    file = str(recording.relative_to(bench.folder))
    assert f"recorded: {file}\n" in said
    assert f"{file}: complete" in bench.run("verify", file)
    assert json.loads(bench.run("verify", file, "--json"))["complete"] is True
    assert json.loads(bench.run("info", file, "--json"))["topics"]["demo/number"]["readings"] > 10
    assert "demo/product" in bench.run("info", file)


def test_the_shipped_pipeline_runs_and_is_complete(bench: Bench) -> None:
    said = bench.run("up", str(ROOT / "configs" / "pipeline.yaml"), "--for", "2s")

    assert ", complete, " in said.splitlines()[-1]


def test_a_second_recorder_beside_a_session_has_the_same_and_leaves_with_it(bench: Bench) -> None:
    up = bench.start("up", str(ROOT / "configs" / "pipeline.yaml"))
    up.until("ready:")
    beside = bench.start("record", "copy of it.h5", "--name", "archive")
    beside.until("ready: archive")
    assert "there is an instance 'archive' already" in bench.run("record", "other.h5", "--name", "archive", code=1)
    bench.start("record", "third.h5", "--name", "third", "--topic", "nothing/#").until("ready: third")
    third = bench.started[-1]
    third.process.send_signal(signal.SIGINT)
    assert (third.finish()[0], "recorded: third.h5, complete" in third.said[-1]) == (0, True)
    bench.run("annotate", "both have this")
    up.process.send_signal(signal.SIGINT)

    code, said = up.finish()
    assert (code, "archive" in said) == (0, True)
    code, said = beside.finish()
    assert (code, "recorded: copy of it.h5, complete" in said) == (0, True), said
    with open_recording(bench.folder / "copy of it.h5") as recording:
        assert [each.text for each in recording.annotations] == ["both have this"]
    assert not (bench.folder / "other.h5").exists()


def test_remarks_and_runs_from_the_command_line_are_in_the_recording(bench: Bench) -> None:
    up = bench.start("up", str(ROOT / "configs" / "pipeline.yaml"))
    up.until("ready:")

    bench.run("run", "start", "growth", "sample=K12")
    bench.run("annotate", "added glucose", "--tag", "feed")
    bench.run("run", "stop", "--outcome", "contaminated")
    up.process.send_signal(signal.SIGINT)

    code, said = up.finish()
    assert code == 0, said
    (recording,) = (bench.folder / "data").glob("*.h5")
    found = json.loads(bench.run("info", str(recording), "--json"))
    assert [(run["name"], run["outcome"]) for run in found["runs"]] == [("growth", "contaminated")]
    assert found["annotations"] == 1
