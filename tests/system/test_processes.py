"""Instances as processes: where their classes come from, and what they inherit."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from ether import ether_get, ether_sub
from ether.errors import SessionError, StartError


def _config(**instances: Any) -> dict[str, Any]:
    blocks = {
        name: {"class_path": "lab_parts.Echo", **block} if isinstance(block, dict) else {"class_path": block}
        for name, block in instances.items()
    }
    return {"broker": "embedded", "record": "off", "session": {"stop_timeout": "3s"}, "instances": blocks}


def test_an_instance_is_a_process_with_our_search_path_and_working_directory(ether, workdir, monkeypatch):
    monkeypatch.syspath_prepend(str(workdir / "eigene"))

    ether.tap(_config(echo={"args": ["hi"], "kwargs": {"gain": 2, "nested": {"a": [1]}}}))

    found = ether.get("echo", "where")
    assert found.pop("pid") not in (os.getpid(), None)
    assert str(workdir / "eigene") in found.pop("path")
    assert found == {
        "cwd": str(workdir), "word": "hi", "more": {"gain": 2, "nested": {"a": [1]}}, "thread": True, "got": [],
    }  # fmt: skip


def test_arguments_may_be_objects_that_json_cannot_carry(ether):
    ether.tap(_config(echo={"kwargs": {"path": Path("a"), "pair": (1, 2), "numbers": {1: "one"}}}))

    assert ether.get("echo", "where")["more"] == {"path": "a", "pair": [1, 2], "numbers": {"1": "one"}}


def test_ether_name_renames_and_never_reaches_the_class(ether):
    ether.tap(_config(echo={"kwargs": {"ether_name": "left-echo", "gain": 1}}))

    assert ether.get("left-echo", "where")["more"] == {"gain": 1}
    assert "echo" not in ether.instances()


def test_replicas_share_the_class_and_have_numbers(ether):
    ether.tap(_config(echo={"replicas": 2}))

    pids = {ether.get(name, "where")["pid"] for name in ("echo-1", "echo-2")}
    in_turn = {ether.get("Echo", "where")["pid"] for _ in range(2)}

    assert (len(pids), in_turn) == (2, pids)


def test_what_is_not_autorun_starts_when_launched(ether):
    ether.tap(_config(echo={}, spare={"autorun": False}))
    assert sorted(ether.instances()) == ["echo", "session"]

    ether.launch("spare")

    assert ether.get("spare", "where")["word"] == "hello"
    assert ether.instances()["spare"].process == "running"


@pytest.mark.parametrize(
    ("name", "message"),
    [("echo", "echo runs already"), ("spore", "no instance 'spore' is declared; there are echo, spare")],
)
def test_a_launch_that_cannot_work_says_why(ether, name, message):
    ether.tap(_config(echo={}, spare={"autorun": False}))

    with pytest.raises(SessionError, match=message):
        ether.launch(name)


def test_a_failed_launch_names_the_reason_and_leaves_the_session_alone(ether):
    ether.tap(_config(echo={}, bad={"class_path": "lab_parts.RaisingInit", "autorun": False}))

    with pytest.raises(StartError, match="the valve is stuck"):
        ether.launch("bad")

    assert ether.get("echo", "where")["word"] == "hello"


def test_what_has_ended_can_be_launched_again(ether, until):
    ether.tap(_config(fragile="lab_parts.Fragile"))
    before = ether.get("fragile", "pid")
    ether.pub({"code": 0}, "die")
    until(lambda: not psutil.pid_exists(before))
    until(lambda: ether.instances()["fragile"].process == "exited")

    ether.launch("fragile")

    assert ether.get("fragile", "pid") != before


def test_an_instance_that_dies_is_started_again_where_its_policy_says_so(ether, until):
    ether.tap(
        _config(
            fragile={"class_path": "lab_parts.Fragile", "restart": {"policy": "on-failure", "backoff": ["50ms", "1s"]}}
        )
    )
    before = ether.get("fragile", "pid")

    ether.pub({"code": 7}, "die")

    until(lambda: (info := ether.instances()["fragile"]).state == "ready" and info.pid not in (before, None), 10.0)
    assert ether.get("fragile", "pid") != before


def test_an_instance_that_dies_says_so_in_its_status_with_its_last_words(ether, until):
    ether.tap(_config(fragile="lab_parts.Fragile", echo={}))

    ether.pub({"code": 7}, "die")

    until(lambda: ether.instances()["fragile"].state == "lost")
    until(lambda: ether.instances()["fragile"].detail.startswith("exit code 7"))
    assert ether.instances()["fragile"].detail.splitlines()[-1] == "I die of 7"
    summary = ether.shutdown()
    assert summary.instances == {"fragile": "exit code 7", "echo": "exit code 0"}


def test_a_class_of_a_function_runs_in_a_process(ether, until):
    word = "closed over"

    class Local:
        def __init__(self) -> None:
            self.got: list[Any] = []

        @ether_sub(topic="local/in")
        def take(self, x: int) -> None:
            self.got.append(x)

        @ether_get
        def tell(self) -> dict[str, Any]:
            return {"word": word, "pid": os.getpid(), "got": self.got}

    ether.tap(_config(local=Local))

    ether.pub({"x": "17"}, "local/in")

    until(lambda: ether.get("local", "tell")["got"] == [17])
    told = ether.get("local", "tell")
    assert (told["word"], told["pid"] != os.getpid()) == ("closed over", True)


IN_THE_SCRIPT = """
from __future__ import annotations
import os
from dataclasses import dataclass
from enum import Enum
from pydantic import BaseModel
from ether import ether, ether_get, ether_pub, ether_sub

