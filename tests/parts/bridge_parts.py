"""A component with something of everything that dashboards can show and set."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import numpy as np

from ether import Param, ether_pub, ether_sub


class State(TypedDict):
    celsius: float
    open: bool
    mode: Literal["idle", "heat"]


class Furnace:
    gain: Annotated[float, Param(unit="dB", ge=0, le=60, description="Of the first stage.")] = 1.0
    quiet: Annotated[bool, Param] = False

    def __init__(self) -> None:
        self.celsius = 20.0
        self.count = 0

    @ether_pub(topic="lab/furnace", every="50ms", unit={"celsius": "degC"})
    def read(self) -> State:
        return {"celsius": self.celsius, "open": False, "mode": "heat"}

    @ether_pub(topic="lab/counted", every="50ms")
    def counted(self) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count, "inner": {"word": "a"}, "list": [1, 2]}

    @ether_pub(topic="lab/picture", every="1h")
    def picture(self) -> dict[str, np.ndarray]:
        return {"frame": np.zeros((2, 2))}

    @ether_sub(topic="lab/setpoint")
    def set(self, celsius: float) -> None:
        self.celsius = celsius


class Watcher:
    """Hears what the furnace publishes: nothing that a dashboard may set."""

    @ether_sub(topic="lab/furnace")
    def take(self, celsius: float) -> None:
        self.last = celsius
