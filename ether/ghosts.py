"""Ghosts: what a broker retains of members that are gone and that no running session knows."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ether import clock, runtime, topics
from ether.client import PROCESSES, Client
from ether.errors import CallError, SessionError
from ether.model import GONE

__all__ = ["Ghost", "clear", "find", "known_to_session"]

_PATIENCE_S = 3.0
"""Whoever lives tells within so long, or within three times what it promised."""
_SESSION = "session"


@dataclass(frozen=True, slots=True)
class Ghost:
    """One member that is gone."""

    name: str
    why: str
    """How that is known, in words."""
    topics: tuple[str, ...]
    """What is retained of it."""
    host: str = ""
    pid: int | None = None


def known_to_session(client: Client) -> set[str]:
    """Return the members that the running session supervises, whatever their state; SessionError if it says nothing."""
    status = client.statuses.get(_SESSION)
    if status is None or status.state in GONE or not client.lives(_SESSION):
        return set()
    try:
        return {_SESSION, *client.request(_SESSION, PROCESSES)}
    except CallError as exc:
        raise SessionError(f"the session lives, and does not say which members are its own ({exc}); try later") from exc


def find(client: Client, known: Collection[str], wait: Callable[[float], object]) -> list[Ghost]:
    """Return who is gone for good, after waiting for a sign of life from everybody.

    Who promised no repetition is taken at its word; a member of this machine is gone only when its process is.

    Args:
        known: members that are no ghosts, whatever their state.
        wait: for so many seconds; true where there is no time for it any more.
    """
    client.watch()
    names = [name for name in {**client.statuses, **client.alarms} if name not in known]
    before = {name: client.heard_at(name) for name in names}
    statuses = [status for name in names if (status := client.statuses.get(name)) is not None]
    promised = [3 * status.every for status in statuses if status.every and status.state not in GONE]
    deadline = clock.monotonic() + max([_PATIENCE_S, *promised])
    while names and clock.monotonic() < deadline and any(map(client.may_be_gone, names)):
        if wait(0.1):
            return []
        names = [name for name in names if client.heard_at(name) == before[name]]
    return [ghost for name in sorted(names) if (ghost := _ghost(client, name)) is not None]


def _ghost(client: Client, name: str) -> Ghost | None:
    status, about = client.statuses.get(name), client.abouts.get(name)
    if not client.may_be_gone(name):
        return None
    host, pid = (about.host, about.pid) if about is not None else ("", None)
    if host == socket.gethostname() and pid is not None and pid != os.getpid() and runtime.alive(pid):
        return None
    why = "raised alarms, and is not there"
    if status is not None:
        first = status.detail.partition("\n")[0]
        why = (
            f"{status.state}{f': {first}' if first else ''}" if status.state in GONE else f"{status.state}, and silent"
        )
    retained = [topics.status(name), topics.about(name), topics.alarm(name)]
    if name == _SESSION:
        retained += [topics.SESSION, topics.RUN]
    return Ghost(name, why, tuple(retained), host, pid)


def clear(client: Client, found: Collection[Ghost]) -> None:
    """Remove what is retained of ghosts; one that comes back after all says again what it is."""
    for ghost in found:
        for topic in ghost.topics:
            client.connection.publish(topic, b"", 1, retain=True)
    client.connection.flush(5.0)
