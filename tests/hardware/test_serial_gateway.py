"""Boards on a serial port, as instances: a pty is the port, and a real MicroPython on an emulated micro:bit the board."""

from __future__ import annotations

import logging
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial
from serial.rfc2217 import PortManager

from ether import serial_gateway
from ether.cli import main
from ether.recorder.reader import open_recording

Until = Callable[..., None]

SERIAL = Path(__file__).parents[2] / "hardware" / "serial"
FIRMWARE = Path("/usr/share/firmware-microbit-micropython/firmware.hex")
DESCRIPTION = (
    b'ether {"class":"Bench","version":"1.2","publishes":{"temp":{"fields":{"value":{"unit":"degC"}}}},'
    b'"subscribes":{"led":{}}}\n'
)


class Board:
    """A board on one end of a pty; the other end is at `port`, until it is unplugged."""

    def __init__(self, port: Path, until: Until) -> None:
        self.port = port
        self.heard = b""
        self._until = until
        self.count = 0
        self.plug()

    @property
    def last(self) -> float:
        return self.count - 0.5

    def plug(self) -> None:
        self._ours, theirs = pty.openpty()
        tty.setraw(theirs)
        os.set_blocking(self._ours, False)
        self._theirs = theirs
        self.port.symlink_to(os.ttyname(theirs))

    def unplug(self) -> None:
        self.port.unlink()
        os.close(self._theirs)
        os.close(self._ours)

    def say(self, text: bytes) -> None:
        os.write(self._ours, text)

    def readings(self, count: int) -> None:
        for _ in range(count):
            self.say(b"temp %d.5\r\n" % self.count)
            self.count += 1

    def flows(self, heard: Any) -> None:
        """Take readings until one is heard, and the last one of them, too."""
        before = len(heard)
        self._until(lambda: self.readings(1) or len(heard) > before, what="a reading")
        self._until(lambda: {"value": self.last} in heard.fields, what="the last reading")

    def hears(self, line: bytes) -> None:
        """Wait until the gateway has written a line, and forget what came before it."""

        def come() -> bool:
            try:
                self.heard += os.read(self._ours, 1000)
            except BlockingIOError:
                pass
            return line in self.heard

        self._until(come, what=f"{line!r} at the board")
        self.heard = self.heard.partition(line)[2]


@pytest.fixture
def until(until: Until) -> Until:
    """Wait for a condition; an emulator beside a session is slow on a busy machine."""

    def wait(condition: Callable[[], Any], timeout: float = 20.0, what: str = "") -> None:
        until(condition, timeout, what)

    return wait


@pytest.fixture
def board(tmp_path: Path, until: Until) -> Iterator[Board]:
    board = Board(tmp_path / "ttyBoard", until)
    yield board
    if board.port.is_symlink():
        board.unplug()


def _state(ether: Any, name: str = "bench1") -> str:
    found = ether.instances().get(name)
    return "" if found is None else str(found.state)


def _counts(ether: Any, name: str = "bench1") -> dict[str, float]:
    return dict(ether.instances()[name].counts or {})


# --- named in a session


def test_a_board_of_a_session_is_recorded_without_a_hole_unplugged_and_plugged_in_again(
    ether: Any, broker_kind: str, board: Board, until: Until, wire: Callable[..., Any]
) -> None:
    block = {"class_path": "ether.serial_gateway.SerialBoard", "kwargs": {"port": str(board.port)}}
    ether.tap({"broker": broker_kind, "instances": {"bench1": block}})
    ether.start()
    board.hears(b"\nether\n")
    heard = wire(ether, "bench1/temp")

    board.say(b"emp 3\n" + DESCRIPTION)  # of the first line the begin is missing
    board.flows(heard)  # not published before the session has started
    board.readings(20)
    board.say(b"\x80 noise\ntemp 3,5\n")
    until(lambda: {"value": board.last} in heard.fields)
    about = ether.instances()["bench1"].about
    ether.pub(True, "bench1/led", retain=True)
    board.hears(b"led true\n")
    ether._need().command("bench1", "every", topic="bench1/temp", every=0.5)
    board.hears(b'ether every {"topic":"temp","every":0.5}\n')

    board.unplug()
    until(lambda: _state(ether) == "lost")
    detail = ether.instances()["bench1"].detail
    board.plug()
    until(lambda: _state(ether) == "ready")
    board.hears(b"\nether\n")
    board.say(b"\n" + DESCRIPTION)
    board.hears(b"led true\n")  # it is retained, and a board that has just started does not know it
    board.readings(10)
    until(lambda: {"value": board.last} in heard.fields)
    board.unplug()
    until(lambda: _state(ether) == "lost")
    ended = ether.shutdown()

    assert (about.class_name, about.version) == ("Bench", "1.2")
    assert about.publishes == {"bench1/temp": {"fields": {"value": {"unit": "degC"}}}}
    assert detail == f"{board.port} is gone (unplugged?); it is opened again once it is there"
    assert (ended.instances, ended.problems) == ({"bench1": "exit code 0", "recorder": "exit code 0"}, ())
    assert ended.counts["bench1"]["rejected"] == 2
    with open_recording(ended.recording) as recording:
        assert recording.verify().complete
        first = int(recording["bench1/temp"]["value"][0])
        assert list(recording["bench1/temp"]["value"]) == [number + 0.5 for number in range(first, board.count)]
        assert recording["bench1/temp"].fields["value"].unit == "degC"


