"""Users, rights, TLS and WebSockets on the brokers that ether starts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import queue
import re
import select
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion

from ether import brokers, runtime
from ether.address import Address
from ether.config import Config
from ether.errors import BrokerError, ConfigError
from ether.mqtt import Connection, Tls
from ether.testing.broker_contract import TIMEOUT_S, Client, wire
from ether_broker import users
from ether_broker.authentication import Guard

PASSWORDS = {name: f"password of {name}" for name in ("oven", "pump", "recorder", "board", "page", "boss")}
ORIGIN = "http://lab.example:8000"
REFUSED = 5


@pytest.fixture(scope="session")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.yaml"
    users.write(
        path,
        {
            user.name: user
            for user in (
                users.make_user("oven", "component", PASSWORDS["oven"], ("lab/oven/#",), ("lab/+",)),
                users.make_user("pump", "component", PASSWORDS["pump"]),
                users.make_user("recorder", "recorder", PASSWORDS["recorder"]),
                users.make_user("board", "device", PASSWORDS["board"]),
                users.make_user("page", "dashboard", PASSWORDS["page"]),
                users.make_user("boss", "admin", PASSWORDS["boss"]),
            )
        },
    )
    return path


def connect_packet(user: str | None, password: str | None, client_id: str = "", will=None, clean=True) -> bytes:
    return wire.connect(client_id, will=will, clean=clean, user=user, password=password)


class Guarded:
    """One running broker with the users above, and clients of it."""

    def __init__(self, broker: brokers.Embedded | brokers.Mosquitto) -> None:
        self.broker = broker
        self.clients: list[Client] = []

    def raw(self) -> Client:
        client = Client("127.0.0.1", self.broker.local_port or self.broker.port)
        self.clients.append(client)
        return client

    def attempt(self, user: str | None, password: str | None, client_id: str = "", **options) -> tuple[Client, int]:
        client = self.raw()
        client.send(connect_packet(user, password, client_id, **options))
        return client, client.expect(2).body[1]

    def connect(self, user: str, client_id: str = "", **options) -> Client:
        client, code = self.attempt(user, PASSWORDS[user], client_id, **options)
        assert code == 0
        return client

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()


class SecurityContract:
    """The same users and rights, whichever broker enforces them."""

    kind: type[brokers.Embedded] | type[brokers.Mosquitto]
    refuses_subscriptions: bool

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, users_file: Path) -> Iterator[brokers.Embedded | brokers.Mosquitto]:
        if cls.kind is brokers.Mosquitto and brokers.find_mosquitto() is None:
            pytest.skip("mosquitto is not installed; try `apt install mosquitto`")
        with cls.kind(security=brokers.Security(users=users_file)) as broker:
            yield broker  # type: ignore[misc]

    @pytest.fixture
    def lab(self, broker) -> Iterator[Guarded]:
        lab = Guarded(broker)
        yield lab
        boss = lab.connect("boss")
        for topic in ("ether/status/board", "lab/oven/kept", "board/x", "lab/forbidden"):
            boss.publish(topic, b"", retain=True)
        lab.close()

    @pytest.mark.parametrize("name", PASSWORDS)
    def test_the_right_password_lets_in(self, lab: Guarded, name: str) -> None:
        assert lab.attempt(name, PASSWORDS[name])[1] == 0

    @pytest.mark.parametrize(
        ("name", "password"),
        [("oven", "wrong password"), ("oven", ""), ("oven", None), ("oven", PASSWORDS["pump"]),
         ("nobody", "a password"), ("ether-session", "a password"), ("ether-session", ""), (None, None)],
    )  # fmt: skip
    def test_anything_else_does_not(self, lab: Guarded, name: str | None, password: str | None) -> None:
        client, code = lab.attempt(name, password)

        assert (code, client.wait_closed()) == (REFUSED, [])

    def test_a_refused_client_does_not_disturb_the_one_it_calls_itself(self, lab: Guarded) -> None:
        oven = lab.connect("oven", "oven-1")
        oven.subscribe(("lab/x", 1))

        assert lab.attempt("oven", "wrong password", "oven-1")[1] == REFUSED

        lab.connect("boss").publish("lab/x", b"still here")
        assert oven.messages(1)[0].payload == b"still here"

    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_a_denied_publish_is_acknowledged_dropped_and_ends_nothing(self, lab: Guarded, qos: int) -> None:
        boss, board = lab.connect("boss"), lab.connect("board")
        boss.subscribe(("#", 2))

        board.publish("lab/forbidden", b"no", qos, retain=True)
        board.publish("board/x", b"yes", qos)

        assert [(each.topic, each.payload) for each in boss.messages(1)] == [("board/x", b"yes")]
        late = lab.connect("boss")
        late.subscribe(("lab/forbidden", 0))
        assert late.drain() == [], "nor is it retained"

    @pytest.mark.parametrize(
        ("user", "topic", "allowed"),
        [
            ("oven", "lab/oven/t", True), ("oven", "lab/pump/t", False), ("oven", "oven/t", False),
            ("oven", "ether/status/oven", True), ("oven", "ether/status/pump", False),
            ("oven", "ether/reply/client", True), ("oven", "ether/call/pump/on", True),
            ("oven", "ether/resend/lab/oven/t", True), ("oven", "ether/run", False),
            ("pump", "pump/t", True), ("pump", "lab/oven/t", False),
            ("recorder", "ether/stored/oven", True), ("recorder", "ether/status/recorder", True),
            ("recorder", "lab/oven/t", False), ("recorder", "ether/status/oven", False),
            ("board", "ether/status/board", True), ("board", "ether/pong/board", True), ("board", "board/t", True),
            ("board", "ether/command/recorder/confirm", True), ("board", "ether/command/recorder/stop", False),
            ("board", "ether/status/oven", False), ("board", "ether/call/oven/on", False),
            ("page", "lab/oven/t", False), ("page", "ether/control/start", False), ("page", "ether/status/page", False),
            ("boss", "ether/control/start", True), ("boss", "anything", True),
        ],
    )  # fmt: skip
    def test_who_may_publish_what(self, lab: Guarded, user: str, topic: str, allowed: bool) -> None:
        boss, client = lab.connect("boss"), lab.connect(user)
        boss.subscribe(("#", 1))

        client.publish(topic, b"content", 1)
        lab.connect("boss").publish("end", b"")

        expected = [topic, "end"] if allowed else ["end"]
        assert [each.topic for each in boss.messages(len(expected))] == expected

    @pytest.mark.parametrize(
        ("user", "topic_filter", "topic", "allowed"),
        [
            ("oven", "lab/x", "lab/x", True), ("oven", "lab/+", "lab/x", True), ("oven", "lab/x/y", "lab/x/y", False),
            ("oven", "ether/command/oven/#", "ether/command/oven/stop", True),
            ("oven", "ether/command/pump/#", "ether/command/pump/stop", False),
            ("oven", "ether/status/+", "ether/status/board", True),
            ("oven", "ether/reply/me", "ether/reply/me", True), ("oven", "ether/reply/you", "ether/reply/you", False),
            ("pump", "lab/x/y", "lab/x/y", True), ("pump", "$share/g/lab/x", "lab/x", True),
            ("recorder", "#", "ether/resend/lab/x", True), ("page", "#", "lab/x", True),
            ("board", "ether/command/board/+", "ether/command/board/stop", True),
            ("board", "ether/command/+/stop", "ether/command/oven/stop", False), ("board", "lab/x", "lab/x", False),
            ("board", "$share/g/lab/x", "lab/x", False), ("board", "#", "lab/x", False),
        ],
    )  # fmt: skip
    def test_who_may_read_what(self, lab: Guarded, user: str, topic_filter: str, topic: str, allowed: bool) -> None:
        client, boss = lab.connect(user, "me"), lab.connect("boss")

        (code,) = client.subscribe((topic_filter, 0))
        boss.publish(topic, b"content")

        assert [each.payload for each in client.drain()] == ([b"content"] if allowed else [])
        if allowed or self.refuses_subscriptions:
            assert code == (0 if allowed else 0x80)

    def test_a_wider_filter_does_not_slip_through(self, lab: Guarded) -> None:
        """The grant is `lab/+`; brokers may refuse `lab/#` or deliver less, but never what the grant lacks."""
        oven, boss = lab.connect("oven"), lab.connect("boss")

        (code,) = oven.subscribe(("lab/#", 0))
        boss.publish("lab/x/secret", b"no")
        boss.publish("lab/oven/kept", b"no", retain=True)

        assert [each.payload for each in oven.drain() if each.payload == b"no"] == []
        assert code == (0x80 if self.refuses_subscriptions else 0)

    def test_retained_messages_go_only_to_who_may_read_them(self, lab: Guarded) -> None:
        lab.connect("boss").publish("lab/oven/kept", b"kept", retain=True)
        board, page = lab.connect("board"), lab.connect("page")

        board.subscribe(("lab/oven/kept", 0))
        page.subscribe(("lab/oven/kept", 0))

        assert [each.payload for each in board.drain()] == []
        assert [each.payload for each in page.drain()] == [b"kept"]

    def test_a_will_obeys_the_rights_of_its_client(self, lab: Guarded) -> None:
        boss = lab.connect("boss")
        boss.subscribe(("lab/forbidden", 1), ("ether/status/board", 1))

        for topic in ("lab/forbidden", "ether/status/board"):
            lab.connect("board", "board", will=(topic, b"lost", 1, True)).abort()

        assert [(each.topic, each.payload) for each in boss.messages(1)] == [("ether/status/board", b"lost")]

    def test_sys_is_for_those_who_watch(self, lab: Guarded) -> None:
        (code,) = lab.connect("page").subscribe(("$SYS/#", 0))
        board = lab.connect("board")
        board.subscribe(("$SYS/#", 0))

        assert code == 0 and board.drain() == []


class TestEmbedded(SecurityContract):
    kind = brokers.Embedded
    refuses_subscriptions = True


class TestMosquitto(SecurityContract):
    kind = brokers.Mosquitto
    refuses_subscriptions = False  # its ACL file is asked when a message is to be delivered


# -- what only the embedded broker does --


@pytest.fixture
def embedded(users_file: Path, tmp_path: Path) -> Iterator[Guarded]:
    folder = tmp_path / "broker"
    with brokers.Embedded(security=brokers.Security(users=users_file), folder=str(folder)) as broker:
        lab = Guarded(broker)
        yield lab
        lab.close()


def test_nobody_takes_over_the_session_of_another_user(embedded: Guarded) -> None:
    """Otherwise any device could end the recorder's session, or read what waits for it, by taking its identifier."""
    recorder = embedded.connect("recorder", "recorder", clean=False)
    recorder.subscribe(("#", 1))
    assert embedded.attempt("board", PASSWORDS["board"], "recorder", clean=False)[1] == REFUSED
    recorder.disconnect()
    embedded.connect("boss").publish("lab/x", b"waits")

    for clean in (True, False):
        assert embedded.attempt("board", PASSWORDS["board"], "recorder", clean=clean)[1] == REFUSED

    recorder, code = embedded.attempt("recorder", PASSWORDS["recorder"], "recorder", clean=False)
    assert code == 0
    assert [each.payload for each in recorder.messages(1)] == [b"waits"]


