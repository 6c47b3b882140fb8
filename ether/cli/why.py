"""`ether why NAME|TOPIC`: what is known of somebody or something that is not there, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ether import clock, log, topics
from ether.cli import output
from ether.cli.arguments import AsJson, seconds
from ether.cli.joined import joined
from ether.cli.ps import known_processes, rows
from ether.cli.status import disk
from ether.errors import BrokerError, CallError, RecordingError, SessionError, suggest
from ether.model import Reading

__all__ = ["Member", "reasons", "why"]

_RECORDER = "recorder"
_WORDS = 5
"""Last lines that are shown."""
_HUNG = "has not returned"
_SLOW_MS = 100.0
_TELLS_S = 5.0
"""After so long a member has told what it counts."""


@dataclass(frozen=True, slots=True)
class Member:
    """What is known of an instance, a device or the recorder."""

    name: str
    state: str = ""
    """Empty where nothing was ever heard of it."""
    detail: str = ""
    for_s: float | None = None
    """So long it is in that state."""
    heard_s: float | None = None
    every: float | None = None
    losses: int = 0
    process: Mapping[str, Any] = field(default_factory=dict)
    """What its supervisor knows; empty where that is not the session."""
    host: str = ""
    counts: Mapping[str, float] = field(default_factory=dict)
    publishes: tuple[str, ...] = ()
    sampling: bool = True
    """Whether the session has been started."""

    @property
    def words(self) -> list[str]:
        """What it said last: of its process, or in its status."""
        said = self.process.get("last_lines") or self.detail.splitlines()[1:]
        return [str(line) for line in said][-_WORDS:]


def why(
    name: Annotated[str, typer.Argument(metavar="NAME|TOPIC", help="An instance, a device, or a topic.")],
    listen: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long to listen to a topic.")] = "2s",
    json: AsJson = False,
) -> None:
    """Explain why an instance, a device or a topic is absent, and what to do.

    From its last status, its process, queue and reconnects, what it said last, who should publish the topic and who
    did, what is expected, and what the recorder has.
    """
    span = seconds(listen) or 0.0
    try:
        with joined() as ether:
            found = _explain(ether, name, span)
    except BrokerError:
        _tell_of_the_last(name)
        raise
    if json:
        output.as_json(found, indent=2)
        return
    for line in found["why"]:
        output.line(line)
    for label, text in found["facts"]:
        output.line(f"  {label:<10} {text}")


def _explain(ether: Any, name: str, span: float) -> dict[str, Any]:
    """Return ``why``, sentences; ``facts``, pairs of a word and a line; and ``kind``: ``member`` or ``topic``."""
    members = _members(ether)
    if name in members:
        return {"name": name, "kind": "member", "why": reasons(members[name]), "facts": _facts(ether, members[name])}
    return {"name": name, "kind": "topic", **_topic(ether, name, members, span)}


def _members(ether: Any) -> dict[str, Member]:
    processes = known_processes(ether)
    try:
        seen = ether.members() if processes else {}
    except CallError:
        seen = {}
    known = {row["name"]: row for row in rows(ether, processes, seen)}
    abouts = {name: info.about for name, info in ether.instances().items() if info.about is not None}
    sampling = processes.get("session", {}).get("started", True)
    found = {}
    for name in {**known, **processes}:
        row, process, look = known.get(name, {}), processes.get(name, {}), seen.get(name, {})
        declared = dict.fromkeys([*process.get("publishes", ()), *(abouts[name].publishes if name in abouts else ())])
        found[name] = Member(
            name, row.get("state", ""), row.get("detail", ""), look.get("for_s"), look.get("heard_s"),
            look.get("every"), look.get("losses", 0), process, row.get("host", ""), row.get("counts", {}),
            tuple(declared), sampling,
        )  # fmt: skip
    return found


# --- an instance, a device


def reasons(member: Member) -> list[str]:
    """Return in sentences why a member is not there, or what is slow about it; the first one is the reason."""
    process = member.process
    return _of_the_process(member) if process and process.get("state") != "running" else _of_the_state(member)


def _of_the_process(member: Member) -> list[str]:
    """Explain by what the supervisor knows: it is not running."""
    name, process = member.name, member.process
    state, ending = process.get("state"), process.get("exit") or "it ended"
    again = f"`ether start {name}` starts it"
    if state == "stopped" and not process.get("since"):
        told = "is declared with `autorun: false`, and" if process.get("autorun") is False else "was declared, and"
        return [f"{name} {told} was never started; {again}"]
    if state == "stopped":
        return [f"{name} was stopped by order, and stays so; {again}"]
    if state == "backoff":
        left = max(0.0, (process.get("again_at") or 0.0) - clock.now())
        times = process.get("restarts", 0)
        return [f"{name} ended: {ending}; it is started again in {left:.1f} s, after {_times(times)}", *_last(member)]
    if state == "fatal":
        return [f"{name} failed for good: {ending}; mend it, then {again}", *_last(member)]
    if state == "exited":
        policy = process.get("restart", "never")
        return [f"{name} ended: {ending}; with `restart: {policy}` nobody starts it again; {again}", *_last(member)]
    return [f"{name} is {state}{_since(process.get('since'))}"]


def _of_the_state(member: Member) -> list[str]:
    """Explain by what it says of itself, and by when it was heard last."""
    name, state, first = member.name, member.state, member.detail.partition("\n")[0]
    pid = member.process.get("pid")
    ours = f"its process {pid} runs" if pid else f"it runs on {member.host or 'another machine'}, not in this session"
    if not state:
        return [f"{name} has said nothing yet: {ours}"]
    if state == "reconnecting":
        until = f" within {3 * member.every:g} s" if member.every else ""
        return [f"{name} lost its connection to the broker {_ago(member.for_s)}; if it is not back{until}, it is lost"]
    if state == "lost" and first.startswith("silent"):
        what = "it hangs, is stopped, or cannot reach the broker" if pid else "look after it, its power and its network"
        return [f"{name} is silent: it promised a status every {member.every or 0:g} s, the last came "
                f"{_ago(member.heard_s)}; {ours}: {what}"]  # fmt: skip
    if state == "lost":
        how = first or "its last will came"
        do = "but does not reach the broker" if pid else "so whoever runs it has to start it"
        return [f"{name} is lost{_for(member.for_s)}: {how}; {ours}, {do}", *_last(member)]
    if state == "disconnected":
        return [f"{name} said goodbye{_for(member.for_s)}; {ours}, so whoever runs it has to start it"]
    if state == "init":
        return [
            f"{name} is not ready yet{_for(member.for_s)}: its constructor or an `ether_init` hook is at work; {ours}"
        ]
    if state == "alert" and _HUNG in first:
        return [f"{name} hangs: {first}; {ours}. It stands here:", *_stack(member)]
    if state == "alert":
        return [f"{name} is there, but a handler failed: {first}", *_last(member)]
    return [f"{name} is {state}{_for(member.for_s)}", *_slowness(member)]


def _slowness(member: Member) -> list[str]:
    """Say of one that is there what may keep its data away."""
    counts = member.counts
    found = []
    if counts.get("queued"):
        slow = counts.get("handle_ms_p99", 0.0)
        found.append(
            f"{counts['queued']:,.0f} messages wait for its methods"
            + (f", which take {slow:,.0f} ms (p99)" if slow > _SLOW_MS else "")
        )
    if counts.get("unstored"):
        found.append(
            f"{counts['unstored']:,.0f} of its messages could not be kept: the recorder did not confirm in time"
        )
    if member.publishes and not counts.get("published") and (member.for_s is None or member.for_s > _TELLS_S):
        because = "" if member.sampling else ": the session has not begun, by `ether.start()`"
        found.append(f"it has published nothing yet{because}")
    return found


def _last(member: Member) -> list[str]:
    return [f"  {line}" for line in member.words]


def _stack(member: Member) -> list[str]:
    """Return where the main thread stands, the innermost calls: it runs the methods."""
    lines = member.detail.splitlines()[1:]
    others = [place for place, line in enumerate(lines) if line.startswith("Thread ")][1:]
    return [f"  {line}" for line in lines[: others[0] if others else None][-2 * _WORDS :]]


def _facts(ether: Any, member: Member) -> list[tuple[str, str]]:
    process, counts = member.process, member.counts
    found = []
    if member.state:
        heard = "" if member.heard_s is None else f", heard {_ago(member.heard_s)}"
        found.append(("status", f"{member.state}{_for(member.for_s)}{heard}"))
    if process:
        pid = f" {process['pid']}" if process.get("pid") else ""
        policy = (
            f", restart: {process['restart']}, {_times(process.get('restarts') or 0)}" if "restart" in process else ""
        )
        ending = f", last end: {process['exit']}" if process.get("exit") else ""
        found.append(("process", f"{process.get('state', '')}{pid}{policy}{ending}"))
    elif member.host:
        found.append(("machine", member.host))
    found.append(("connection", f"reconnects: {int(counts.get('reconnects', 0))}, last wills: {member.losses}"))
    done = [f"{counts[key]:,.0f} {key}" for key in
            ("received", "handled", "dropped", "failed", "queued", "published") if counts.get(key)]  # fmt: skip
    if done:
        found.append(("counts", ", ".join(done)))
    if member.name == _RECORDER:
        stored, missing = counts.get("recorded", 0), counts.get("lost", 0)
        found.append(("recording", f"{stored:,.0f} messages, {missing:,.0f} missing; {disk(dict(counts))}"))
    found += _stored(ether, member)
    found += [("ALARM", f"{each.get('topic')}: {each.get('detail')}") for each in ether.info().get("alarms", ())
              if each.get("by") == member.name or _concerns(member.publishes, each)]  # fmt: skip
    found += [("logged", f"{line.level or line.stream}: {line.message}") for line in _logged(ether, member.name)]
    return found


def _concerns(published: Iterable[str], alarm: Mapping[str, Any]) -> bool:
    return any(topics.matches(str(alarm.get("topic", "")), topic) for topic in published)


def _stored(ether: Any, member: Member) -> list[tuple[str, str]]:
    """Return what the recorder has of it, by topic."""
    said = ether._need().stored_of(member.name)  # noqa: SLF001 - for this verb alone
    if said is None:
        return []
    missing = said.get("missing") or {}
    found = []
    for topic, number in sorted((said.get("topics") or {}).items()):
        holes = sum(last - first + 1 for first, last in missing.get(topic, ()))
        found.append(("recorded", f"{topic}: up to number {number:,}{f', {holes:,} missing' if holes else ''}"))
    unrecorded = sorted(set(member.publishes) - dict(said.get("topics") or {}).keys())
    return [*found, *(("recorded", f"{topic}: nothing of this start") for topic in unrecorded)]


def _logged(ether: Any, name: str) -> list[log.Line]:
    """Return its last lines of some gravity in the session's log."""
    from ether.client import LOG

    try:
        said = ether.request("session", LOG, {}, timeout=3.0)["lines"]
    except CallError:
        return []
    lines = (log.Line(**each) for each in said)
    return [line for line in lines if line.name == name and line.severity >= log.LEVELS.index("WARNING")][-_WORDS:]


