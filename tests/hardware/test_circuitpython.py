"""What stands in for a CircuitPython board: its socket pool's surface, over CPython's sockets; and MiniMQTT."""

from __future__ import annotations

import importlib
import json
import random
import socket
import ssl
import sys
import threading
import time
import types
from pathlib import Path

import pytest

HARDWARE = Path(__file__).parents[2] / "hardware"


@pytest.fixture
def lite(monkeypatch):
    """The modules that a board has, in this process."""
    for folder in ("circuitpython", "micropython"):
        monkeypatch.syspath_prepend(str(HARDWARE / folder))
    yield importlib.import_module("ether_circuitpython")
    for name in ("ether_circuitpython", "ether_lite", "level1_minimqtt"):
        sys.modules.pop(name, None)


class Narrow:
    """A socket that gives a byte at a time, takes a few, and says half of the time that nothing can be done now."""

    def __init__(self, connection):
        self._connection = connection
        self._random = random.Random(1)
        for name in ("settimeout", "setblocking", "setsockopt", "connect", "close"):
            setattr(self, name, getattr(connection, name))

    def recv_into(self, buffer):
        self._refuse()
        return self._connection.recv_into(buffer, 1)

    def send(self, data):
        self._refuse()
        return self._connection.send(data[:7])

    def _refuse(self):
        if self._random.random() < 0.5:
            raise OSError(11, "EAGAIN")


class Pool:
    """What CircuitPython's `socketpool.SocketPool` has, and no more."""

    SOCK_STREAM, IPPROTO_TCP, TCP_NODELAY = socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.TCP_NODELAY

    def getaddrinfo(self, *args):
        return socket.getaddrinfo(*args)

    def socket(self, family, kind):
        return Narrow(socket.socket(family, kind))


def poll_until(device, condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        device.poll()
        assert time.monotonic() < deadline, (device.error, device.counts)


def test_adapter_over_single_bytes_and_refusals(lite, broker, raw):
    """Broker and device meet although every packet comes in pieces."""
    from ether_lite import ether_sub

    class Bench:
        heard = None

        @ether_sub(topic="lab/led", type=bool)
        def led(self, on):
            self.heard = on

    bench = Bench()
    client = raw(broker.url)
    client.subscribe("lab/temp")
    device = lite.Ether(Pool(), bench, "bench1", "127.0.0.1", broker.port)
    for number in range(20):
        device.emit("lab/temp", number)

    poll_until(device, lambda: device._find("lab/temp")[7] == 20)
    threading.Timer(0.1, client.publish, ("lab/led", "true")).start()
    poll_until(device, lambda: bench.heard)
    device.close()

    found = []
    while len(found) < 20:
        content = json.loads(client.next().payload)
        values = content["value"]
        found += values if isinstance(values, list) else [values]
    assert found == list(range(20))
    status = json.loads(broker.retained()["ether/status/bench1"])
    assert (status["state"], status["last"]) == ("disconnected", {"lab/temp": 19})


def test_adapter_with_tls(lite, certificates):
    """The context checks the broker's name and authority; here the broker ends after the CONNECT packet."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.server_pem, certificates.server_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard = []

        def accept():
            with listener.accept()[0] as plain, server.wrap_socket(plain, server_side=True) as connection:
                heard.append(connection.recv(1000))

        thread = threading.Thread(target=accept)
        thread.start()
        context = ssl.create_default_context(cafile=certificates.ca_pem)
        device = lite.Ether(socket, None, "bench1", "127.0.0.1", listener.getsockname()[1], ssl=context)
        poll_until(device, lambda: heard)
        device.close(0)
        thread.join(5)

    assert heard[0].startswith(b"\x10") and b"MQTT" in heard[0]


@pytest.fixture
def minimqtt(monkeypatch, missing):
    """MiniMQTT, which wants one function of CircuitPython's."""
    monkeypatch.setitem(sys.modules, "micropython", types.SimpleNamespace(const=int))
    try:
        return importlib.import_module("adafruit_minimqtt.adafruit_minimqtt")
    except ImportError:
        missing("adafruit_minimqtt")


def test_level_1_by_minimqtt(minimqtt, lite, broker, raw, until):
    level1 = importlib.import_module("level1_minimqtt")
    client = raw(broker.url)
    client.subscribe("lab/temp")
    heard = []
    mqtt = minimqtt.MQTT(
        broker="127.0.0.1", port=broker.port, socket_pool=socket, ssl_context=ssl.create_default_context(),
        is_ssl=False, socket_timeout=0.05, keep_alive=5,
    )  # fmt: skip
    device = level1.Device(mqtt, "bench1", heard.append)

    mqtt.connect()
    device.step(23.5)
    client.publish("lab/led", "true")
    until(lambda: device.step(23.5) or heard, 5.0)
    retained = broker.retained()

    assert client.next().payload == b"23.5"
    assert heard[0] is True
    assert json.loads(retained["ether/status/bench1"]) == {"state": "ready", "boot": device.boot, "every": 10}
    assert json.loads(retained["ether/about/bench1"])["publishes"]["lab/temp"]["fields"]["value"]["unit"] == "degC"

    mqtt._sock.close()
    until(lambda: json.loads(broker.retained()["ether/status/bench1"])["state"] == "lost", 10.0)
