"""What `broker/mosquitto/` ships: the configuration as the real Mosquitto reads it, the unit, the container file."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion
from shipped_mosquitto import FOLDER, PASSWORDS, SHIPPED, Shipped

from ether import brokers
from ether.config import Config
from ether.errors import BrokerError
from ether.mqtt import Driven, Tls
from ether.recorder.reader import open_recording
from ether.testing.broker_contract import TIMEOUT_S, Client, wire

ROOT = Path(__file__).parents[2]


def settings(text: str) -> dict[str, list[str]]:
    """Option → its values, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name and not name.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def shipped(mosquitto: str, tmp_path: Path, certificates: Any) -> Iterator[Shipped]:
    process = Shipped(tmp_path, certificates)
    process.start()
    yield process
    if process.process is not None:
        process.stop()


def test_both_of_our_configurations_of_mosquitto_agree(tmp_path: Path) -> None:
    """On limits and what is kept; who may connect and where files lie is each one's own."""
    own = {
        "listener", "certfile", "keyfile", "max_connections", "allow_anonymous", "password_file", "acl_file",
        "persistence_location", "log_dest", "log_type", "log_timestamp_format", "connection_messages", "user",
    }  # fmt: skip
    broker = brokers.Mosquitto(folder=str(tmp_path))
    broker.folder = tmp_path

    started_by_ether = settings(broker._configuration())

    shipped = settings(SHIPPED)
    assert {k: v for k, v in shipped.items() if k not in own} == {
        k: v for k, v in started_by_ether.items() if k not in own
    }


def test_mosquitto_takes_every_line(shipped: Shipped) -> None:
    log = shipped.log()

    assert " running" in log
    assert [line for line in log.splitlines() if "rror" in line or "nvalid" in line or "nknown conf" in line] == []


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # paho leaves a failed handshake's socket
def test_other_machines_need_the_right_authority_a_name_and_a_password(shipped: Shipped, certificates: Any) -> None:
    def attempt(url: str, ca: Path) -> str:
        try:
            Driven(url, "visitor", tls=Tls(ca=str(ca))).open(TIMEOUT_S).close()
        except BrokerError as exc:
            return str(exc)
        return "in"

    right = shipped.url("bench", secure=True)

    assert attempt(right, certificates.ca_pem) == "in"
    assert "CERTIFICATE_VERIFY_FAILED" in attempt(right, certificates.other_pem)
    assert "refused" in attempt(right.replace(PASSWORDS["bench"], "guessed"), certificates.ca_pem)
    assert "refused" in attempt(f"mqtts://127.0.0.1:{shipped.tls_port}", certificates.ca_pem)
    assert "refused" in attempt(f"mqtt://127.0.0.1:{shipped.port}", certificates.ca_pem).replace("no broker", "refused")


def test_users_may_do_what_their_roles_say(shipped: Shipped) -> None:
    with_all = Driven(shipped.url("bench"), "bench").open(TIMEOUT_S)
    board = Driven(shipped.url("board"), "board").open(TIMEOUT_S)
    screen = Driven(shipped.url("screen"), "screen").open(TIMEOUT_S)
    with_all.subscribe("#", timeout=TIMEOUT_S)
    screen.subscribe("board/#", timeout=TIMEOUT_S)

    for client, topic in ((board, "board/celsius"), (board, "oven/celsius"), (screen, "board/celsius")):
        client.publish(topic, client.address.user.encode())
        assert client.flush(TIMEOUT_S)
    with_all.publish("end", b"")

    assert with_all.wait(lambda: any(each.topic == "end" for each in with_all.messages), TIMEOUT_S)
    assert [(each.topic, each.payload) for each in with_all.messages[:-1]] == [("board/celsius", b"board")]
    assert screen.wait(lambda: bool(screen.messages), TIMEOUT_S)
    for client in (with_all, board, screen):
        client.close()


COUNT, SIZE = 60_000, 1024


def test_a_stalled_recorder_loses_nothing(shipped: Shipped) -> None:
    """The flood of which Mosquitto's defaults drop 58,980 messages."""
    stalled, publisher = Client(shipped.host, shipped.port), Client(shipped.host, shipped.port)
    stalled.connect("recorder", clean=False, user="bench", password=PASSWORDS["bench"])
    stalled.subscribe(("lab/#", 1))
    publisher.connect("publisher", user="bench", password=PASSWORDS["bench"])

    # Acknowledged one and all, while the recorder reads nothing.
    for first in range(0, COUNT, 2_000):
        numbers = range(first, first + 2_000)
        publisher.send(*(wire.publish("lab/x", b"%08d" % n + bytes(SIZE - 8), 1, n % 65_535 + 1) for n in numbers))
        _exactly(publisher.socket, 4 * 2_000)

    one = len(wire.publish("lab/x", bytes(SIZE), 1))
    body = one - SIZE
    arrived: list[int] = []
    while len(arrived) < COUNT:
        data = _exactly(stalled.socket, one * 500)  # all are as long
        starts = range(0, len(data), one)
        arrived += [int(data[at + body : at + body + 8]) for at in starts]
        stalled.send(*(b"\x40\x02" + data[at + body - 2 : at + body] for at in starts))
    assert arrived == list(range(COUNT))
    stalled.disconnect()
    publisher.disconnect()


