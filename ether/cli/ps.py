"""`ether ps`: who runs."""

from __future__ import annotations

from typing import Any

from ether.cli import output
from ether.cli.arguments import AsJson
from ether.cli.joined import joined
from ether.errors import CallError

__all__ = ["known_processes", "ps", "rows"]


def ps(json: AsJson = False) -> None:
    """List the instances of the running session."""
    with joined() as ether:
        found = rows(ether)
    if json:
        for row in found:
            output.as_json(row)
        return
    columns = ("name", "state", "process", "class", "host", "pid")
    output.table(
        [column.upper() for column in (*columns, "detail")],
        [
            [str(row[key] or "") if key == "pid" else row[key] for key in columns] + [row["detail"].partition("\n")[0]]
            for row in found
        ],
    )


def rows(
    ether: Any, processes: dict[str, dict[str, Any]] | None = None, seen: dict[str, dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return what is known of every instance, by name; the session itself is none.

    Args:
        processes: what `Ether.processes` says; by default it is asked.
        seen: what `Ether.members` says; by default it is asked.
    """
    if processes is None:
        processes = known_processes(ether)
    if seen is None:
        seen = _seen_members(ether) if processes else {}
    return [
        _as_row(instance, processes.get(name, {}), seen.get(name, {}))
        for name, instance in sorted(ether.instances().items())
        if name != "session"
    ]


_LEVELS = {"disk": "L3", "memory": "L2"}
"""Where an instance keeps what is not recorded yet, and what that guarantees."""


def known_processes(ether: Any) -> dict[str, dict[str, Any]]:
    """Return `Ether.processes`; nothing, with a warning, where the session's own process does not answer."""
    try:
        found: dict[str, dict[str, Any]] = ether.processes()
    except CallError as exc:
        output.complain(f"the session's process does not answer ({exc})")
        return {}
    return found


def _seen_members(ether: Any) -> dict[str, dict[str, Any]]:
    """Return `Ether.members`; nothing where the session's own process does not answer, which has been said."""
    try:
        found: dict[str, dict[str, Any]] = ether.members()
    except CallError:
        return {}
    return found


_LONGER = ("reconnecting", "lost")
"""States that only somebody who has been listening for longer can tell."""


def _as_row(instance: Any, process: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of one instance as JSON-able fields."""
    state, detail = str(instance.state), instance.detail or ""
    if seen.get("state") in _LONGER:
        state, detail = seen["state"], seen["detail"] or detail
    return {
        "name": instance.name,
        "state": state,
        "process": process.get("state", ""),
        "restarts": process.get("restarts"),
        "class": instance.class_name,
        "host": instance.host,
        "pid": instance.pid,
        "detail": detail,
        "level": _LEVELS.get(instance.about.outbox, "") if instance.about is not None else "",
        "counts": dict(instance.counts or {}),
    }
