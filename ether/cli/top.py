"""`ether top`: the session live, on the whole terminal."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ether import clock
from ether.cli import output
from ether.cli.arguments import AsJson
from ether.cli.joined import joined
from ether.cli.ps import rows
from ether.cli.status import disk
from ether.errors import CallError, EtherError, SessionError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["Frame", "Rates", "screen", "top"]

_EVERY_S = 1.0
_KEYS_S = 0.1
_BEATS_S = 5.0
"""Members tell what they count every two seconds while it changes; two of that are a rate."""
_SHORTEST_S = 0.5
"""Two statuses that came closer to each other say nothing of a rate."""
_ALARMS_SHOWN = 5
_GONE = ("lost", "disconnected")
_RATED = {"published": "published_per_s", "cpu_s": "cpu", "recorded": "recorded_per_s"}
"""What is counted, and the rate made of it."""
_COLUMNS = {
    "STATE": 12, "RST": 3, "RECV": 4, "DONE": 4, "DROP": 4, "FAIL": 4, "QUE": 4, "P50": 4, "P99": 4, "PUB/s": 5,
    "CPU": 4, "MEM": 4,
}  # fmt: skip
"""Column to its width; the name has the rest."""
_ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda row: row["name"],
    "queue": lambda row: -row["counts"].get("queued", 0),
    "rate": lambda row: -(row["published_per_s"] or 0),
    "cpu": lambda row: -(row["cpu"] or 0),
    "dropped": lambda row: -row["counts"].get("dropped", 0) - row["counts"].get("failed", 0),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What is to be seen at one moment; `as_dict` is what `--json` prints."""

    info: Mapping[str, Any]
    instances: list[dict[str, Any]]
    recorded_per_s: float | None = None
    answered: bool = True
    """Whether the session's own process has."""

    @property
    def alarms(self) -> list[dict[str, Any]]:
        return list(self.info.get("alarms") or ())

    def as_dict(self) -> dict[str, Any]:
        recorder = self.info.get("recorder")
        if recorder is not None:
            recorder = {**recorder, "recorded_per_s": self.recorded_per_s}
        return {**self.info, "recorder": recorder, "answered": self.answered, "instances": self.instances}


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once, after watching for some seconds.")] = False,
    json: AsJson = False,
) -> None:
    """Watch the running session, on the whole terminal.

    For each instance its state and that of its process, restarts, what it received, handled (DONE), dropped and failed,
    what waits, how long methods take (P50 and P99, ms), what it publishes, processor and memory. Above, what the
    recorder does, and whether the disk keeps up; below, alarms, with a bell. Keys: q ends, arrows scroll, s sorts.
    """
    terminal = output.console()
    if not (once or json) and (not terminal.is_terminal or terminal.is_dumb_terminal):
        raise SessionError("top wants a terminal; `ether top --once` prints once, `--json` for programs")
    with joined() as ether:
        rates = Rates()
        if once or json:
            frame = _watched(ether, rates)
            if json:
                output.as_json(frame.as_dict())
            else:
                terminal.print(screen(frame, max(terminal.width, 80), None))
            return
        frame = sample(ether, rates)
        ended = _show(ether, rates, frame, terminal)
    if ended:
        output.note(f"{frame.info['session'].get('name', 'the session')}: ended")


# --- what is to be seen


