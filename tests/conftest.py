"""Shared ground of all tests: a machine of one's own, brokers to kill, scripts to run, and a look for what is left."""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

ROOT = Path(__file__).parents[1]
PARTS = Path(__file__).parent / "parts"
sys.path.insert(0, str(PARTS))  # classes that children import: they inherit the search path

MARK = "ETHER_TEST_MARK"
"""In the environment of whatever a test starts, so that it is found when it should be gone."""

Until = Callable[..., None]


def _missing(what: str) -> None:
    """Skip loudly; where everything must be there (in CI), fail."""
    if os.environ.get("ETHER_TEST_REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is missing, and ETHER_TEST_REQUIRE_ALL=1")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def missing() -> Callable[[str], None]:
    """Say that a tool is missing: the test is skipped, or fails where everything must be there."""
    return _missing


def _until(condition: Callable[[], Any], timeout: float = 5.0, what: str = "") -> None:
    """Return as soon as the condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what or 'what the test waits for'}")
        time.sleep(0.005)


@pytest.fixture(scope="session")
def until() -> Until:
    """Wait for a condition."""
    return _until


# --- a machine of one's own


@dataclass(frozen=True)
class Machine:
    """The folders in which ether leaves anything on a machine."""

    runtime: Path
    temporary: Path

    def files(self) -> list[str]:
        """Return what lies in them (an empty folder is nothing)."""
        places = (self.runtime, self.temporary)
        return sorted(str(path.relative_to(place)) for place in places for path in place.rglob("*") if path.is_file())


def _set_up_machine(place: Path, patch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(place / "run", place / "tmp")
    machine.runtime.mkdir(parents=True)
    machine.temporary.mkdir()
    patch.setenv("XDG_RUNTIME_DIR", str(machine.runtime))
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    patch.setenv("XDG_STATE_HOME", str(place / "state"))
    patch.setenv("TMPDIR", str(machine.temporary))
    patch.setattr("tempfile.tempdir", str(machine.temporary))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "broker")]))
    patch.delenv("PYTHONUNBUFFERED", raising=False)
    for name in [name for name in os.environ if name.startswith("ETHER_") and name != "ETHER_TEST_REQUIRE_ALL"]:
        patch.delenv(name)
    patch.setenv(MARK, secrets.token_hex(8))
    return machine


@pytest.fixture(autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Keep each test away from the user's sessions, environment and temporary files."""
    return _set_up_machine(tmp_path_factory.mktemp("machine"), monkeypatch)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a space and non-ASCII letters in its path."""
    place = tmp_path / "Meßplatz 7"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def _marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that were started under a mark, wherever they hang in the process tree."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _described(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[-80:]
    except psutil.Error:
        return "?"


@pytest.fixture
def nothing_left(machine: Machine) -> Iterator[None]:
    """Fail where a test leaves a process, a thread, or a file outside its own folder."""
    mark = os.environ[MARK]
    threads = set(threading.enumerate())

    yield

    def left() -> list[str]:
        return [
            *(f"process {process.pid}: {_described(process)}" for process in _marked(mark)),
            *(f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads),
            *(f"file {name}" for name in machine.files()),
        ]

    deadline = time.monotonic() + 3.0
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    remains = left()
    for process in _marked(mark):
        process.kill()
    assert remains == []


@pytest.fixture
def processes() -> Callable[[], list[psutil.Process]]:
    """The living processes that the test has started, their children included."""
    mark = os.environ[MARK]
    return lambda: _marked(mark)


# --- brokers to kill


@dataclass
class BrokerProcess:
    """A broker outside of any session."""

    kind: str
    """`embedded`, `forgetful` (the same without a disk), or `mosquitto`."""
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    plain: bool = False
    """As it is delivered: Mosquitto then drops what exceeds its default limits."""

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self.kind == "embedded":
            command = [sys.executable, "-m", "ether_broker", "--listen", f"127.0.0.1:{self.port}"]
            command += ["--data", str(self.folder / "data")]
        elif self.kind == "forgetful":
            command = [sys.executable, "-m", "ether_broker", "--listen", f"127.0.0.1:{self.port}"]
        else:
            lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "log_type error"]
            if not self.plain:
                lines += ["max_queued_messages 100000", "max_inflight_messages 10000", "set_tcp_nodelay true"]
            if os.geteuid() == 0:
                lines.append("user root")
            (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
            command = [_mosquitto(), "-c", str(self.folder / "mosquitto.conf")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _until(self._answers, 10.0, f"an answer of the {self.kind} broker")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def retained(self) -> dict[str, bytes]:
        """Return every retained message."""
        with Raw(self.url) as client:
            return client.retained()


class Raw:
    """A client that knows nothing of ether."""

    def __init__(self, url: str, will: tuple[str, bytes] | None = None) -> None:
        self.messages: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self._granted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"raw-{secrets.token_hex(4)}")
        self._client.on_message = lambda _c, _u, message: self.messages.put(message)
        self._client.on_subscribe = lambda _c, _u, packet_id, _reasons, _p: self._granted.put(packet_id)
        if will is not None:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self._client.loop_start()

    def subscribe(self, *filters: str) -> None:
        self._client.subscribe([(topic_filter, 1) for topic_filter in filters])
        self._granted.get(timeout=5)

    def publish(self, topic: str, payload: bytes | str, qos: int = 1, retain: bool = False) -> None:
        """Publish, and wait for the acknowledgement."""
        self._client.publish(topic, payload, qos, retain).wait_for_publish(5)

    def next(self, timeout: float = 5.0) -> MQTTMessage:
        return self.messages.get(timeout=timeout)

    def retained(self) -> dict[str, bytes]:
        self.subscribe("#")
        token = f"raw/{secrets.token_hex(4)}"
        self.publish(token, b"")
        found = {}
        while (message := self.next()).topic != token:
            if message.retain:
                found[message.topic] = message.payload
        return found

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def drop(self) -> None:
        """Vanish, so that the broker sends the will."""
        self._client.socket().shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _mosquitto() -> str:
    from ether.brokers import find_mosquitto

    found = find_mosquitto()
    if found is None:
        _missing("mosquitto")
    return str(found)


@pytest.fixture
def mosquitto() -> str:
    """The path of the installed Mosquitto."""
    return _mosquitto()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    return _free_port()


@pytest.fixture(params=["embedded", "mosquitto"])
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of broker that ether starts."""
    if request.param == "mosquitto":
        _mosquitto()
    return str(request.param)