print("the script runs")

class Unit(Enum):
    DEGC = "degC"

class Reading(BaseModel):
    celsius: float
    unit: Unit = Unit.DEGC

@dataclass
class Oven:
    factor: float
    @ether_sub(topic="in")
    @ether_pub(topic="out")
    def take(self, reading: Reading) -> Reading:
        return Reading(celsius=helper(reading.celsius) * self.factor, unit=reading.unit)
    @ether_get
    def kind(self, reading: Reading) -> str:
        return f"{type(reading).__name__} {reading.unit} {os.getpid() != SCRIPT}"
    @ether_get
    def only_annotated(self, spot: Spot) -> str:
        return repr(spot)

@dataclass
class Place:
    x: int

@dataclass
class Spot:
    place: Place

def helper(x):
    return x + OFFSET

OFFSET = 1
SCRIPT = os.getpid()
ether.tap({"broker": "embedded", "record": "off", "instances": {"oven": {"class_path": CLASS, "kwargs": {"factor": 2}}}})
import queue
got = queue.Queue()
ether.subscribe("out", got.put)
print(ether.get("oven", "kind", celsius=1))
print(ether.get("oven", "only_annotated", place={"x": "1"}))
ether.pub({"celsius": "20"}, "in")
print(got.get(timeout=5).fields)
print(ether.shutdown().problems)
"""


OF_THE_SCRIPT = [
    "the script runs",
    "Reading Unit.DEGC True",
    "Spot(place=Place(x=1))",
    "{'celsius': 42.0, 'unit': 'degC'}",
    "()",
]


@pytest.mark.parametrize("given", ["Oven", '"__main__.Oven"'])
def test_a_class_of_the_running_script_needs_no_guard(script, given):
    done = script(IN_THE_SCRIPT.replace("CLASS", given)).end()

    assert (done.lines, done.code) == (OF_THE_SCRIPT, 0), done.transcript()


def test_a_script_named_by_its_own_module_name_is_not_run_again(script):
    done = script(IN_THE_SCRIPT.replace("CLASS", '"messung.Oven"'), name="messung.py").end()

    assert (done.lines, done.code) == (OF_THE_SCRIPT, 0), done.transcript()


def test_a_class_of_a_notebook_cell_is_an_instance(script):
    cells = """
    import sys, types
    cells = ['''
    from ether import ether, ether_get
    class Cell:
        @ether_get
        def tell(self) -> str:
            return WORD
    WORD = "from a cell"
    ''', '''
    ether.tap({"broker": "embedded", "record": "off", "instances": {"cell": {"class_path": Cell}}})
    print(ether.get("cell", "tell"))
    ''', '''
    print(ether.get("cell", "tell"))
    ether.shutdown()
    ''']
    import textwrap
    namespace = sys.modules["__main__"].__dict__
    del namespace["__file__"]
    for number, cell in enumerate(cells):
        exec(compile(textwrap.dedent(cell), f"<cell {number}>", "exec"), namespace)
    """

    done = script(cells).end()

    assert (done.lines, done.code) == (["from a cell", "from a cell"], 0), done.transcript()


def test_prints_of_an_instance_appear_at_once_and_unchanged(script):
    running = script(
        """
        import sys
        from ether import ether
        sys.path.insert(0, PARTS)
        ether.tap({"broker": "embedded", "record": "off", "instances": {"talker": {"class_path": "lab_parts.Talker"}}})
        ether.pub({"text": "größer"}, "say")
        input()
        """.replace("PARTS", repr(str(Path(__file__).parents[1] / "parts"))),
        python=[sys.executable, "-c", "import runpy, sys, threading; input = threading.Event().wait; "
                "runpy.run_path(sys.argv[1], {'input': input})"],
    )  # fmt: skip

    running.wait_for("said größer")

    assert running.lines == ["printed in the constructor", "said größer"]
    assert "complained größer" in running.errors
    running.popen.terminate()
    running.end()


def test_what_an_instance_publishes_by_hand_is_numbered_with_its_results(ether, until):
    heard: dict[str, int | None] = {}
    ether.tap({"broker": "embedded", "record": "off", "instances": {"both": {"class_path": "lab_parts.TwoVoices"}}})
    ether.subscribe("voices", lambda reading: heard.update({reading.fields["by"]: reading.number}))

    ether.start()

    until(lambda: heard == {"hand": 0, "method": 1})
