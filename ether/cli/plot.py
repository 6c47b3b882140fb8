"""`ether plot FILE TOPIC…`: a picture of readings, as a file or in the terminal."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ether.cli import output
from ether.cli.arguments import During, From, RecordingFile, Until, choosing, moment
from ether.errors import RecordingError

if TYPE_CHECKING:
    import numpy as np

    from ether.recorder.reader import Recording, Stream

__all__ = ["plot"]

_PICTURES = (".png", ".svg", ".pdf")
_POINTS = 4000  # of a line: twice what a wide picture has columns
_SPREAD = 8  # a small array becomes so many lines at most
_LEAST_ROWS = 8  # that a panel in a terminal needs


@dataclass
class Line:
    """One field over time."""

    label: str
    time: np.ndarray
    """datetime64[ns], ascending; twice the same value of `values` NaN where readings are missing."""
    values: np.ndarray
    steps: bool
    """The value holds until the next: a switch."""


@dataclass
class Panel:
    """Lines that share a unit, and so an axis."""

    unit: str
    """In brackets; empty for none."""
    label: str
    lines: list[Line]


@dataclass
class Mark:
    """A run or an annotation."""

    text: str
    begin: np.datetime64
    end: np.datetime64 | None
    """None for an instant."""
    run: bool


def plot(
    file: RecordingFile,
    topics: Annotated[
        list[str], typer.Argument(metavar="TOPIC…", help="Topics or filters; TOPIC:FIELD for one field.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A .png, .svg or .pdf; else the terminal.")
    ] = None,
    run: During = None,
    start: From = None,
    end: Until = None,
) -> None:
    """Draw readings over time, with runs and annotations; in the terminal, or into a file."""
    from ether.recorder.reader import open_recording

    if out is not None and out.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(f"{out}: end it in one of {', '.join(_PICTURES)}", param_hint="--out")
    with open_recording(file) as recording, choosing(file):
        begin = recording.span_ns[0] / 1e9
        since, until = moment(start, "--from", begin), moment(end, "--until", begin)
        panels = _panels(recording, topics, run, since, until)
        marks = _marks(recording, panels)
    if out is None:
        output.line(_in_terminal(panels, marks, file.name))
    else:
        _picture(panels, marks, file.name, out)
        output.line(output.path(out.absolute()))


# --- what is drawn


def _panels(recording: Recording, words: list[str], run: str | None, start: Any, end: Any) -> list[Panel]:
    found: dict[str, Panel] = {}
    left_out = []
    for stream, wanted in _chosen(recording, words, run, start, end):
        for name in wanted or stream.fields:
            field = stream.fields[name]
            lines = _lines(stream, name)
            if not lines:
                left_out.append(f"{stream.topic}:{name} ({_kind(field)})")
                continue
            # Fields without a unit are not comparable with those of another topic, nor switches with measured values.
            unit = f"[{field.unit}]" if field.unit else ""
            key = unit or f"{stream.topic} {'on/off' if field.kind == 'bool' else ''}"
            label = f"{name} {unit}" if unit else stream.topic
            panel = found.setdefault(key, Panel(unit, label, []))
            panel.label = label if panel.label == label else unit
            panel.lines += lines
    if left_out:
        output.complain(f"left out, since no line can be drawn of it: {', '.join(left_out)}")
    if not found:
        raise RecordingError(f"{recording.path}: nothing to draw; `ether info` lists topics and fields")
    if not any(len(line.time) for panel in found.values() for line in panel.lines):
        raise RecordingError(f"{recording.path}: no reading in what was asked for")
    return list(found.values())


def _kind(field: Any) -> str:
    if field.kind != "array":
        return str(field.kind)
    return "lists of varying length" if field.shape is None else f"array {'x'.join(map(str, field.shape))}"


def _chosen(
    recording: Recording, words: list[str], run: str | None, start: Any, end: Any
) -> list[tuple[Stream, list[str]]]:
    """Return the streams, each with the fields that were asked for (none: all)."""
    found: dict[str, tuple[Stream, list[str]]] = {}
    for word in words:
        topic_filter, colon, name = word.rpartition(":")
        if word in recording or not colon:
            topic_filter, name = word, ""
        for stream in recording.streams([topic_filter], run, start, end):
            if name and name not in stream.fields:
                raise KeyError(f"no field {name!r} in {stream.topic!r}; there are: {', '.join(stream.fields)}")
            names = found.setdefault(stream.topic, (stream, []))[1]
            names += [name] if name else []
    return list(found.values())


def _lines(stream: Stream, name: str) -> list[Line]:
    """Return the lines of a field; none where it is no number."""
    import numpy as np

    field = stream.fields[name]
    spread = field.kind == "array" and field.shape is not None and len(field.shape) == 1 and field.shape[0] <= _SPREAD
    if field.kind not in ("int", "float", "bool") and not spread:
        return []
    time = stream.time
    order = np.argsort(time, kind="stable")
    values, valid = stream.values(name)
    columns = values.astype(float).reshape(len(time), field.shape[0] if spread and field.shape else 1)[order]
    if valid is not None:
        columns[~valid[order]] = np.nan
    time, columns = _broken_at_holes(stream, order, time[order], columns)
    found = []
    for place, column in enumerate(columns.T):
        label = f"{stream.topic} {name}" + (f"[{place}]" if spread else "")
        found.append(Line(label, *decimated(time, column, _POINTS), field.kind == "bool"))
    return found


def _broken_at_holes(
    stream: Stream, order: np.ndarray, time: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put NaN where numbered readings are missing, so that no line leads across."""
    import numpy as np

    number, publisher = stream.number[order], stream.publisher[order]
    jumps = np.diff(number) > 1
    jumps &= (number[:-1] >= 0) & (publisher[:-1] == publisher[1:])
    holes = np.flatnonzero(jumps) + 1
    return np.insert(time, holes, time[holes - 1] + np.timedelta64(1, "ns")), np.insert(columns, holes, np.nan, axis=0)


