"""Who may publish and subscribe where: roles, what a user was granted beside them, and the check itself.

Rights are only ever granted, never taken away again: Mosquitto's ACL file can say no more, and both
brokers are to decide alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .matching import covers, matches, split_shared, valid_filter
from .packets import MalformedPacket, utf8

if TYPE_CHECKING:
    from .users import User

__all__ = ["EVERYBODY", "ROLES", "Access", "Rights", "check_filter", "rights"]

_TOPIC_LEVELS = 200
_REMEMBERED = 1000
"""Topics whose check a connection remembers."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Filters one may subscribe to, and filters of topics one may publish to; `%u` is the user, `%c` the client."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


EVERYBODY = Rights(read=("ether/reply/%c",))
"""What every user may do, the answers to one's own calls."""

_OWN = ("ether/status/%u", "ether/about/%u", "ether/log/%u", "ether/pong/%u")
_QUESTION = "ether/command/recorder/confirm"
"""What is recorded of what I sent? The answer frees an outbox."""
_ORDERS = ("ether/status/%u", "ether/command/%u/#", "ether/control/+", "ether/stored/%u")

ROLES = {
    "component": Rights(
        (*_ORDERS, "ether/session", "ether/run", "ether/status/+", "ether/about/+", "ether/call/%u/#"),
        (*_OWN, _QUESTION, "ether/call/#", "ether/reply/+", "ether/annotation"),
    ),
    "recorder": Rights(("#", "$SYS/#"), (*_OWN, "ether/stored/+", "ether/command/+/ping")),
    "device": Rights((*_ORDERS, "ether/status/recorder", "ether/about/recorder"), (*_OWN, _QUESTION)),
    "dashboard": Rights(("#", "$SYS/#"), ()),
    "admin": Rights(("#", "$SYS/#"), ("#",)),
}
"""Role → rights. Data topics are granted by name, since "all but ether's own" cannot be said by granting."""

_OWN_DATA = ("%u", "%u/#")
"""Where a component or a device publishes unless its topics are listed."""


def rights(user: User, namespace: str = "") -> Rights:
    """Return what `user` may do, `%u` filled in; all but an admin only below `namespace`."""
    role = ROLES[user.role]
    if user.role == "admin":
        return role
    publish, subscribe = user.publish, user.subscribe
    if user.role in ("component", "device"):
        publish = publish or _OWN_DATA
        role = Rights(role.read, (*role.write, *(f"ether/resend/{topic}" for topic in publish)))
    if user.role == "component":
        subscribe = subscribe or ("#",)

    def named(filters: Iterable[str]) -> tuple[str, ...]:
        below = f"{namespace}/" if namespace else ""
        found = (each.replace("%u", user.name) for each in filters)
        return tuple(dict.fromkeys(each if each.startswith("$") else below + each for each in found))

    return Rights(named((*EVERYBODY.read, *role.read, *subscribe)), named((*role.write, *publish)))


def check_filter(topic_filter: str, *, publish: bool) -> None:
    """Raise ValueError unless `topic_filter` can be granted to a user."""
    try:
        utf8(topic_filter.encode())
        valid = valid_filter(topic_filter, _TOPIC_LEVELS) and topic_filter == topic_filter.strip()
    except (MalformedPacket, UnicodeEncodeError):
        valid = False
    if not valid:
        raise ValueError(f"{topic_filter!r} is no topic filter; write lab/oven/# or lab/+/temperature")
    if topic_filter.startswith("$"):
        raise ValueError(f"{topic_filter!r}: topics with $ are the broker's own")
    first = topic_filter.partition("/")[0]
    if publish and (first in ("+", "#") or "%c" in first):  # a client calls itself what it likes, `ether` included
        raise ValueError(f"{topic_filter!r} covers the topics of ether itself; name the first level, such as lab/#")


class Access:
    """The rights of one connection."""

    __slots__ = ("_read", "_verdicts", "_write", "username")

    def __init__(self, username: str, granted: Rights, client_id: str) -> None:
        self.username = username
        self._read = _for_client(granted.read, client_id)
        self._write = _for_client(granted.write, client_id)
        self._verdicts: dict[bytes, bool] = {}

    def may_publish(self, prefix: bytes) -> bool:
        """Whether one may publish to a topic, given as it travels: two bytes of length, then UTF-8."""
        verdict = self._verdicts.get(prefix)
        if verdict is None:
            topic = prefix[2:].decode()
            verdict = any(matches(granted, topic) for granted in self._write)
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            self._verdicts[prefix] = verdict
        return verdict

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether everything `topic_filter` matches may be read; of `$share/group/filter` the filter counts."""
        path = split_shared(topic_filter)[1]
        return any(covers(granted, path) for granted in self._read)


def _for_client(granted: tuple[str, ...], client_id: str) -> tuple[str, ...]:
    """Fill in `%c`; a client that calls itself `+` would be granted everybody's."""
    if any(sign in client_id for sign in "+#/"):
        return tuple(each for each in granted if "%c" not in each)
    return tuple(each.replace("%c", client_id) for each in granted)
