"""YAML -> Config: strict, and every problem found at once, each with ``file:line:column`` and the way out.

`Config.load` is the door. Above the YAML stands the environment (`ETHER_BROKER`, `ETHER_DATA`), above that overrides.
Nothing of the user's is imported here; `ether.component.check` looks at the classes.
"""

from __future__ import annotations

import dataclasses
import os
import re
import string
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    Strict,
    ValidationError,
    WithJsonSchema,
    field_serializer,
    model_validator,
)

from ether import topics
from ether.address import Address, without_password
from ether.clock import SECONDS
from ether.clock import seconds as duration
from ether.errors import BrokerError, ConfigError, Problem, TopicError, named, suggest
from ether.jsonpath import Path as JsonPath
from ether.model import Policy

__all__ = [
    "MARKS",
    "Availability",
    "Bridge",
    "Broker",
    "BrokerLimits",
    "CallMark",
    "ClassMarks",
    "Config",
    "Expect",
    "Health",
    "HookMark",
    "Ingest",
    "IngestField",
    "IngestTime",
    "Instance",
    "MarkList",
    "MethodMarks",
    "Profile",
    "PubMark",
    "Rate",
    "Record",
    "Restart",
    "Rotate",
    "Rule",
    "Session",
    "Source",
    "StartMark",
    "SubMark",
    "Tls",
    "broker_kinds",
    "duration",
    "json_schema",
    "rate",
    "size",
    "suggest",
]

PathPart: TypeAlias = str | int
KeyPath: TypeAlias = tuple[Any, ...]
"""Keys and list indices from the top of the configuration; keys below ``kwargs`` may be any scalar."""

# --------------------------------------------------------------------------------------------- values with units

_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\W\d_]*)\s*\Z")
_RATE = re.compile(rf"\s*({_NUMBER})\s*(k?Hz|mHz|/\s*[a-zµ]+)?\s*(?:(?:±|\+/?-)\s*({_NUMBER})\s*%)?\s*\Z")


def size(value: object) -> int:
    """Return bytes from ``2GB`` (10**9), ``64MiB`` (2**20); a size says its unit.

    Raises:
        ValueError: not a size, or no unit; says what would be.
    """
    found = _QUANTITY.match(str(value)) if isinstance(value, str | int | float) else None
    if found is None or isinstance(value, bool):
        raise ValueError(f"a size was wanted (`2GB`, `64MiB`), got {named(value)}")
    number, unit = found.groups()
    if not unit:
        raise ValueError(f"{value} has no unit; did you mean `{number}GB` or `{number}MB`?")
    if unit not in _BYTES:
        raise ValueError(f"`{unit}` is no unit of size{suggest(unit, _BYTES) or '; use kB, MB, GB, KiB, MiB or GiB'}")
    return int(float(number) * _BYTES[unit])


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """How often messages are expected."""

    hz: float
    """Messages per second."""
    tolerance: float = 0.1
    """Part of `hz` that it may be off by, either way; 0.1 where the text names none."""


def rate(value: object) -> Rate:
    """Return the rate from ``10Hz``, ``2/min ±10%``, or a bare number per second.

    Raises:
        ValueError: not a rate; says what would be.
    """
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    found = _RATE.match(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"a rate was wanted (`10Hz`, `2/min ±10%`), got {named(value)}")
    number, unit, percent = found.groups()
    if unit is None or unit.endswith("Hz"):
        hz = float(number) * {"k": 1e3, "m": 1e-3}.get((unit or "")[:-2], 1.0)
    else:
        per = unit[1:].strip()
        if per not in SECONDS:
            raise ValueError(f"`{per}` is no unit of time{suggest(per, SECONDS) or '; use s, min, h or d'}")
        hz = float(number) / SECONDS[per]
    if hz <= 0:
        raise ValueError(f"`{value}` is no rate; it must be above 0")
    return Rate(hz, float(percent) / 100) if percent else Rate(hz)


# --------------------------------------------------------------------------------------------- kinds of fields

_UNITS_OF_TIME = "|".join(SECONDS)
_DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({_UNITS_OF_TIME})?\s*$"},
    ]
}
_DURATION_PATTERN = rf"^\s*{_NUMBER}\s*({_UNITS_OF_TIME})\s*$"
_SIZE_SCHEMA: dict[str, Any] = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({'|'.join(_BYTES)})\s*$"}
_RATE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {
            "type": "string",
            "pattern": rf"^\s*{_NUMBER}\s*(k?Hz|mHz|/\s*({_UNITS_OF_TIME}))?\s*((±|\+/?-)\s*{_NUMBER}\s*%)?\s*$",
        },
    ]
}


def _batch(value: object) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"{value} readings make no batch; at least 1")
        return value
    if isinstance(value, float):
        raise ValueError(f"{value} has no unit; a count is a whole number, a duration says its unit: `{value}s`")
    return duration(value)


def _unit(value: object) -> str | dict[str, str]:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair):
        return value
    raise ValueError(f"a unit (`degC`) or a mapping of field to unit was wanted, got {named(value)}")


def _session_name(text: str) -> str:
    if not text or text.startswith(".") or not text.isprintable() or set(text) & set('/\\:*?"<>|'):
        raise ValueError(f"{text!r} cannot name a session; it becomes a file name: letters, digits, `-`, `_`, `.`")
    return text


def _namespace(text: str) -> str:
    if text:
        topics.check_topic(text)
    if text.startswith("/") or text.endswith("/"):
        raise ValueError(f"{text!r} begins or ends with `/`; the slash after a namespace is put by ether")
    return text


def _class_path(value: object) -> str:
    if isinstance(value, type):
        return _path_of(value)
    if not isinstance(value, str):
        raise ValueError(f"a class was wanted (`package.module.Class`), got {named(value)}")
    parts = value.replace(".<locals>", "").split(".")
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{value!r} is no class path; write `package.module.Class`")
    if len(parts) < 2:
        raise ValueError(
            f"{value!r} names no module; write `module.{value}` (`__main__.{value}` in the running script)"
        )
    return value


def _template(text: str) -> str:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as exc:
        raise ValueError(f"{text!r}: {exc}") from None
    for name in names:
        if name not in ("session", "started"):
            raise ValueError(f"`{{{name}}}` is unknown; {{session}} and {{started}} are filled in")
    if not text or text.endswith("/"):
        raise ValueError(f"{text!r} names no file")
    return text


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is no address; write HOST:PORT, such as `127.0.0.1:1883` or `0.0.0.0:1883`")
    return text


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or text != f"{parts.scheme}://{parts.netloc}" or not parts.hostname:
        raise ValueError(f"{text!r} is no origin of a page; write http://HOST:PORT or https://HOST, without a path")
    return text


def _as_list(value: object) -> object:
    """Read ``null`` as one mark without keywords, and a mapping as a list of one."""
    if value is None:
        return [{}]
    if isinstance(value, list):
        return [{} if item is None else item for item in value]
    return [value]


def _one_entry(value: object) -> object:
    return [value] if isinstance(value, dict | str) else value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Flag: TypeAlias = Annotated[bool, Strict()]
Whole: TypeAlias = Annotated[int, Strict()]
Duration: TypeAlias = Annotated[float, PlainValidator(duration), WithJsonSchema(_DURATION_SCHEMA)]
Size: TypeAlias = Annotated[int, PlainValidator(size), WithJsonSchema(_SIZE_SCHEMA)]
RateText: TypeAlias = Annotated[
    Rate, PlainValidator(rate), PlainSerializer(dataclasses.asdict, return_type=dict), WithJsonSchema(_RATE_SCHEMA)
]
Topic: TypeAlias = Annotated[str, AfterValidator(topics.check_topic)]
Filter: TypeAlias = Annotated[str, AfterValidator(topics.check_filter)]
Filters: TypeAlias = Annotated[list[Filter], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]
Name: TypeAlias = Annotated[str, AfterValidator(topics.check_name)]
ClassPath: TypeAlias = Annotated[str, PlainValidator(_class_path), WithJsonSchema({"type": "string"})]
Batch: TypeAlias = Annotated[
    int | float,
    PlainValidator(_batch),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, _DURATION_SCHEMA["anyOf"][1]]}),
]
PatternText: TypeAlias = Annotated[str, AfterValidator(lambda text: topics.Pattern.parse(text).text)]
PathText: TypeAlias = Annotated[str, AfterValidator(lambda text: JsonPath.parse(text).text)]
Unit: TypeAlias = Annotated[
    str | dict[str, str],
    PlainValidator(_unit),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}]}),
]


