"""A store that other processes call: `ether_save` reports success or error, `ether_get` returns a result."""

from ether import ether_get, ether_save


class SampleStore:
    def __init__(self) -> None:
        self.samples: dict[str, float] = {}

    @ether_save
    def add(self, name: str, mass_mg: float) -> int:
        """Store a sample; returns how many there are."""
        if mass_mg <= 0:
            raise ValueError(f"{name}: a sample weighs more than {mass_mg} mg")
        self.samples[name] = mass_mg
        return len(self.samples)

    @ether_get
    def mass(self, name: str) -> float:
        return self.samples[name]

    @ether_get
    def total(self) -> float:
        return sum(self.samples.values())
