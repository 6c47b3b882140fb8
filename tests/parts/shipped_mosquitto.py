"""The Mosquitto that `broker/mosquitto/` ships, installed for a test: places, ports and passwords are the test's own."""

from __future__ import annotations

import functools
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

from ether.cli import main
from ether.testing.broker_contract import Client, MosquittoProcess, wire
from ether_broker import users

__all__ = ["BRIDGE", "FOLDER", "PASSWORDS", "SHIPPED", "Shipped"]

FOLDER = Path(__file__).parents[2] / "broker" / "mosquitto"
SHIPPED = (FOLDER / "mosquitto.conf").read_text(encoding="utf-8")
BRIDGE = (FOLDER.parent / "cluster" / "bridge.conf").read_text(encoding="utf-8")
PASSWORDS = {name: f"{name}-has-a-password" for name in ("bench", "board", "screen")}
_ROLES = {"bench": "admin", "board": "device", "screen": "dashboard"}


class Shipped(MosquittoProcess):
    """The real Mosquitto on the shipped configuration, installed in a folder as README.md says."""

    def __init__(self, folder: Path, certificates: Any, more: str = "") -> None:
        super().__init__(folder)
        self.port, self.tls_port, self.web_port = _free_port(), _free_port(), _free_port()
        etc = folder / "etc"
        for each in (etc, folder / "var"):
            each.mkdir(parents=True)
        for ours, theirs in (("server_pem", "bench.pem"), ("server_key", "bench.key"), ("ca_pem", "lab-ca.pem")):
            shutil.copy(getattr(certificates, ours), etc / theirs)
        users.write(folder / "users.yaml", _users())
        assert main(["broker", "users", "mosquitto", f"--folder={etc}", f"--file={folder / 'users.yaml'}"]) == 0
        self.CONFIGURATION = SHIPPED + more
        self.change("/etc/ether-mosquitto/", f"{etc}/")
        self.change("/var/lib/ether-mosquitto/", f"{folder}/var/")
        self.change("listener 8883\n", f"listener {self.tls_port} 127.0.0.1\n")
        self.change("listener 1883 127.0.0.1\n", f"listener {self.port} 127.0.0.1\n")

    def change(self, shipped: str, own: str) -> None:
        assert shipped in self.CONFIGURATION
        self.CONFIGURATION = self.CONFIGURATION.replace(shipped, own)

    def url(self, user: str, *, secure: bool = False) -> str:
        scheme, port = ("mqtts", self.tls_port) if secure else ("mqtt", self.port)
        return f"{scheme}://{user}:{PASSWORDS[user]}@127.0.0.1:{port}"

    def save(self) -> None:
        """Have it save now what `autosave_interval` saves within 30 s."""
        with Client(self.host, self.port).socket as opened:
            opened.sendall(wire.connect("saver", user="bench", password=PASSWORDS["bench"]))
            opened.recv(4)
            opened.sendall(wire.publish("saved", b"the-marker-of-save", 1, retain=True))
            opened.recv(4)
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)

    @property
    def database(self) -> Path:
        return self.folder / "var" / "mosquitto.db"

    def log(self) -> str:
        return (self.folder / "broker.err").read_text(encoding="utf-8")


@functools.cache
def _users() -> users.Users:
    """Once for all tests: a password costs an argon2."""
    return {name: users.make_user(name, _ROLES[name], word) for name, word in PASSWORDS.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
