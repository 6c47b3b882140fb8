"""Every error ether raises on purpose.

    EtherError
    ├── ConfigError          (ValueError)       the configuration; carries every problem found      exit 3
    ├── ComponentError       (TypeError)        a class is marked in a way that cannot work         exit 3
    ├── TopicError           (ValueError)       a topic, filter or name breaks a rule               exit 2
    ├── PayloadError         (ValueError)       bytes that are no reading, or a value that cannot travel
    │   └── FieldError                          a message that does not fit its handler, or a result its annotation
    ├── BrokerError          (ConnectionError)  no broker, or it refused us                         exit 4
    ├── StartError           (RuntimeError)     instances that did not become ready, and why        exit 1
    ├── PreflightError       (RuntimeError)     streams that do not come as expected, and why       exit 1
    ├── CallError            (RuntimeError)     the remote side failed: type, message, traceback    exit 1
    │   └── CallTimeout      (TimeoutError)     no reply in time
    ├── SessionError         (RuntimeError)     used before `tap`, or against the running session   exit 1
    ├── PortError            (OSError)          a serial port that cannot be used, and the way out     exit 1
    ├── JournalError         (OSError)          the journal cannot take or give back records        exit 1
    └── RecordingError       (ValueError)       not a recording, or damaged                         exit 1

`ConfigError`, `ComponentError` and `TopicError` are the user's to mend; the others are met at run time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "ENDS",
    "BrokerError",
    "CallError",
    "CallTimeout",
    "ComponentError",
    "ConfigError",
    "EtherError",
    "FieldError",
    "JournalError",
    "PayloadError",
    "PortError",
    "PreflightError",
    "Problem",
    "RecordingError",
    "SessionError",
    "StartError",
    "TopicError",
    "named",
    "suggest",
]

ENDS = (KeyboardInterrupt, GeneratorExit)
"""What ends whoever runs user code; all else that it raises, `SystemExit` too, is reported."""


class EtherError(Exception):
    """Whatever ether raises on purpose."""

    exit_code: ClassVar[int] = 1
    """What the `ether` command exits with when this reaches it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration."""

    where: str
    """``file:line:column`` of the key or value, or its path (``instances.oven.kwargs``) where there is no file."""
    what: str
    """What is wrong and the way out, one line."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConfigError(EtherError, ValueError):
    """The configuration cannot work; `problems` holds all that is wrong, in the order of the file."""

    exit_code = 3

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class ComponentError(EtherError, TypeError):
    """A class is marked in a way that cannot work."""

    exit_code = 3


class TopicError(EtherError, ValueError):
    """A topic, topic filter or name breaks a rule of MQTT or of the reserved tree."""

    exit_code = 2


class PayloadError(EtherError, ValueError):
    """Bytes that are no reading, or a value that cannot travel as one."""


class FieldError(PayloadError):
    """A message that does not fit its handler, or a result that does not fit its annotation: field, expected, got."""


class BrokerError(EtherError, ConnectionError):
    """No broker could be reached or started, or it refused us."""

    exit_code = 4


class StartError(EtherError, RuntimeError):
    """Instances that did not become ready; `failures` maps each name to the reason, with its traceback."""

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = failures
        super().__init__("\n".join(f"{name}: {reason}" for name, reason in failures.items()))


class PreflightError(EtherError, RuntimeError):
    """Streams that do not come as `expect:` says; `shortfalls` maps each topic to what is missing, and why."""

    def __init__(self, shortfalls: dict[str, str]) -> None:
        self.shortfalls = shortfalls
        super().__init__("\n".join(f"{topic}: {detail}" for topic, detail in shortfalls.items()))


class CallError(EtherError, RuntimeError):
    """A call failed on the remote side, or its target is unknown or gone.

    Attributes:
        type: name of the remote exception, such as ``"ValueError"``; ``"Unreachable"`` where no target answered.
        traceback: the remote traceback as text, empty where there is none.
    """

    def __init__(self, message: str, type: str = "Unreachable", traceback: str = "") -> None:
        self.type = type
        self.traceback = traceback
        super().__init__(message)


class CallTimeout(CallError, TimeoutError):
    """No reply came in time; the target may still be at work."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="Timeout")


class SessionError(EtherError, RuntimeError):
    """The session is not in a state that allows this."""


class PortError(EtherError, OSError):
    """A serial port that cannot be opened, or that is not there (any more): what is wrong, and the way out."""


class JournalError(EtherError, OSError):
    """The journal cannot take or give back records."""

    def __str__(self) -> str:
        return str(self.strerror or super().__str__())  # without the number of the error


class RecordingError(EtherError, ValueError):
    """Not a recording, or a damaged one."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the text to append to an error, ``; did you mean `period`?``, or nothing when no known name is near."""
    names = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(word).lower(), names, n=1, cutoff=0.6)
    return f"; did you mean `{names[near[0]]}`?" if near else ""


def named(value: object) -> str:
    """Return a value as an error names it: ``the text 'soon'``, ``a mapping``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{'true' if value else 'false'} (YAML reads on, off, yes and no so; quote it if a text is meant)"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"{type(value).__name__} {value!r}"