class _Section(BaseModel):
    """A mapping of the configuration: unknown keys are errors, a key without value takes its default."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: object) -> object:
        data = cls._short_form({} if data is None else data)
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @classmethod
    def _short_form(cls, data: object) -> object:
        """Return the mapping that a short form such as ``broker: auto`` stands for."""
        return data


# --------------------------------------------------------------------------------------------- marks of `registry`


class HookMark(_Section):
    """Keywords of ether_init, ether_save_all, ether_cleanup, ether_safe and ether_shutdown."""

    subtopic: str | None = Field(default=None, description="Names `Class.subtopic` instead of the control topic.")


class StartMark(HookMark):
    """Keywords of ether_start."""

    background: Flag = Field(default=False, description="Run beside the handlers: for long loops.")


class CallMark(_Section):
    """Keywords of ether_get and ether_save."""

    description: str | None = Field(default=None, description="One line for people, shown by `ether status`.")


class SubMark(_Section):
    """Keywords of ether_sub."""

    topic: Filter | None = Field(default=None, description="Topic or filter; default `ClassName.method_name`.")
    subtopic: str | None = Field(default=None, description="Names `Class.subtopic`.")
    qos: Literal[0, 1, 2] | None = Field(default=None, description="MQTT quality of service; default 1.")
    queue: Annotated[int, Field(ge=1)] | None = Field(default=None, description="How many messages may wait; 1000.")
    policy: Policy | None = Field(
        default=None,
        description="What becomes of more: `block` (default at QoS 1 and 2), `drop-oldest` (at QoS 0) or `latest`.",
    )
    description: str | None = Field(default=None, description="One line for people.")


class PubMark(_Section):
    """Keywords of ether_pub."""

    topic: Topic | None = Field(default=None, description="Topic; default `ClassName.method_name`.")
    subtopic: str | None = Field(default=None, description="Names `Class.subtopic`.")
    every: Duration | None = Field(default=None, description="Call the method this often once started: `100ms`, `30s`.")
    batch: Batch | None = Field(default=None, description="Pack readings: a count (`100`) or a duration (`50ms`).")
    qos: Literal[0, 1, 2] | None = Field(default=None, description="MQTT quality of service; default 1.")
    retain: Flag | None = Field(default=None, description="Have the broker keep the last message for late subscribers.")
    unit: Unit | None = Field(default=None, description="Unit of the result, or a mapping of field to unit.")
    description: str | None = Field(default=None, description="One line for people.")


class MethodMarks(_Section):
    """What one method is marked with: decorator name to its keywords, null for none, a list for several."""

    ether_pub: Annotated[list[PubMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Publish the result."
    )
    ether_sub: Annotated[list[SubMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it with each message."
    )
    ether_get: Annotated[list[CallMark], BeforeValidator(_as_list)] = Field(default=[], description="Answer a call.")
    ether_save: Annotated[list[CallMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Answer a call with success or error."
    )
    ether_init: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it once connected."
    )
    ether_start: Annotated[list[StartMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it at start."
    )
    ether_save_all: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it to save, also at shutdown."
    )
    ether_cleanup: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it to clean up."
    )
    ether_safe: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it to bring the hardware to a safe state, also when its process is lost."
    )
    ether_shutdown: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it last."
    )

    @classmethod
    def _short_form(cls, data: object) -> object:
        if isinstance(data, str) and data in MARKS:  # `read: ether_get`
            return {data: [{}]}
        if isinstance(data, dict):  # `ether_get:` without a value is a mark, not an absent key
            return {key: [{}] if value is None and key in MARKS else value for key, value in data.items()}
        return data


MARKS: tuple[str, ...] = tuple(MethodMarks.model_fields)
"""The decorator names that `registry` knows."""


def _listed(marks: MethodMarks) -> list[tuple[str, dict[str, Any]]]:
    return [(name, mark.model_dump(exclude_unset=True)) for name in MARKS for mark in getattr(marks, name)]


if TYPE_CHECKING:
    MarkList: TypeAlias = list[tuple[str, dict[str, Any]]]
else:
    MarkList = Annotated[MethodMarks, AfterValidator(_listed)]
"""The marks of one method: ``(decorator name, the keywords given)``; durations are seconds, a float `batch` too."""


class ClassMarks(_Section):
    """What the methods of a class that you cannot or will not edit are marked with."""

    methods: dict[str, MarkList] = Field(default={}, description="Method name to its marks.")

    @field_serializer("methods")
    def _dump(self, methods: dict[str, MarkList]) -> dict[str, dict[str, list[dict[str, Any]]]]:
        return {
            method: {name: [keywords for other, keywords in marks if other == name] for name, _ in marks}
            for method, marks in methods.items()
        }


# --------------------------------------------------------------------------------------------- sections


class Session(_Section):
    """One launched configuration."""

    name: Annotated[str, AfterValidator(_session_name)] = Field(
        default="session",
        description="What it is called; naming a session that runs here, or at `broker.url`, joins it.",
    )
    namespace: Annotated[str, AfterValidator(_namespace)] = Field(
        default="", description="Put before every topic, so that two systems can share a broker."
    )
    data: Path = Field(default=Path("data"), description="Folder for recordings, seen from the working directory.")
    start_timeout: Duration = Field(default=30.0, description="How long all instances may take to become ready.")
    stop_timeout: Duration = Field(default=10.0, description="How long all instances may take to stop in order.")
    reload: Flag = Field(default=False, description="Start an instance again when source that it imports is edited.")

    @property
    def name_given(self) -> bool:
        """Whether the configuration names the session, which may mean joining a running one."""
        return "name" in self.model_fields_set


class Tls(_Section):
    """With `url`: how to trust the broker, and be trusted. Without: what a broker that we start shows and asks for."""

    ca: Path | None = Field(default=None, description="File of the authorities to trust; default: the system's.")
    cert: Path | None = Field(default=None, description="File of our own certificate.")
    key: Path | None = Field(default=None, description="File of its private key.")
    insecure: Flag = Field(default=False, description="Do not check the broker's name: for tests only.")
    require_client_cert: Flag = Field(
        default=False, description="The broker that we start refuses clients without a certificate of `ca`."
    )


class WebSocket(_Section):
    """Where a broker that we start listens for browsers."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(description="HOST:PORT.")
    origins: Annotated[list[Annotated[str, AfterValidator(_origin)]], Field(min_length=1)] = Field(
        description="Pages that may connect: `http://lab-pc:8000`."
    )


class BrokerLimits(_Section):
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


class Broker(_Section):
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
    def _agree(self) -> Broker:
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


class Rotate(_Section):
    """When a new part of a recording begins: whichever comes first."""

    size: Annotated[Size, Field(ge=1_000_000)] | None = Field(
        default=None, description="At so many bytes of messages: `2GB`; 1MB at least."
    )
    every: Annotated[Duration, Field(ge=1)] | None = Field(
        default=None, description="After so long: `1h`; 1s at least."
    )

    @classmethod
    def _short_form(cls, data: object) -> object:
        if not isinstance(data, str | int | float):
            return data
        found = _QUANTITY.match(str(data))
        if found is not None and found[2] in SECONDS:
            return {"every": data}
        size(data)  # what is wrong with it is wrong with `rotate`, not with a key that nobody wrote
        return {"size": data}


