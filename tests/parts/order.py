"""The order of a recorder's system calls, as strace logs them: what it told the broker, and what was durable by then."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = "write,pwrite64,writev,pwritev,fdatasync,fsync,recvfrom,recvmsg,read,sendto,sendmsg"
_LINE = re.compile(r"(\d+) +(<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_VALUE = re.compile(rb'"value":(\d+),"_ether"')
PUBLISH, PUBACK = 3, 4


def strace(log: Path, *more: str) -> list[str]:
    """Return what to put before a command, so that its calls are logged."""
    return [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-yy",
        "-xx",
        "-s",
        "100000000",
        "-o",
        str(log),
        "-e",
        f"trace={_CALLS}",
        *more,
    ]


@dataclass
class Order:
    """What was told too early, and how much was looked at."""

    acknowledged: int = 0
    confirmed: int = -1
    syncs: int = 0
    failed_syncs: int = 0
    synced_again: list[str] = field(default_factory=list)
    """Files that were synced after a sync of them had failed: it would succeed, and mean nothing."""
    early: list[str] = field(default_factory=list)


class Packets:
    """Cuts a byte stream into MQTT packets."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Yield type, flags and body of each packet that is whole, and the packet itself."""
        self._held += data
        while len(self._held) > 1:
            length = shift = 0
            for place in range(1, min(5, len(self._held))):
                length |= (self._held[place] & 127) << shift
                shift += 7
                if self._held[place] < 128:
                    break
            else:
                return
            end = place + 1 + length
            if len(self._held) < end:
                return
            yield self._held[0] >> 4, self._held[0] & 15, self._held[place + 1 : end], self._held[:end]
            self._held = self._held[end:]


def order(log: Path, port: int, topic: str) -> Order:
    """Check that nothing of a topic, whose messages are numbered by their ``value``, was told before its sync.

    A call counts from its begin where it tells, and from its end where it makes durable.
    """
    found, incoming, outgoing = Order(), Packets(), Packets()
    written: set[int] = set()
    durable: set[int] = set()
    received: dict[int, int] = {}
    hurt: set[str] = set()
    for call, rest, ended in _calls(log):
        data = b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(rest))
        peer = f"->127.0.0.1:{port}]" in rest
        if not peer and ended and call in ("write", "pwrite64", "writev", "pwritev") and b".etj".hex() in _path(rest):
            written.update(map(int, _VALUE.findall(data)))
        elif ended and call in ("fdatasync", "fsync") and b".etj".hex() in _path(rest):
            failed = "= 0" not in rest
            found.syncs += not failed
            found.failed_syncs += failed
            if _path(rest) in hurt:
                found.synced_again.append(_path(rest))
            if failed:
                hurt.add(_path(rest))
            if not failed:
                durable |= written
            written = set()  # after a failed sync nothing of it counts: it must be written anew
        elif peer and ended and call in ("recvfrom", "recvmsg", "read"):
            _take(incoming, data, topic, received)
        elif peer and not ended and call in ("sendto", "sendmsg", "write", "writev"):
            _judge(outgoing, data, topic, received, durable, found)
    return found


def _path(rest: str) -> str:
    return rest.partition(">")[0].replace("\\x", "")


def _calls(log: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield call, what is known of it, and whether it has ended; each call twice: its begin and its end."""
    begun: dict[str, str] = {}
    with open(log) as lines:
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                continue
            process, resumed, call, rest = match.groups()
            if not resumed:
                begun[process] = rest.removesuffix(" <unfinished ...>")
                yield call, begun[process], False
            if "<unfinished ...>" not in line:
                whole = begun[process] + rest if resumed else rest
                yield call, whole, True


def _take(incoming: Packets, data: bytes, topic: str, received: dict[int, int]) -> None:
    for kind, flags, body, _ in incoming.feed(data):
        if kind == PUBLISH:
            end = 2 + int.from_bytes(body[:2], "big")
            if flags & 6:
                number = int.from_bytes(body[end : end + 2], "big")
                values = _VALUE.findall(body) if body[2:end] == topic.encode() else []
                received[number] = int(values[0]) if values else -1


def _judge(
    outgoing: Packets, data: bytes, topic: str, received: dict[int, int], durable: set[int], found: Order
) -> None:
    for kind, _, body, _ in outgoing.feed(data):
        if kind == PUBACK:
            value = received.get(int.from_bytes(body[:2], "big"), -1)
            if value >= 0:
                found.acknowledged += 1
                if value not in durable:
                    found.early.append(f"acknowledged {value}")
        elif kind == PUBLISH and b"/stored/" in body[:100]:
            content = json.loads(body[body.index(b"{") :])
            watermark = content["topics"].get(topic, -1)
            lacking = set(range(found.confirmed + 1, watermark + 1)) - durable
            found.confirmed = max(found.confirmed, watermark)
            found.early += [f"confirmed {value}" for value in sorted(lacking)]
