from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_the_controller_switches_the_heater_at_its_limits(run_example: Callable[[str], Any]) -> None:
    done = run_example("lab_monitor")

    assert done.lines[0] == "heater off, then on: [False, True]"
    highest = float(done.lines[1].removeprefix("highest temperature: ").removesuffix(" degC"))
    assert 40.0 <= highest < 60.0  # 40, unless the machine is so busy that the order to switch off takes many samples
    with done.recording as recording:
        assert recording["Sensor.set_heater"].to_numpy()["on"].tolist()[:2] == [False, True]
        (run,) = recording.runs
        assert (run.name, run.outcome, run.metadata) == ("heating", "success", {"liquid": "water"})
        (annotation,) = recording.annotations
        assert (annotation.text, annotation.tags, annotation.values["run"]) == ("limit reached", ("safety",), run.id)
        assert any("heater off" in line.message for line in recording.log)