def test_a_session_does_not_start_without_its_board_and_says_so_in_one_line(ether: Any, tmp_path: Path) -> None:
    block = {"class_path": "ether.serial_gateway.SerialBoard", "kwargs": {"port": str(tmp_path / "ttyNone")}}

    with pytest.raises(Exception, match="no port") as caught:
        ether.tap({"broker": "embedded", "record": "off", "instances": {"bench1": block}})

    assert str(caught.value).startswith(f"bench1: no port {tmp_path / 'ttyNone'}; there ")
    assert "\n" not in str(caught.value)

    block["kwargs"] |= {"topics": {"temp": "lab/+"}}
    with pytest.raises(Exception, match="for subscribing") as caught:
        ether.tap({"broker": "embedded", "record": "off", "instances": {"bench1": block}})

    assert str(caught.value).startswith("bench1: TopicError: topic 'lab/+': ")
    assert "\n" not in str(caught.value)


# --- the command


@pytest.fixture
def gateway(nothing_left: None, machine: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `ether serial` in a process of its own, and wait until it runs."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **env: str) -> subprocess.Popen[str]:
        popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "ether.cli", "serial", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, **env},
        )  # fmt: skip
        started.append(popen)
        assert popen.stdout is not None
        line = popen.stdout.readline()
        assert line.startswith("ready: "), popen.communicate()
        return popen

    yield start
    for popen in started:
        if popen.poll() is None:
            popen.kill()
        popen.communicate()


