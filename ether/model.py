"""The nouns: frozen dataclasses that every floor above speaks in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "GONE",
    "About",
    "Annotation",
    "Envelope",
    "Message",
    "Policy",
    "Reading",
    "Run",
    "State",
    "Status",
    "Summary",
]

Policy = Literal["block", "drop-oldest", "latest"]
"""What becomes of messages for a subscription that has more than it can hold: see `ether_sub`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One PUBLISH, still bytes."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    """True for a replay on subscribe: never a new reading."""
    dup: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """ether's own facts about a message, the reserved member ``_ether`` (wire contract, section 2)."""

    by: str
    """Name of the publishing instance."""
    b: str
    """Boot id: new at each start of the publisher."""
    n: int
    """0, 1, 2 … per (by, b, topic); a hole is a lost message."""
    t: float | list[float] | None = None
    """Unix time, seconds, UTC; a list of `k` for a batch."""
    ms: float | list[float] | None = None
    """Milliseconds since boot, for devices without a clock."""
    k: int | None = None
    """Readings in this batch; None for a single reading."""
    dt: float | None = None
    """Even spacing of a batch: seconds, or milliseconds beside `ms`."""
    replay: dict[str, Any] | None = None
    """Of a replayed message, what it was: ``by``, ``b``, ``n``, ``t`` when it was fresh."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One decoded message. A parameter annotated with it gets topic, time and number too."""

    topic: str
    fields: dict[str, Any]
    """Field name to value; a message that was no object has the one field ``value``."""
    time: float | None = None
    """Unix time of the reading at its publisher, seconds, UTC; None where the publisher did not say."""
    number: int | None = None
    """0, 1, 2 … per publisher start and topic; None from a foreign publisher."""
    publisher: str | None = None
    boot: str | None = None
    replay: Mapping[str, Any] | None = None
    """Of a replayed reading, what it was (``by``, ``b``, ``n``, ``t``); None for a fresh measurement."""

    @property
    def value(self) -> Any:
        """The bare value of a message that was no object; KeyError for one that was."""
        return self.fields["value"]


class State(StrEnum):
    """What an instance says of itself (Homie's words)."""

    INIT = "init"
    READY = "ready"
    ALERT = "alert"
    SLEEPING = "sleeping"
    DISCONNECTED = "disconnected"
    LOST = "lost"
    RECONNECTING = "reconnecting"
    """Never said: of a member whose last will came, while it may still repeat its status in time."""


GONE = (State.LOST, State.DISCONNECTED)
"""What is said of who is not there."""


@dataclass(frozen=True, slots=True)
class Status:
    """The retained `ether/status/<name>` of one client (wire contract, section 4)."""

    state: State
    boot: str = ""
    t: float | None = None
    """Unix time of the change, seconds."""
    detail: str = ""
    """Why, for `alert`, `lost` and a failed start; a traceback may follow the first line."""
    every: float | None = None
    """Promise to repeat the status every so many seconds; older than three times that reads as `lost`."""
    counts: dict[str, float] = field(default_factory=dict)
    """received, handled, failed, rejected, published, missed, queued since boot."""
    last: dict[str, int] = field(default_factory=dict)
    """With `disconnected`: the last number published per topic, so that a lost tail shows."""


@dataclass(frozen=True, slots=True)
class About:
    """The retained self-description `ether/about/<name>` (wire contract, section 5)."""

    name: str
    boot: str = ""
    class_name: str = ""
    host: str = ""
    pid: int | None = None
    version: str = ""
    source: str = ""
    """``sha256:…`` of the file the class was read from."""
    file: str = ""
    """Path of that file on `host`."""
    args: dict[str, Any] = field(default_factory=dict)
    """Positional arguments, by the names of their parameters."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    publishes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Topic to ``{"fields": …, "every"?: seconds}``."""
    subscribes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Topic filter to ``{"fields": …, "methods": [names]}``."""
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Method name to ``{"params": …, "kind": "get" | "save"}``."""
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Live parameter to its value, its JSON Schema, ``unit``, and ``by`` and ``t`` of who set it last."""
    outbox: str = ""
    """``disk`` or ``memory``: where it keeps what is not known to be recorded; empty where it does not."""


@dataclass(frozen=True, slots=True)
class Run:
    """One recording inside a session; trials are runs inside runs."""

    id: str
    name: str
    number: int
    """1, 2, 3 … within the session; trials count within their run."""
    started: float
    """Unix time, seconds."""
    metadata: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    """Id of the enclosing run, for a trial."""
    stopped: float | None = None
    outcome: str | None = None
    """``success``, ``failed: …`` with the exception, ``interrupted``, or ``abandoned`` by a process that was killed;
    None while it runs."""
    by: str = ""
    """The client that began it; whose last will ends it."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A remark at a time or over an interval."""

    text: str
    t0: float
    """Unix time, seconds."""
    t1: float | None = None
    """End of the interval; None for an instant."""
    tags: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    revision: int | None = None
    """1, 2, 3 … for one that was added when the recording was finished."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a session was, told at its end."""

    name: str
    duration_s: float
    instances: Mapping[str, str]
    """Name to how it ended."""
    recording: Path | None
    """The sealed file; None where nothing was recorded."""
    counts: Mapping[str, Mapping[str, float]]
    """Name to what its last status counted: received, handled, failed, published …"""
    problems: tuple[str, ...] = ()
    """What did not end as it should, one line each."""
