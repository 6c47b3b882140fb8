"""Broker: one that we start, or one that runs."""

from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema, model_validator

from ether.address import Address, is_loopback
from ether.config.section import Section
from ether.config.values import Duration, Flag, Size, Whole
from ether.errors import BrokerError, suggest

__all__ = ["Broker", "BrokerLimits", "Tls", "WebSocket", "broker_kinds", "check_origin"]


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is no address; write HOST:PORT, such as `127.0.0.1:1883` or `0.0.0.0:1883`")
    return text


def check_origin(text: str) -> str:
    """Return the origin of a page; ValueError where it is none, and so no page would be let in."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or text != f"{parts.scheme}://{parts.netloc}" or not parts.hostname:
        raise ValueError(f"{text!r} is no origin of a page; write http://HOST:PORT or https://HOST, without a path")
    return text


class Tls(Section):
    """With `url`: how to trust the broker, and be trusted. Without: what a broker that we start shows and asks for."""

    ca: Path | None = Field(default=None, description="File of the authorities to trust; default: the system's.")
    cert: Path | None = Field(default=None, description="File of our own certificate.")
    key: Path | None = Field(default=None, description="File of its private key.")
    insecure: Flag = Field(default=False, description="Do not check the broker's name: for tests only.")
    require_client_cert: Flag = Field(
        default=False, description="The broker that we start refuses clients without a certificate of `ca`."
    )


class WebSocket(Section):
    """Where a broker that we start listens for browsers."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(description="HOST:PORT.")
    origins: Annotated[list[Annotated[str, AfterValidator(check_origin)]], Field(min_length=1)] = Field(
        description="Pages that may connect: `http://lab-pc:8000`."
    )


class BrokerLimits(Section):
    """How much one client may ask of a broker that we start; without, what suits a lab bench."""

    packet: Annotated[Size, Field(ge=1024)] | None = Field(
        default=None, description="Largest packet: `64MiB`, or Mosquitto's 256 MiB."
    )
    connections: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Clients at once; 1,000, no limit on Mosquitto, 65,536 on NATS."
    )
    queue: Annotated[Size, Field(ge=1024)] | None = Field(
        default=None,
        description="Memory for what waits for one client: `16MiB`; beyond, on disk, or its publishers wait. "
        "Embedded broker only.",
    )
    session_expiry: Annotated[Duration, Field(ge=1)] | None = Field(
        default=None, description="A persistent session is forgotten this long after its client left: `7d`."
    )


_KINDS = ("auto", "embedded", "mosquitto", "nats")
_ONE_OR_MORE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]
}
_KIND_SCHEMA: dict[str, Any] = {"anyOf": [{"enum": [*_KINDS, "external"]}, {"type": "string"}]}


def broker_kinds() -> tuple[str, ...]:
    """Return the kinds of broker that can be started here, those of other installed packages included."""
    from importlib import metadata  # slow to import, and needed for other packages' kinds only

    return (*_KINDS, *sorted(metadata.entry_points(group="ether.brokers").names))


def _kind(text: str) -> str:
    if text not in (*_KINDS, "external") and text not in (known := broker_kinds()):
        raise ValueError(f"no broker of the kind {text!r}; there are {', '.join(known)}{suggest(text, known)}")
    return text