def test_a_stored_session_has_its_owner_after_a_restart(users_file: Path, tmp_path: Path) -> None:
    for attempt in range(2):
        with brokers.Embedded(security=brokers.Security(users=users_file), folder=str(tmp_path)) as broker:
            lab = Guarded(broker)
            if attempt == 0:
                lab.connect("recorder", "recorder", clean=False).subscribe(("#", 1))
            else:
                assert lab.attempt("board", PASSWORDS["board"], "recorder", clean=False)[1] == REFUSED
                assert lab.attempt("recorder", PASSWORDS["recorder"], "recorder", clean=False)[1] == 0
            lab.close()


def test_the_loop_serves_others_while_passwords_are_checked(embedded: Guarded) -> None:
    bystander = embedded.connect("oven")
    attackers = [embedded.raw() for _ in range(60)]
    for each in attackers:
        each.send(connect_packet("page", "wrong password"))

    assert bystander.drain() == []

    answered = sum(bool(select.select([each.socket], [], [], 0)[0]) for each in attackers)
    assert answered < len(attackers), "the ping came back before the passwords were through"


def test_denials_and_failures_are_told_once(users_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ether_broker", "--users", str(users_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline().rpartition(":")[2])  # type: ignore[union-attr]
        for _ in range(5):
            client = Client("127.0.0.1", port)
            client.send(connect_packet("page", "wrong password", "browser"))
            client.wait_closed()
            client.socket.close()
        client = Client("127.0.0.1", port)
        client.send(connect_packet("page", PASSWORDS["page"], "browser"))
        client.expect(2)
        for _ in range(5):
            client.publish("lab/x")
            client.publish("lab/y", qos=0)
        client.socket.close()
        process.terminate()
        lines = process.communicate()[1].splitlines()

    assert [line.partition(" - WARNING - ")[2] for line in lines if "WARNING" in line] == [
        "127.0.0.1: refused, wrong credentials for user 'page' (client 'browser')",
        "browser: may not publish to 'lab/x' (told once)",
        "browser: may not publish to 'lab/y' (told once)",
    ]


class TestGuard:
    """Credentials without a broker around them."""

    @pytest.fixture
    def file(self, tmp_path: Path, users_file: Path) -> Path:
        return Path(shutil.copy(users_file, tmp_path / "users.yaml"))

    @pytest.fixture
    def checks(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        """The passwords that cost an argon2."""
        made: list[bytes] = []

        def verify(hashed: str, password: bytes) -> bool:
            made.append(password)
            return password.startswith(b"password of")

        monkeypatch.setattr(users, "verify", verify)
        return made

    def test_a_reconnect_costs_no_argon2(self, file: Path, checks: list[bytes]) -> None:
        guard, password = Guard(file), PASSWORDS["oven"].encode()

        assert guard.remembered("oven", password) is None
        first = asyncio.run(guard.check("oven", password))
        again = guard.remembered("oven", password)

        assert first is again is not None and checks == [password]
        assert guard.remembered("oven", b"another") is None and guard.remembered("pump", password) is None
        guard.close()

    def test_a_changed_file_is_read_again(self, file: Path, checks: list[bytes]) -> None:
        guard, password = Guard(file), PASSWORDS["oven"].encode()
        assert asyncio.run(guard.check("oven", password)) is not None

        users.write(file, {"oven": users.make_user("oven", "component", "a new password")})

        assert guard.remembered("oven", password) is None, "the hash it was checked against is gone"
        assert not guard.exists("pump")
        guard.close()

    def test_a_file_that_breaks_leaves_the_users_as_they_were(self, file: Path, checks: list[bytes]) -> None:
        guard = Guard(file)

        file.write_text("users: [")

        assert guard.exists("pump")
        guard.close()

    def test_an_unknown_name_takes_as_long_as_a_known_one(self, file: Path, checks: list[bytes]) -> None:
        guard = Guard(file)

        assert asyncio.run(guard.check("nobody", b"password of nobody")) is None

        assert checks == [b"password of nobody"]
        guard.close()

    def test_the_session_gets_in_by_its_own_password_only(self, file: Path) -> None:
        guard = Guard(file, session_password="secret of the session")

        found = guard.remembered("ether-session", b"secret of the session")

        assert found is not None and found.role == "admin"
        assert asyncio.run(guard.check("ether-session", b"")) is None
        assert Guard(file).remembered("ether-session", b"secret of the session") is None

    def test_failures_do_not_flood_the_log(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        guard = Guard(file)

        for port in range(50):
            guard.refused(f"192.0.2.7:{port}", "x", "oven")
        guard.refused("192.0.2.8:1", "x", "oven")

        assert [record.getMessage() for record in caplog.records] == [
            f"192.0.2.{host}: refused, wrong credentials for user 'oven' (client 'x')" for host in (7, 8)
        ]


# -- which addresses --


def test_an_open_address_without_users_is_one_line_and_exit_code_4() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ether_broker", "--listen", "0.0.0.0:0"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, "", 1)
    assert "ether broker users add NAME" in done.stderr and "--insecure-lan" in done.stderr


@pytest.mark.parametrize("kind", ["auto", "embedded", "mosquitto"])
@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:1883", "bench:1883"])
def test_no_broker_is_started_on_an_open_address_without_users(kind: str, listen: str) -> None:
    with pytest.raises(BrokerError, match="there are no users; make some with `ether broker users add NAME`"):
        brokers.choose(kind, listen=listen)


def test_users_or_saying_it_aloud_open_an_address(users_file: Path) -> None:
    for security in (brokers.Security(users=users_file), brokers.Security(insecure_lan=True)):
        brokers.choose("embedded", listen="0.0.0.0:0", security=security)  # nothing is bound before it is entered


def test_an_address_of_another_machine_is_not_called_taken() -> None:
    broker = brokers.choose("embedded", listen="192.0.2.1:1883", security=brokers.Security(insecure_lan=True))

    with pytest.raises(BrokerError, match=r"broker.listen 192.0.2.1:1883: .*annot assign"):
        broker.__enter__()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"users": Path("missing.yaml")},
            "broker.users: missing.yaml: no such file; make it with `ether broker users add",
        ),
        ({"cert": Path("a.pem")}, "broker.tls: a broker that we start needs both `cert` and `key`"),
        ({"require_client_cert": True}, "broker.tls.require_client_cert: needs the `ca`"),
        ({"websocket": "127.0.0.1:0"}, "broker.websocket: needs `users` and `origins`"),
        (
            {"websocket": "127.0.0.1:0", "users": Path(__file__), "origins": ("lab-pc:8000",)},
            "broker.websocket.origins: 'lab-pc:8000' is no origin of a page",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(options: dict[str, object], why: str) -> None:
    with pytest.raises(BrokerError) as caught:
        brokers.choose("embedded", security=brokers.Security(**options))  # type: ignore[arg-type]

    assert str(caught.value).startswith(why) and "\n" not in str(caught.value)


# -- TLS --


@pytest.fixture(params=[brokers.Embedded, brokers.Mosquitto], ids=["embedded", "mosquitto"])
def secured(request, users_file: Path, certificates: Any):
    """Starts the broker with TLS, and whatever else is asked for."""
    if request.param is brokers.Mosquitto and brokers.find_mosquitto() is None:
        pytest.skip("mosquitto is not installed; try `apt install mosquitto`")
    with contextlib.ExitStack() as running:

        def start(**options):
            security = brokers.Security(
                users=users_file, cert=certificates.server_pem, key=certificates.server_key, **options
            )
            return running.enter_context(request.param(security=security))

        yield start


# paho leaves the socket of a failed TLS handshake to the garbage collector.
leaky_client = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def tls_attempt(broker, tls: Tls) -> str | None:
    """Connect as oven; None if that works, else what the user reads."""
    url = f"mqtts://oven:{PASSWORDS['oven'].replace(' ', '%20')}@127.0.0.1:{broker.port}"
    connection = Connection(url, "oven", tls=tls)
    try:
        connection.open(3.0)
    except BrokerError as exc:
        return str(exc)
    connection.close(1.0)
    return None


@leaky_client
def test_tls_lets_in_who_trusts_the_right_authority(secured, certificates: Any) -> None:
    broker = secured()

    right = tls_attempt(broker, Tls(ca=str(certificates.ca_pem)))
    wrong = tls_attempt(broker, Tls(ca=str(certificates.other_pem)))

    assert right is None
    assert wrong is not None and "CERTIFICATE_VERIFY_FAILED" in wrong and "\n" not in wrong


def test_one_read_through_tls_takes_all_that_has_come(secured, certificates: Any, until: Any) -> None:
    """A recorder waits a little after each read. With a record of TLS a read it fell behind 60 messages a second."""
    broker = secured()
    url = f"mqtts://boss:{PASSWORDS['boss'].replace(' ', '%20')}@127.0.0.1:{broker.port}"
    sender, listener = (Connection(url, name, tls=Tls(ca=str(certificates.ca_pem))) for name in ("oven", "listener"))
    got: list[bytes] = []
    listener.gather_s = 1.0
    listener.on_message = lambda message, receipt: got.append(message.payload)
    for each in (sender, listener):
        each.open()
    listener.subscribe(["lab/#"])
    sent = [b"%d" % number for number in range(200)]

    for payload in sent:
        sender.publish("lab/x", payload)

    until(lambda: len(got) == len(sent), 20.0, "all that was sent")
    for each in (sender, listener):
        each.close(1.0)
    assert got == sent


@leaky_client
def test_client_certificates_are_really_required(secured, certificates: Any) -> None:
    broker = secured(ca=certificates.ca_pem, require_client_cert=True)
    ca = str(certificates.ca_pem)

    given = tls_attempt(broker, Tls(ca, str(certificates.client_pem), str(certificates.client_key)))
    none = tls_attempt(broker, Tls(ca))
    strange = tls_attempt(broker, Tls(ca, str(certificates.stranger_pem), str(certificates.stranger_key)))

    assert given is None
    assert none is not None and strange is not None
    assert "\n" not in none + strange
    assert none.endswith(
        "it was closed without an answer; does it demand a certificate, broker.tls.cert, or has it too many clients?"
    )


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("nothing.pem",), "nothing.pem: no such file"),
        (("KEY",), "KEY: no certificate of an authority, in PEM: "),
        (("CA", "CERT"), "CERT and no key: not a certificate and its key, in PEM: "),
        (("CA", "CERT", "nothing.key"), "nothing.key: no such file"),
    ],
)
def test_a_file_of_tls_that_will_not_do_is_named(certificates: Any, files: tuple[str, ...], told: str) -> None:
    known = {"CA": certificates.ca_pem, "CERT": certificates.client_pem, "KEY": certificates.client_key}
    paths = [str(known.get(each, each)) for each in files]
    for name, path in known.items():
        told = told.replace(name, str(path))

    with pytest.raises(BrokerError, match=re.escape(f"tls of mqtts://bench:8883: {told}")):
        Connection("mqtts://bench:8883", "oven", tls=Tls(*paths))


