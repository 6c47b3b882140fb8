from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_the_pipeline_gives_the_same_through_ether_and_by_hand(run_example: Callable[[str], Any]) -> None:
    done = run_example("simple_pipeline")

    assert done.lines[0] == "through ether: {'sum_2x': 110, 'sum_3x': 165}"
    assert done.lines[-1] == "by hand: {'sum_2x': 110, 'sum_3x': 165}"
    with done.recording as recording:
        assert {topic: len(stream) for topic, stream in recording.items()} == {
            "numbers": 10, "products": 20, "summary": 1,
        }  # fmt: skip
        products = recording["products"].to_numpy()
        assert sorted(products["product"][products["multiplier"] == 3]) == list(range(3, 31, 3))
