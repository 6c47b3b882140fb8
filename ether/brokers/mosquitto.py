"""A Mosquitto of our own: a child process with a configuration we write."""

from __future__ import annotations

import getpass
import math
import os
import re
import shutil
import subprocess

from ether.brokers.child import LoggedBroker, free_port, split_listen
from ether.brokers.security import manage_users
from ether.errors import BrokerError
from ether.mqtt import BrokerLimits

__all__ = ["Mosquitto", "find_mosquitto", "serves_websockets"]

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "C:\\Program Files\\mosquitto")
_CHATTER = (
    "mosquitto version", "Config loaded", "Opening ipv", "Saving in-memory", "Restoring", "Bridge support",
    "Warning: Mosquitto should not be run as root",  # it ends with us
)  # fmt: skip


def find_mosquitto() -> str | None:
    """Return the path of the installed Mosquitto; None where there is none."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_PLACES))


def serves_websockets() -> bool:
    """Return whether the installed Mosquitto can check where WebSockets come from: 2.1 can, 2.0 lets in every page."""
    program = find_mosquitto()
    if program is None:
        return False
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= (2, 1)


class Mosquitto(LoggedBroker):
    """Mosquitto with limits that lose nothing in a lab: its defaults drop queued messages beyond a thousand.

    They are those of `broker/mosquitto/mosquitto.conf`, which tells the reasons.
    """

    kind = "mosquitto"
    takes = BrokerLimits(receive_maximum=10_000)
    enforces_security = True
    enforces_limits = True
    patience_s = 5.0

    def command(self) -> list[str]:
        if self.limits.queue_bytes is not None:
            raise BrokerError(
                "broker.limits.queue: Mosquitto would drop what is beyond it; use `broker.kind: embedded`"
            )
        program = find_mosquitto()
        if program is None:
            raise BrokerError("mosquitto is not installed; try `apt install mosquitto` or `broker: embedded`")
        if self.security.websocket and not serves_websockets():
            raise BrokerError(
                "this mosquitto cannot check the origins of WebSockets (2.1 can); use `broker.kind: embedded`"
            )
        self._write_users()
        if self.security.local_too and not self.local_port:
            self.local_port = free_port("127.0.0.1", 0)
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text(self._configuration(), encoding="utf-8")
        return [program, "-c", str(configuration)]

    def complaint(self, line: str) -> str | None:
        text = line.partition(": ")[2].strip()
        return None if text.endswith(" running") else "" if text.startswith(_CHATTER) else text

    def _write_users(self) -> None:
        """Derive Mosquitto's own files from ours, into our private folder."""
        security = self.security
        if security.users is None:
            return
        words = [
            "mosquitto",
            f"--file={security.users}",
            f"--folder={self.folder}",
            f"--namespace={security.namespace}",
        ]
        words += ["--session-stdin"] if security.session_password else []
        done = manage_users(*words, stdin=f"{security.session_password}\n")
        if done.returncode:
            raise BrokerError(f"broker.users: {done.stderr.strip().removeprefix('ether: ')}")

    def _listeners(self) -> list[str]:
        security = self.security
        tls = []
        if security.cert is not None and security.key is not None:
            tls = [f"certfile {security.cert.absolute()}", f"keyfile {security.key.absolute()}"]
        if security.ca is not None:
            tls += [f"cafile {security.ca.absolute()}"]
            tls += ["require_certificate true"] if security.require_client_cert else []
        most = [f"max_connections {self.limits.connections}"] if self.limits.connections else []
        lines = [f"listener {self.port} {self.host}", *most, *tls]
        if self.local_port:
            lines += [f"listener {self.local_port} 127.0.0.1", *most]
        if security.websocket:
            host, port = split_listen(security.websocket)
            lines += [f"listener {port} {host}", "protocol websockets", *most, *tls]
            lines += [f"websockets_origin {origin}" for origin in security.origins]
        return lines

    def _configuration(self) -> str:
        folder = str(self.folder) + os.sep
        access = ["allow_anonymous true"]
        if self.security.users is not None:
            access = ["allow_anonymous false", f"password_file {folder}passwords", f"acl_file {folder}acl"]
        lines = [
            *self._listeners(),
            *access,
            "set_tcp_nodelay true",
            "persistence true",
            f"persistence_location {folder}",
            "autosave_interval 30",
            f"max_inflight_messages {self.takes.receive_maximum}",  # the recorder acknowledges a whole commit at once
            "max_queued_messages 10000000",  # not 0: releases 2.0.16 to 2.0.21 drop everything then
            "max_queued_bytes 2000000000",  # of payload for one client; what a dead one leaves must not fill the memory
            f"max_packet_size {self.limits.packet_bytes or 268_435_455}",
            f"persistent_client_expiration {math.ceil((self.limits.session_expiry_s or 7 * 86_400) / 3600)}h",
            "sys_interval 10",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type information",  # says when it runs
            "connection_messages false",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            lines.append(f"user {getpass.getuser()}")  # else it becomes `mosquitto`, who may not write to our folder
        return "\n".join(lines) + "\n"