def _rotate(value: object) -> object:
    return None if value in (False, "off", "no") else value  # YAML reads `rotate: off` as false


class Outbox(_Section):
    """What a publisher keeps until it is recorded."""

    size: Size = Field(default=64 << 20, description="At most so much for each publisher: `64MiB`.")
    block: Duration = Field(
        default=5.0, description="A publisher with a full outbox waits so long; then it goes on with an alarm."
    )


class Record(_Section):
    """What is recorded, and where."""

    topics: Filters = Field(default=["#"], description="Topic filters to record.")
    exclude: Filters = Field(default=[], description="Topic filters to leave out.")
    file: Annotated[str, AfterValidator(_template)] = Field(
        default="{session}-{started}.h5",
        description="File below `session.data`; {session} and {started} are filled in.",
    )
    rotate: Annotated[Rotate | None, BeforeValidator(_rotate)] = Field(
        default_factory=lambda: Rotate.model_validate("256MB"),
        description="When to begin a new part: a size, a duration, both as a mapping, or `off`.",
    )
    outbox: Outbox = Field(default_factory=Outbox, description="What publishers keep until it is recorded.")

    reserve: Size = Field(
        default=256_000_000, description="With less of the disk free nothing more is stored; publishers keep it."
    )

    def file_for(self, session: str, started: str) -> str:
        """Return the file name for this session name and start (``20260116-112842``)."""
        return self.file.format(session=session, started=started)


class Restart(_Section):
    """When an instance that ended is started again."""

    policy: Literal["never", "on-failure", "always"] = Field(
        default="never", description="`never`, `on-failure` or `always`."
    )
    max: Annotated[Whole, Field(ge=0)] = Field(default=5, description="At most so many restarts within `within`.")
    within: Duration = Field(default=300.0, description="The window of `max`.")
    backoff: Annotated[list[Duration], Field(min_length=2, max_length=2)] = Field(
        default=[0.2, 30.0], description="First and longest wait before a restart; four times as long each time."
    )

    @classmethod
    def _short_form(cls, data: object) -> object:
        if data is False:  # YAML reads `restart: off` and `no` as false
            return {"policy": "never"}
        return {"policy": data} if isinstance(data, str) else data


class Health(_Section):
    """When a running instance counts as hanging, and what follows."""

    hang_after: Duration | None = Field(default=None, description="A handler busy for so long hangs.")
    on_hang: Literal["report", "restart"] = Field(
        default="report", description="`report` (stacks in the log, status `alert`) or `restart`."
    )
    safe_within: Duration = Field(default=10.0, description="So long `ether_safe` may take for a lost instance.")


class ParamMark(_Section):
    """What may be known of a live parameter."""

    unit: str = Field(default="", description="For people and programs.")
    ge: float | None = Field(default=None, description="At least.")
    le: float | None = Field(default=None, description="At most.")
    description: str = Field(default="", description="One line for people.")


