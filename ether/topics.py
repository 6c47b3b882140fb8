"""Topics: the only file that joins or splits on "/", and the reserved tree (wire contract, section 1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ether.errors import TopicError

__all__ = [
    "ALL",
    "ANNOTATION",
    "PARAM_GET",
    "PARAM_SET",
    "RUN",
    "SESSION",
    "Pattern",
    "Reserved",
    "about",
    "alarm",
    "call",
    "check_filter",
    "check_name",
    "check_topic",
    "command",
    "control",
    "covers",
    "default",
    "is_filter",
    "is_reply",
    "is_reserved",
    "join",
    "levels",
    "log",
    "matches",
    "matches_any",
    "overlap",
    "parse",
    "pong",
    "portable",
    "probe",
    "reply",
    "resend",
    "slug",
    "status",
    "stored",
    "strip",
    "widest",
]

ROOT = "ether"
SESSION = "ether/session"
RUN = "ether/run"
ANNOTATION = "ether/annotation"
PARAM_GET = "param.get"
"""Method that every instance with live parameters answers to; no method of a class has a dot in its name."""
PARAM_SET = "param.set"
ALL = "#"
_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
_CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MAX_BYTES = 65_535


def status(name: str) -> str:
    return f"ether/status/{name}"


def alarm(name: str) -> str:
    """Of whoever raises alarms: retained, and cleared when there is none."""
    return f"ether/alarm/{name}"


def about(name: str) -> str:
    return f"ether/about/{name}"


def control(verb: str) -> str:
    return f"ether/control/{verb}"


def command(name: str, verb: str) -> str:
    return f"ether/command/{name}/{verb}"


def pong(name: str) -> str:
    return f"ether/pong/{name}"


def call(target: str, method: str) -> str:
    return f"ether/call/{target}/{method}"


def reply(client_id: str) -> str:
    return f"ether/reply/{client_id}"


def is_reply(topic: str) -> bool:
    """Return whether an answer may go to this topic: it was named by a stranger."""
    return topic.startswith(reply("")) and not is_filter(topic) and "\0" not in topic and len(topic) < 1000


def log(name: str) -> str:
    return f"ether/log/{name}"


def stored(name: str) -> str:
    return f"ether/stored/{name}"


def probe(token: str) -> str:
    """Return the root of what somebody sends itself to learn about the broker."""
    return f"ether/probe/{token}"


def resend(topic: str) -> str:
    return f"ether/resend/{topic}"


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a topic of the reserved tree says."""

    kind: str
    """``status``, ``about``, ``control``, ``command``, ``call``, ``reply``, ``log``, ``stored``, ``resend``, …"""
    name: str = ""
    """Instance, target, client or verb; for ``resend`` the data topic."""
    verb: str = ""
    """Verb of a command, method of a call."""


@lru_cache(4096)
def parse(topic: str) -> Reserved | None:
    """Return what a reserved topic says; None for a data topic."""
    if not is_reserved(topic):
        return None
    kind, _, rest = topic[len(ROOT) + 1 :].partition("/")
    if kind in ("command", "call"):
        name, _, verb = rest.partition("/")
        return Reserved(kind, name, verb)
    return Reserved(kind, rest)


def is_reserved(topic: str) -> bool:
    return topic.startswith("ether/") or topic == ROOT


def default(class_name: str, method_name: str) -> str:
    """Return the topic of a mark that names none: ``ClassName.method_name``."""
    return f"{class_name}.{method_name}"


def levels(topic: str) -> list[str]:
    return topic.split("/")


def join(namespace: str, topic: str) -> str:
    """Return `topic` as it travels: below the namespace, if there is one; topics with $ are the broker's own."""
    return f"{namespace}/{topic}" if namespace and topic[:1] != "$" else topic


def strip(namespace: str, topic: str) -> str:
    """Return `topic` without the namespace it travelled below."""
    return topic[len(namespace) + 1 :] if namespace and topic[:1] != "$" else topic


def is_filter(topic: str) -> bool:
    return "+" in topic or "#" in topic


