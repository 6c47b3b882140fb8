"""A pipeline of three plain classes; only the marks know about ether."""

from collections.abc import Iterator

from ether import ether_pub, ether_start, ether_sub


class Generator:
    def __init__(self, count: int = 10) -> None:
        self.count = count

    @ether_start
    @ether_pub(topic="numbers")
    def generate(self) -> Iterator[dict[str, int]]:
        for number in range(1, self.count + 1):
            yield {"number": number}


class Processor:
    def __init__(self, multiplier: int = 2) -> None:
        self.multiplier = multiplier

    @ether_sub(topic="numbers")
    @ether_pub(topic="products")
    def multiply(self, number: int) -> dict[str, int]:
        return {"multiplier": self.multiplier, "product": number * self.multiplier}


class Collector:
    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.products: dict[int, list[int]] = {}

    @ether_sub(topic="products")
    def collect(self, multiplier: int, product: int) -> None:
        self.products.setdefault(multiplier, []).append(product)
        if sum(map(len, self.products.values())) == self.expected:
            self.summarise()

    @ether_pub(topic="summary")
    def summarise(self) -> dict[str, int]:
        return {f"sum_{multiplier}x": sum(products) for multiplier, products in sorted(self.products.items())}
