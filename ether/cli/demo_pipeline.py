"""The classes that `ether demo` runs: a generator, processors with different factors, a collector."""

from __future__ import annotations

from collections import Counter

from ether.decorators import ether_get, ether_pub, ether_sub

__all__ = ["Collector", "Generator", "Processor"]


class Generator:
    """Counts 1, 2, 3 …"""

    def __init__(self) -> None:
        self.number = 0

    @ether_pub(topic="demo/number", every="50ms", description="1, 2, 3 …, twenty a second")
    def count(self) -> dict[str, int]:
        self.number += 1
        return {"number": self.number}


class Processor:
    """Multiplies each number by its factor."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    @ether_sub(topic="demo/number")
    @ether_pub(topic="demo/product", description="factor * number")
    def multiply(self, number: int) -> dict[str, int]:
        return {"factor": self.factor, "number": number, "product": self.factor * number}


class Collector:
    """Counts and sums what the processors say."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.sums: Counter[int] = Counter()

    @ether_sub(topic="demo/product")
    def collect(self, factor: int, product: int) -> None:
        self.counts[factor] += 1
        self.sums[factor] += product

    @ether_get
    def summary(self) -> dict[str, dict[str, int]]:
        """Return how many products there were of each factor, and their sum."""
        return {str(factor): {"count": self.counts[factor], "sum": self.sums[factor]} for factor in sorted(self.counts)}