def check_name(name: str) -> str:
    """Return the instance name, or raise TopicError: letters, digits, ``_``, ``-``, ``.`` only."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise TopicError(f"{name!r} cannot name an instance; use letters, digits, '_', '-' and '.' only")
    return name


def check_topic(topic: str) -> str:
    """Return a topic that a user may publish to, or raise TopicError."""
    _check_text(topic)
    if is_filter(topic):
        raise TopicError(f"topic {topic!r}: '+' and '#' are for subscribing; a publisher names one topic")
    return topic


def check_filter(topic_filter: str) -> str:
    """Return a topic filter that a user may subscribe to, or raise TopicError."""
    _check_text(topic_filter)
    parts = levels(topic_filter)
    for place, level in enumerate(parts):
        if "#" in level and (level != "#" or place != len(parts) - 1):
            raise TopicError(f"topic filter {topic_filter!r}: '#' stands alone, as the last level")
        if "+" in level and level != "+":
            raise TopicError(f"topic filter {topic_filter!r}: '+' stands alone between two '/'")
    return topic_filter


def _check_text(topic: str) -> None:
    if not isinstance(topic, str) or not topic:
        raise TopicError(f"topic {topic!r}: a topic is a text of at least one character")
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise TopicError(f"topic {topic!r}: not valid Unicode") from None
    if size > _MAX_BYTES:
        raise TopicError(f"topic {topic[:40]!r}…: {size} bytes; MQTT allows {_MAX_BYTES}")
    if "\0" in topic:
        raise TopicError(f"topic {topic!r}: NUL is not allowed")
    if topic.startswith("$"):
        raise TopicError(f"topic {topic!r}: a leading '$' belongs to the broker")
    if is_reserved(topic):
        raise TopicError(f"topic {topic!r}: 'ether/' is reserved for ether itself; choose another first level")


def portable(topic: str) -> bool:
    """Return whether every broker keeps this topic apart: ASCII, no spaces, no '.', no leading '/'."""
    return topic.isascii() and not set(topic) & set(" .*>") and not topic.startswith("/")


def slug(text: str) -> str:
    """Return a foreign name as one that an instance, or a level of a portable topic, may have."""
    return _UNFIT.sub("_", text).strip("_") or "unnamed"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A topic filter that names levels, or parts of them: ``tele/{dev}/SENSOR``, ``{dev}/status/switch:{ch}``."""

    text: str
    filter: str
    """What to subscribe to."""
    names: tuple[str, ...]
    _found: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Return the pattern, or raise TopicError."""
        if not isinstance(text, str) or not text:
            raise TopicError(f"topic pattern {text!r}: a text of at least one character")
        names: list[str] = []
        wanted, found = [], []
        for level in levels(text):
            places = list(_CAPTURE.finditer(level))
            if "{" in _CAPTURE.sub("", level) or "}" in _CAPTURE.sub("", level):
                raise TopicError(f"topic pattern {text!r}: write `{{name}}`, of letters, digits and `_`")
            names += [place[1] for place in places]
            wanted.append("+" if places else level)
            found.append(_level_regex(level))
        if twice := [name for name in names if names.count(name) > 1]:
            raise TopicError(f"topic pattern {text!r}: `{{{twice[0]}}}` stands twice")
        topic_filter = check_filter("/".join(wanted))
        return cls(text, topic_filter, tuple(names), re.compile("/".join(found).replace("/.*", "(?:/.*)?") + r"\Z"))

    def match(self, topic: str) -> dict[str, str] | None:
        """Return what the named parts are in a topic; None for a topic that does not fit."""
        found = self._found.match(topic)
        return None if found is None else found.groupdict()

    @staticmethod
    def fill(template: str, parts: dict[str, str]) -> str:
        """Return a template with its named parts filled in; KeyError for one that is not there."""
        return _CAPTURE.sub(lambda found: parts[found[1]], template)

    @staticmethod
    def names_in(template: str) -> list[str]:
        return _CAPTURE.findall(template)


def _level_regex(level: str) -> str:
    """Return the regular expression of one level of a pattern."""
    if level in ("#", "+"):
        return ".*" if level == "#" else "[^/]*"
    pieces = _CAPTURE.split(level)  # literal, name, literal, …
    return "".join(f"(?P<{piece}>[^/]+)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces))


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether the filter matches, by MQTT 3.1.1 section 4.7 (wildcards never match a leading '$')."""
    if topic_filter == topic:
        return True
    if not is_filter(topic_filter) or (topic.startswith("$") and topic_filter[0] in "+#"):
        return False
    wanted, given = levels(topic_filter), levels(topic)
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(given) or level not in ("+", given[place]):
            return False
    return len(wanted) == len(given)


def covers(wider: str, narrower: str) -> bool:
    """Return whether every topic that `narrower` matches is matched by `wider` too."""
    wide, narrow = levels(wider), levels(narrower)
    for place, level in enumerate(wide):
        if level == "#":
            return True
        if place >= len(narrow) or narrow[place] == "#" or (level != "+" and level != narrow[place]):
            return False
    return len(wide) == len(narrow)


def overlap(one: str, other: str) -> bool:
    """Return whether some topic is matched by both filters."""
    left, right = levels(one), levels(other)
    for place, level in enumerate(left):
        if level == "#" or (place < len(right) and right[place] == "#"):
            return True
        if place >= len(right) or ("+" not in (level, right[place]) and level != right[place]):
            return False
    return len(left) == len(right) or right[len(left) :] == ["#"]


def widest(filters: Iterable[str]) -> list[str]:
    """Return the filters that no other covers: brokers differ in how often overlapping subscriptions deliver."""
    wanted = list(dict.fromkeys(filters))
    return [one for one in wanted if not any(other != one and covers(other, one) for other in wanted)]


def matches_any(filters: Iterable[str], topic: str) -> bool:
    return any(matches(topic_filter, topic) for topic_filter in filters)