def _exactly(opened: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        data = opened.recv(size - len(found))
        assert data, "the broker closed the connection"
        found += data
    return bytes(found)


def test_what_was_saved_survives_kill_9(shipped: Shipped, until: Any) -> None:
    away = Driven(shipped.url("bench"), "away", persistent=True).open(TIMEOUT_S)
    away.subscribe("lab/#", timeout=TIMEOUT_S)
    away.close()
    publisher = Driven(shipped.url("bench"), "publisher").open(TIMEOUT_S)
    for number in range(50):
        publisher.publish(f"lab/{number}", b"x", retain=number < 10)
    assert publisher.flush(TIMEOUT_S)
    publisher.close()
    shipped.save()
    until(
        lambda: shipped.database.exists() and b"the-marker-of-save" in shipped.database.read_bytes(), 20.0, "the save"
    )

    shipped.kill()
    shipped.start()

    away = Driven(shipped.url("bench"), "away", persistent=True).open(TIMEOUT_S)
    assert away.wait(lambda: len(away.messages) >= 50, TIMEOUT_S)
    assert [each.topic for each in away.messages] == [f"lab/{number}" for number in range(50)]
    away.close()
    late = Driven(shipped.url("bench"), "late").open(TIMEOUT_S)
    late.subscribe("lab/+", timeout=TIMEOUT_S)
    assert late.wait(lambda: len(late.messages) >= 10, TIMEOUT_S)
    late.close()


def test_the_pipeline_runs_over_it_and_its_recording_is_complete(
    ether: Any, shipped: Shipped, certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = ROOT / "examples" / "simple_pipeline"
    monkeypatch.syspath_prepend(str(example))
    witness = Driven(shipped.url("bench"), "witness").open(TIMEOUT_S)
    witness.subscribe("numbers", "products", "summary", timeout=TIMEOUT_S)
    url = shipped.url("bench", secure=True)
    ether.tap(
        Config.load(
            example / "session.yaml",
            (f"broker.url={url}", f"broker.tls={json.dumps({'ca': str(certificates.ca_pem)})}"),
        )
    )

    ether.start()

    assert witness.wait(lambda: any(each.topic == "summary" for each in witness.messages), 30.0)
    summary = ether.shutdown()
    witness.close()
    with open_recording(summary.recording) as recording:
        assert recording.verify().complete
        assert {topic: len(stream) for topic, stream in recording.items()} == {
            topic: sum(each.topic == topic for each in witness.messages) for topic in ("numbers", "products", "summary")
        }


def test_browsers_can_be_let_in_on_this_machine_only(shipped: Shipped, until: Any) -> None:
    """The lines for browsers, without their comment signs; 2.0 does not know the last one, the origin."""
    shipped.stop()
    block = re.search(r"^#listener 9001.*?(?=^#websockets_origin)", SHIPPED, re.MULTILINE | re.DOTALL)
    assert block
    lines = block[0].replace("#", "").replace("9001", str(shipped.web_port))
    shipped.change(block[0], lines)
    shipped.start()

    def open_to(host: str) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, shipped.web_port), 1.0):
            return True
        return False

    until(lambda: open_to("127.0.0.1"), 10.0, "its listener for WebSockets")
    done: list[str] = []
    page = Paho(CallbackAPIVersion.VERSION2, "page", transport="websockets")
    page.username_pw_set("screen", PASSWORDS["screen"])
    page.on_connect = lambda *said: done.append(str(said[3]))
    page.connect("127.0.0.1", shipped.web_port)
    page.loop_start()
    until(lambda: done, 10.0, "an answer")
    page.disconnect()
    page.loop_stop()

    assert done == ["Success"]
    listening = {
        each.laddr.ip
        for each in psutil.net_connections("tcp")
        if each.laddr.port == shipped.web_port and each.status == "LISTEN"
    }
    assert {each.removeprefix("::ffff:") for each in listening} == {"127.0.0.1"}


def test_systemd_finds_nothing_wrong_with_the_unit(missing: Any) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze")
    verify = subprocess.run(
        ["systemd-analyze", "verify", str(FOLDER / "ether-mosquitto.service")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (verify.returncode, verify.stdout, verify.stderr) == (0, "", "")


def test_unit_container_and_configuration_name_the_same_places() -> None:
    conf, unit = settings(SHIPPED), (FOLDER / "ether-mosquitto.service").read_text()
    (state,) = conf["persistence_location"]

    instructions = containerfile()

    source, target = shlex.split(instructions["COPY"])
    assert f"/var/lib/{re.search('^StateDirectory=(.+)$', unit, re.M)[1]}/" == state == f"{instructions['VOLUME']}/"
    assert re.search("^User=(.+)$", unit, re.M)[1] == instructions["USER"]
    assert (FOLDER / source).is_file() and json.loads(instructions["ENTRYPOINT"])[-1] == target
    assert [instructions["EXPOSE"]] == [each for each in conf["listener"] if " " not in each]
    assert instructions["STOPSIGNAL"] == "SIGTERM"
    assert subprocess.run(["sh", "-n", "-c", instructions["RUN"]], check=False).returncode == 0


def containerfile() -> dict[str, str]:
    """Instruction → its words."""
    text = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", "")
    found = dict(line.split(maxsplit=1) for line in lines.splitlines() if line)
    assert next(iter(found)) == "FROM" and set(found) <= {
        "FROM", "RUN", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT",
    }  # fmt: skip
    return found
