"""Where a broker is: its URL, taken apart."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ether.errors import BrokerError

__all__ = ["Address", "is_loopback", "without_password"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_PASSWORD = re.compile(r"(\w+://[^\s:/@]*:)[^\s@/]+(?=@)")


def without_password(text: str) -> str:
    """Return the text with ``***`` for the password of every URL in it."""
    return _PASSWORD.sub(r"\1***", text)


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's URL, taken apart: ``mqtt://user:password@host:port`` or ``mqtts://…``.

    A cluster's names its nodes in the order in which they are tried: ``mqtt://user:password@a:1883,b:1883``.
    """

    nodes: tuple[tuple[str, int], ...]
    """Host and port of each; one, unless it is a cluster."""
    user: str | None = None
    password: str | None = None
    secure: bool = False

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the parts of a URL; BrokerError says what is wrong with it."""
        scheme, _, rest = url.partition("://")
        if scheme not in _PORTS:
            told = scheme if "://" in url else without_password(url)
            raise BrokerError(f"`{told}` is no scheme that ether speaks; write mqtt://HOST:PORT or mqtts://HOST:PORT")
        shown = without_password(url)
        credentials, _, places = rest.rpartition("@")
        nodes = []
        for place in places.split(","):
            try:
                parts = urlsplit(f"{scheme}://{place.strip()}")
                port = parts.port
            except ValueError as exc:
                bad_port = "port" in str(exc).lower()
                what = f"the port in {shown!r} is no number from 0 to 65535" if bad_port else f"{shown!r}: {exc}"
                raise BrokerError(what) from None
            if not parts.hostname or parts.query or parts.fragment or parts.path not in ("", "/"):
                raise BrokerError(f"{shown!r} is no broker address; write {scheme}://HOST:PORT")
            # `is None` rather than `or`: port 0 is what the user wrote, and the connection will say so
            nodes.append((parts.hostname, _PORTS[scheme] if port is None else port))
        user, _, password = credentials.partition(":")
        return cls(tuple(nodes), unquote(user) or None, unquote(password) or None, scheme == "mqtts")

    def of_node(self, index: int) -> str:
        """Return the URL of one node, fit for a log."""
        return str(Address(self.nodes[index : index + 1], self.user, None, self.secure))

    def __str__(self) -> str:
        """Return the URL without the password, fit for a log."""
        places = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        return f"mqtt{'s' if self.secure else ''}://{f'{self.user}@' if self.user else ''}{','.join(places)}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