def _end(popen: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Press Ctrl-C; return code, stdout and stderr."""
    popen.send_signal(signal.SIGINT)
    out, err = popen.communicate(timeout=20)
    return popen.returncode, out, err


@pytest.mark.parametrize("broker_kind", ["mosquitto"], indirect=True)  # which forgets all when it dies
def test_a_gateway_that_stays_keeps_what_is_not_recorded_over_the_death_of_the_broker_and_its_own(
    ether: Any, broker: Any, board: Board, gateway: Callable[..., subprocess.Popen[str]], until: Until,
    wire: Callable[..., Any], tmp_path: Path,
) -> None:  # fmt: skip
    words = (
        str(board.port),
        "--name",
        "bench1",
        "--broker",
        broker.url,
        "--topic",
        "temp=lab/temp",
        "--unit",
        "temp=degC",
    )
    serve = gateway(*words)
    other = {"class_path": "lab_parts.Ticker", "autorun": False}
    ether.tap({"broker": broker.url, "session": {"data": str(tmp_path / "recordings")}, "instances": {"other": other}})
    heard = wire(ether, "lab/temp")
    board.hears(b"\nether\n")
    board.say(b"\n")
    board.flows(heard)

    broker.kill()
    board.readings(20)
    until(lambda: _kept(tmp_path, board.last))
    broker.start()
    board.flows(heard)
    broker.kill()
    board.readings(20)
    until(lambda: _kept(tmp_path, board.last))
    serve.kill()
    serve.wait()
    broker.start()
    serve = gateway(*words)
    board.hears(b"\nether\n")
    board.say(b"\n")
    board.flows(heard)
    ether._need().command("bench1", "restart")
    board.hears(b"ether restart\n")
    board.hears(b"\nether\n")
    assert serve.stdout.readline() == f"ready: bench1 ({board.port}) at {broker.url}\n"
    board.say(b"\n")
    board.readings(5)
    until(lambda: {"value": board.last} in heard.fields)
    code, out, err = _end(serve)
    until(lambda: _state(ether) == "disconnected")
    recording = ether.shutdown().recording

    assert (code, out) == (0, "bench1: 5 readings published, 0 lines rejected\n"), err
    assert not (tmp_path / "data" / ".outbox").exists()
    with open_recording(recording) as found:
        report = found.verify()
        assert report.complete
        assert found["lab/temp"].fields["value"].unit == "degC"
        assert sorted(found["lab/temp"]["value"]) == [number + 0.5 for number in range(board.count)]


def _kept(folder: Path, value: float) -> bool:
    """Return whether the outbox of a gateway that stays has a reading of this value."""
    files = [path for path in (folder / "data" / ".outbox").rglob("*") if path.is_file()]
    return any(b'"value":%a' % value in path.read_bytes() for path in files)


@pytest.fixture
def microbit(tmp_path: Path, free_port: int, missing: Callable[[str], None]) -> Iterator[Microbit]:
    if shutil.which("qemu-system-arm") is None or not FIRMWARE.exists():
        missing("qemu-system-arm or firmware-microbit-micropython")
    board = Microbit(tmp_path / "main.bin", free_port)
    board.plug()
    yield board
    board.unplug()


class Microbit:
    """A micro:bit in QEMU with Debian's MicroPython, running our example; it boots when somebody opens the port."""

    def __init__(self, image: Path, port: int) -> None:
        self.url = f"socket://127.0.0.1:{port}"
        self._image = image
        self._serial = f"tcp:127.0.0.1:{port},server=on,wait=on"
        text = (SERIAL / "microbit.py").read_text(encoding="ascii")
        for shipped, own in (
            ("def obey(", READ_20_TIMES + "\n\ndef obey("),
            ("temperature()", "reading()"),  # QEMU has no thermometer
            ("due += 1000", "due += 20 if taken < 20 else 1 << 28"),
        ):
            assert text.count(shipped) == 1
            text = text.replace(shipped, own)
        main = text.replace(
            "display, running_time, sleep, temperature, uart", "display, running_time, sleep, uart"
        ).encode()
        image.write_bytes(b"MP" + struct.pack("<H", len(main)) + main)  # as an editor appends it to the firmware

    def plug(self) -> None:
        loaders = [f"loader,file={FIRMWARE}", f"loader,file={self._image},addr=0x3e000,force-raw=on"]
        self._process = subprocess.Popen(
            ["qemu-system-arm", "-M", "microbit", "-display", "none", "-monitor", "none", "-serial", self._serial,
             *(word for loader in loaders for word in ("-device", loader))],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def unplug(self) -> None:
        self._process.kill()
        self._process.wait()


READ_20_TIMES = """
taken = 0

def reading():
    global taken
    taken += 1
    if taken == 10:
        print("noise between two readings")
    return taken
"""


def test_a_real_micropython_behind_the_gateway_is_recorded_unplugged_and_obeys(
    ether: Any,
    microbit: Microbit,
    gateway: Callable[..., subprocess.Popen[str]],
    until: Until,
    wire: Callable[..., Any],
) -> None:
    ether.tap({"broker": "embedded"})
    heard = wire(ether, "bench1/temp")

    serve = gateway(microbit.url, "--name", "bench1", ETHER_LOG_LEVEL="INFO")
    until(lambda: len(heard) == 20)
    ether.pub(True, "bench1/led")
    until(lambda: _counts(ether).get("handled") == 1)
    microbit.unplug()
    until(lambda: _state(ether) == "lost")
    microbit.plug()
    until(lambda: _state(ether) == "ready")
    until(lambda: len(heard) == 40)
    about = ether.instances()["bench1"].about
    recording = ether.shutdown().recording
    out, err = serve.communicate(timeout=20)

    assert (serve.returncode, out) == (0, "bench1: 40 readings published, 2 lines rejected\n"), err
    assert (about.class_name, about.version) == ("Bench", "1.0")
    assert "INFO - bench1: led true" in err
    with open_recording(recording) as found:
        assert found.verify().complete
        assert list(found["bench1/temp"]["value"]) == [*range(1, 21), *range(1, 21)]
        assert found["bench1/temp"].fields["value"].unit == "degC"


# --- what goes wrong


@pytest.fixture
def own_logging() -> Iterator[None]:
    """The command sets up logging for its process, which is ours here."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def _words(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code of `ether serial`, and its one line of complaint."""
    code = main(["serial", *words])
    [line] = capsys.readouterr().err.splitlines()
    return code, line


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("broker_kind", ["mosquitto"], indirect=True)
def test_a_port_that_cannot_be_used_is_one_line_with_the_way_out(
    broker: Any, board: Board, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    free_port: int,
) -> None:  # fmt: skip
    at = ("--name", "bench1", "--broker", broker.url)
    ports = {"/dev/ttyACM0": "BBC micro:bit", "/dev/ttyS0": ""}
    monkeypatch.setattr(serial_gateway, "ports", lambda: ports)

    assert _words(capsys, "/dev/ttyACM1", *at) == (
        1,
        "ether: no port /dev/ttyACM1; there are: /dev/ttyACM0 (BBC micro:bit), /dev/ttyS0; did you mean `/dev/ttyACM0`?",
    )
    ports.clear()
    assert _words(capsys, "/dev/ttyACM1", *at) == (
        1, "ether: no port /dev/ttyACM1; there is none: plug the board in; some cables only charge",
    )  # fmt: skip
    with serial.Serial(str(board.port), exclusive=True):
        assert _words(capsys, str(board.port), *at) == (
            1, f"ether: {board.port} is in use by another program; end that (a serial monitor?)",
        )  # fmt: skip
    (tmp_path / "file").touch()
    code, line = _words(capsys, str(tmp_path / "file"), *at)
    assert code == 1
    assert line.startswith(f"ether: {tmp_path / 'file'} at 115200 baud: ")
    _, line = _words(capsys, "socket://127.0.0.1", *at)
    assert "socket://127.0.0.1: no port in it; write socket://HOST:PORT" in line
    code, line = _words(capsys, "socket://127.0.0.1:1", *at)
    assert code == 1
    assert line.endswith("Connection refused; write socket://HOST:PORT or rfc2217://HOST:PORT of what listens there")
    code, line = _words(capsys, "nonsense://x", *at)
    assert (code, "nonsense" in line) == (1, True)
    monkeypatch.setitem(sys.modules, "serial", None)
    assert _words(capsys, str(board.port), *at) == (1, "ether: pyserial is missing: pip install 'ether[serial]'")
    assert broker.retained() == {}


@pytest.mark.usefixtures("own_logging")
def test_a_command_line_that_cannot_work_is_one_line(
    machine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _words(capsys) == (
        2, "ether: invalid value: write `ether serial PORT --name NAME`; `ether serial --list` tells the ports; "
        "see `ether serial --help`",
    )  # fmt: skip
    assert _words(capsys, "/dev/ttyS0", "--name", "a b")[0] == 2
    assert _words(capsys, "/dev/ttyS0", "--name", "a", "--unit", "degC")[0] == 2
    assert _words(capsys, "/dev/ttyS0", "--name", "a") == (
        4, "ether: no session runs on this machine; start one with `ether up FILE`, or set ETHER_BROKER",
    )  # fmt: skip
    monkeypatch.setattr(serial_gateway, "ports", lambda: {"/dev/ttyACM0": "BBC micro:bit"})
    assert main(["serial", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["PORT", "WHAT", "/dev/ttyACM0", "BBC", "micro:bit"]


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("broker_kind", ["mosquitto"], indirect=True)
def test_a_name_that_is_taken_is_refused(
    broker: Any, raw: Callable[..., Any], board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    raw(broker.url).publish("ether/status/bench1", "ready", retain=True)

    assert _words(capsys, str(board.port), "--name", "bench1", "--broker", broker.url) == (
        1, "ether: there is an instance 'bench1' already; choose another --name",
    )  # fmt: skip


def test_permission_names_the_group() -> None:
    said = serial_gateway._way_out("/dev/ttyACM0", 9600, PermissionError(13, "denied"))

    assert said == "/dev/ttyACM0: not allowed; `sudo usermod -aG dialout $USER`, and log in again"


@pytest.fixture
def remote_port(free_port: int) -> Iterator[serial.SerialBase]:
    """A port that sends back what it is sent, served at `free_port` as RFC 2217 has it."""
    wire = serial.serial_for_url("loop://", timeout=0.05)
    ended = threading.Event()

    def serve() -> None:
        peer, _ = listener.accept()
        with peer, peer.makefile("wb", buffering=0) as out:
            manager = PortManager(wire, out)
            peer.settimeout(0.05)
            while not ended.is_set():
                try:
                    wire.write(b"".join(manager.filter(peer.recv(1024))))
                except TimeoutError:
                    out.write(b"".join(manager.escape(wire.read(wire.in_waiting))))

    with socket.create_server(("127.0.0.1", free_port)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield wire
        ended.set()
        thread.join(5.0)


@pytest.mark.filterwarnings("ignore:set:DeprecationWarning")  # pyserial's own
def test_a_port_of_another_machine_by_rfc_2217(free_port: int, remote_port: serial.SerialBase, until: Until) -> None:
    port = serial_gateway._open(f"rfc2217://127.0.0.1:{free_port}", 9600)
    port.write(b"temp 1\n")
    found = b""

    def come() -> bool:
        nonlocal found
        found += port.read(port.in_waiting or 1)
        return found == b"temp 1\n"

    until(come)
    assert remote_port.baudrate == 9600
    port.close()
