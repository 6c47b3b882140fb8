"""`ether logs`: what the processes of a session logged and printed, while it runs and afterwards."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ether import clock, log, process, runtime
from ether.address import Address
from ether.cli import output
from ether.cli.arguments import AsJson, seconds
from ether.cli.joined import joined
from ether.cli.stopping import stop_on_signals
from ether.errors import SessionError, suggest

__all__ = ["logs"]

_ASK_EVERY_S = 0.5


def logs(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Only these; `recorder`, `broker`, `session` too.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, or until the session ends.")
    ] = False,
    last: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="Of what is there, only the last so many.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="5min ago, 11:28 of today, or a date and time.")
    ] = None,
    level: Annotated[
        str | None, typer.Option("--level", help="debug, info, warning or error, and what is graver.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="REGEX", help="Only lines in which this is found.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Show what the processes of a session logged and printed.

    Of the running session, else of the last one, however that ended; `--session NAME` chooses. Prints count as INFO,
    those on stderr as WARNING.
    """
    wanted = _wanted(names or [], _moment(since), level, grep)
    stop = threading.Event()
    entry = _entry()
    with stop_on_signals(stop):
        if entry is not None and not Path(entry.get("log", "")).is_file():  # on another machine, or not to be written
            with joined() as ether:
                _show(_asked(ether, stop, follow), stop, wanted, last, json)
            return
        path = _of_the_last() if entry is None else Path(entry["log"])
        _check_names(path, names or [])
        if follow and entry is not None:
            lines: Iterable[log.Line | None] = log.follow(path, lambda: _runs(entry["id"]), stop.wait)
        else:
            lines = log.read(path)
        _show(lines, stop, wanted, last, json)


def _entry() -> dict[str, Any] | None:
    """Return what is known here of the session that the verbs would join; None where none runs."""
    url = os.environ.get("ETHER_BROKER")
    if not url:
        return runtime.find(output.settings.session)
    here = (each for each in runtime.running() if str(Address.parse(each["url"])) == str(Address.parse(url)))
    return next(here, {})


def _runs(session_id: str) -> bool:
    return any(each["id"] == session_id for each in runtime.running())


def _of_the_last() -> Path:
    """Return the log of the session that ran last, and say so."""
    name = output.settings.session
    path = log.find(name)
    if path is None:
        raise SessionError(f"no session{f' {name!r}' if name else ''} runs, and no log of one is in {log.folder()}")
    known = log.header(path)
    if not output.settings.quiet:
        began = datetime.fromtimestamp(known["began"]).strftime(process.DATE)
        output.complain(f"{known['session']} does not run; it began at {began}, and this is its log: {path}")
    return path


def _check_names(path: Path, names: list[str]) -> None:
    """Say which names can be no instance's of this session."""
    if not names:
        return
    known = dict.fromkeys([*log.header(path).get("instances", ()), "recorder", "broker", "session"])
    unknown = [name for name in names if name not in known]
    if unknown:  # one that joined is in no configuration
        known |= dict.fromkeys(line.name for line in log.read(path))
    for name in unknown:
        if name not in known:
            others = suggest(name, known) or f"; there are: {', '.join(known)}"
            raise SessionError(f"nothing of {name!r} is in the log{others}")


def _asked(ether: Any, stop: threading.Event, follow: bool) -> Iterator[log.Line | None]:
    """Yield the last lines of a session, which its own process tells, and None whenever there is no more for now."""
    from ether.client import LOG
    from ether.errors import CallError

    after = 0
    while not stop.is_set():
        try:
            found = ether.request("session", LOG, {"after": after})
        except CallError:
            if after:  # it has ended
                return
            raise
        after = found["next"]
        yield from (log.Line(**each) for each in found["lines"])
        if not follow:
            return
        yield None
        stop.wait(_ASK_EVERY_S)


def _wanted(names: list[str], since: float | None, level: str | None, grep: str | None) -> Callable[[log.Line], bool]:
    """Return what chooses lines; a usage error says what is wrong with an option."""
    if level is not None and level.upper() not in log.LEVELS:
        raise typer.BadParameter(f"{level!r}: choose debug, info, warning, error or critical", param_hint="--level")
    least = 0 if level is None else log.LEVELS.index(level.upper())
    try:
        pattern = re.compile(grep or "")
    except re.error as exc:
        raise typer.BadParameter(f"{grep!r} is no regular expression: {exc}", param_hint="--grep") from None

    def chosen(line: log.Line) -> bool:
        return (
            (not names or line.name in names)
            and (since is None or line.t >= since)
            and line.severity >= least
            and pattern.search(line.message) is not None
        )

    return chosen


def _moment(text: str | None) -> float | None:
    """Return Unix seconds of ``5min`` (ago), ``11:28`` of today or a date and time."""
    if text is None:
        return None
    today = datetime.fromtimestamp(clock.now()).date().isoformat()
    for found in (text, f"{today}T{text}"):
        try:
            return datetime.fromisoformat(found).timestamp()
        except ValueError:
            continue
    return clock.now() - (seconds(text, "--since") or 0.0)


def _show(
    lines: Iterable[log.Line | None], stop: threading.Event, wanted: Callable[[log.Line], bool], last: int | None,
    json: bool,
) -> None:  # fmt: skip
    """Print what is wanted; of what is there already, the last lines only."""

    def tell(line: log.Line) -> None:
        if json:
            output.as_json(asdict(line))
        else:
            output.line(_text(line))

    kept: deque[log.Line] | None = None if last is None else deque(maxlen=last)
    for line in lines:
        if stop.is_set():
            break
        if line is None:
            while kept:
                tell(kept.popleft())
            kept = None
        elif wanted(line):
            tell(line) if kept is None else kept.append(line)
    for line in kept or ():
        tell(line)


def _text(line: log.Line) -> str:
    """Return a line in the one format, with the stream in place of a level where it was printed."""
    at = datetime.fromtimestamp(line.t)
    when = f"{at.strftime(process.DATE)}.{at.microsecond // 1000:03}"
    return f"{when} - {line.name}:{line.pid or '-'} - {line.level or line.stream} - {line.message}"
