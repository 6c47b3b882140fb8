"""The C client of `hardware/c` for tests: built under sanitizers, and one device driven by lines, byte by byte."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
HEADERS = ROOT / "hardware" / "c"
EXAMPLES = HEADERS / "examples"
SOURCES = ROOT / "tests" / "hardware" / "c"
STRICT = ["-Wall", "-Wextra", "-Werror"]
SANITIZED = ["-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LANGUAGES = {"c99": ["gcc", "-std=c99"], "c++11": ["g++", "-x", "c++", "-std=c++11"]}


def build(command: list[str], source: Path, program: Path, *flags: str) -> Path:
    """Compile a source with every warning an error; return the program."""
    subprocess.run([*command, *STRICT, f"-I{HEADERS}", *flags, str(source), "-o", str(program)], check=True)
    return program


class Packet(NamedTuple):
    """An MQTT packet that the device wrote."""

    kind: int
    """Its first byte: type and flags."""
    body: bytes

    @property
    def topic(self) -> str:
        return self.body[2 : 2 + int.from_bytes(self.body[:2])].decode()

    @property
    def packet_id(self) -> int:
        place = 2 + int.from_bytes(self.body[:2])
        return int.from_bytes(self.body[place : place + 2])

    @property
    def payload(self) -> bytes:
        """Of a PUBLISH."""
        return self.body[2 + int.from_bytes(self.body[:2]) + (2 if self.kind & 6 else 0) :]


def packets(stream: bytes) -> list[Packet]:
    """Cut what was written into packets; nothing may be left over."""
    found = []
    while stream:
        length, place, shift = 0, 1, 0
        while True:
            length |= (stream[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if stream[place - 1] < 128:
                break
        assert len(stream) >= place + length, stream.hex()
        found.append(Packet(stream[0], stream[place : place + length]))
        stream = stream[place + length :]
    return found


def publish(topic: str, payload: bytes | str, qos: int = 0, retain: bool = False, packet_id: int = 1) -> bytes:
    """Return a PUBLISH as a broker sends it."""
    payload = payload.encode() if isinstance(payload, str) else payload
    body = len(topic).to_bytes(2) + topic.encode() + (packet_id.to_bytes(2) if qos else b"") + payload
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
    return bytes([0x30 | qos << 1 | retain]) + length + body


class Bench:
    """One device: `bench1` of boot 9f3c01aa, with the topics lab/temp and lab/hum, hearing lab/led; its clock stands."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.written = b""
        """What it wrote since `sent` was last called."""

    def __call__(self, *words: Any) -> str:
        """Say a line, return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().rstrip("\n")
        assert self._process.poll() is None and not answer.startswith("?"), (words, answer)
        return answer

    def new(self, connected: bool = True) -> None:
        """Begin anew; connected: through all of the greeting, which is thrown away."""
        self("new")
        assert self("begin") == "1"
        self.sent()
        if connected:
            self.connect()

    def connect(self) -> list[Packet]:
        """Open a connection; return what was said until it was up."""
        self("connect")
        self.hear(b"\x20\x02\x00\x00")
        said = self.sent()
        for packet in said:
            if packet.kind == 0x82:
                self.hear(b"\x90\x03" + packet.body[:2] + b"\x01")
        assert self("poll") == "1"
        return said

    def hear(self, stream: bytes) -> int:
        """Let something come, and poll until it has been heard; return what the last poll said."""
        self("in", stream.hex())
        states = [int(self("poll")) for _ in range(6)]
        return states[-1]

    def sent(self) -> list[Packet]:
        """Return what it wrote since the last time."""
        return packets(bytes.fromhex(self("out")))

    def ack(self) -> list[Packet]:
        """Poll and acknowledge until nothing is sent any more; return what was sent at QoS 1."""
        found: list[Packet] = []
        self("poll")
        while sent := [packet for packet in self.sent() if packet.kind & 0xF6 == 0x32]:
            for packet in sent:
                self.hear(b"\x40\x02" + packet.packet_id.to_bytes(2))
            found += sent
        return found

    def ring(self, topic: int = 0) -> list[int]:
        """Return the numbers that are kept."""
        return [int(word) for word in self("ring", topic).split()]

    def facts(self) -> Any:
        return json.loads(self("facts"))

    def counts(self) -> dict[str, int]:
        """Return what it counted, without zeros."""
        named = zip(("dropped", "failed", "missed", "rejected"), self.facts()["counts"], strict=True)
        return {name: count for name, count in named if count}

    def close(self) -> int:
        """End it; return its exit code, which tells of sanitizers."""
        self._process.communicate()
        return self._process.returncode


POSIX = ["gcc", "-std=c99"]
BIG = ["-DETHER_FIRST_ID=65530", "-DFIRST_MS=4294966296u"]
"""The packet id wraps at once, the milliseconds within a second."""
TINY = ["-DETHER_RING=512", "-DETHER_TX=256", "-DETHER_RX=256"]
"""Some twenty readings."""
CORTEX_M3 = ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb", "-Os", "-std=c99", "-nostartfiles"]
AVR_UNO = ["avr-gcc", "-mmcu=atmega328p", "-DF_CPU=16000000UL", "-Os", "-std=gnu99", "-mcall-prologues"]
SLOW = ["-DSLOW_PERCENT=10"]
"""The board's clock is 10 % too slow."""


def build_devices(folder: Path) -> dict[str, list[str]]:
    """Build the devices of a system test; return each one's command, but for its place of the broker."""
    for name, flags in (("big", BIG), ("tiny", TINY)):
        build(POSIX, EXAMPLES / "posix" / "bench.c", folder / name, *SANITIZED, *flags)
    script = EXAMPLES / "cortex_m3" / "lm3s6965.ld"
    build(CORTEX_M3, EXAMPLES / "cortex_m3" / "main.c", folder / "m3", *SLOW, "-DETHER_RING=4096", "-T", str(script))
    boot = f"-DFIRST_BOOT={secrets.randbits(31)}ul"  # the emulated one has no EEPROM to count in
    build(AVR_UNO, EXAMPLES / "avr_uno" / "main.c", folder / "uno", *SLOW, boot, "-DETHER_RING=512")
    noise = f"loader,addr=0x2000fff0,data={secrets.randbits(31)},data-len=4"  # as RAM has when power comes
    return {
        "big": [str(folder / "big")],
        "tiny": [str(folder / "tiny")],
        "m3": ["qemu-system-arm", "-M", "lm3s6965evb", "-kernel", str(folder / "m3"), "-device", noise],
        "uno": ["qemu-system-avr", "-M", "uno", "-bios", str(folder / "uno")],
    }


def line_to(port: int) -> list[str]:
    """Return the arguments that make an emulated board's serial line a stream to a port, opened again when it ends."""
    stream = f"socket,id=line,host=127.0.0.1,port={port},reconnect=1"
    return ["-display", "none", "-monitor", "none", "-chardev", stream, "-serial", "chardev:line"]