def test_without_tls_nobody_gets_an_answer_there(secured) -> None:
    client = Client("127.0.0.1", secured().port)

    client.send(connect_packet("oven", PASSWORDS["oven"]))

    assert client.wait_closed() == []
    client.socket.close()


def test_who_forgot_tls_is_told(secured) -> None:
    with pytest.raises(BrokerError, match=r"it was closed without an answer; is it a port for TLS, mqtts://, or "):
        Connection(f"mqtt://127.0.0.1:{secured().port}", "oven").open(3.0)


def test_the_sessions_own_processes_have_a_loopback_listener_beside_tls(secured, certificates: Any) -> None:
    broker = secured(session_password="a secret", ca=certificates.ca_pem, require_client_cert=True)
    lab = Guarded(broker)

    assert broker.url == f"mqtt://ether-session:a secret@127.0.0.1:{broker.local_port}"
    assert lab.attempt("ether-session", "a secret")[1] == 0
    assert lab.attempt("ether-session", "another")[1] == REFUSED
    lab.close()


@pytest.mark.parametrize(
    ("cert", "key", "why"),
    [
        ("missing.pem", "server.key", "missing.pem: cannot be read: No such file or directory"),
        ("server.pem", "client.key", "are not a certificate and its key"),
        ("server.key", "server.key", "are not a certificate and its key"),
    ],
)
def test_unusable_certificates_are_one_line(certificates: Any, cert: str, key: str, why: str) -> None:
    command = [sys.executable, "-m", "ether_broker", "--cert", cert, "--key", key]

    done = subprocess.run(command, cwd=certificates.folder, capture_output=True, text=True, timeout=TIMEOUT_S)

    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and why in done.stderr