@pytest.fixture(scope="module")
def start_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], BrokerProcess]]:
    """Start brokers that belong to no session, by their kind; killed with the module."""
    started: list[BrokerProcess] = []

    def start(kind: str) -> BrokerProcess:
        if kind == "mosquitto":
            _mosquitto()
        started.append(BrokerProcess(kind, tmp_path_factory.mktemp("broker"), _free_port()))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def broker(broker_kind: str, free_port: int, tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker that belongs to no session, of each kind."""
    process = BrokerProcess(broker_kind, tmp_path, free_port)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def plain_broker(broker_kind: str, free_port: int, tmp_path: Path) -> Iterator[BrokerProcess]:
    """The same with the configuration it is delivered with."""
    process = BrokerProcess(broker_kind, tmp_path, free_port, plain=True)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def raw() -> Iterator[Callable[..., Raw]]:
    """Clients that know nothing of ether; closed after the test."""
    clients: list[Raw] = []

    def connect(url: str, will: tuple[str, bytes] | None = None) -> Raw:
        clients.append(Raw(url, will))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


# --- disks to fill, figures to keep


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount an empty disk of a size such as `24m`; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        disk = tmp_path / f"disk-{len(mounted)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk is not allowed here")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    """Print figures; those of a soak are kept, too."""

    def tell(figures: dict[str, Any]) -> None:
        line = json.dumps({"test": request.node.name, **figures})
        print(line)
        if os.environ.get("SOAK_ROUNDS"):
            with open(os.environ.get("SOAK_FIGURES", ROOT / "build/soak.jsonl"), "a") as file:
                file.write(line + "\n")

    return tell


# --- certificates


@dataclass(frozen=True)
class Certificates:
    """Files by name: `server_pem` is server.pem."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name.replace("_", ".")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """`ca`, a server's for 127.0.0.1, a client's, and another authority with a client of its own."""
    if shutil.which("openssl") is None:
        _missing("openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca, names in (("ca", ("server", "client")), ("other", ("stranger",))):
        openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-days", "2", "-subj", f"/CN={ca}")
        for name in names:
            openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
            (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
            openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                    "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")  # fmt: skip
    return Certificates(folder)


# --- scripts to run


@dataclass
class Script:
    """A user's script in a process of its own."""

    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _readers: list[threading.Thread] = field(default_factory=list)

    def read(self) -> None:
        for stream, lines in ((self.popen.stdout, self.lines), (self.popen.stderr, self.errors)):
            reader = threading.Thread(target=_drain, args=(stream, lines))
            reader.start()
            self._readers.append(reader)

    def wait_for(self, line: str, timeout: float = 15.0) -> None:
        """Wait until it has printed a line."""
        _until(
            lambda: line in self.lines or self.popen.poll() is not None, timeout, f"line {line!r}; {self.transcript()}"
        )
        assert line in self.lines, self.transcript()

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self, timeout: float = 20.0) -> Script:
        """Wait for its end."""
        self.popen.wait(timeout)
        for reader in self._readers:
            reader.join(10)
        return self

    @property
    def code(self) -> int:
        return self.popen.returncode

    @property
    def error(self) -> str:
        return "\n".join(self.errors)

    def transcript(self) -> str:
        return "\n".join(["stdout:", *self.lines, "stderr:", *self.errors])