class Rates:
    """How fast counts move, between the last two statuses of each member."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[str, float, dict[str, float] | None]] = {}
        """Boot, when its status came, and what it counted; None where that was retained, and nobody knows how old."""
        self._rates: dict[str, dict[str, float]] = {}

    def take(self, name: str, boot: str, heard_at: float, counts: Mapping[str, float]) -> dict[str, float | None]:
        """Return the rates of a member, None where two fresh statuses have not been seen yet."""
        known_boot, known_at, known = self._before.get(name, ("", 0.0, None))
        span = heard_at - known_at
        if boot != known_boot:
            self._rates.pop(name, None)
            self._before[name] = boot, heard_at, None
        elif span > 0 and known is None:
            self._before[name] = boot, heard_at, dict(counts)
        elif span >= _SHORTEST_S and known is not None:
            self._rates[name] = {
                rate: max(0.0, counts.get(key, 0) - known.get(key, 0)) / span for key, rate in _RATED.items()
            }
            self._before[name] = boot, heard_at, dict(counts)
        found = self._rates.get(name, {})
        return {rate: round(found[rate], 3) if rate in found else None for rate in _RATED.values()}

    def known(self, name: str) -> bool:
        return name in self._rates


def sample(ether: Any, rates: Rates) -> Frame:
    """Return the session as it is now."""
    try:
        processes, seen = ether.processes(), ether.members()
    except CallError:
        processes, seen = {}, {}
    known = ether.instances()
    found = {name: rates.take(name, info.boot, info.heard_at, info.counts or {}) for name, info in known.items()}
    instances = []
    for row in rows(ether, processes, seen):
        if row["state"] in _GONE:
            found.pop(row["name"], None)
        rate = found.get(row["name"], {})
        instances.append({**row, "published_per_s": rate.get("published_per_s"), "cpu": rate.get("cpu")})
    return Frame(ether.info(), instances, found.get("recorder", {}).get("recorded_per_s"), bool(processes))


def _watched(ether: Any, rates: Rates) -> Frame:
    """Return the session once every living member has told twice what it counts."""
    deadline = clock.monotonic() + _BEATS_S
    while True:
        frame = sample(ether, rates)
        living = [row["name"] for row in frame.instances if row["state"] not in _GONE]
        if all(map(rates.known, living)) or clock.monotonic() >= deadline or _over(frame):
            return frame
        ether.wait(0.5)


# --- showing it


@dataclass(slots=True)
class _View:
    """What the keys have chosen."""

    order: str = "name"
    first: int = 0
    """The row on top."""
    rung: set[tuple[Any, ...]] = field(default_factory=set)
    """Alarms for which the bell has rung."""

    def press(self, key: str) -> bool:
        """Take a key; False for one that ends it."""
        if key == "s":
            names = list(_ORDERS)
            self.order, self.first = names[(names.index(self.order) + 1) % len(names)], 0
        elif key in ("\x1b[B", "\x1bOB", "j"):
            self.first += 1
        elif key in ("\x1b[A", "\x1bOA", "k"):
            self.first = max(0, self.first - 1)
        elif key == "\x1b[6~":
            self.first += 10
        elif key == "\x1b[5~":
            self.first = max(0, self.first - 10)
        return key not in ("q", "Q", "\x1b", "\x04")

    def new_alarms(self, frame: Frame) -> bool:
        """Return whether there is an alarm for which the bell has not rung."""
        now = {(each.get("by"), each.get("topic"), each.get("kind")) for each in frame.alarms}
        new = bool(now - self.rung)
        self.rung = now
        return new


def _show(ether: Any, rates: Rates, frame: Frame, terminal: Console) -> bool:
    """Show it until a key or a signal ends it; True where the session did."""
    from rich.live import Live

    stop = threading.Event()
    latest = [(frame, clock.monotonic())]
    threading.Thread(target=_keep_sampling, args=(ether, rates, latest, stop), name="top", daemon=True).start()
    view, shown_at = _View(), 0.0
    with _ends_on_signals(stop), _keys() as key, Live(console=terminal, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            frame, at = latest[0]
            if _over(frame):
                return True
            pressed = key()
            if pressed is not None and not view.press(pressed):
                break
            if pressed is None and clock.monotonic() - shown_at < _EVERY_S / 2:
                continue
            shown_at = clock.monotonic()
            late_s = shown_at - at if shown_at - at > 3 * _EVERY_S else 0.0
            live.update(screen(frame, terminal.width, terminal.height, view, late_s), refresh=True)
            if view.new_alarms(frame):
                terminal.bell()
    stop.set()
    return False


def _keep_sampling(ether: Any, rates: Rates, latest: list[tuple[Frame, float]], stop: threading.Event) -> None:
    """Look at the session again and again; one that does not answer must not hold the keys up."""
    while not stop.wait(_EVERY_S):
        try:
            latest[0] = sample(ether, rates), clock.monotonic()
        except EtherError:  # we have left
            return


def _over(frame: Frame) -> bool:
    return not frame.info.get("session")


@contextmanager
def _ends_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at Ctrl-C and whatever else would end us, so that the terminal is left as it was."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), lambda _number, _frame: stop.set()) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def _keys() -> Iterator[Callable[[], str | None]]:
    """Yield what waits for a key for a moment and returns it, None for none."""
    try:
        import termios
        import tty
    except ImportError:  # on Windows: Ctrl-C ends it
        yield _no_keys
        return
    if not sys.stdin.isatty():
        yield _no_keys
        return
    before = termios.tcgetattr(0)
    try:
        tty.setcbreak(0)
        ours = termios.tcgetattr(0)
        ours[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave a shell with our screen
        termios.tcsetattr(0, termios.TCSANOW, ours)
        yield _key
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _key() -> str | None:
    ready, _, _ = select.select([0], [], [], _KEYS_S)
    return os.read(0, 32).decode(errors="replace") if ready else None


def _no_keys() -> None:
    threading.Event().wait(_KEYS_S)


# --- drawing it


def screen(
    frame: Frame, width: int, height: int | None, view: _View | None = None, late_s: float = 0.0
) -> RenderableType:
    """Return what fits into a terminal; everything where `height` is None.

    Args:
        late_s: so long the session has not answered.
    """
    from rich.console import Group
    from rich.text import Text

    view = view or _View()
    above = [*_head(frame, late_s), Text("")]
    alarms = [Text(f"! {each.get('topic', '')}: {each.get('detail', '')}", "bold red") for each in frame.alarms]
    if height is not None and len(alarms) > _ALARMS_SHOWN:
        alarms = [*alarms[:_ALARMS_SHOWN], Text(f"! and {len(frame.alarms) - _ALARMS_SHOWN} more", "bold red")]
    ordered = sorted(frame.instances, key=_ORDERS[view.order])
    room = len(ordered) if height is None else max(1, height - len(above) - len(alarms) - 3)
    view.first = max(0, min(view.first, len(ordered) - room))
    part = ordered[view.first : view.first + room]
    below = [Text(""), *alarms] if alarms else []
    if height is not None:
        hidden = f", {len(part)} of {len(ordered)} shown" if len(part) < len(ordered) else ""
        below.append(Text(f"q ends  ↑↓ scroll  s sorts: by {view.order}{hidden}", "dim"))
    for line in (*above, *below):
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*above, _table(part, width), *below)


def _head(frame: Frame, late_s: float) -> list[Text]:
    from rich.text import Text

    info = frame.info
    session, broker = info.get("session") or {}, info.get("broker") or {}
    up = output.elapsed(clock.now() - session["started"]) if session.get("started") else ""
    first = Text.assemble(
        (session.get("name", ""), "bold"), f"  up {up}  {broker.get('kind', '')} {broker.get('url', '')}"
    )
    if not info.get("connected", True):
        first.append("  NO CONNECTION", "bold red")
    elif late_s or not frame.answered:
        first.append(f"  NO ANSWER{f' for {late_s:.0f} s' if late_s else ''}", "bold red")
    lines = [first, _recorder_line(frame)]
    if info.get("run"):
        lines.append(Text(f"run {info['run'].get('name', '')}, number {info['run'].get('number', '')}"))
    return lines


def _recorder_line(frame: Frame) -> Text:
    from rich.text import Text

    recorder = frame.info.get("recorder")
    if recorder is None:
        return Text("recording off", "dim")
    missing = int(recorder.get("lost", 0))
    rate = "" if frame.recorded_per_s is None else f", {_short(frame.recorded_per_s) or 0}/s"
    line = Text(f"recorded {int(recorder.get('recorded', 0)):,}{rate}, ")
    line.append(f"{missing:,} missing", "bold red" if missing else "")
    if recorder.get("state") not in ("ready", "alert"):
        line.append(f", recorder {recorder.get('state')}", "bold red")
    free, _, behind = disk(recorder).partition("; ")
    if behind:
        line.append(f", {behind}", "bold red")
    line.append(f", {free}")
    return line


def _table(part: list[dict[str, Any]], width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    longest = max((len(row["name"]) for row in part), default=0)
    left = width - sum(_COLUMNS.values()) - len(_COLUMNS) - 1
    table.add_column("NAME", width=max(8, min(left, longest)), no_wrap=True, overflow="ellipsis")
    for name, size in _COLUMNS.items():
        table.add_column(
            name, width=size, no_wrap=True, overflow="ellipsis", justify="left" if name == "STATE" else "right"
        )
    for row in part:
        counts = row["counts"]
        state = _state(row)
        cells: list[Text | str] = [
            Text(state, "red" if "/" in state else output.style(state)), _short(row["restarts"]),
            *(_short(counts.get(key)) for key in ("received", "handled")),
            *(Text(_short(counts.get(key)), "red") for key in ("dropped", "failed")),
            *(_short(counts.get(key)) for key in ("queued", "handle_ms_p50", "handle_ms_p99")),
            _short(row["published_per_s"]), "" if row["cpu"] is None else f"{row['cpu'] * 100:.0f}%",
            _short(counts.get("rss_mb", 0) * 1e6),
        ]  # fmt: skip
        table.add_row(row["name"], *cells)
    return table


def _state(row: dict[str, Any]) -> str:
    """Return the state, with that of the process where it tells more: ``ready``, ``lost/backoff``, ``stopped``."""
    state, process = str(row["state"]), str(row["process"])
    if process in ("", "running"):
        return state
    return process if state == "disconnected" else f"{state}/{process}"


def _short(value: float | None) -> str:
    """Return a number in four characters: ``0.25``, ``9999``, ``12k``, ``1.2M``; nothing for none and 0."""
    if not value:
        return ""
    if value < 10 and value != int(value):
        return f"{value:.2f}"
    for unit in ("", "k", "M", "G", "T"):
        if value < (9_999.5 if not unit else 999.5):
            return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
        value /= 1000
    return "lots"
