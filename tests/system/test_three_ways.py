"""Plain Python, one process, distributed: the same scenarios, the same results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scenario_parts import Distributed, InProcess, Plain, config

from ether.testing import Lab


@pytest.fixture(scope="module", params=["plain", "in one process", "distributed"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, until: Any) -> Iterator[Any]:
    if request.param == "plain":
        yield Plain()
    elif request.param == "in one process":
        with Lab(config()) as lab:
            lab.start()
            yield InProcess(lab)
    else:
        from ether import ether

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("distributed"))
            ether.tap(config())
            try:
                ether.start()
                yield Distributed(ether, until)
            finally:
                ether.shutdown()


def test_a_chain_hands_each_result_on_in_order(bench):
    for number in range(1, 51):
        bench.publish("numbers", number)

    assert bench.readings("doubles", 50) == [{"value": 2 * number} for number in range(1, 51)]
    totals = [100 + number * (number + 1) for number in range(1, 51)]
    assert bench.readings("totals", 50) == [{"total": total} for total in totals]
    assert bench.call("adder", "sum") == 2650


def test_a_value_set_by_a_call_is_gone_on_with(bench):
    assert bench.call("adder", "set", total=7) == 7

    bench.publish("doubles", 5)

    assert bench.readings("totals", 51)[-1] == {"total": 12}


def test_hooks_run_when_told(bench):
    bench.call("adder", "set", total=1)
    bench.save_all()

    assert bench.call("adder", "kept") == [1]


def test_generators_and_coroutines_publish_all_they_give_in_order(bench):
    bench.publish("words", "oven")
    bench.publish("words", "ok")

    assert "".join(each["value"] for each in bench.readings("letters", 6)) == "ovenok"
    assert [each["value"] for each in bench.readings("lengths", 2)] == [4, 2]
    assert [each["value"] for each in bench.readings("halves", 4)] == ["ov", "en", "o", "k"]


def test_filters_whole_readings_and_dataclasses(bench):
    bench.publish("spectrum/red", {"values": [1.0, 2.0, 4.5]})
    bench.publish("spectrum/blue", {"values": [0.5, 0.25]})
    bench.publish("spectrum/far/red", {"values": [9.0]})

    assert bench.readings("fit", 2) == [{"slope": 3.5, "offset": 4.0}, {"slope": -0.25, "offset": 4.5}]


def test_arrays_keep_shape_type_and_values(bench):
    frame = np.arange(6, dtype="<f4").reshape(2, 3)

    bench.publish("frames", {"frame": frame})
    bench.publish("frames", {"frame": frame, "by": -1.0})

    found = bench.readings("scaled", 2)
    assert [(each["frame"].shape, each["frame"].dtype, each["mean"]) for each in found] == [
        ((2, 3), np.dtype("<f4"), 5.0), ((2, 3), np.dtype("<f4"), -2.5),
    ]  # fmt: skip
    assert np.array_equal(found[0]["frame"], frame * 2)


def test_what_does_not_fit_and_what_fails_costs_only_itself(bench):
    for value in (4.0, "hot", -1.0, {"value": [1]}, 9.0):
        bench.publish("risky", value)

    assert [each["value"] for each in bench.readings("survived", 2)] == [2.0, 3.0]


def test_an_exception_of_a_called_method_is_the_callers(bench):
    assert bench.call("fragile", "divide", a=1.0, b=4.0) == 0.25
    with pytest.raises(ZeroDivisionError, match="float division by zero"):
        bench.call("fragile", "divide", a=1.0, b=0.0)
    assert bench.call("fragile", "divide", a=1.0, b=2.0) == 0.5