def _drain(stream: Any, lines: list[str]) -> None:
    for line in stream:
        lines.append(line.rstrip("\n"))
    stream.close()


@pytest.fixture
def script(workdir: Path) -> Iterator[Callable[..., Script]]:
    """Start a script in the working directory, with every warning an error."""
    started: list[Script] = []

    def start(
        text: str, *arguments: str, name: str = "messung.py", python: list[str] | None = None, **env: str
    ) -> Script:
        path = workdir / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        popen = subprocess.Popen(
            [*(python or [sys.executable, "-W", "error"]), str(path), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workdir,
            env={**os.environ, **env},
        )  # fmt: skip
        started.append(Script(popen))
        started[-1].read()
        return started[-1]

    yield start
    for each in started:
        if each.popen.poll() is None:
            each.popen.kill()
        each.end()


# --- a session in this process


@pytest.fixture
def ether(workdir: Path, nothing_left: None) -> Iterator[Any]:
    """This process's hold on a session; shut down after the test, and nothing may be left."""
    from ether import ether as hold

    yield hold
    hold.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, and a machine of its own, of what a whole module of tests shares."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("shared")
        _set_up_machine(place, patch)
        patch.chdir(place)
        yield place


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[Any]:
    """One private session for a whole module of tests that add their own objects to it."""
    from ether import ether as hold

    hold.tap({"broker": "embedded", "record": "off", "session": {"stop_timeout": "5s"}})
    hold.start()
    yield hold
    hold.shutdown()


@pytest.fixture
def add(shared: Any) -> Iterator[Callable[..., Any]]:
    """Add an object to the shared session, for this test only; returns it."""
    names: list[str] = []

    def add(target: Any, name: str | None = None) -> Any:
        names.append(name or f"{type(target).__name__.lower()}-{secrets.token_hex(3)}")
        return shared.add(target, names[-1])

    yield add
    for name in names:
        shared._need().command(name, "stop")
    _until(lambda: all(str(shared.instances()[name].state) == "disconnected" for name in names), 5.0, "the end")


@dataclass
class Wire:
    """What came by on a topic filter."""

    readings: list[Any] = field(default_factory=list)

    @property
    def fields(self) -> list[dict[str, Any]]:
        return [reading.fields for reading in self.readings]

    def __len__(self) -> int:
        return len(self.readings)


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    """Listen on a topic filter of a session."""
    subscriptions: list[Any] = []

    def listen(session: Any, topic_filter: str) -> Wire:
        found = Wire()
        subscriptions.append(session.subscribe(topic_filter, found.readings.append))
        return found

    yield listen
    for subscription in subscriptions:
        if subscription._client.connection.connected:
            subscription.stop()
