"""Live parameters, from set to recording."""

from __future__ import annotations

import os
import signal
from typing import Annotated, Any

import pytest

from ether import Param, ether_sub
from ether.errors import CallError
from ether.recorder.reader import open_recording


class Amplifier:
    gain: Annotated[float, Param(unit="dB", ge=0, le=60)] = 1.0

    @ether_sub(topic="amplifier/auto")
    def auto(self, gain: float) -> None:
        self.gain = gain


def value(session: Any, name: str, param: str) -> Any:
    return session.params(name)[param]["value"]


def test_a_set_parameter_is_told_recorded_and_kept_when_the_process_dies(ether, workdir, until) -> None:
    config = {
        "broker": "embedded",
        "instances": {
            "echo": {"class_path": "lab_parts.Echo", "params": {"word": {"description": "Said."}}, "restart": "always"},
        },
    }  # fmt: skip
    ether.tap(config)

    assert (value(ether, "echo", "word"), ether.set_param("echo", "word", "hi")) == ("hello", "hi")
    assert ether.get("echo", "where")["word"] == "hi"
    until(lambda: value(ether, "echo", "word") == "hi", 5.0, "the description")
    boot = ether.instances()["echo"].boot
    os.kill(ether.get("echo", "where")["pid"], signal.SIGKILL)
    until(lambda: (now := ether.instances()["echo"]).boot != boot and str(now.state) == "ready", 20.0, "the next start")
    assert ether.get("echo", "where")["word"] == "hi"
    ether.restart("echo")
    assert ether.get("echo", "where")["word"] == "hi"
    ether.stop("echo")
    ether.launch("echo")
    assert ether.get("echo", "where")["word"] == "hi"
    by = ether.params("echo")["word"]["by"]
    summary = ether.shutdown()

    with open_recording(summary.recording) as recording:
        change = next(each for each in recording.annotations if "param" in each.tags)
    assert (change.text, change.by) == ("echo.word: 'hello' -> 'hi'", by)
    assert change.values == {"instance": "echo", "param": "word", "before": "hello", "value": "hi"}


def test_what_a_parameter_cannot_be_is_an_error_at_the_caller(shared, add) -> None:
    add(Amplifier(), "amplifier-1")

    with pytest.raises(CallError, match=r"gain: Input should be less than or equal to 60, got 61 \(int\)"):
        shared.set_param("amplifier-1", "gain", 61)
    with pytest.raises(CallError, match="no parameter 'volume'; there are: gain"):
        shared.set_param("amplifier-1", "volume", 1)
    assert value(shared, "amplifier-1", "gain") == 1.0


def test_what_the_component_sets_itself_is_told_too(shared, add, until) -> None:
    add(Amplifier(), "amplifier-2")

    for gain in range(50):
        shared.pub({"gain": gain}, "amplifier/auto")

    until(lambda: value(shared, "amplifier-2", "gain") == 49, 5.0, "the last value")
