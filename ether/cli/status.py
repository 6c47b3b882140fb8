"""`ether status`: the session at a glance."""

from __future__ import annotations

from typing import Any

from ether.cli import output
from ether.cli.arguments import AsJson
from ether.cli.joined import joined
from ether.cli.ps import rows

__all__ = ["disk", "status"]

_LEVELS = ("L3", "L2", "L1", "L0")
_COUNTS = ("received", "handled", "dropped", "failed", "rejected", "published", "missed", "queued")


def status(json: AsJson = False) -> None:
    """Show the running session at a glance.

    Broker, recording, run, and what each instance has done.
    """
    with joined() as ether:
        info = ether.info()
        found = rows(ether)
    if json:
        output.as_json({**info, "instances": found}, indent=2)
        return
    session, broker, recorder = info.get("session") or {}, info.get("broker") or {}, info.get("recorder") or {}
    output.line(f"session    {session.get('name', '')}{_below(info.get('namespace'))}")
    output.line(f"broker     {broker.get('url', '')} ({broker.get('kind', '')}, {broker.get('why', '')})")
    output.line(f"recording  {info.get('recording') or 'off'}")
    if recorder:
        levels = ", ".join(f"{recorder[level]:,} at {level}" for level in _LEVELS if recorder.get(level))
        said = f"recorded   {recorder.get('recorded', 0):,}, lost {recorder.get('lost', 0):,}"
        output.line(f"{said} (readings: {levels})" if levels else said)
        output.line(f"disk       {disk(recorder)}")
    for alarm in info.get("alarms") or ():
        output.line(f"ALARM      {alarm.get('topic', '')}: {alarm.get('detail', '')}")
    if info.get("run"):
        output.line(f"run        {info['run'].get('name', '')}")
    output.line("")
    output.table(
        ["NAME", "STATE", "LEVEL", *(name.upper() for name in _COUNTS), "DETAIL"],
        [
            [
                row["name"],
                row["state"],
                row["level"],
                *(row["counts"].get(name) for name in _COUNTS),
                row["detail"].partition("\n")[0],
            ]
            for row in found
        ],
    )


def disk(recorder: dict[str, Any]) -> str:
    """Return what is left of the recorder's disk, for how long, and how it keeps up."""
    found = f"{recorder.get('disk_free', 0) / 1e9:,.1f} GB free"
    if left := recorder.get("disk_left_s"):
        found += f", full in {left / 3600:,.1f} h at this rate"
    if behind := recorder.get("behind_ms"):
        found += f"; {behind / 1e3:.1f} s behind, {recorder.get('waiting_bytes', 0) / 1e6:,.1f} MB wait"
    return found


def _below(namespace: str | None) -> str:
    return f", below {namespace}/" if namespace else ""