def _params(value: object) -> object:
    """A list of names will do."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return {each: ParamMark() for each in value}
    if isinstance(value, dict):
        return {name: ParamMark() if each is None else each for name, each in value.items()}
    return value


class Instance(_Section):
    """One named, configured, running component."""

    class_path: ClassPath = Field(description="`package.module.Class`.")
    args: list[Any] = Field(default=[], description="Positional arguments of the class.")
    kwargs: dict[str, Any] = Field(
        default={}, description="Keyword arguments of the class; `ether_name` renames the instance."
    )
    autorun: Flag = Field(default=True, description="false: declared, started later by `ether.launch(name)`.")
    restart: Restart = Field(default_factory=Restart, description="When it is started again; or just the policy.")
    critical: Flag = Field(default=False, description="true: the session ends when it has failed for good.")
    health: Health = Field(default_factory=Health, description="When it counts as hanging.")
    params: Annotated[
        dict[str, ParamMark],
        BeforeValidator(_params, json_schema_input_type=list[str] | dict[str, ParamMark | None]),
    ] = Field(
        default={},
        description="Attributes and properties that others may read and set meanwhile; or just their names.",
    )
    host: str | None = Field(default=None, description="Launched by the agent of that name; default: here.")
    replicas: Annotated[Whole, Field(ge=1)] = Field(
        default=1, description="So many of them, named `name-1`, `name-2`, …"
    )


class Expect(_Section):
    """What must come by on a topic for the session to be in order."""

    rate: RateText | None = Field(default=None, description="`10Hz`, `2/min ±10%`.")
    from_: str | None = Field(default=None, alias="from", description="The instance that publishes it.")
    unit: Unit | None = Field(default=None, description="Unit of the message, or a mapping of field to unit.")
    required: Flag = Field(default=False, description="A session without it is not in order.")


# --------------------------------------------------------------------------------------------- foreign devices

FieldType = Literal["number", "integer", "boolean", "string"]


class IngestField(_Section):
    """Where a field's value stands in a foreign message, and what is known of it."""

    path: PathText | None = Field(
        default=None, description="`a.b`, `a['b c'][0]`, `{sensor}.Temperature`; without, the whole message."
    )
    unit: str | None = Field(default=None, description="Unit of the value.")
    unit_path: PathText | None = Field(default=None, description="Where the message itself says the unit.")
    type: FieldType | None = Field(default=None, description="`number`, `integer`, `boolean` or `string`.")
    words: dict[str, bool | int | float | str] = Field(
        default={}, description="Words of the device to values: `{ON: true, OFF: false}`."
    )
    description: str = Field(default="", description="One line for people.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"path": data} if isinstance(data, str) else data


class IngestTime(_Section):
    """When a foreign message says that it was measured."""

    path: PathText = Field(description="Where the time stands in the message.")
    format: str = Field(
        default="iso", description="`iso`, `unix` (seconds), `unix_ms`, or as `strptime` has it: `%d.%m.%Y %H:%M:%S`."
    )
    zone: str = Field(default="UTC", description="Of a time that names none: `UTC`, `local`, `Europe/Berlin`.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"path": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _known(self) -> IngestTime:
        if self.format not in ("iso", "unix", "unix_ms") and "%" not in self.format:
            raise ValueError(
                f"the format {self.format!r} is unknown{suggest(self.format, ('iso', 'unix', 'unix_ms'))}; "
                "write iso, unix, unix_ms, or a pattern such as `%d.%m.%Y %H:%M:%S`"
            )
        if self.zone not in ("UTC", "local"):
            try:
                zoneinfo.ZoneInfo(self.zone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                known = (*zoneinfo.available_timezones(), "local")
                raise ValueError(
                    f"no time zone {self.zone!r}{suggest(self.zone, known)}; write UTC, local, or as in `Europe/Berlin`"
                ) from None
        return self


Words: TypeAlias = Annotated[list[str], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]


class Availability(_Section):
    """How a foreign device says that it is there."""

    topic: PatternText = Field(description="Topic, with the named levels of `match`: `tele/{dev}/LWT`.")
    path: PathText | None = Field(default=None, description="Where the word stands in the message.")
    ready: Words = Field(default=["online", "Online", "true", "ready"], description="Word, or words, for `ready`.")
    lost: Words = Field(default=["offline", "Offline", "false", "lost"], description="Word, or words, for `lost`.")
    sleeping: Words = Field(default=["sleeping"], description="Word, or words, for `sleeping`.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"topic": data} if isinstance(data, str) else data


class _RuleKeys(_Section):
    device: str | None = Field(
        default=None, description="Name of the device, or a template of it; default `{dev}`, a level of `match`."
    )
    topic: str | None = Field(
        default=None,
        description="Where its readings go, a template of named levels; default `{dev}` and what follows it.",
    )
    format: Literal["auto", "senml"] = Field(
        default="auto", description="`auto` (JSON, a number, a word) or `senml` (RFC 8428)."
    )
    fields: dict[str, IngestField] = Field(
        default={}, description="Field to where its value stands; without, all that the message holds."
    )
    unit: Unit | None = Field(default=None, description="Without `fields`: unit of the value, or field to unit.")
    time: IngestTime | None = Field(default=None, description="When it was measured; default: when it came.")
    availability: Availability | None = Field(default=None, description="How the device says that it is there.")


class Rule(_RuleKeys):
    """One kind of foreign message, and what it becomes."""

    match: PatternText = Field(description="Topic with named levels: `tele/{dev}/SENSOR`.")

    @property
    def goes_to(self) -> str:
        """Template of the topic of its readings: by default the device, and what stands behind it in `match`."""
        if self.topic is not None:
            return self.topic
        given = topics.levels(self.match)
        at = next((place for place, level in enumerate(given) if "{dev}" in level), len(given) - 2)
        return "/".join(["{dev}", *(level for level in given[at + 1 :] if not topics.is_filter(level))])


class Profile(_Section):
    """A file of `hardware/profiles`: what a kind of foreign device says."""

    description: str = Field(default="", description="One line for people.")
    base: str = Field(default="", description="What `{base}` stands for in the patterns, unless `ingest` says it.")
    reader: Literal["homeassistant", "homie4", "homie5", "zigbee2mqtt"] | None = Field(
        default=None, description="Devices that describe themselves: who reads that."
    )
    only: list[str] = Field(default=[], description="Devices to take, as `shelly*`; default all.")
    rules: list[Rule] = Field(default=[], description="What their messages become.")


class Ingest(_RuleKeys):
    """Foreign devices: a ready profile, or one rule."""

    profile: str | None = Field(default=None, description="A ready profile (`tasmota`), or the path of a file.")
    base: str | None = Field(default=None, description="With `profile`: the root of its topics, where it is another.")
    only: Words = Field(default=[], description="Devices to take, as `lab_*`; default all.")
    ignore: Words = Field(default=[], description="Devices not to take.")
    prefix: str = Field(default="", description="Put before the topics of the readings: `lab`.")
    match: PatternText | None = Field(default=None, description="Topic with named levels: `tele/{dev}/SENSOR`.")

    @classmethod
    def _short_form(cls, data: object) -> object:
        return {"profile": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_of_both(self) -> Ingest:
        of_rule = sorted(self.model_fields_set & set(_RuleKeys.model_fields))
        if self.profile is None and self.match is None:
            raise ValueError("name a `profile` (such as tasmota), or a `match` (such as `tele/{dev}/SENSOR`)")
        if self.profile is not None and (self.match is not None or of_rule):
            raise ValueError(f"`profile` has rules of its own; drop it, or `{'`, `'.join(of_rule or ['match'])}`")
        if self.profile is None and self.base is not None:
            raise ValueError("`base` is for a `profile`; write the whole topic in `match`")
        return self


class Source(_Section):
    """What one entry of `ingest` comes to: rules, or a reader of devices that describe themselves."""

    name: str = ""
    """Of the profile; empty for a rule."""
    file: Path | None = None
    """Of the profile."""
    reader: str | None = None
    base: str = ""
    only: list[str] = []
    ignore: list[str] = []
    prefix: str = ""
    rules: list[Rule] = []

    def goes_to(self) -> list[str]:
        """Return filters of the topics that its readings may go to."""
        prefix = [self.prefix] if self.prefix else []
        if self.reader is not None:
            return ["/".join([*prefix, "#"])]
        found = [topics.levels(rule.goes_to) for rule in self.rules]
        return ["/".join([*prefix, *("+" if "{" in level else level for level in each)]) for each in found]


_PROFILES = (Path(__file__).parent / "profiles", Path(__file__).parents[1] / "hardware" / "profiles")
"""In an installed package; in a source tree."""


def profile_files() -> dict[str, Path]:
    """Return the ready profiles, name to file."""
    folder = next((each for each in _PROFILES if each.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _read_profile(tree: _Tree, path: KeyPath, name: str, base: str | None) -> Profile | None:
    """Return a profile; what is wrong with it is reported where it stands in its own file."""
    known = profile_files()
    file = known.get(name, Path(name))
    if name not in known and not file.is_file():
        there = f"; there are {', '.join(known)}, or name a file"
        tree.report((*path, "profile"), f"no profile {name!r}{suggest(name, known) or there}", at_value=True)
        return None
    try:
        theirs = _read_file(file)
    except ConfigError as exc:
        tree.problems += [(tree.rank(path), problem) for problem in exc.problems]
        return None
    found: Profile | None = None
    data = theirs.data if isinstance(theirs.data, dict) else {"rules": theirs.data}
    given = data.get("base") if base is None else base
    theirs.data = _with_base(data, str(given or "").strip("/"))
    try:
        found = Profile.model_validate(theirs.data)
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            _take(theirs, error, Profile)
    if found is not None:
        for number, rule in enumerate(found.rules):
            _check_rule(theirs, ("rules", number), rule)
    tree.problems += [(tree.rank(path), problem) for problem in theirs.sorted_problems()]
    return None if theirs.problems else found


def _with_base(value: Any, base: str) -> Any:
    """Return a profile with `{base}` filled in."""
    if isinstance(value, dict):
        return {key: _with_base(item, base) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_base(item, base) for item in value]
    return value.replace("{base}", base) if isinstance(value, str) else value


def _sources(tree: _Tree, entries: Sequence[Ingest]) -> list[Source]:
    """Return what the entries of `ingest` come to; what is wrong with them is reported."""
    found = []
    for number, entry in enumerate(entries):
        path: KeyPath = ("ingest", number)
        if entry.prefix:
            try:
                topics.check_topic(entry.prefix.strip("/"))
            except TopicError as exc:
                tree.report((*path, "prefix"), str(exc), at_value=True)
        source = Source(only=entry.only, ignore=entry.ignore, prefix=entry.prefix.strip("/"))
        if entry.profile is None:
            keys = {key: getattr(entry, key) for key in Rule.model_fields}
            source.rules = [Rule.model_construct(**keys)]
            _check_rule(tree, path, source.rules[0])
        elif (profile := _read_profile(tree, path, entry.profile, entry.base)) is not None:
            source.name = Path(entry.profile).stem
            source.file = profile_files().get(entry.profile, Path(entry.profile))
            source.base = (profile.base if entry.base is None else entry.base).strip("/")
            source.reader, source.rules = profile.reader, profile.rules
            source.only = entry.only or profile.only
        found.append(source)
    _check_loops(tree, found)
    return found


def _check_rule(tree: _Tree, path: KeyPath, rule: Rule) -> None:
    """Report templates that name what the rule does not know."""
    known = set(topics.Pattern.parse(rule.match).names)
    if rule.device is None and "dev" not in known:
        what = "name the device: a level `{dev}` of `match`, or `device: NAME`"
        tree.report((*path, "match"), what, at_value=True)
    if rule.device is not None and not topics.Pattern.names_in(rule.device):
        _try(tree, (*path, "device"), topics.check_name, rule.device)
    templates: dict[KeyPath, str] = {("device",): rule.device or "", ("topic",): rule.topic or ""}
    if rule.availability is not None:
        templates["availability", "topic"] = rule.availability.topic
    for key, template in templates.items():
        _check_names_in(tree, (*path, *key), template, {*known, *(["dev"] if key == ("topic",) else [])})
    for name, each in rule.fields.items():
        further = JsonPath.parse(each.path).names if each.path else ()
        _check_names_in(tree, (*path, "fields", name), name, {*known, *further})
        if name.startswith("_"):
            tree.report((*path, "fields", name), "names starting with `_` belong to ether; choose another")
    if rule.topic is not None:
        _try(tree, (*path, "topic"), topics.check_topic, re.sub(r"\{\w+\}", "x", rule.topic))
    if rule.fields and rule.unit is not None:
        tree.report((*path, "unit"), "each of `fields` has its own `unit`; drop this one")


def _check_names_in(tree: _Tree, path: KeyPath, template: str, known: set[str]) -> None:
    for name in topics.Pattern.names_in(template):
        if name not in known:
            there = f"; there are {', '.join(sorted(known)) or 'none'}"
            what = f"`{{{name}}}` is no named level of `match`{suggest(name, known) or there}"
            tree.report(path, what, at_value=path[-1] in ("topic", "device"))


def _try(tree: _Tree, path: KeyPath, check: Callable[[str], str], text: str) -> None:
    try:
        check(text)
    except TopicError as exc:
        tree.report(path, str(exc), at_value=True)


def _check_loops(tree: _Tree, sources: Sequence[Source]) -> None:
    """Report readings that would lie on the topics of foreign messages, where nobody could tell them apart."""
    patterns = [(number, rule) for number, source in enumerate(sources) for rule in source.rules]
    for number, rule in patterns:
        prefix = f"{sources[number].prefix}/" if sources[number].prefix else ""
        template = prefix + rule.goes_to
        for other, taken in patterns:
            if _lands_on(topics.levels(template), topics.levels(taken.match)):
                whose = "itself" if taken is rule else f"ingest.{other}"
                what = f"readings go to `{template}`, where {whose} takes in foreign messages (`{taken.match}`)"
                tree.report(("ingest", number), f"{what}; set `prefix: lab`, or another `topic`")
                break
    _check_shared(tree, sources)


def _check_shared(tree: _Tree, sources: Sequence[Source]) -> None:
    """Report rules of the user's own that put different things into one field."""
    seen: dict[tuple[str, str, str], int] = {}
    for number, source in enumerate(sources):
        for rule in source.rules if not source.name else ():
            template = "/".join(filter(None, (source.prefix, rule.goes_to)))
            for field in rule.fields or ("value",):
                first = seen.setdefault((rule.device or "{dev}", template, field), number)
                if first != number:
                    what = f"puts the field `{field}` of `{template}` where ingest.{first} does; name another `topic`"
                    tree.report(("ingest", number), what)


def _lands_on(template: list[str], pattern: list[str]) -> bool:
    """Return whether a pattern covers a template of topics; a named level of the template is no certain word."""
    for place, level in enumerate(pattern):
        if level == "#":
            return True
        if place >= len(template) or not (level == "+" or "{" in level or level == template[place]):
            return False
    return len(pattern) == len(template)


class Bridge(_Section):
    """Where the components of the session are announced, for dashboards that know nothing of ether."""

    homeassistant: Flag = Field(default=False, description="Home Assistant's discovery documents.")
    homie: Flag = Field(default=False, description="Homie 5: descriptions, states and values.")
    homeassistant_prefix: Topic = Field(default="homeassistant", description="Home Assistant's discovery prefix.")
    homie_domain: Topic = Field(default="homie", description="Homie's domain, the first level of its topics.")
    every: Annotated[Duration, Field(gt=0)] = Field(
        default=1.0, description="A Homie value is told this often at most: the latest."
    )
    commands: Flag = Field(default=True, description="Announce what can be set: parameters and subscriptions.")
    foreign: Flag = Field(default=False, description="Announce devices of `ingest` too; most do so themselves.")

    @model_validator(mode="after")
    def _somewhere(self) -> Bridge:
        if not (self.homeassistant or self.homie):
            raise ValueError("announces to nobody; set `homeassistant: true`, `homie: true`, or both")
        return self


def _record(value: object) -> object:
    if value is False or value == "off":
        return None
    return Record() if value is True or value is None or value == "on" else value


# --------------------------------------------------------------------------------------------- reading YAML


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-3` is a number (as in YAML 1.2) and `12:30:45` is not 45045."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, found) for tag, found in resolvers if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+|0[0-7_]+)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)


def _tag(text: str) -> str:
    """Return the YAML tag of an unquoted text: number, flag, text."""
    tag: str = _Loader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # untyped stub
    return tag


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    key: str
    """``file:line:column`` of the key; of the item in a list."""
    value: str
    order: int
    """Rank in the file."""


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


class _Tree:
    """The values of a configuration before they are checked, and where each stands."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self.text = ""
        self.data: Any = {}
        self.places: dict[KeyPath, _Place] = {}
        self.problems: list[tuple[int, Problem]] = []
        self.secrets: set[tuple[int, int, str]] = set()
        """Spans of `text` that hold a secret, and what to print instead."""

    def real(self, path: KeyPath) -> KeyPath:
        """Return the path as the user wrote it: without the index 0 of a mapping that was read as a list of one."""
        found: list[Any] = []
        here: Any = self.data
        for part in path:
            if isinstance(here, list) and isinstance(part, int):
                here = here[part] if part < len(here) else None
            elif isinstance(here, dict) and part in here:
                here = here[part]
            elif isinstance(part, int):
                continue
            else:
                here = None
            found.append(part)
        return tuple(found)

    def place(self, path: KeyPath) -> _Place | None:
        """Return where this key or its nearest known ancestor stands."""
        path = self.real(path)
        for length in range(len(path), 0, -1):
            if (place := self.places.get(path[:length])) is not None:
                return place if length == len(path) else _Place(place.key, place.key, place.order)
        return None

    def problem(self, path: KeyPath, what: str, *, at_value: bool = False) -> Problem:
        place, dotted = self.place(path), _dotted(self.real(path))
        if place is None and not self.file:
            return Problem(dotted or "configuration", what)
        where = self.file if place is None else place.value if at_value else place.key
        return Problem(where, f"{dotted}: {what}" if dotted else what)

    def report(self, path: KeyPath, what: str, *, at_value: bool = False) -> None:
        self.problems.append((self.rank(path), self.problem(path, what, at_value=at_value)))

    def rank(self, path: KeyPath) -> int:
        """Return where this key stands in the order of the file."""
        place = self.place(path)
        return place.order if place else -1

    def sorted_problems(self) -> list[Problem]:
        """Return all problems in the order of the file, each once."""
        return list(dict.fromkeys(problem for _, problem in sorted(self.problems, key=lambda pair: pair[0])))


class _YamlReader:
    """Builds a _Tree from YAML text: values with their places, ${VARIABLES} filled in."""

    def __init__(self, tree: _Tree, where: Callable[[yaml.Mark], str], base: KeyPath = ()) -> None:
        self.tree, self.where, self.base = tree, where, base
        self.loader = _Loader("")
        self.open: set[int] = set()

    def read(self, text: str) -> Any:
        """Return the value; raises yaml.YAMLError."""
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else self.value(node, self.base)

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            self.tree.report(path, "an alias that contains itself", at_value=True)
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            return [self.item(child, (*path, index)) for index, child in enumerate(node.value)]
        finally:
            self.open.remove(id(node))

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.note(path, node.start_mark, node.start_mark)
        return self.value(node, path)

    def note(self, path: KeyPath, key: yaml.Mark, value: yaml.Mark) -> None:
        self.tree.places[path] = _Place(self.where(key), self.where(value), key.index)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        self.drop_twins(node, path)
        self.loader.flatten_mapping(node)  # `<<: *defaults`
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                mark = key_node.start_mark
                self.tree.problems.append((mark.index, Problem(self.where(mark), "a key must be a text or a number")))
                continue
            # `on:` or `1:` is a name everywhere but inside the user's own arguments
            key = self.scalar(key_node, path, expand=False) if _is_argument(path) else key_node.value
            # keys merged from `<<` come first, so the last one is what holds
            self.note((*path, key), key_node.start_mark, value_node.start_mark)
            values[key] = self.value(value_node, (*path, key))
        return values

    def drop_twins(self, node: yaml.MappingNode, path: KeyPath) -> None:
        """Report keys given twice; the first stays, so that its own problems are found too."""
        seen: dict[str, yaml.Mark] = {}
        kept = []
        for key_node, value_node in node.value:
            plain = isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge"
            if not plain or key_node.value not in seen:
                kept.append((key_node, value_node))
                seen[key_node.value if plain else ""] = key_node.start_mark
                continue
            mark, noun = key_node.start_mark, "instance" if path == ("instances",) else "key"
            what = (
                f"{_dotted((*path, key_node.value))}: {noun} given twice; first in line {seen[key_node.value].line + 1}"
            )
            self.tree.problems.append((mark.index, Problem(self.where(mark), what)))
        node.value = kept

    def note_secret(self, node: yaml.ScalarNode, path: KeyPath) -> None:
        """Remember where the file's text has a secret; the bare name of a variable is none."""
        shown = _redacted(path, node.value)
        if shown != node.value and not re.fullmatch(r"\$\{\w+\}", node.value):
            self.tree.secrets.add((node.start_mark.index, node.end_mark.index, shown))

    def scalar(self, node: yaml.ScalarNode, path: KeyPath, *, expand: bool = True) -> Any:
        text, tag = node.value, node.tag
        if expand and not self.base:
            self.note_secret(node, path)
        if expand and "$" in text:
            try:
                text = _expand(text)
            except ValueError as exc:
                self.tree.report(path, str(exc), at_value=True)
                return None
            if node.style is None and tag == "tag:yaml.org,2002:str":  # unquoted: `${PORT}` may become a number
                tag = _tag(text)
        try:
            return self.loader.construct_object(yaml.ScalarNode(tag, text, node.start_mark, node.end_mark, node.style))
        except (yaml.YAMLError, ValueError) as exc:
            reason = getattr(exc, "problem", None) or exc
            self.tree.report(path, f"{text!r} cannot be read: {reason}", at_value=True)
            return None


_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|(\$\{)")


def _expand(text: str) -> str:
    """Return the text with ``${VAR}`` and ``${VAR:-default}`` filled in and ``$$`` as ``$``; ValueError if unset."""

    def fill(found: re.Match[str]) -> str:
        name, default, broken = found.groups()
        if found.group() == "$$":
            return "$"
        if broken:
            raise ValueError("write ${NAME} or ${NAME:-default}; a literal `${` is `$${`")
        given = os.environ.get(name, "")
        if not given and default is None and name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return given or default or ""

    return _VARIABLE.sub(fill, text)


def _is_argument(path: KeyPath) -> bool:
    """Return whether the mapping at this path is part of an argument's value, so that its keys keep their type."""
    return len(path) > 3 and path[0] == "instances" and path[2] in ("kwargs", "args")


def _read_file(path: Path) -> _Tree:
    tree = _Tree(str(path))
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        near = suggest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        raise ConfigError([Problem(str(path), f"no such file{near}")]) from None
    except IsADirectoryError:
        raise ConfigError([Problem(str(path), "a folder; name the YAML file in it")]) from None
    except OSError as exc:
        raise ConfigError([Problem(str(path), f"cannot be read: {exc.strerror or exc}")]) from None
    try:
        tree.text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError([Problem(f"{path}:{line}", "not UTF-8; save the file as UTF-8")]) from None

    def where(mark: yaml.Mark) -> str:
        return f"{path}:{mark.line + 1}:{mark.column + 1}"

    try:
        tree.data = _YamlReader(tree, where).read(tree.text)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise ConfigError([Problem(where(mark) if mark else str(path), _syntax(exc, tree.text))]) from None
    except yaml.reader.ReaderError as exc:
        line, what = tree.text.count("\n", 0, exc.position) + 1, f"the character U+{exc.character:04X} is not allowed"
        raise ConfigError([Problem(f"{path}:{line}", what)]) from None
    except RecursionError:
        raise ConfigError([Problem(str(path), "nested too deeply")]) from None
    return tree


def _syntax(exc: yaml.MarkedYAMLError, text: str) -> str:
    mark, problem = exc.problem_mark, exc.problem or "cannot be read"
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return "a tab; YAML indents by spaces only"
    if mark is not None and text[max(mark.index - 1, 0) : mark.index + 1] == "${":
        return 'a variable between braces or brackets must be quoted: `"${NAME}"`'
    if "could not find expected ':'" in problem:
        problem = "no `:` after this key"
    elif "mapping values are not allowed" in problem:
        problem = "a `:` that begins no value here; check the indentation, or quote the text"
    elif "expected a single document" in (exc.context or ""):
        problem = "a second document (`---`); a configuration is one"
    elif "undefined alias" in problem:
        problem += "; define it before with `&`"
    return f"not valid YAML: {problem}"


def _read_mapping(source: Mapping[str, Any]) -> tuple[_Tree, dict[str, type]]:
    tree, classes = _Tree(), {}
    loader = _Loader("")

    def name(key: Any, path: KeyPath) -> Any:
        return _path_of(key) if isinstance(key, type) else key if _is_argument(path) else str(key)

    def copy(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {name(key, path): copy(item, (*path, name(key, path))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, type) and path[-1:] == ("class_path",):
            classes[_path_of(value)] = value
        if not isinstance(value, str) or "$" not in value:
            return value
        try:
            text = _expand(value)
        except ValueError as exc:
            tree.report(path, str(exc))
            return None
        if "${" not in value:
            return text
        return loader.construct_object(yaml.ScalarNode(_tag(text), text))

    tree.data = copy(source, ())
    tree.text = yaml.safe_dump(_jsonable(source, (), redact=False), sort_keys=False, allow_unicode=True)
    return tree, classes


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# --------------------------------------------------------------------------------------------- overrides


def _override(tree: _Tree, text: str) -> None:
    """Put one ``a.b=value`` of the command line over the file's."""
    dotted, equals, given = text.partition("=")
    label = f"--set {text}"
    path = _split_path(tree.data, dotted.strip())
    if not equals or not all(str(part) for part in path):
        tree.problems.append((-1, Problem(label, "write a.b=value, such as instances.oven.kwargs.period=2")))
        return
    instances = tree.data.get("instances")
    instances = instances if isinstance(instances, dict) else {}
    if path[0] == "instances" and len(path) > 2 and path[1] not in instances and path[2] != "class_path":
        what = f"no instance `{path[1]}` in the configuration{suggest(str(path[1]), instances)}"
        tree.problems.append((-1, Problem(label, what)))
        return
    try:
        value = _YamlReader(tree, lambda mark: label, path).read(given)
    except yaml.YAMLError as exc:
        reason = getattr(exc, "problem", None) or exc
        tree.problems.append((-1, Problem(label, f"the value is not valid YAML: {reason}")))
        return
    _put(tree, path, value, label)


def _put(tree: _Tree, path: KeyPath, value: Any, label: str) -> None:
    here = tree.data
    for depth, part in enumerate(path):
        tree.places.setdefault(path[: depth + 1], _Place(label, label, -1))
        if isinstance(here, list) and not (isinstance(part, int) and part < len(here)):
            what = f"{_dotted(path[:depth])} is a list of {len(here)}; `{part}` is none of its places"
            tree.problems.append((-1, Problem(label, what)))
            return
        if depth == len(path) - 1:
            here[part] = value
        else:
            if not isinstance(here[part] if isinstance(here, list) else here.get(part), dict | list):
                here[part] = {}
            here = here[part]
    tree.places[path] = _Place(label, label, -1)


def _split_path(data: Any, dotted: str) -> KeyPath:
    """Return the keys of ``a.b.c``; a key with dots of its own (a topic, a class path) is found if it exists."""
    parts, path = dotted.split("."), []
    while parts:
        length = 1
        if isinstance(data, dict):
            fitting = [n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in data]
            length = fitting[0] if fitting else 1
        key: PathPart = ".".join(parts[:length])
        if isinstance(data, list) and str(key).isdigit():
            key = int(key)
        if isinstance(data, dict):
            data = data.get(key)
        else:
            data = data[key] if isinstance(key, int) and key < len(data) else None
        path.append(key)
        parts = parts[length:]
    return tuple(path)


def _environment(tree: _Tree) -> None:
    for name, path in (("ETHER_BROKER", ("broker",)), ("ETHER_DATA", ("session", "data"))):
        if value := os.environ.get(name):
            for known in [known for known in tree.places if known[: len(path)] == path]:
                del tree.places[known]
            _put(tree, path, value, name)


# --------------------------------------------------------------------------------------------- plain words

_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
}


def _plain(error: Mapping[str, Any]) -> str:
    """Return pydantic's error in plain words, with what was got."""
    kind, got, ctx = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(ctx["error"])
    if kind in _WANTED:
        plain = isinstance(got, int | float | date) and not isinstance(got, bool)
        quote = "; quote it" if kind == "string_type" and plain else ""
        return f"{_WANTED[kind]} was wanted, got {named(got)}{quote}"
    if kind == "literal_error":
        known = re.findall(r"[\w-]+", ctx["expected"].replace(" or ", " "))
        return f"{', '.join(known)} was wanted, got {named(got)}{suggest(str(got), known)}"
    if kind in ("greater_than_equal", "greater_than"):
        return f"at least {ctx.get('ge', ctx.get('gt'))} was wanted, got {got}"
    if kind in ("too_short", "too_long"):
        return f"a list of {ctx.get('min_length', ctx.get('max_length'))} was wanted, got {ctx['actual_length']}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {named(got)}"


def _model_at(path: Sequence[Any], top: type[BaseModel]) -> type[BaseModel] | None:
    """Return the model that describes the mapping at this path of a configuration."""
    kind: Any = top
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            kind = fields[part].annotation if part in fields else None
        else:
            kind = get_args(kind)[-1] if get_args(kind) else None
        while get_origin(kind) is not None and get_origin(kind) not in (dict, list):
            if get_origin(kind) is Annotated:
                kind = get_args(kind)[0]
            else:
                kind = next((arg for arg in get_args(kind) if arg is not type(None)), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _unknown_key(path: KeyPath, top: type[BaseModel]) -> str:
    model = _model_at(path[:-1], top)
    known = [field.alias or name for name, field in model.model_fields.items()] if model else []
    hint = suggest(str(path[-1]), known)
    if not hint and model is Instance:
        hint = "; arguments of the class go under `kwargs`"
    elif not hint and known:
        hint = f"; known here: {', '.join(known)}"
    return f"unknown key{hint}"


def _take(tree: _Tree, error: Mapping[str, Any], top: type[BaseModel] | None = None) -> None:
    """Report one of pydantic's errors; `top` is the model of the whole file."""
    path: KeyPath = error["loc"]
    if path and path[-1] == "[key]":
        path = path[:-1]
        tree.report(path, _plain(error))
    elif error["type"] == "extra_forbidden":
        tree.report(path, _unknown_key(path, top or Config))
    elif error["type"] == "missing":
        hint = "; name the class, such as `class_path: package.module.Class`" if path[-1] == "class_path" else ""
        tree.report(path, f"missing{hint}")
    else:
        tree.report(path, _plain(error), at_value=True)


# --------------------------------------------------------------------------------------------- secrets

_SECRET = re.compile(
    r"(?:\A|[_-])(?:password|passwd|passphrase|secret|token|api_?key|credentials?)(?:\Z|[_-])", re.IGNORECASE
)
_HIDDEN = "***"


def _redacted(path: KeyPath, value: str) -> str:
    """Return the text to show for this value: hidden where the key or the text says that it is a secret."""
    if value and path and isinstance(path[-1], str) and _SECRET.search(path[-1]):
        return _HIDDEN
    return without_password(value)


def _hidden(span: str, shown: str) -> str:
    """Return a scalar's span of YAML with `shown` for the value; its anchor and the end of its last line stay."""
    found = re.fullmatch(r"((?:&\S+\s+)?).*?(\s*)", span, re.DOTALL)
    return f"{found[1]}'{shown}'{found[2]}" if found else f"'{shown}'"


def _jsonable(value: Any, path: KeyPath, *, redact: bool = True) -> Any:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        named = {_path_of(key) if isinstance(key, type) else str(key): item for key, item in value.items()}
        return {key: _jsonable(item, (*path, key), redact=redact) for key, item in named.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item, path, redact=redact) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return _HIDDEN if redact and value is not None and path and _SECRET.search(str(path[-1])) else value
    if isinstance(value, type):
        return _path_of(value)
    text = str(value) if isinstance(value, str | Path | date) else repr(value)
    return _redacted(path, text) if redact else text


# --------------------------------------------------------------------------------------------- Config


class Config(_Section):
    """One session's configuration, checked. Make it with `Config.load`."""

    session: Session = Field(default_factory=Session, description="What the session is called, and its limits.")
    broker: Broker = Field(
        default_factory=Broker, description="auto, embedded, mosquitto, nats, mqtt(s)://user@host:port, or a block."
    )
    record: Annotated[Record | None, BeforeValidator(_record)] = Field(
        default_factory=Record, description="What is recorded; `off` for nothing."
    )
    registry: dict[ClassPath, ClassMarks] = Field(
        default={},
        description="Marks for classes that you cannot or will not edit: class path to methods to decorators.",
    )
    instances: dict[Name, Instance] = Field(default={}, description="What runs: instance name to class and arguments.")
    expect: dict[Filter, Expect] = Field(default={}, description="What must come by: topic to rate, publisher, unit.")
    ingest: Annotated[list[Ingest], BeforeValidator(_one_entry, json_schema_input_type=Ingest | list[Ingest])] = Field(
        default=[], description="Foreign devices: ready profiles, and rules of your own."
    )
    bridge: Bridge | None = Field(default=None, description="Announce all components to other dashboards.")
    metrics: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        default=None, description="Port for Prometheus, on loopback; 0 takes a free one."
    )

    _tree: _Tree = PrivateAttr(default_factory=_Tree)
    _classes: dict[str, type] = PrivateAttr(default_factory=dict)
    _sources: list[Source] = PrivateAttr(default_factory=list)

    @classmethod
    def load(
        cls, source: str | Path | Mapping[str, Any] | Config | None = None, overrides: Sequence[str] = ()
    ) -> Config:
        """Return the configuration, or raise with everything that is wrong with it.

        Args:
            source: path of a YAML file (a str is a path), a mapping of the same shape (where `class_path` may be a
                class), a Config, or None for an empty configuration.
            overrides: ``a.b=value`` as after ``--set``; values are parsed as YAML.

        Raises:
            ConfigError: `problems` in the order of the file.
        """
        if isinstance(source, Config) and not overrides:
            return source
        tree, classes = _read(source)
        if tree.data is None:
            tree.data = {}
        if not isinstance(tree.data, dict):
            what = f"a mapping with `instances:` was wanted, got {named(tree.data)}"
            raise ConfigError([Problem(f"{tree.file}:1:1" if tree.file else "configuration", what)])
        if not isinstance(source, Config):  # else it was taken account of already, and the overrides stand above it
            _environment(tree)
        for text in overrides:
            _override(tree, text)
        config: Config | None = None
        try:
            config = cls.model_validate(tree.data)
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                _take(tree, error)
        _check_names(tree)
        sources = _sources(tree, config.ingest) if config is not None else []
        if tree.problems or config is None:
            raise ConfigError(tree.sorted_problems())
        config._tree, config._classes, config._sources = tree, classes, sources
        return config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and dict(self) == dict(other)  # whatever file or mapping they came from

    @property
    def path(self) -> Path | None:
        """The file this was read from."""
        return Path(self._tree.file) if self._tree.file else None

    @property
    def text(self) -> str:
        """The YAML as it was given; for a mapping, the mapping as YAML."""
        return self._tree.text

    @property
    def safe_text(self) -> str:
        """`text` with passwords and the like written as ``***``: what may be stored or shown."""
        if not self._tree.file:
            return yaml.safe_dump(_jsonable(yaml.safe_load(self.text) or {}, ()), sort_keys=False, allow_unicode=True)
        text = self.text
        for start, end, shown in sorted(self._tree.secrets, reverse=True):
            text = f"{text[:start]}{_hidden(text[start:end], shown)}{text[end:]}"
        return text

    @property
    def classes(self) -> dict[str, type]:
        """The classes that a mapping gave as objects, by their class path."""
        return self._classes

    @property
    def starts(self) -> bool:
        """Whether it has something to run; otherwise who taps in is a guest of a session that runs."""
        return bool(self.instances or self.ingest or self.bridge)

    @property
    def sources(self) -> list[Source]:
        """What the entries of `ingest` come to, profiles read."""
        return self._sources

    def resolved(self) -> dict[str, Any]:
        """Return everything that holds, defaults included, JSON-able, secrets as ``***``."""
        found: dict[str, Any] = _jsonable(self.model_dump(by_alias=True), ())
        return found

    def named(self) -> dict[str, tuple[str, Instance]]:
        """Return what runs under which name: name -> (key in the configuration, instance).

        An `ether_name` in the kwargs has renamed it and is gone from them; replicas are ``name-1``, ``name-2``, …
        """
        found: dict[str, tuple[str, Instance]] = {}
        for key, instance in self.instances.items():
            kwargs = {name: value for name, value in instance.kwargs.items() if name != "ether_name"}
            plain = instance.model_copy(update={"kwargs": kwargs})
            found |= dict.fromkeys(_names(key, instance.kwargs, instance.replicas), (key, plain))
        return found

    def where(self, *path: PathPart) -> str:
        """Return ``file:line:column`` of this key or its nearest ancestor; the dotted path where there is no file."""
        return self._tree.problem(path, "").where

    def problem(self, path: Sequence[PathPart], what: str) -> Problem:
        """Return a Problem at this key, worded as the loader's own."""
        return self._tree.problem(tuple(path), what)


def _read(source: str | Path | Mapping[str, Any] | Config | None) -> tuple[_Tree, dict[str, type]]:
    if isinstance(source, Config):
        tree = _Tree(source._tree.file)
        tree.text, tree.places, tree.secrets = source.text, dict(source._tree.places), source._tree.secrets
        tree.data = _copied(source._tree.data)
        return tree, dict(source._classes)
    if isinstance(source, Mapping):
        return _read_mapping(source)
    if source is None:
        return _Tree(), {}
    if not isinstance(source, str | os.PathLike):
        what = f"a path, a mapping or a Config was wanted, got {named(source)}"
        raise ConfigError([Problem("configuration", what)])
    if "\n" in str(source):
        raise ConfigError([Problem("configuration", "a path was wanted, got YAML text; pass yaml.safe_load(text)")])
    return _read_file(Path(source)), {}


def _copied(value: Any) -> Any:
    """Return the mappings and lists copied, what they hold as it is."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _names(key: str, kwargs: Mapping[str, Any], replicas: int) -> list[str]:
    name = kwargs.get("ether_name") or key
    return [name] if replicas == 1 else [f"{name}-{number}" for number in range(1, replicas + 1)]


def _check_names(tree: _Tree) -> None:
    """Report names used twice after renaming and replicas, and the recorder's."""
    instances = tree.data.get("instances")
    taken: dict[str, KeyPath] = {}
    for key, block in instances.items() if isinstance(instances, dict) else ():
        block = block if isinstance(block, dict) else {}
        given = block.get("kwargs")
        kwargs: dict[str, Any] = given if isinstance(given, dict) else {}
        path: KeyPath = ("instances", key, "kwargs", "ether_name") if kwargs.get("ether_name") else ("instances", key)
        try:
            if kwargs.get("ether_name"):
                topics.check_name(kwargs["ether_name"])
        except TopicError as exc:
            tree.report(path, str(exc), at_value=True)
            continue
        replicas = block.get("replicas")
        for name in _names(str(key), kwargs, replicas if isinstance(replicas, int) and replicas > 0 else 1):
            if name in taken:
                tree.report(path, f"the name `{name}` is used twice; first at {tree.problem(taken[name], '').where}")
            elif name == "recorder" and _record(tree.data.get("record")) is not None:
                tree.report(path, "`recorder` is ether's own recorder; choose another name, or set `record: off`")
            elif name in ("ingest", "bridge") and tree.data.get(name):
                tree.report(path, f"`{name}` is what runs `{name}:`; choose another name")
            taken.setdefault(name, path)


# --------------------------------------------------------------------------------------------- JSON Schema

_VARIABLE_SCHEMA = {"$ref": "#/$defs/Variable"}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file: what editors complete and check by.

    It accepts what the loader accepts, the short forms too, and ``${VAR}`` in place of any number or flag.
    """
    schema: dict[str, Any] = Config.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema.pop("$defs")
    short: dict[str, list[dict[str, Any]]] = {
        "Broker": [
            {"type": "string", "pattern": "^(auto|embedded|mosquitto|nats|mqtts?://.+)$"},
            {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^mqtts?://.+$"}},
        ],
        "Record": [{"type": "boolean"}, {"enum": ["on", "off"]}],
        "Restart": [{"enum": ["never", "on-failure", "always", "off", "no", False]}],
        "Rotate": [_SIZE_SCHEMA, {"type": "string", "pattern": _DURATION_PATTERN}, {"enum": ["off", "no", False]}],
        "MethodMarks": [{"enum": list(MARKS)}],
        "Ingest": [{"type": "string"}],
        "IngestField": [{"type": "string"}],
        "IngestTime": [{"type": "string"}],
        "Availability": [{"type": "string"}],
    }
    for name, forms in short.items():
        block = definitions.pop(name)
        definitions[name] = {"description": block.pop("description", ""), "anyOf": [*forms, block]}
    one = ("ether_pub", "ether_sub", "ether_get", "ether_save", *MARKS[4:])
    marks = definitions["MethodMarks"]["anyOf"][-1]["properties"]
    for name in one:  # null, one mapping, or a list of those
        item = marks[name].pop("items")
        marks[name].pop("type")
        marks[name]["anyOf"] = [{"type": "null"}, item, {"type": "array", "items": {"anyOf": [{"type": "null"}, item]}}]
    body = _widened({"properties": schema.pop("properties"), "$defs": definitions})
    body["$defs"]["Variable"] = {"type": "string", "pattern": r"\$\{", "description": "Filled in from the environment."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ether session",
        "description": "One session: which processes run, over which broker, recorded where.",
        "type": ["object", "null"],
        "additionalProperties": False,
        **body,
    }


def _widened(schema: Any) -> Any:
    """Return the schema with ``null`` and ``${VAR}`` accepted wherever the loader does."""
    if isinstance(schema, list):
        return [_widened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value if key in ("enum", "default") else _widened(value) for key, value in schema.items()}
    for key in found.get("properties", {}):
        found["properties"][key] = _or_empty({"title": key, **found["properties"][key]})
    narrow = found.get("type") in ("integer", "number", "boolean") or isinstance(found.get("pattern"), str)
    if narrow or isinstance(found.get("enum"), list):
        outer: dict[str, Any] = {key: found.pop(key) for key in ("title", "description", "default") if key in found}
        words: list[Any] = [{"enum": ["on", "off", "yes", "no"]}] if found.get("type") == "boolean" else []
        return {**outer, "anyOf": [found, *words, dict(_VARIABLE_SCHEMA)]}
    return found


def _or_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key whose value may be left empty."""
    outer: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outer}
    forms = inner["anyOf"] if set(inner) == {"anyOf"} else [inner] if inner else [{}]
    return {**outer, "anyOf": forms if {"type": "null"} in forms or {} in forms else [*forms, {"type": "null"}]}
