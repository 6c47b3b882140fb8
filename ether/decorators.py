"""Marks on methods. Decorators only mark: a marked method stays the function it was.

The only module that users' classes import; it imports nothing but the standard library. Which marks a method has is
read by `component`, and nothing happens before a session adopts an instance of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

__all__ = [
    "HOOKS",
    "Call",
    "Hook",
    "Mark",
    "Param",
    "Publish",
    "Subscribe",
    "ether_cleanup",
    "ether_get",
    "ether_init",
    "ether_pub",
    "ether_safe",
    "ether_save",
    "ether_save_all",
    "ether_shutdown",
    "ether_start",
    "ether_sub",
    "make_mark",
    "marks_of",
]

F = TypeVar("F", bound=Callable[..., Any])

MARKS = "__ether_marks__"
HOOKS = ("init", "start", "save_all", "cleanup", "safe", "shutdown")
"""The lifecycle hooks, each a subscription to the control topic of its name."""


@dataclass(frozen=True, slots=True)
class Publish:
    """The method's result is published."""

    topic: str | None = None
    """None: ``ClassName.method_name``, or ``ClassName.subtopic``."""
    subtopic: str | None = None
    every: float | str | None = None
    """Sample so often once started: seconds, or text with a unit (``"100ms"``)."""
    batch: int | float | str | None = None
    """Pack readings: a count (int), or a duration (float seconds, or text with a unit)."""
    qos: int = 1
    retain: bool = False
    unit: str | Mapping[str, str] | None = None
    """Unit of the value, or field name to unit."""
    range: tuple[float, float] | None = None
    """What the value may be, for the description."""
    type: Any = None
    """As of `Subscribe`."""
    keep: str = "all"
    """``all``: until it is recorded; ``last`` or ``none``: sent once."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The method handles each message of a topic filter."""

    topic: str | None = None
    subtopic: str | None = None
    qos: int = 1
    queue: int | None = None
    """How many messages may wait; None: 1,000."""
    policy: str | None = None
    """What becomes of more; None: ``block`` at QoS 1 and 2, ``drop-oldest`` at QoS 0."""
    type: Any = None
    """Of the value, for the description, where there is no annotation: float, int, bool, str, or JSON's name of it."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """The method answers calls."""

    kind: str = "get"
    """``get`` returns its result; ``save`` reports success or error."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """The method runs at a point of the session's life."""

    verb: str
    background: bool = False
    """Beside the handlers, in a thread of its own."""
    subtopic: str | None = None
    """Also subscribe to ``ClassName.subtopic``."""


Mark = Publish | Subscribe | Call | Hook


@dataclass(frozen=True, slots=True)
class Param:
    """Makes an attribute or property a live parameter, in its annotation: ``gain: Annotated[float, Param(ge=0)]``."""

    unit: str = ""
    ge: float | None = None
    """At least."""
    le: float | None = None
    """At most."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class _Kind:
    make: Callable[..., Mark]
    keywords: Mapping[str, Any] = field(default_factory=dict)


_KINDS = {
    "ether_pub": _Kind(Publish),
    "ether_sub": _Kind(Subscribe),
    "ether_get": _Kind(Call, {"kind": "get"}),
    "ether_save": _Kind(Call, {"kind": "save"}),
    **{f"ether_{verb}": _Kind(Hook, {"verb": verb}) for verb in HOOKS},
}


def make_mark(decorator: str, **keywords: Any) -> Mark:
    """Return the mark a decorator would set, as ``registry:`` names it; TypeError for a keyword it does not take."""
    kind = _KINDS[decorator]
    return kind.make(**kind.keywords, **keywords)


def marks_of(function: Any) -> tuple[Mark, ...]:
    """Return the marks of a function, topmost decorator last; empty for anything unmarked."""
    return getattr(function, MARKS, ())


def _mark(decorator: str, function: Any, keywords: dict[str, Any]) -> Any:
    """Mark `function`, or return the decorator that will: what bare, called and keyword spellings share."""
    if function is None:
        return lambda target: _mark(decorator, target, keywords)
    if isinstance(function, (classmethod, staticmethod)):
        kind = type(function).__name__
        name = getattr(function.__func__, "__qualname__", "?")
        raise TypeError(f"@{decorator} on the {kind} {name}: only methods of an instance can be marked; drop @{kind}")
    if isinstance(function, str):
        raise TypeError(f"@{decorator}({function!r}): say what it is: @{decorator}(topic={function!r})")
    if not callable(function):
        raise TypeError(f"@{decorator} marks methods, not a {type(function).__name__}")
    if isinstance(function, type):
        raise TypeError(f"@{decorator} marks methods; {function.__qualname__} is a class")
    setattr(function, MARKS, (*marks_of(function), make_mark(decorator, **keywords)))
    return function


@overload
def ether_pub(function: F, /) -> F: ...
@overload
def ether_pub(
    *,
    topic: str | None = None,
    subtopic: str | None = None,
    every: float | str | None = None,
    batch: int | float | str | None = None,
    qos: int = 1,
    retain: bool = False,
    unit: str | Mapping[str, str] | None = None,
    range: tuple[float, float] | None = None,
    type: Any = None,
    keep: Literal["all", "last", "none"] = "all",
    description: str = "",
) -> Callable[[F], F]: ...
def ether_pub(function: Any = None, /, **keywords: Any) -> Any:
    """Publish the method's result when it runs inside a session.

    Args:
        topic: default ``ClassName.method_name``.
        subtopic: short for the topic ``ClassName.subtopic``.
        every: sample so often once started: seconds, or ``"100ms"``, ``"2min"``.
        batch: pack readings into one message: a count, or a duration.
        qos: 0, 1 or 2.
        retain: let the broker keep the last message for late subscribers.
        unit: of the value, or field name to unit; published in the description and stored with the data.
        range: lowest and highest value, for the description.
        type: of the value, for the description of a method without annotations: float, int, bool, str.
        keep: ``all``: until it is recorded; ``last`` and ``none``: sent once, as devices with little memory do.
        description: one line for people.

    A generator publishes each item. The return annotation is the published schema, and is validated.
    """
    return _mark("ether_pub", function, keywords)


@overload
def ether_sub(function: F, /) -> F: ...
@overload
def ether_sub(
    *,
    topic: str | None = None,
    subtopic: str | None = None,
    qos: int = 1,
    queue: int | None = None,
    policy: str | None = None,
    type: Any = None,
    description: str = "",
) -> Callable[[F], F]: ...
def ether_sub(function: Any = None, /, **keywords: Any) -> Any:
    """Handle each message of a topic or topic filter; its fields become keyword arguments.

    Args:
        topic: may hold MQTT's wildcards; default ``ClassName.method_name``.
        subtopic: short for the topic ``ClassName.subtopic``.
        qos: 0, 1 or 2.
        queue: how many messages may wait for the method; default 1,000.
        policy: what becomes of those that come while it is full. ``block``: they stay with the broker, which sends no
            more until there is room (QoS 0 messages cannot wait there, and are dropped); ``drop-oldest``: they push
            out the oldest; ``latest``: only the newest message of each topic waits, ever. Default: ``block`` at QoS 1
            and 2, ``drop-oldest`` at QoS 0. What was dropped is counted in the status.
        type: of the value, for the description of a method without annotations: float, int, bool, str.
        description: one line for people.
    """
    return _mark("ether_sub", function, keywords)


@overload
def ether_get(function: F, /) -> F: ...
@overload
def ether_get(*, description: str = "") -> Callable[[F], F]: ...
def ether_get(function: Any = None, /, **keywords: Any) -> Any:
    """Answer ``ether.get(name, method, …)`` with the method's result."""
    return _mark("ether_get", function, keywords)