# --- a topic


def _topic(ether: Any, topic: str, members: Mapping[str, Member], span: float) -> dict[str, Any]:
    givers = [member for member in members.values() if any(topics.matches(topic, each) for each in member.publishes)]
    alarms = [each for each in ether.info().get("alarms", ()) if each.get("topic") == topic]
    hearers = [info.name for info in ether.instances().values() if info.about is not None and info.name != _RECORDER
               and topics.matches_any(info.about.subscribes, topic)]  # fmt: skip
    heard = _heard(ether, topic, span)
    recorded = _recorded(ether, topic)
    if not (givers or alarms or hearers or heard or recorded):
        known = [*members, *(each for member in members.values() for each in member.publishes)]
        raise SessionError(
            f"{topic}: no instance is called so, and nobody publishes or hears such a topic"
            f"{suggest(topic, known) or '; `ether ps` and `ether topic list` tell what there is'}"
        )
    facts = [("publisher", f"{each.name}, {each.state or each.process.get('state', '')}") for each in givers]
    facts += [("heard by", name) for name in hearers]
    facts += [("recorded", recorded)] if recorded else []
    facts += [("ALARM", str(each.get("detail"))) for each in alarms]
    return {"why": _absence(topic, givers, heard, span, members), "facts": facts}


def _absence(
    topic: str, givers: list[Member], heard: list[Reading], span: float, members: Mapping[str, Member]
) -> list[str]:
    if heard:
        by = ", ".join(dict.fromkeys(reading.publisher or "a client that does not say its name" for reading in heard))
        return [f"{topic} comes: {len(heard)} messages within {span:g} s, by {by}"]
    first = f"{topic}: nothing came within {span:g} s"
    if not givers:
        known = [each for member in members.values() for each in member.publishes]
        return [f"{first}, and no instance says that it publishes it{suggest(topic, known)}"]
    return [f"{first}; {', '.join(each.name for each in givers)} should publish it",
            *(line for giver in givers for line in reasons(giver))]  # fmt: skip


