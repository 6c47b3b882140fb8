"""The broker contract on Mosquitto: what the embedded broker is held against."""

import signal
import threading
import time
from pathlib import Path

from ether.testing.broker_contract import TIMEOUT_S, BrokerProcess, Client, MosquittoProcess, ProcessContract


class TestMosquittoBroker(ProcessContract):
    broker = MosquittoProcess

    def settle(self, server: BrokerProcess) -> None:
        """Mosquitto acknowledges first and saves its whole database now and then: have it save now, and wait."""
        each = Client(server.host, server.port)
        each.connect()
        each.publish("settled", b"the-marker-of-settle", retain=True)
        each.disconnect()
        assert server.process is not None
        server.process.send_signal(signal.SIGUSR1)
        database = Path(server.folder) / "mosquitto.db"
        deadline = time.monotonic() + TIMEOUT_S
        while not (database.exists() and b"the-marker-of-settle" in database.read_bytes()):
            assert time.monotonic() < deadline, "mosquitto does not save"
            threading.Event().wait(0.02)
