"""Sensor -> logger -> controller. Each topic is named after the method that receives it."""

import logging

from ether import ether_get, ether_pub, ether_sub

logger = logging.getLogger(__name__)


class Sensor:
    """A water bath: it warms while the heater is on and cools while it is off."""

    def __init__(self, start: float = 20.0) -> None:
        self.temperature = start
        self.heating = True

    @ether_pub(topic="Logger.log_temperature", every="50ms", unit={"temperature": "degC"})
    def read(self) -> dict[str, float]:
        self.temperature += 2.0 if self.heating else -1.0
        return {"temperature": self.temperature}

    @ether_sub
    def set_heater(self, on: bool) -> None:
        self.heating = on


class Logger:
    """Keeps what it was told, and passes it on with the highest temperature so far."""

    def __init__(self) -> None:
        self.log: list[float] = []

    @ether_sub
    @ether_pub(topic="Controller.check")
    def log_temperature(self, temperature: float) -> dict[str, float]:
        self.log.append(temperature)
        return {"temperature": temperature, "highest": max(self.log)}

    @ether_get
    def highest(self) -> float:
        return max(self.log)


class Controller:
    """Switches the heater off at the limit, and on again well below it."""

    def __init__(self, limit: float = 40.0, resume: float = 35.0) -> None:
        self.limit = limit
        self.resume = resume
        self.on = True

    @ether_sub
    def check(self, temperature: float) -> None:
        if self.on and temperature >= self.limit:
            logger.warning("%.1f degC is at the limit of %.1f degC: heater off", temperature, self.limit)
            self.switch(on=False)
        elif not self.on and temperature <= self.resume:
            self.switch(on=True)

    @ether_pub(topic="Sensor.set_heater")
    def switch(self, on: bool) -> dict[str, bool]:
        self.on = on
        return {"on": on}