# -- WebSocket --


@pytest.fixture(scope="module")
def web(users_file: Path) -> Iterator[int]:
    """The port of the embedded broker's WebSocket listener."""
    with web_process(users_file) as port:
        yield port


@contextlib.contextmanager
def web_process(users_file: Path, *more: str) -> Iterator[int]:
    command = [sys.executable, "-m", "ether_broker", "--users", str(users_file), "--websocket", "127.0.0.1:0"]
    with subprocess.Popen([*command, "--origin", ORIGIN, *more], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline().rpartition(":")[2])  # type: ignore[union-attr]
        finally:
            process.terminate()


def handshake(port: int, origin: str | None, protocol: str | None = "mqtt", context=None) -> tuple[socket.socket, str]:
    """Ask for a WebSocket; returns the socket and the head of the answer."""
    opened: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    if context is not None:
        opened = context.wrap_socket(opened, server_hostname="127.0.0.1")
    lines = ["GET /mqtt HTTP/1.1", "Host: lab", "Upgrade: websocket", "Connection: Upgrade",
             "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode()]  # fmt: skip
    lines += [f"Origin: {origin}"] if origin is not None else []
    lines += [f"Sec-WebSocket-Protocol: {protocol}"] if protocol is not None else []
    opened.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = opened.recv(4096)
        if not piece:
            break
        answer += piece
    return opened, answer.decode()


def frame(opcode: int, payload: bytes) -> bytes:
    """One masked frame; the mask is zeros."""
    size = len(payload)
    head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    return head + bytes(4) + payload


@pytest.mark.parametrize(
    ("origin", "protocol", "status"),
    [
        (ORIGIN, "mqtt", 101), (ORIGIN, "chat, mqtt", 101), (ORIGIN, None, 400), (None, "mqtt", 403),
        ("http://evil.example", "mqtt", 403), (ORIGIN + ".evil.example", "mqtt", 403), ("null", "mqtt", 403),
        ("https://lab.example:8000", "mqtt", 403), (ORIGIN.upper(), "mqtt", 403),
    ],
)  # fmt: skip
def test_only_listed_origins_get_a_websocket(web: int, origin: str | None, protocol: str | None, status: int) -> None:
    opened, answer = handshake(web, origin, protocol)

    assert answer.startswith(f"HTTP/1.1 {status} ")
    if status != 101:
        while opened.recv(4096):
            pass  # it is closed after the answer
    opened.close()


def test_a_websocket_needs_the_same_credentials(web: int) -> None:
    opened, _ = handshake(web, ORIGIN)

    opened.sendall(frame(2, connect_packet("page", "wrong password")))

    assert opened.recv(4096)[:6] == b"\x82\x04" + b"\x20\x02\x00\x05"
    opened.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [(frame(1, b"text"), 1003), (b"\x82\xff" + (1 << 20).to_bytes(8, "big") + bytes(4), 1009), (b"\x82\x01x", 1002)],
    ids=["text", "large before CONNECT", "unmasked"],
)
def test_frames_that_do_not_belong_here_close_the_socket(web: int, data: bytes, code: int) -> None:
    opened, _ = handshake(web, ORIGIN)

    opened.sendall(data)

    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := opened.recv(4096):
            answer += piece
    assert answer[0] == 0x88 and int.from_bytes(answer[2:4], "big") == code
    opened.close()


