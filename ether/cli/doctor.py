"""`ether doctor`: is this machine fit for a session?"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ether import __version__
from ether.address import Address, without_password
from ether.cli import output
from ether.cli.arguments import AsJson
from ether.errors import BrokerError

__all__ = ["doctor"]

_PACKAGES = ("paho-mqtt", "amqtt", "pydantic", "PyYAML", "h5py", "cbor2", "cloudpickle", "typer", "rich")
_OPTIONAL = ("pandas", "xarray")
_FREE_GB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    verdict: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""


def doctor(
    broker: Annotated[
        str | None, typer.Option("--broker", metavar="URL", help="Measure what this broker can do, and nothing else.")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", help="Below which the broker lets us in.")] = "",
    ca: Annotated[str | None, typer.Option("--ca", metavar="PEM", help="Authority to trust, for mqtts.")] = None,
    json: AsJson = False,
) -> int:
    """Check whether this machine is fit, or a broker.

    Python, packages, broker, data folder, disk, running sessions. With --broker: what it keeps, queues, delivers and
    refuses, tried out for some seconds on topics of our own; sessions remember it for a week. Exit 1 if something must
    be mended, 4 if there is no broker.
    """
    if broker is not None:
        findings = [*_measured(broker, namespace, ca)]
    else:
        findings = [*_python(), *_packages(), *_mosquitto(), *_data(), *_runtime(), *_broker()]
    if json:
        for finding in findings:
            output.as_json(asdict(finding))
    else:
        output.table(
            ["CHECK", "", "FOUND", "ADVICE"],
            [[finding.subject, finding.verdict, finding.found, finding.advice] for finding in findings],
        )
    return 1 if any(finding.verdict == "failed" for finding in findings) else 0


def _python() -> Iterator[Finding]:
    fit = sys.version_info >= (3, 11)
    advice = "" if fit else "ether needs Python 3.11 or newer"
    yield Finding("ether", "ok", __version__)
    yield Finding("python", "ok" if fit else "failed", f"{platform.python_version()} on {platform.platform()}", advice)


def _packages() -> Iterator[Finding]:
    from importlib import metadata  # slow to import, and needed by no other verb

    for name in (*_PACKAGES, *_OPTIONAL):
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            if name in _OPTIONAL:
                yield Finding(
                    name, "warning", "not installed", "`pip install ether[data]` for to_pandas() and to_xarray()"
                )
            else:
                yield Finding(name, "failed", "not installed", f"`pip install {name}`")


def _mosquitto() -> Iterator[Finding]:
    from ether.brokers import find_mosquitto

    path = find_mosquitto()
    if path is None:
        yield Finding("mosquitto", "warning", "not installed", "optional, and faster than the embedded broker")
        return
    try:
        said = subprocess.run([path, "-h"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as exc:
        yield Finding("mosquitto", "warning", f"{path}: {exc}", "reinstall it, or use `broker: embedded`")
        return
    yield Finding("mosquitto", "ok", f"{said.partition(chr(10))[0].removeprefix('mosquitto ')} at {path}")


def _data() -> Iterator[Finding]:
    folder = Path(os.environ.get("ETHER_DATA") or "data")
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if place.is_dir() and _writable(place):
        yield Finding("data folder", "ok", str(folder.absolute()))
    else:
        advice = "set ETHER_DATA or session.data to a folder that you may write"
        yield Finding("data folder", "failed", f"{place} cannot be written", advice)
    free = shutil.disk_usage(place).free / 1e9
    low = free < _FREE_GB
    yield Finding(
        "free disk", "warning" if low else "ok", f"{free:.1f} GB", "make room before recording" if low else ""
    )


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _runtime() -> Iterator[Finding]:
    from ether import runtime

    folder = runtime.folder()
    before = len(list(folder.glob("*.json"))) if folder.is_dir() else 0
    running = runtime.running()  # forgets those whose process is gone
    yield Finding("runtime folder", "ok", str(folder), _count(before - len(running), "stale entry", "removed"))
    for entry in running:
        name, url = str(entry.get("name")), str(entry.get("url"))
        reached = _reach(url)
        advice = "" if reached is None else f"its broker does not answer ({reached}); end process {entry.get('pid')}"
        found = f"process {entry.get('pid')} at {without_password(url)}"
        yield Finding(f"session {name}", "ok" if reached is None else "warning", found, advice)


def _broker() -> Iterator[Finding]:
    url = os.environ.get("ETHER_BROKER", "")
    if "://" not in url:
        return
    reached = _reach(url)
    advice = "`ether doctor --broker URL` measures what it can do"
    if reached is not None:
        advice = "is it running? `ether broker` starts one; or unset ETHER_BROKER"
    found = without_password(url) if reached is None else f"{without_password(url)}: {reached}"
    yield Finding("ETHER_BROKER", "ok" if reached is None else "failed", found, advice)


_NEEDED = ("retained", "wildcard_retained")
_MEASURED = {
    "retained": "retained messages",
    "wildcard_retained": "retained, by wildcard",
    "queued": "queue while away",
    "redelivered": "sent again",
    "marked_duplicate": "marked as duplicate",
    "will": "last will",
    "shared": "shared subscriptions",
    "overlapping_copies": "overlapping copies",
    "largest_payload": "largest payload",
    "spaced_topics": "topics with a space",
    "drops_counted": "counts what it drops",
}


def _measured(url: str, namespace: str, ca: str | None) -> Iterator[Finding]:
    from ether.brokers import advice, measure
    from ether.mqtt import Tls

    found = measure(url, namespace=namespace, tls=Tls(ca) if ca else None)
    yield Finding("broker", "ok", f"{found.address}, {found.version or 'of no known version'}")
    yield Finding("protocol", "ok", "MQTT 5" if found.level == 5 else "MQTT 3.1.1")
    lacking = advice(found)
    told: set[str] = set()
    for name, subject in _MEASURED.items():
        value, note = getattr(found, name), found.notes.get(name, "")
        text = lacking.get("refused_payload" if name == "largest_payload" else name, "")
        if value is None:
            if note:  # else it depends on one above
                yield Finding(subject, "warning", "not measured", "as above" if note in told else note)
            told.add(note)
            continue
        verdict: Literal["ok", "warning", "failed"] = "failed" if name in _NEEDED else "warning"
        yield Finding(subject, verdict if text else "ok", _told(name, value, found.refused_payload, note), text)


def _told(name: str, value: int | bool, refused: int | None, note: str) -> str:
    from ether.brokers import QUEUE

    if name == "queued":
        return f"{value:,} of {QUEUE:,} messages"
    if name == "largest_payload":
        return f"{value:,} bytes; {refused:,} are refused" if refused else f"{value:,} bytes at least"
    return ": ".join(filter(None, (output.shown(value), note)))


def _reach(url: str) -> str | None:
    """Return why nobody listens at this address; None if somebody does, be it at one node of a cluster."""
    why = None
    try:
        nodes = Address.parse(url).nodes
    except BrokerError as exc:
        return str(exc)
    for node in nodes:
        try:
            socket.create_connection(node, timeout=2).close()
            return None
        except OSError as exc:
            why = exc.strerror or str(exc)
    return why


def _count(number: int, noun: str, done: str) -> str:
    return "" if number <= 0 else f"{number} {noun if number == 1 else noun[:-1] + 'ies'} {done}"
