"""Who may use a broker that we start, and over what: users, TLS, WebSocket."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ether.address import is_loopback
from ether.config import check_origin
from ether.errors import BrokerError

__all__ = ["SESSION_USER", "Security", "environment", "manage_users"]

SESSION_USER = "ether-session"


@dataclass(frozen=True, slots=True)
class Security:
    """What a broker that we start demands of its clients. The default: nothing, on loopback only."""

    users: Path | None = None
    """File of `ether broker users`."""
    namespace: str = ""
    """Put before every topic that a role grants."""
    session_password: str = field(default="", repr=False)
    """Lets in `ether-session`, the session's own processes; it never reaches a disk or a command line."""
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    """Authority of client certificates."""
    require_client_cert: bool = False
    websocket: str | None = None
    """HOST:PORT."""
    origins: tuple[str, ...] = ()
    """Of the pages that may connect by WebSocket."""
    insecure_lan: bool = False
    """Serve other machines without users."""

    def check(self, listen: str, host: str) -> None:
        """Raise BrokerError for what would be open to everybody, or makes no sense."""
        if not is_loopback(host) and self.users is None and not self.insecure_lan:
            raise BrokerError(
                f"broker.listen {listen}: can be reached from other machines, and there are no users; make some with "
                "`ether broker users add NAME` and give the file as broker.users, or see `ether broker --help`"
            )
        if (self.cert is None) != (self.key is None) or (self.ca and not self.cert):
            raise BrokerError("broker.tls: a broker that we start needs both `cert` and `key`")
        if self.require_client_cert and self.ca is None:
            raise BrokerError("broker.tls.require_client_cert: needs the `ca` that signs client certificates")
        if self.websocket is not None and not (self.users and self.origins):
            raise BrokerError(
                "broker.websocket: needs `users` and `origins`, or any page open in a browser here could connect"
            )
        for origin in self.origins:
            try:
                check_origin(origin)
            except ValueError as exc:
                raise BrokerError(f"broker.websocket.origins: {exc}") from None
        for name, path in (("users", self.users), ("tls.cert", self.cert), ("tls.key", self.key), ("tls.ca", self.ca)):
            if path is not None and not path.is_file():
                way_out = f"; make it with `ether broker users add NAME --file {path}`" if name == "users" else ""
                raise BrokerError(f"broker.{name}: {path}: no such file{way_out}")

    @property
    def local_too(self) -> bool:
        """Whether the session's own processes get a loopback listener beside the one with TLS."""
        return self.cert is not None and bool(self.session_password)


def environment() -> dict[str, str]:
    """Return the environment of a Python child that is to import what we can import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}


def manage_users(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one verb on the users file, in a process: ether never imports the broker, which knows the file.

    With `stdin` it is given that and its output is returned; without, it has our terminal.
    """
    command = [sys.executable, "-m", "ether_broker.manage", *words]
    captured = stdin is not None
    return subprocess.run(command, input=stdin, capture_output=captured, text=True, env=environment(), check=False)