class Broker(Section):
    """Which broker: one we start (`kind`) or one that runs (`url`)."""

    kind: Annotated[str, AfterValidator(_kind), WithJsonSchema(_KIND_SCHEMA)] = Field(
        default="auto", description="`auto`: Mosquitto where installed, else embedded. `external` comes with `url`."
    )
    url: Annotated[str, WithJsonSchema(_ONE_OR_MORE)] | None = Field(
        default=None,
        description="`mqtt://host:port` or `mqtts://host:port` of a broker that runs; of a cluster, a list.",
    )
    listen: Annotated[str, AfterValidator(_listen)] | None = Field(
        default=None, description="HOST:PORT for a broker that we start; default loopback, a free port."
    )
    users: Path | None = Field(
        default=None, description="File of `ether broker users`, for a broker that we start: demand credentials."
    )
    tls: Tls | None = Field(default=None, description="Certificates.")
    websocket: WebSocket | None = Field(default=None, description="For browsers, on a broker that we start.")
    limits: BrokerLimits | None = Field(default=None, description="Bounds, on a broker that we start.")
    user: str | None = Field(default=None, description="User name at the broker.")
    password: SecretStr | None = Field(
        default=None, description="Password; `${MQTT_PASSWORD}` keeps it out of the file."
    )

    @classmethod
    def _short_form(cls, data: object) -> object:
        if isinstance(data, str):
            if data in _KINDS or ("://" not in data and data in (known := broker_kinds())):
                return {"kind": data}
            if "://" not in data:
                hint = f"; did you mean `mqtt://{data}`?" if ":" in data else suggest(data, known)
                raise ValueError(f"got {data!r}; {', '.join(known)} or mqtt://HOST:PORT was wanted{hint}")
            data = {"url": data}
        if isinstance(data, list):
            data = {"url": data}
        if isinstance(data, dict):
            urls = data.get("url")
            urls = [urls] if isinstance(urls, str) else urls
            if urls and isinstance(urls, list) and all(isinstance(each, str) for each in urls):
                return _split_credentials(data, urls)
        return data

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.kind == "external" and self.url is None:
            raise ValueError("an external broker needs its `url: mqtt://HOST:PORT`")
        if self.url is not None and self.listen is not None:
            raise ValueError("`url` names a broker that runs, `listen` one that we start; keep one of them")
        tls = self.tls or Tls()
        if self.url is not None:
            ours = {"users": self.users, "websocket": self.websocket, "limits": self.limits}
            for key, value in ours.items():
                if value is not None:
                    raise ValueError(f"`{key}` is for a broker that we start, and `url` names one that runs; drop one")
            if tls.require_client_cert:
                raise ValueError("`tls.require_client_cert` is for a broker that we start; drop it or `url`")
            return self
        address = self.listen_address
        if address is not None and self.users is None and not is_loopback(address[0]):
            raise ValueError(
                f"other machines can reach `listen: {self.listen}`, and there are no users; make some with "
                "`ether broker users add NAME` and give the file as `users`"
            )
        if self.websocket is not None and self.users is None:
            raise ValueError("`websocket` needs `users`: any page open in a browser here could connect")
        if self.tls is not None:
            if self.users is None or tls.cert is None or tls.key is None:
                raise ValueError("`tls` of a broker that we start needs `users`, and in it `cert` and `key`")
            if tls.insecure:
                raise ValueError("`tls.insecure` is for a broker that runs, at `url`; drop it")
            if tls.require_client_cert and tls.ca is None:
                raise ValueError("`tls.require_client_cert` needs the `ca` that signs the certificates")
        return self

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """Host and port of `listen`; an IPv6 host without its brackets."""
        host, _, port = (self.listen or "").rpartition(":")
        return (host.strip("[]"), int(port)) if host else None


def _split_credentials(data: dict[str, Any], urls: list[str]) -> dict[str, Any]:
    """Return the broker block with user and password taken out of the URL, so that a secret lives in one place.

    Several URLs are those of one cluster's nodes.
    """
    try:
        found = [Address.parse(url) for url in urls]
    except BrokerError as exc:
        raise ValueError(str(exc)) from None
    known = {(each.user, each.password, each.secure) for each in found}
    if len(known - {(None, None, found[0].secure)}) > 1 or len({each.secure for each in found}) > 1:
        raise ValueError("the nodes of a cluster share scheme, user and password; write the latter two once")
    if data.get("kind", "external") not in ("external", "auto"):
        raise ValueError(f"`kind: {data['kind']}` is started by us and takes no `url`; use `listen`, or drop `kind`")
    credentials = {"user": next((each.user for each in found if each.user), None)}
    credentials["password"] = next((each.password for each in found if each.password), None)
    given = {key: value for key, value in credentials.items() if value is not None}
    address = Address(tuple(node for each in found for node in each.nodes), secure=found[0].secure)
    return {**data, **given, "kind": "external", "url": str(address)}
