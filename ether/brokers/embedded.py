"""The embedded broker: `ether_broker` in a process of its own."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
from typing import IO

from ether.brokers.child import ChildBroker, Limits
from ether.brokers.security import Security, environment
from ether.errors import BrokerError
from ether.mqtt import BrokerLimits

__all__ = ["Embedded"]

logger = logging.getLogger(__name__)

_PREFIX = "listening "
_PACKET = 64 << 20
_START_S = 30.0  # it reads its store first, which may be large
_REASONS = {2: "its users, certificates or options are wrong, see above", 4: "an address cannot be had, see above"}
"""What its exit codes mean here."""


class Embedded(ChildBroker):
    """Needs nothing but Python. It says on stdout where it listens, and ends when our end of its stdin closes."""

    kind = "embedded"
    takes = BrokerLimits(largest_message=_PACKET - ChildBroker.around, receive_maximum=10_000)
    enforces_security = True
    enforces_limits = True

    def _start(self) -> None:
        warnings = [argument for option in sys.warnoptions for argument in ("-W", option)]
        command = [sys.executable, *warnings, "-m", "ether_broker", "--listen", f"{self.host}:{self.port}"]
        command += ["--data", str(self.folder), "--parent-pipe", *_arguments(self.security), *_bounds(self.limits)]
        command += ["--local", f"127.0.0.1:{self.local_port}"] if self.security.local_too else []
        if self._folder is None:
            command.append("--remove-data")  # we may die before we can
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        threading.Thread(target=self._pass_on, args=(self.process.stderr,), name="embedded", daemon=True).start()
        if self.security.session_password:
            self.process.stdin.write(self.security.session_password.encode() + b"\n")
            self.process.stdin.flush()
        too_late = threading.Timer(_START_S, self.process.kill)  # which ends the line we wait for
        too_late.start()
        line = self.process.stdout.readline().decode().strip()
        too_late.cancel()
        if not line.startswith(_PREFIX):
            code = self.process.wait()
            why = _REASONS.get(code, f"exit code {code}")
            raise BrokerError(f"the embedded broker did not start at {self.host}:{self.port}: {why}")
        urls = line.removeprefix(_PREFIX).split()
        self.port = int(urls[0].rpartition(":")[2])
        if self.security.local_too:
            self.local_port = int(urls[1].rpartition(":")[2])

    def _pass_on(self, stream: IO[bytes]) -> None:
        """Pass on what it says to our own stderr, as it comes, and line by line to whoever keeps it."""
        with stream:
            for line in stream:
                try:
                    os.write(2, line)
                except OSError:  # our own stderr is closed or its reader gone
                    logger.debug("stderr cannot be written", exc_info=True)
                self.on_said([line.decode(errors="replace").rstrip()])


def _arguments(security: Security) -> list[str]:
    """Return `security` as the broker's options; a password is not among them."""
    found = []
    for name in ("users", "cert", "key", "ca", "websocket"):
        value = getattr(security, name)
        found += [f"--{name}", str(value)] if value is not None else []
    for name in ("require_client_cert", "insecure_lan"):
        found += [f"--{name.replace('_', '-')}"] if getattr(security, name) else []
    found += [f"--namespace={security.namespace}"] if security.namespace else []
    found += ["--session-stdin"] if security.session_password else []
    return [*found, *(f"--origin={origin}" for origin in security.origins)]


def _bounds(limits: Limits) -> list[str]:
    expiry_s = None if limits.session_expiry_s is None else math.ceil(limits.session_expiry_s)
    wanted = {
        "max-packet": limits.packet_bytes or _PACKET, "max-connections": limits.connections,
        "max-queue": limits.queue_bytes, "session-expiry": expiry_s,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in wanted.items() if value is not None]