def test_packets_may_be_cut_into_frames_anywhere(web: int) -> None:
    opened, _ = handshake(web, ORIGIN)

    for byte in connect_packet("page", PASSWORDS["page"]) + b"\xc0\x00":
        opened.sendall(frame(2, bytes((byte,))))

    answer = b""
    while b"\xd0\x00" not in answer:  # CONNACK and PINGRESP, in one frame or two
        answer += opened.recv(4096)
    assert b"\x20\x02\x00\x00" in answer
    opened.close()


def paho(user: str, port: int, transport: str = "websockets") -> tuple[Paho, queue.Queue[tuple[str, bytes]]]:
    client = Paho(CallbackAPIVersion.VERSION2, transport=transport)
    client.username_pw_set(user, PASSWORDS[user])
    client.ws_set_options(path="/mqtt", headers={"Origin": ORIGIN})
    found: queue.Queue[tuple[str, bytes]] = queue.Queue()
    client.on_subscribe = lambda *_: found.put(("subscribed", b""))
    client.on_message = lambda _client, _userdata, message: found.put((message.topic, message.payload))
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client, found


def test_a_dashboard_subscribes_over_websocket(web: int) -> None:
    page, seen = paho("page", web)
    page.subscribe("lab/#", 1)
    assert seen.get(timeout=TIMEOUT_S) == ("subscribed", b"")
    large = os.urandom(3_000_000)
    oven, _ = paho("oven", web)

    oven.publish("lab/oven/small", b"21.5", 1)
    oven.publish("lab/oven/large", large, 1)

    assert seen.get(timeout=TIMEOUT_S) == ("lab/oven/small", b"21.5")
    assert seen.get(timeout=TIMEOUT_S) == ("lab/oven/large", large)
    for client in (page, oven):
        client.disconnect()
        client.loop_stop()