def _heard(ether: Any, topic: str, span: float) -> list[Reading]:
    found: list[Reading] = []
    subscription = ether.subscribe(topic, found.append)
    deadline = clock.monotonic() + span
    while clock.monotonic() < deadline and ether.tapped:
        ether.wait(min(0.1, max(0.0, deadline - clock.monotonic())))
    subscription.stop()
    return found


def _recorded(ether: Any, topic: str) -> str:
    """Return what the session's recording has of a topic; empty where that is not on this machine, or nothing."""
    path = Path(ether.info().get("recording") or "")
    if not path.name or not path.exists():
        return ""
    import numpy as np

    from ether.recorder.reader import open_recording

    try:
        with open_recording(path) as recording:
            if topic not in recording:
                return ""
            stream = recording[topic]
            last = stream.take(np.array([len(stream) - 1]))
            age_s = clock.now() - int(last.time[0].astype("datetime64[ns]").astype(np.int64)) / 1e9
            return f"{len(stream):,} readings, the last {_ago(age_s)} by {last.publisher[0] or 'somebody'}"
    except (RecordingError, OSError):  # it is being written at this moment
        return ""


# --- where no session runs


def _tell_of_the_last(name: str) -> None:
    path = log.find(output.settings.session)
    if path is None:
        return
    known = log.header(path)
    lines = list(log.read(path))
    how = "was killed: its log has no end" if log.unfinished(known.get("session", "")) else "ended in order"
    output.complain(f"{known.get('session')}, which ran last, {how}; {path}")
    for line in [line for line in lines if line.name == name][-_WORDS:]:
        output.complain(f"  {line.name} said: {line.message}")


# --- words


def _ago(span_s: float | None) -> str:
    return "some time ago" if span_s is None else f"{_span(span_s)} ago"


def _for(span_s: float | None) -> str:
    return "" if span_s is None else f", for {_span(span_s)}"


def _since(at: float | None) -> str:
    return _for(clock.now() - at) if at else ""


def _span(span_s: float) -> str:
    for limit, unit, size in ((120.0, "s", 1.0), (7200.0, "min", 60.0), (172_800.0, "h", 3600.0)):
        if span_s < limit:
            return f"{span_s / size:.1f} {unit}" if span_s < 10 * size else f"{span_s / size:.0f} {unit}"
    return f"{span_s / 86_400:.0f} d"


def _times(count: int) -> str:
    return "1 restart" if count == 1 else f"{count} restarts"
