"""Run a session in the foreground: show it, end it in order, and tell what came of it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ether import clock, process
from ether.cli import output
from ether.cli.stopping import stop_on_signals
from ether.cli.verify import verdict
from ether.errors import SessionError

if TYPE_CHECKING:
    from ether.config import Config
    from ether.recorder.verify import Report

__all__ = ["READY", "Outcome", "Snapshot", "host", "tell"]

READY = "ready:"
"""Begins the line that says that all instances are ready; `--detach` waits for it."""
_BEAT_S = 0.25
_LINE_EVERY_S = 30.0
_OWN = ("recorder", "session")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A running session at one moment."""

    total: int
    elapsed_s: float
    states: dict[str, str] = field(default_factory=dict)
    """Instance name to its state, or to its process's where that has ended."""
    details: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[str, float]] = field(default_factory=dict)
    recorded: int | None = None
    """Messages recorded so far; None where nothing is recorded."""
    lost: int = 0

    @property
    def ready(self) -> int:
        return sum(state == "ready" for state in self.states.values())

    def progress(self) -> str:
        """Return ``3/4 ready  recorded 12,345  lost 0  00:12:31``."""
        recorded = "" if self.recorded is None else f"  recorded {self.recorded:,}  lost {self.lost:,}"
        return f"{self.ready}/{self.total} ready{recorded}  {output.elapsed(self.elapsed_s)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a session."""

    name: str
    last: Snapshot
    recording: Path | None
    report: Report | None = None
    """The verification of the recording; None where there is none."""
    elsewhere: str = ""
    """Where the session records that was joined."""
    problems: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Instances that had ended or were lost before the session was."""
        return [name for name, state in self.last.states.items() if state in ("lost", "exited", "fatal")]

    def published(self, name: str) -> int | None:
        """Return how many readings an instance published: as recorded, else as it last said."""
        if self.report is not None:
            return sum(tally.stored for tally in self.report.tallies if tally.publisher == name) or None
        said = self.last.counts.get(name, {}).get("published")
        return None if said is None else int(said)

    def level(self, name: str) -> str | None:
        """Return what the recording guarantees to an instance, the least of its topics; None for none published."""
        tallies = [] if self.report is None else self.report.tallies
        return min((tally.level for tally in tallies if tally.publisher == name), default=None)

    @property
    def exit_code(self) -> int:
        if self.report is not None and not self.report.complete:
            return 5
        return 1 if self.failed or self.problems else 0


def host(
    config: Config,
    limit: float | None = None,
    before_end: Callable[[Any], None] = lambda ether: None,
    preflight: float | None = None,
    join: bool = False,
) -> Outcome:
    """Run a session until Ctrl-C, `limit` seconds or `ether down`, and verify what it recorded.

    Args:
        preflight: seconds within which the expected streams have to come.
        join: never begin a session.
        before_end: called with the session while all its instances still run.

    Raises:
        StartError, BrokerError, ConfigError: it did not start, and nothing is left of it.
        PreflightError: streams did not come as expected; the session has ended.
    """
    from ether import ether

    total = sum(instance.autorun for _, instance in config.named().values())
    with _starting(total):
        ether.tap(config, join_only=join)
    stop = threading.Event()
    with stop_on_signals(stop):
        ether.start()
        summary, last = None, Snapshot(total, 0.0)
        try:
            info = ether.info()
            _tell_ready(config, info)
            if preflight is not None:
                ether.preflight(preflight)
                output.line(f"preflight: {', '.join(config.expect) or 'nothing is expected'}: as expected")
            last = _watch(ether, Snapshot(total, 0.0), stop, limit)
            if ether.tapped:
                last = _snapshot(ether, total, last.elapsed_s)
                before_end(ether)
        except SessionError:
            if ether.tapped:  # else `ether down` was faster
                raise
        finally:
            output.note("stopping")
            summary = ether.shutdown()
    if summary is not None:
        last = replace(last, counts={**last.counts, **{name: dict(each) for name, each in summary.counts.items()}})
    recording = summary.recording if summary is not None else Path(info["recording"]) if info["recording"] else None
    report = _verified(recording)
    problems = summary.problems if summary is not None else ()
    elsewhere = info["recording"] or "" if recording is None else ""
    return Outcome(config.session.name, last, recording, report, elsewhere, problems)


def _watch(ether: Any, last: Snapshot, stop: threading.Event, limit: float | None) -> Snapshot:
    begun = clock.monotonic()
    with _reporter() as report:
        while not stop.is_set():
            try:
                last = _snapshot(ether, last.total, clock.monotonic() - begun)
            except SessionError:  # `ether down`
                break
            report(last)
            left = _BEAT_S if limit is None else min(_BEAT_S, limit - last.elapsed_s)
            if left <= 0 or ether.wait(left):
                break
    return last


def _snapshot(ether: Any, total: int, elapsed_s: float) -> Snapshot:
    found = {name: instance for name, instance in ether.instances().items() if name not in _OWN}
    recorder = ether.info().get("recorder")
    return Snapshot(
        total,
        elapsed_s,
        states={
            name: instance.process if instance.process in ("exited", "fatal", "stopped") else str(instance.state)
            for name, instance in sorted(found.items())
        },
        details={name: (instance.detail or "").strip().partition("\n")[0] for name, instance in found.items()},
        counts={name: dict(instance.counts or {}) for name, instance in found.items()},
        recorded=None if recorder is None else int(recorder.get("recorded", 0)),
        lost=0 if recorder is None else int(recorder.get("lost", 0)),
    )


def _verified(recording: Path | None) -> Report | None:
    if recording is None:
        return None
    from ether.recorder.verify import verify

    return verify(recording)


# --- showing it


def _on_terminal() -> bool:
    return sys.stdout.isatty() and not output.settings.quiet


def _starting(total: int) -> AbstractContextManager[Any]:
    text = f"starting {total} instance{'' if total == 1 else 's'}"
    if _on_terminal():
        return output.console().status(text)
    output.note(text)
    return nullcontext()


def _tell_ready(config: Config, info: dict[str, Any]) -> None:
    names = [name for name, (_, instance) in config.named().items() if instance.autorun]
    output.line(f"{READY} {', '.join(names) or 'no instances'}")
    output.note(f"broker: {info['broker']['url']} ({info['broker']['kind']})")
    output.note(f"recording: {info['recording'] or 'off'}")


@contextmanager
def _reporter() -> Iterator[Callable[[Snapshot], None]]:
    """Yield what shows a snapshot: one live line on a terminal, a line for each change otherwise."""
    if not _on_terminal():
        yield _Lines(None if process.DETACHED in os.environ else _LINE_EVERY_S)
        return
    from rich.live import Live
    from rich.text import Text

    changes = _Lines(every_s=None)
    with Live(console=output.console(), refresh_per_second=4, transient=True) as live:

        def show(snapshot: Snapshot) -> None:
            changes(snapshot)  # above the live line
            style = "green" if snapshot.ready == snapshot.total and not snapshot.lost else "yellow"
            live.update(Text.assemble(("● ", style), snapshot.progress(), ("  Ctrl-C ends", "dim")))

        yield show


class _Lines:
    """Prints a line for each change of a state, and one every 30 s."""

    def __init__(self, every_s: float | None = _LINE_EVERY_S) -> None:
        self.every_s = every_s
        self.states: dict[str, str] | None = None
        self.told_s = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        before = snapshot.states if self.states is None else self.states
        for name, state in snapshot.states.items():
            if before.get(name) != state:
                detail = snapshot.details.get(name, "")
                output.note(f"{name}: {state}{f': {detail}' if detail else ''}")
        self.states = snapshot.states
        if self.every_s is not None and snapshot.elapsed_s - self.told_s >= self.every_s:
            self.told_s = snapshot.elapsed_s
            output.note(snapshot.progress())


# --- telling what came of it


def tell(outcome: Outcome) -> None:
    """Print the summary: what ran, what was recorded, where, complete or not."""
    for problem in outcome.problems:
        output.complain(problem)
    if not output.settings.quiet:
        columns = ("received", "handled", "failed")
        output.table(
            ["NAME", "STATE", *map(str.upper, columns), "PUBLISHED", "LEVEL", "DETAIL"],
            [
                [
                    name,
                    state,
                    *(outcome.last.counts.get(name, {}).get(column) for column in columns),
                    outcome.published(name),
                    outcome.level(name),
                    outcome.last.details.get(name, ""),
                ]
                for name, state in outcome.last.states.items()
            ],
        )
    output.note(f"{outcome.name}: ran {output.elapsed(outcome.last.elapsed_s)}")
    if outcome.recording is None or outcome.report is None:
        output.note(f"the session records in {outcome.elsewhere}" if outcome.elsewhere else "nothing was recorded")
        return
    file = output.path(outcome.recording)
    output.line(f"recorded: {file} ({_megabytes(outcome.recording)}), {verdict(outcome.report)}")
    if not outcome.report.complete:
        output.line(f"`ether verify {file}` tells what is missing")


def _megabytes(path: Path) -> str:
    size = path.stat().st_size if path.exists() else 0
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
