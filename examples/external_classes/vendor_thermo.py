"""Stands for a module that you installed and cannot edit. It knows nothing of ether."""


class Incubator:
    def __init__(self, port: str, celsius: float = 20.0) -> None:
        self.port = port
        self.celsius = celsius
        self.target = celsius

    def read(self) -> dict[str, float]:
        self.celsius += 0.5 * (self.target - self.celsius)
        return {"celsius": round(self.celsius, 2)}

    def set_target(self, celsius: float) -> None:
        self.target = celsius

    def status(self) -> dict[str, object]:
        return {"port": self.port, "target": self.target}