def decimated(time: np.ndarray, values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return about so many points that look like all: lowest and highest of each stretch, and every break (NaN)."""
    import numpy as np

    if len(values) <= points:
        return time, values
    edges = np.linspace(0, len(values), points // 2 + 1).astype(int)[:-1]
    kept = [np.array([0, len(values) - 1])]
    broken = np.isnan(values)
    for extreme, filler in ((np.minimum, np.inf), (np.maximum, -np.inf)):
        filled = np.where(broken, filler, values)
        best = extreme.reduceat(filled, edges)
        hits = np.flatnonzero((filled == np.repeat(best, np.diff(np.append(edges, len(values))))) & ~broken)
        kept.append(hits[np.unique(np.searchsorted(edges, hits, side="right"), return_index=True)[1]])
    starts = np.flatnonzero(broken & ~np.append(False, broken[:-1]))
    chosen = np.unique(np.concatenate([*kept, starts]))
    return time[chosen], values[chosen]


def _marks(recording: Recording, panels: list[Panel]) -> list[Mark]:
    import numpy as np

    low, high = _extent(panels)
    unit = np.timedelta64(1, "us")

    def at(unix_s: float) -> np.datetime64:
        return np.datetime64(0, "ns") + np.timedelta64(round(unix_s * 1e6), "us")

    found = [
        Mark(run.name, at(run.started), high if run.stopped is None else at(run.stopped), True)
        for run in recording.runs
    ]
    for note in recording.annotations:
        found.append(Mark(note.text, at(note.t0), None if note.t1 is None else at(note.t1), False))
    return [
        Mark(mark.text, max(mark.begin, low), None if mark.end is None else min(mark.end, high), mark.run)
        for mark in found
        if mark.begin <= high + unit and (mark.end or mark.begin) >= low - unit
    ]


# --- a file


def _picture(panels: list[Panel], marks: list[Mark], title: str, out: Path) -> None:
    from ether.recorder.reader import wanted

    matplotlib = wanted("matplotlib", "plot")
    matplotlib.use("Agg")
    from matplotlib import dates, pyplot

    if out.exists():
        raise RecordingError(f"{out}: exists; nothing is overwritten: remove it, or name another")
    rows = _rows_of(marks, *_extent(panels))
    strip = [0.28 * (1 + max(row for row in rows if row is not None))] if rows else []
    heights = [*strip, *(2.3 for _ in panels)]
    look: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}
    look["text.parse_math"] = False  # a `$` in a text is one
    with pyplot.rc_context(look):
        figure, grid = pyplot.subplots(
            len(heights), 1, sharex=True, squeeze=False, figsize=(10, 0.9 + sum(heights)), height_ratios=heights,
            layout="constrained",
        )  # fmt: skip
        axes = [row[0] for row in grid]
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        if rows:
            _draw_strip(axes[0], marks, rows)
        for panel, axis in zip(panels, axes[-len(panels) :], strict=True):
            for line in panel.lines:
                few = len(line.time) <= 60
                axis.plot(
                    line.time, line.values, label=line.label, linewidth=1.1, marker="." if few else None, markersize=4,
                    drawstyle="steps-post" if line.steps else None,
                )  # fmt: skip
            axis.set_ylabel(panel.label)
            axis.grid(visible=True, alpha=0.25, linewidth=0.6)
            axis.margins(x=0.01, y=0.08)
            if all(line.steps for line in panel.lines):
                axis.set_yticks([0, 1], ["off", "on"])
                axis.set_ylim(-0.15, 1.15)
            axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
            for mark in marks:
                if not mark.run:
                    axis.axvline(mark.begin, color="0.35", linewidth=0.8, linestyle="--")
                    if mark.end is not None:
                        axis.axvspan(mark.begin, mark.end, color="0.5", alpha=0.15, linewidth=0)
        locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]  # theirs
        formatter = dates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]  # theirs
        axes[-1].xaxis.set_major_locator(locator)
        axes[-1].xaxis.set_major_formatter(formatter)
        axes[-1].set_xlabel("time (UTC)")
        try:
            figure.savefig(out, dpi=150)
        except OSError as exc:
            raise RecordingError(f"{out}: cannot be written ({exc.strerror or exc})") from exc
        except BaseException:
            out.unlink(missing_ok=True)
            raise
        finally:
            pyplot.close(figure)


def _rows_of(marks: list[Mark], low: np.datetime64, high: np.datetime64) -> list[int | None]:
    """Return for each mark the row of the strip above the panels in which it and its text overlap no other."""
    ends: list[np.datetime64] = []
    found: list[int | None] = []
    for mark in marks:
        reach = mark.begin + (high - low) * len(_short(mark.text)) // _LETTERS
        end = reach if mark.end is None else max(reach, mark.end)
        row = next((row for row, taken in enumerate(ends) if taken <= mark.begin), len(ends))
        if row >= _STRIP_ROWS:
            found.append(None)
            continue
        ends[row : row + 1] = [end]
        found.append(row)
    return found


def _draw_strip(axis: Any, marks: list[Mark], rows: list[int | None]) -> None:
    for place, (mark, row) in enumerate(zip(marks, rows, strict=True)):
        if row is None:
            continue
        if mark.end is not None:
            colour = f"C{place % 10}" if mark.run else "0.5"
            edges = [-row - 0.42, -row + 0.42]
            axis.fill_betweenx(edges, mark.begin, mark.end, color=colour, alpha=0.25, linewidth=0)
        text = _short(mark.text)
        style = "normal" if mark.run else "italic"
        axis.text(mark.begin, -row, f" {text}", va="center", ha="left", fontsize=8, style=style)
        if not mark.run:
            axis.plot([mark.begin] * 2, [-row + 0.42, -row - 0.42], color="0.35", linewidth=0.8)
    axis.set_ylim(-max(row for row in rows if row is not None) - 0.5, 0.5)
    axis.set_axis_off()


def _extent(panels: list[Panel]) -> tuple[np.datetime64, np.datetime64]:
    times = [line.time for panel in panels for line in panel.lines if len(line.time)]
    return min(time[0] for time in times), max(time[-1] for time in times)


def _short(text: str, letters: int = 40) -> str:
    """Return a text as one line of so many letters at most."""
    line = " ".join(text.split())
    return line if len(line) <= letters else f"{line[: letters - 1]}…"


_LETTERS = 150  # of the strip's font that a picture is wide
_STRIP_ROWS = 8


# --- the terminal


def _in_terminal(panels: list[Panel], marks: list[Mark], title: str) -> str:
    """Return the panels one below the other, as wide as the terminal, and a list of the marks."""
    import numpy as np

    from ether.recorder.reader import wanted

    plt = wanted("plotext", "plot")
    width, height = shutil.get_terminal_size((80, 24))
    console = output.console()
    coloured = console.is_terminal and not console.no_color
    low, high = _extent(panels)
    second = np.timedelta64(1, "s")
    span = float((high - low) / second) or 1.0
    listed = [_listed(mark, span) for mark in marks[:_LISTED]]
    if len(marks) > _LISTED:
        listed.append(f"  and {len(marks) - _LISTED} more runs and annotations")
    drawn = [f"{title}, from {_stamp(low, 1e9)} (UTC)"]
    rows = max(_LEAST_ROWS, (height - len(drawn) - len(listed) - 1) // len(panels))
    for panel in panels:
        plt.clear_figure()
        plt.theme("clear")
        plt.plot_size(width, rows)
        plt.title(f"{panel.lines[0].label} {panel.unit}" if len(panel.lines) == 1 else panel.label)
        for place, line in enumerate(panel.lines):
            time, values = decimated(line.time, line.values, 4 * width)
            if line.steps:
                time, values = np.repeat(time, 2)[1:], np.repeat(values, 2)[:-1]
            label = line.label if len(panel.lines) > 1 else None
            look = {"color": _COLOURS[place % len(_COLOURS)]} if coloured else {}
            marker = "braille" if coloured or not place else _MARKERS[place % len(_MARKERS)]
            plt.plot(((time - low) / second).tolist(), values.tolist(), marker=marker, label=label, **look)
        plt.xlim(0.0, span)
        for mark in marks:
            for edge in (mark.begin, mark.end):
                if edge is not None and low < edge < high:
                    plt.vline(float((edge - low) / second), *(["gray"] if coloured else []))
        ticks = [span * place / 4 for place in range(5)]
        plt.xticks(ticks, [_stamp(low + np.timedelta64(round(tick * 1e9), "ns"), span) for tick in ticks])
        built = plt.build()
        lines = (built if coloured else plt.uncolorize(built)).splitlines()
        drawn += [line.rstrip() for line in lines]
    return "\n".join([*drawn, *listed])


def _listed(mark: Mark, span_s: float) -> str:
    """Return a mark as one line below the plot."""
    what = "run " if mark.run else "note"
    until = "" if mark.end is None else f" – {_stamp(mark.end, span_s)}"
    return f"  {what}  {_stamp(mark.begin, span_s)}{until}  {_short(mark.text)}"


def _stamp(time: np.datetime64, span_s: float) -> str:
    """Return a time as fine as a stretch of so many seconds asks for."""
    text = str(time.astype("datetime64[ms]")).replace("T", " ")
    if span_s >= 1e9:
        return text[:19]
    return text[5:16] if span_s > 2 * 86_400 else text[11:19] if span_s > 10 else text[11:23]


_LISTED = 6
_COLOURS = ("cyan+", "orange+", "green+", "magenta+", "red+", "blue+")
_MARKERS = ("braille", "*", "+", "x", "o", "#")
