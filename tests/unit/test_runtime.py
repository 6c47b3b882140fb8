"""Which sessions run on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ether import runtime


def _entry(name: str, pid: int, started: float = 1.0, **more: str) -> dict[str, object]:
    return {
        "id": name,
        "name": name,
        "namespace": "",
        "url": "mqtt://127.0.0.1:1",
        "pid": pid,
        "started": started,
        **more,
    }


def _dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_the_newest_session_is_found_first_and_one_is_found_by_name():
    for name, started in (("old", 1.0), ("new", 2.0)):
        runtime.remember(_entry(name, os.getpid(), started))

    assert (runtime.find()["name"], runtime.find("old")["name"], runtime.find("none")) == ("new", "old", None)
    assert runtime.find(namespace="other") is None


def test_only_its_user_may_read_what_is_remembered():
    path = runtime.remember(_entry("mine", os.getpid()))

    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_forgotten_session_is_gone():
    runtime.remember(_entry("mine", os.getpid()))

    runtime.forget("mine")
    runtime.forget("mine")

    assert (runtime.running(), list(runtime.folder().iterdir())) == ([], [])


def test_what_a_dead_session_left_is_removed(tmp_path):
    broker = tmp_path / "ether-broker-x"
    broker.mkdir()
    runtime.folder().mkdir(parents=True)
    entry = _entry("dead", _dead_pid(), folder=str(broker))
    (runtime.folder() / "dead.json").write_text(json.dumps(entry))

    runtime.remember(_entry("mine", os.getpid()))

    assert ([each["name"] for each in runtime.running()], broker.exists()) == (["mine"], False)


def test_a_damaged_file_is_no_session():
    runtime.folder().mkdir(parents=True)
    for number, text in enumerate(["", "{", "[]", '{"pid": "x"}']):
        (runtime.folder() / f"{number}.json").write_text(text)

    assert runtime.running() == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_process_that_has_ended_does_not_live_though_nobody_has_looked_yet(until) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    assert runtime.alive(os.getpid())

    until(lambda: not runtime.alive(ended.pid), 10.0)

    assert ended.wait() == 0