@overload
def ether_save(function: F, /) -> F: ...
@overload
def ether_save(*, description: str = "") -> Callable[[F], F]: ...
def ether_save(function: Any = None, /, **keywords: Any) -> Any:
    """Answer ``ether.save(name, method, …)`` with success and the method's result, or with its error."""
    return _mark("ether_save", function, keywords)


@overload
def ether_init(function: F, /) -> F: ...
@overload
def ether_init(*, subtopic: str | None = None) -> Callable[[F], F]: ...
def ether_init(function: Any = None, /, **keywords: Any) -> Any:
    """Run once, after the instance has connected and before it is ready."""
    return _mark("ether_init", function, keywords)


@overload
def ether_start(function: F, /) -> F: ...
@overload
def ether_start(*, background: bool = False, subtopic: str | None = None) -> Callable[[F], F]: ...
def ether_start(function: Any = None, /, **keywords: Any) -> Any:
    """Run at ``ether.start()``.

    Args:
        background: run beside the handlers, in a thread of its own.
        subtopic: also run at a message on ``ClassName.subtopic``.
    """
    return _mark("ether_start", function, keywords)


@overload
def ether_save_all(function: F, /) -> F: ...
@overload
def ether_save_all(*, subtopic: str | None = None) -> Callable[[F], F]: ...
def ether_save_all(function: Any = None, /, **keywords: Any) -> Any:
    """Run at ``ether.save_all()``, and at shutdown once everything delivered has been handled."""
    return _mark("ether_save_all", function, keywords)


@overload
def ether_cleanup(function: F, /) -> F: ...
@overload
def ether_cleanup(*, subtopic: str | None = None) -> Callable[[F], F]: ...
def ether_cleanup(function: Any = None, /, **keywords: Any) -> Any:
    """Run at ``ether.cleanup()``, and at shutdown after `ether_save_all`."""
    return _mark("ether_cleanup", function, keywords)


@overload
def ether_safe(function: F, /) -> F: ...
@overload
def ether_safe(*, subtopic: str | None = None) -> Callable[[F], F]: ...
def ether_safe(function: Any = None, /, **keywords: Any) -> Any:
    """Bring the hardware to a safe state.

    Run at ``ether.safe()``; and when the instance has died or hangs, on a new object of the class, in a process of its
    own. So it must not rely on what the lost object knew.
    """
    return _mark("ether_safe", function, keywords)


@overload
def ether_shutdown(function: F, /) -> F: ...
@overload
def ether_shutdown(*, subtopic: str | None = None) -> Callable[[F], F]: ...
def ether_shutdown(function: Any = None, /, **keywords: Any) -> Any:
    """Run last, as the session shuts down."""
    return _mark("ether_shutdown", function, keywords)
