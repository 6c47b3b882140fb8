"""A NATS server of our own, for the MQTT that is in it: one node by itself, or one of a cluster."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ether.address import is_loopback
from ether.brokers.child import Limits, LoggedBroker, split_listen
from ether.brokers.security import Security
from ether.errors import BrokerError
from ether.mqtt import BrokerLimits

__all__ = ["Cluster", "Nats", "find_nats"]

_LINE = re.compile(r"\[\d+\] (?:\S+ \S+ )?\[(?P<level>[A-Z]{3})\] ?(?P<text>.*)")
_PACKET = 64 << 20


def find_nats() -> str | None:
    """Return the path of the installed `nats-server`; None where there is none. `pip` puts it beside Python."""
    return shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))


@dataclass(frozen=True, slots=True)
class Cluster:
    """A node's place among others."""

    node: str
    """Its name; the others know by it what it stores, so it stays the same from start to start."""
    listen: str
    """``host:port`` where the other nodes reach it."""
    peers: tuple[str, ...]
    """The same of each other node."""

    def check(self, insecure_lan: bool) -> None:
        """Raise BrokerError for a cluster that cannot work, or that everybody could join."""
        if not re.fullmatch(r"[\w-]+", self.node):
            raise BrokerError(f"cluster node {self.node!r}: a name has letters, digits, `-` and `_`")
        hosts = [split_listen(each)[0] for each in (self.listen, *self.peers)]
        if len(set(self.peers)) < 2 or self.listen in self.peers:
            raise BrokerError(
                f"cluster node {self.node}: name the other nodes with --peer HOST:PORT, two at least: "
                "what two of three have stored survives the loss of one"
            )
        if not is_loopback(hosts[0]) and not insecure_lan:
            raise BrokerError(
                f"cluster {self.listen}: whoever reaches it could join and read everything; run "
                "broker/cluster/nats.conf, whose nodes prove themselves by certificates, or say --insecure-lan"
            )


class Nats(LoggedBroker):
    """NATS with limits that lose nothing in a lab. They are those of `broker/cluster/nats.conf`, with the reasons."""

    kind = "nats"
    around = 256  # it puts a header of its own before it
    takes = BrokerLimits(largest_message=_PACKET - around, spaces=False, receive_maximum=500)
    enforces_limits = True

    def __init__(
        self, listen: str | None = None, folder: str | None = None, why: str = "", security: Security | None = None,
        limits: Limits | None = None, cluster: Cluster | None = None,
    ) -> None:  # fmt: skip
        super().__init__(listen, folder, why, security, limits)
        if self.limits.queue_bytes is not None or self.limits.session_expiry_s is not None:
            raise BrokerError(
                "broker.limits: NATS has no `queue` and no `session_expiry`; what waits is on disk, and stays; "
                "use `broker.kind: embedded`"
            )
        self.cluster = cluster
        if cluster is not None:
            cluster.check(self.security.insecure_lan)

    def command(self) -> list[str]:
        program = find_nats()
        if program is None:
            raise BrokerError("nats-server is not installed; try `pip install 'ether[cluster]'` or `broker: embedded`")
        file = self.folder / "nats.conf"
        text = json.dumps(self.configuration(), indent=2, ensure_ascii=False)  # JSON will do, but for its \u
        file.write_text(f"{text}\n", encoding="utf-8")
        return [program, "-c", str(file)]

    def complaint(self, line: str) -> str | None:
        found = _LINE.fullmatch(line)
        if found is None:  # before it has a log: what is wrong with its configuration
            return line
        text = found["text"]
        if text == "Server is ready":
            return None
        matters = found["level"] in ("ERR", "FTL") or "Slow Consumer" in text or text.startswith("JetStream has not")
        return text if matters else ""

    def configuration(self) -> dict[str, Any]:
        """Return what NATS is to do, in its own words."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        packet = self.limits.packet_bytes or _PACKET
        found: dict[str, Any] = {
            "server_name": self.cluster.node if self.cluster else "ether",
            "listen": "127.0.0.1:-1",  # for its own protocol, which it insists on: any free port
            "max_payload": packet,
            "max_pending": 4 * packet,
            "jetstream": {"store_dir": str(self.folder), "sync_interval": "1s"},
            "mqtt": {"listen": f"{host}:{self.port}", "max_ack_pending": self.takes.receive_maximum},
        }
        if self.limits.connections is not None:
            found["max_connections"] = self.limits.connections
        if self.cluster is None:
            found["mqtt"]["ack_wait"] = "2s"  # in a cluster, what waits for an election would come again and again
        else:
            routes = [f"nats-route://{each}" for each in self.cluster.peers]
            found["cluster"] = {"name": "ether", "listen": self.cluster.listen, "routes": routes}
            found["mqtt"] |= {"stream_replicas": 3, "js_api_timeout": "10s"}
            found["reconnect_error_reports"] = 600
        return found