def test_websocket_over_tls(users_file: Path, certificates: Any) -> None:
    tls = ("--cert", str(certificates.server_pem), "--key", str(certificates.server_key))
    with web_process(users_file, *tls) as port:
        opened, answer = handshake(port, ORIGIN, context=ssl.create_default_context(cafile=str(certificates.ca_pem)))
        opened.sendall(frame(2, connect_packet("page", PASSWORDS["page"])))

        assert answer.startswith("HTTP/1.1 101 ")
        assert opened.recv(4096) == b"\x82\x04\x20\x02\x00\x00"
        opened.close()


@pytest.mark.parametrize("missing", ["--users", "--origin"])
def test_no_websocket_without_users_and_origins(users_file: Path, missing: str) -> None:
    command = [sys.executable, "-m", "ether_broker", "--websocket", "127.0.0.1:0"]
    command += ["--origin", ORIGIN] if missing == "--users" else ["--users", str(users_file)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)

    assert done.returncode == 2 and "--websocket needs --users FILE and --origin URL" in done.stderr


def test_a_mosquitto_that_cannot_check_origins_is_not_asked_to(users_file: Path, monkeypatch) -> None:
    security = brokers.Security(users=users_file, websocket="127.0.0.1:0", origins=(ORIGIN,))
    monkeypatch.setattr("ether.brokers.mosquitto.find_mosquitto", lambda: "/bin/echo")  # a version nobody knows
    monkeypatch.setattr("ether.brokers.find_mosquitto", lambda: "/bin/echo")

    with (
        pytest.raises(BrokerError, match="cannot check the origins of WebSockets"),
        brokers.Mosquitto(security=security),
    ):
        pass
    assert brokers.choose("auto", security=security).kind == "embedded"


