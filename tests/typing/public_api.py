"""Never run: what mypy and pyright must conclude about a user's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, assert_type

import ether as package
from ether import Reading, Recording, ether, ether_get, ether_pub, ether_start, ether_sub
from ether.session import Ether, RunHandle, Summary


class Oven:
    @ether_pub
    def bare(self) -> dict[str, float]:
        return {"celsius": 20.0}

    @ether_pub()
    def called(self) -> float:
        return 20.0

    @ether_sub(topic="lab/setpoint")
    @ether_pub(topic="lab/oven", every="100ms", unit={"celsius": "degC"}, batch=10)
    def stacked(self, celsius: float) -> dict[str, float]:
        return {"celsius": celsius}

    @ether_start(background=True)
    @ether_pub(topic="lab/count", every=0.1)
    def items(self) -> Iterator[int]:
        yield 1

    @ether_get
    def status(self, verbose: bool = False) -> str:
        return "fine"


def a_decorated_method_keeps_its_type(oven: Oven) -> None:
    assert_type(oven.bare(), dict[str, float])
    assert_type(oven.called(), float)
    assert_type(oven.stacked(celsius=20.0), dict[str, float])
    assert_type(oven.items(), Iterator[int])
    assert_type(oven.status(verbose=True), str)
    oven.stacked("hot")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_session(config: package.Config) -> None:
    assert_type(ether, Ether)
    assert_type(ether.tap(config), Ether)
    assert_type(ether.tap({"instances": {}}), Ether)
    with ether.session("session.yaml") as lab:
        assert_type(lab, Ether)
        with lab.run("growth", sample="K12") as run:
            assert_type(run, RunHandle)
            assert_type(run.number, int)
    assert_type(ether.get_later("oven", "status"), Future[Any])
    assert_type(ether.save("oven", "status"), dict[str, Any])
    assert_type(ether.add(Oven()), Oven)
    assert_type(ether.shutdown(), Summary | None)


def a_subscription(put: Callable[[Reading], None]) -> None:
    ether.subscribe("lab/oven", put).stop()


def a_recording() -> None:
    assert_type(package.open("session.h5"), Recording)
    with ether.open("session.h5") as recording:
        assert_type(recording, Recording)
        assert_type(len(recording["lab/oven"]), int)
