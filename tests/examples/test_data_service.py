from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_another_process_stores_answers_and_refuses(run_example: Callable[[str], Any]) -> None:
    done = run_example("data_service")

    assert done.lines == [
        "saved: {'status': 'success', 'result': 1}",
        "saved: {'status': 'success', 'result': 2}",
        "refused: empty: a sample weighs more than 0.0 mg",
        "mass of K12: 4.5",
        "no such sample: KeyError 'X9'",
        "total: 10.0",
    ]
    with done.recording as recording:
        assert [call["method"] for call in recording.calls] == ["add", "add", "add", "mass", "mass", "total"]
