"""From a topic to its subscribers: a trie of filters, walked once per topic and then cached by the broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sessions import Session

__all__ = ["Group", "Route", "Subscriptions", "covers", "kept_for", "matches", "split_shared", "valid_filter"]


def kept_for(targets: Iterable[tuple[Session, int]], published_qos: int) -> tuple[tuple[int, int], ...]:
    """(session number, QoS) of those targets that must find the message again after a crash."""
    return tuple((s.number, min(qos, published_qos)) for s, qos in targets if s.durable and qos)


class Group:
    """The members of one `$share/name/filter`; each message goes to one of them."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: dict[Session, int] = {}

    def pick(self) -> tuple[Session, int] | None:
        """The member whose turn it is: the next connected one, else the next persistent one, else None."""
        absent = None
        for session in list(self.members):
            if session.connection is not None:
                break
            absent = absent or (session if session.persistent else None)
        else:
            if absent is None:
                return None
            session = absent
        qos = self.members.pop(session)
        self.members[session] = qos  # to the back of the line
        return session, qos


class Route:
    """Where messages of one topic go."""

    __slots__ = ("groups", "ignored", "kept", "targets")

    def __init__(self, targets: list[tuple[Session, int]], groups: list[Group], ignored: bool = False) -> None:
        self.targets = targets
        """(session, granted QoS), each session once, with the highest QoS of its overlapping filters (3.3.5)."""
        self.groups = groups
        self.ignored = ignored
        """The topic belongs to the broker: accept what clients publish to it and do nothing."""
        self.kept = ((), kept_for(targets, 1), kept_for(targets, 2))
        """Published QoS → what `Store.message` is told, shared groups aside."""


class _Node:
    __slots__ = ("children", "groups", "members")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.members: dict[Session, int] = {}
        self.groups: dict[str, Group] = {}

    @property
    def empty(self) -> bool:
        return not (self.children or self.members or self.groups)


class Subscriptions:
    """All filters of all sessions."""

    def __init__(self) -> None:
        self._root = _Node()
        self.count = 0
        """Subscriptions, shared ones included."""
        self.shared_count = 0

    def add(self, topic_filter: str, session: Session, qos: int) -> None:
        """Subscribe `session`, or change the QoS of its subscription."""
        group_name, path = split_shared(topic_filter)
        node = self._root
        for level in path.split("/"):
            node = node.children.setdefault(level, _Node())
        members = node.members if group_name is None else node.groups.setdefault(group_name, Group()).members
        if session not in members:
            self.count += 1
            self.shared_count += group_name is not None
        members[session] = qos

    def remove(self, topic_filter: str, session: Session) -> None:
        """End a subscription; one that does not exist is no error."""
        group_name, path = split_shared(topic_filter)
        way = [self._root]
        levels = path.split("/")
        for level in levels:
            child = way[-1].children.get(level)
            if child is None:
                return
            way.append(child)
        group = way[-1].groups.get(group_name) if group_name is not None else None
        members = way[-1].members if group_name is None else (group.members if group else {})
        if members.pop(session, None) is None:
            return
        self.count -= 1
        if group_name is not None and group is not None:
            self.shared_count -= 1
            if not group.members:
                del way[-1].groups[group_name]
        for parent, level in zip(reversed(way[:-1]), reversed(levels), strict=True):
            if not parent.children[level].empty:
                break
            del parent.children[level]

    def group(self, topic_filter: str) -> Group | None:
        """The members of the shared subscription `topic_filter`; None if there are none."""
        name, path = split_shared(topic_filter)
        node: _Node | None = self._root
        for level in path.split("/"):
            node = node.children.get(level) if node is not None else None
        return node.groups.get(name) if node is not None and name is not None else None

    def route(self, topic: str) -> Route:
        """The subscribers of `topic`."""
        targets: dict[Session, int] = {}
        groups: list[Group] = []
        for node in self._matching_nodes(topic):
            for session, qos in node.members.items():
                if qos >= targets.get(session, 0):
                    targets[session] = qos
            groups.extend(node.groups.values())
        return Route(list(targets.items()), groups)

    def watches(self, first_level: str) -> bool:
        """Whether a filter begins with `first_level`, literally."""
        return first_level in self._root.children

    def _matching_nodes(self, topic: str) -> Iterator[_Node]:
        levels = topic.split("/")
        nodes = [self._root]
        for depth, level in enumerate(levels):
            # 4.7.2: a wildcard at the front does not match topics that begin with $.
            wild = depth > 0 or not topic.startswith("$")
            below = []
            for node in nodes:
                if (child := node.children.get(level)) is not None:
                    below.append(child)
                if wild:
                    if (child := node.children.get("+")) is not None:
                        below.append(child)
                    if (child := node.children.get("#")) is not None:
                        yield child
            nodes = below
            if not nodes:
                return
        for node in nodes:
            yield node
            # 4.7.1.2: "sport/#" also matches "sport".
            if (child := node.children.get("#")) is not None:
                yield child


def split_shared(topic_filter: str) -> tuple[str | None, str]:
    """(group, filter) of `$share/group/filter`, or (None, `topic_filter`)."""
    if topic_filter.startswith("$share/") and topic_filter.count("/") > 1:
        _, group, path = topic_filter.split("/", 2)
        return group, path
    return None, topic_filter


def valid_filter(topic_filter: str, max_levels: int) -> bool:
    """Whether `topic_filter` obeys 4.7.1: not empty, `+` and `#` alone in their level, `#` only at the end."""
    levels = topic_filter.split("/")
    if not topic_filter or len(levels) > max_levels:
        return False
    if "#" in topic_filter and topic_filter.find("#") != len(topic_filter) - 1:
        return False
    return all(level in ("+", "#") or not ("+" in level or "#" in level) for level in levels)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether `topic_filter` covers `topic`. For replaying retained messages; publishing walks the trie."""
    if topic_filter == topic:
        return True
    if topic[0] == "$" and topic_filter[0] in "+#":
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for depth, level in enumerate(wanted):
        if level == "#":
            return True
        if depth == len(levels) or level not in ("+", levels[depth]):
            return False
    return len(wanted) == len(levels)


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that filter `narrow` matches is matched by filter `wide`: `a/+` does not cover `a/#`."""
    if narrow[0] == "$" and wide[0] in "+#":
        return False
    given, asked = wide.split("/"), narrow.split("/")
    for depth, level in enumerate(given):
        if level == "#":
            return True
        if depth == len(asked) or asked[depth] == "#" or level not in ("+", asked[depth]):
            return False
    return len(given) == len(asked)