# -- the command --


def test_users_are_managed_from_the_command_line(tmp_path: Path) -> None:
    def ether(*words: str, stdin: str = "") -> tuple[int, str]:
        command = [sys.executable, "-m", "ether.cli", "broker", "users", *words]
        done = subprocess.run(command, input=stdin, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S)
        return done.returncode, done.stdout + done.stderr

    said = [
        ether("add", "oven", "--role", "device", "--publish", "lab/%u/#", "--password-stdin", stdin="a password\n"),
        ether("add", "oven", "--password-stdin", stdin="a password\n"),
        ether("list"),
        ether("remove", "oven"),
        ether("list"),
    ]

    assert said == [
        (0, "oven (device) added to users.yaml\n"),
        (2, "ether: users.yaml: user oven exists; `ether broker users remove oven --file users.yaml` first\n"),
        (0, "oven             device     publish lab/%u/#\n"),
        (0, "oven removed from users.yaml\n"),
        (0, ""),
    ]


# -- a session --


@pytest.mark.parametrize(
    ("broker", "why"),
    [
        ({"url": "mqtt://a", "users": "u"}, "`users` is for a broker that we start, and `url` names one that runs"),
        ({"tls": {"cert": "a"}}, "`tls` of a broker that we start needs `users`, and in it `cert` and `key`"),
        (
            {"users": "u", "tls": {"cert": "a", "key": "b", "insecure": True}},
            "`tls.insecure` is for a broker that runs",
        ),
        ({"users": "u", "tls": {"cert": "a", "key": "b", "require_client_cert": True}}, "needs the `ca` that signs"),
        ({"websocket": {"listen": "127.0.0.1:0", "origins": ["http://a"]}}, "`websocket` needs `users`"),
        ({"users": "u", "websocket": {"listen": "127.0.0.1:0", "origins": []}}, "broker.websocket.origins: "),
        ({"users": "u", "websocket": {"listen": "127.0.0.1:0", "origins": ["http://a/b"]}}, "is no origin of a page"),
        ({"users": "u", "websocket": {"listen": "127.0.0.1:0", "origins": ["*"]}}, "is no origin of a page"),
    ],
)
def test_what_a_configuration_cannot_mean_is_said_when_it_is_read(broker: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load({"broker": broker})

    assert why in str(caught.value)


def test_the_short_yaml_says_it_all() -> None:
    broker = {
        "listen": "0.0.0.0:1883",
        "users": "users.yaml",
        "tls": {"cert": "bench.pem", "key": "bench.key", "ca": "lab.pem"},
        "websocket": {"listen": "127.0.0.1:9001", "origins": [ORIGIN]},
    }

    found = Config.load({"broker": broker}).broker

    assert found.users == Path("users.yaml") and found.websocket is not None and found.websocket.origins == [ORIGIN]


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_session_with_users_lets_its_own_processes_in(
    ether: Any, processes: Any, users_file: Path, certificates: Any, kind: str, secure: bool
) -> None:
    if kind == "mosquitto" and brokers.find_mosquitto() is None:
        pytest.skip("mosquitto is not installed; try `apt install mosquitto`")
    broker: dict[str, Any] = {"kind": kind, "users": str(users_file)}
    if secure:
        files = {"ca": certificates.ca_pem, "cert": certificates.server_pem, "key": certificates.server_key}
        broker["tls"] = {**{name: str(path) for name, path in files.items()}, "require_client_cert": True}
    ether.tap({"broker": broker, "instances": {"echo": {"class_path": "lab_parts.Echo"}}})

    told = ether.get("echo", "where")

    (entry,) = runtime.running()
    password = Address.parse(entry["url"]).password
    assert told["word"] == "hello"
    assert password is not None and len(password) > 20
    assert "@" in ether.info()["broker"]["url"] and password not in str(ether.info())
    for each in processes():
        assert password not in " ".join(each.cmdline()) and password not in str(each.environ())
    assert stat.S_IMODE((runtime.folder() / f"{entry['id']}.json").stat().st_mode) == 0o600
    with pytest.raises(BrokerError, match="Not authorized"):
        Connection(entry["url"].replace(password, "another"), "stranger").open(3.0)


def test_a_session_that_would_be_open_to_others_does_not_start(ether: Any) -> None:
    with pytest.raises(ConfigError, match="there are no users; make some with `ether broker users add NAME`"):
        ether.tap({"broker": {"kind": "embedded", "listen": "0.0.0.0:0"}, "record": "off", "instances": {}})
