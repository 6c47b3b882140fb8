"""Reading a recording: a mapping from topics to their readings, and what was done meanwhile."""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import h5py
import numpy as np

from ether import clock, runtime, topics
from ether.errors import RecordingError
from ether.model import Annotation, Run, State, Status
from ether.recorder import layout, revisions
from ether.recorder.device_clock import DeviceClock, Sample
from ether.recorder.entries import journal_folder
from ether.recorder.hollow import raw_payloads
from ether.recorder.layout import ABSENT, MASK, NONE_ID, NONE_NS, NULL, OFFSETS, REPLAY, SHAPE, VALID
from ether.recorder.parts import first_of, part_path, parts_of
from ether.recorder.revisions import Revision

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from ether.recorder.verify import Report

__all__ = [
    "Aligned",
    "Field",
    "LogLine",
    "Recorded",
    "Recording",
    "StatusChange",
    "Stream",
    "Table",
    "open_recording",
]

logger = logging.getLogger(__name__)

_FIRST_NS, _LAST_NS = -(1 << 63), (1 << 63) - 1
_CHUNK_BYTES = 16 << 20
_TEXT_BYTES = 100  # of a text, with what Python and numpy add to it: a guess to choose the size of a piece by


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a topic."""

    name: str
    kind: str
    """``int``, ``float``, ``bool``, ``str``, ``json``, ``bytes`` or ``array``."""
    unit: str = ""
    description: str = ""
    shape: tuple[int, ...] | None = ()
    """Shape of one reading; None where it varies."""
    column: str = ""
    """Name of the dataset, which differs from `name` where that is a name of ours."""
    dtype: str = ""
    """Type of an array's elements, as numpy names it: ``float32``; empty where `kind` is another."""
    ndim: int = 0
    """Dimensions of one reading; 1 for lists, 2 for grey images."""
    optional: bool = False
    """Not every reading has a value."""


class Recorded(NamedTuple):
    """One message as it was received."""

    topic: str
    payload: bytes
    """Byte for byte."""
    qos: int
    retain: bool
    received_ns: int
    """When the recorder had it: ns since the Unix epoch."""
    time_ns: int | None
    """The publisher's own stamp; None where it gave none."""
    number: int | None
    publisher: str | None
    boot: str | None
    mono_ns: int
    """`received_ns` on the recorder's monotonic clock."""
    replayed: bool
    """It came out of another recording."""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """One change of an instance's status."""

    name: str
    status: Status
    time_ns: int
    replay: bool
    """It had changed before the recording began."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log record of a process."""

    time_ns: int
    name: str
    level: str
    logger: str
    message: str


def open_recording(path: str | PathLike[str]) -> Recording:
    """Return a recording, whether it is finished, still being recorded or left behind by a crash.

    Raises:
        RecordingError: there is no such file, or it is no recording of ours.
    """
    return Recording(path)


class Recording(Mapping[str, "Stream"]):
    """A recording, as a mapping from topic to `Stream`. Close it, or use it as a context manager.

    All its parts are read as one, by the name of the first. A recording that is still being made shows what it held
    when it was opened.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        found = open_parts(Path(path))
        self.path = found.path
        self.damage = found.damage
        """What is missing or was exchanged of its parts, one line each; the rest can be read."""
        for line in found.damage:
            logger.warning("%s", line)
        self._files = found.files
        self._file = found.files[-1]
        """The last part: it knows all runs, publishers and accounts."""
        self._groups: dict[str, list[h5py.Group | None]] = {}
        for place, file in enumerate(self._files):
            for group in stream_groups(file):
                self._groups.setdefault(layout_topic(group), [None] * len(self._files))[place] = group

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Recording {self.path.name}: {self.state}, {len(self)} topics>"

    def __getitem__(self, topic: str) -> Stream:
        groups = self._groups.get(topic)
        if groups is None:
            near = difflib.get_close_matches(str(topic), self._groups, 3, 0.4) or sorted(self._groups)[:5]
            known = ", ".join(map(repr, near)) or "none: nothing was recorded"
            raise KeyError(f"no topic {topic!r} in {self.path.name}; nearest: {known}")
        return Stream(self, topic, groups)

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def state(self) -> str:
        """``open`` while recording, ``sealed`` after an orderly end, ``recovered`` where the recorder had died."""
        return "open" if self._file.attrs.get("continued") else str(self._file.attrs.get("state", "open"))

    @property
    def parts(self) -> list[Path]:
        """The files it consists of, in order."""
        return [Path(file.filename) for file in self._files]

    @property
    def session(self) -> str:
        return str(self._file.attrs.get("session", ""))

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were received, ns since the Unix epoch; (0, 0) where there is none."""
        first = [int(file.attrs.get("first_ns", NONE_NS)) for file in self._files]
        last = [int(file.attrs.get("last_ns", NONE_NS)) for file in self._files]
        known = [pair for pair in zip(first, last, strict=True) if pair[0] != NONE_NS]
        return (known[0][0], known[-1][1]) if known else (0, 0)

    @property
    def content_sha256(self) -> str:
        """Checksum of a finished recording's messages, those of all parts; empty while it is open."""
        return "" if self.state == "open" else str(self._file.attrs.get("content_sha256", ""))

    @property
    def runs(self) -> list[Run]:
        """Runs in the order they began."""
        return [
            Run(
                row["id"], row["name"], int(row["number"]), row["started"] / 1e9, _object(row["metadata"]),
                row["parent"] or None, _seconds(row["stopped"]), row["outcome"] or None,
                row.get("by", ""),
            )
            for row in self._rows("runs", last=True)
        ]  # fmt: skip

    def runs_named(self, word: str) -> list[Run]:
        """Return the runs of a name or an id; else the run of a number, which trials have not; KeyError for none."""
        runs = self.runs
        found = [run for run in runs if word in (run.id, run.name)]
        found = found or [run for run in runs if word == str(run.number) and run.parent is None]
        if not found:
            known = ", ".join(dict.fromkeys(repr(each.name) for each in runs)) or "none"
            raise KeyError(f"no run {word!r}; there are: {known}")
        return found

    @property
    def annotations(self) -> list[Annotation]:
        """Annotations in the order they came; last those that were added afterwards."""
        return [
            Annotation(
                row["text"], row["t0"] / 1e9, _seconds(row["t1"]), tuple(map(str, json.loads(row["tags"]))),
                _object(row["values"]), row["by"],
            )
            for row in self._rows("annotations")
        ] + [revision.annotation for revision in self.revisions]  # fmt: skip

    @property
    def revisions(self) -> list[Revision]:
        """What was added to the finished recording, with who and when; see `annotate`."""
        found, damage = revisions.read(self.path, self.content_sha256)
        for line in damage:
            logger.warning("%s; what follows is left out", line)
        return found

    def annotate(
        self, text: str, *, at: Any = None, until: Any = None, tags: Sequence[str] = (),
        values: Mapping[str, Any] | None = None, by: str | None = None,
    ) -> Revision:  # fmt: skip
        """Add a remark to a finished recording; returns when it is on disk.

        The file stays as it was sealed: remarks lie beside it, in a file of their own, chained by checksums.

        Args:
            text: what is to be said.
            at: when, as `Stream.between` takes times; by default the remark is about the whole recording.
            until: end of an interval.
            tags: words to find it by.
            values: what JSON can hold.
            by: who says it; by default the user of this machine.

        Raises:
            RecordingError: the recording is not finished, its revisions were altered, or nothing can be written.
            ValueError: a time is none, or the interval ends before it begins.
        """
        if not self.content_sha256:
            raise RecordingError(
                f"{self.path}: not finished; while its session runs, remarks go there: `ether annotate TEXT`"
            )
        first, last = self.span_ns
        begin = first if at is None else _to_ns(at)
        end = _to_ns(until) if until is not None else last if at is None else None
        if end is not None and end < begin:
            raise ValueError("the interval ends before it begins")
        author = by or runtime.author()
        known = dict(values or {})
        json.dumps(known, allow_nan=False)
        note = Annotation(text, begin / 1e9, None if end is None else end / 1e9, tuple(tags), known, author)
        return revisions.append(self.path, self.content_sha256, note)

    @property
    def status(self) -> list[StatusChange]:
        """Status changes of all instances, in the order they came; words unknown to us count as ``lost``."""
        known = set(State)
        return [
            StatusChange(
                row["name"],
                Status(
                    State(row["state"]) if row["state"] in known else State.LOST,
                    row["boot"],
                    row["t"] / 1e9,
                    row["detail"],
                ),
                int(row["t_recv"]),
                bool(row["replay"]),
            )
            for row in self._rows("status")
        ]

    @property
    def log(self) -> list[LogLine]:
        """Log records of all processes, in the order they came."""
        return [
            LogLine(int(row["t"]), row["name"], row["level"], row["logger"], row["message"])
            for row in self._rows("log")
        ]

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Calls with their answers, in the order they were answered."""
        return [{**row, "params": _any(row["params"]), "result": _any(row["result"])} for row in self._rows("calls")]

    @property
    def publishers(self) -> list[dict[str, Any]]:
        """Publishers that numbered their messages: name, boot, class, host, received, missing, duplicates, level."""
        return self._rows("publishers", last=True)

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """Holes in numbered streams: publisher, boot, topic, first, last, reason."""
        publishers = self._rows("publishers", last=True)
        names = [row["topic"] for row in self._rows("topics", last=True)]
        return [
            {
                "publisher": publishers[row["publisher"]]["name"],
                "boot": publishers[row["publisher"]]["boot"],
                "topic": names[row["topic"]],
                "first": row["first"],
                "last": row["last"],
                "reason": row["reason"],
            }
            for row in self._rows("gaps", last=True)
        ]

    @property
    def provenance(self) -> dict[str, Any]:
        """Configuration, code, versions, host and people, by name; ``instances`` is a list. Secrets are ``***``."""
        found: dict[str, Any] = {}
        with _Named(self.path, "/provenance"):
            for name, dataset in self._file["provenance"].items():
                if dataset.shape == ():
                    found[name] = _any(dataset.asstr()[()])
        started = {(row["t"], row["name"], row["boot"]): row for row in self._rows("provenance/instances")}
        found["instances"] = [  # a part begins with those of the part before
            {**row, **{key: _any(row[key]) for key in ("args", "kwargs", "about") if key in row}}
            for row in started.values()
        ]
        return found

    def spans(self, run: Run | str | None = None, start: Any = None, end: Any = None) -> list[tuple[int, int]]:
        """Return the stretches of time that a run, or all runs of a name, and two times have in common.

        Each is (begin, end) in ns since the Unix epoch, the end excluded; for times see `Stream.between`.

        Raises:
            KeyError: no such run.
            ValueError: `start` or `end` is no time.
        """
        low = _FIRST_NS if start is None else _to_ns(start)
        high = _LAST_NS if end is None else _to_ns(end)
        runs = [] if run is None else [run] if isinstance(run, Run) else self.runs_named(run)
        spans = [(_to_ns(each.started), _LAST_NS if each.stopped is None else _to_ns(each.stopped)) for each in runs]
        cut = [(max(low, first), min(high, last)) for first, last in spans] if runs else [(low, high)]
        return [(first, last) for first, last in cut if first < last]

    def streams(
        self, topic_filters: Sequence[str] = (), run: Run | str | None = None, start: Any = None, end: Any = None
    ) -> list[Stream]:
        """Return the streams whose topics match one of the filters (none: all), cut as `spans` says.

        Raises:
            KeyError: a filter matches nothing, or there is no such run.
        """
        for each in topic_filters:
            if not any(topics.matches(each, topic) for topic in self):
                self[each]  # says what there is
        chosen = [self[topic] for topic in self if not topic_filters or topics.matches_any(topic_filters, topic)]
        if run is None and start is None and end is None:
            return chosen
        spans = self.spans(run, start, end)
        return [stream.within(spans) for stream in chosen]

    def align(self, *of: str | Stream, tolerance: str | float) -> Aligned:
        """Return readings of several topics side by side: a row for each reading of the first one, in order of time.

        Beside it stands the reading of each other topic that is nearest in time, none where it is further away.

        Args:
            of: topics, or streams of this recording, such as slices of them.
            tolerance: how far, at most: ``50ms``, ``2s``, or seconds.

        Raises:
            KeyError: no such topic.
            ValueError: a topic is given twice, none is given, or the tolerance is no duration.
        """
        streams = [self[each] if isinstance(each, str) else each for each in of]
        names = [stream.topic for stream in streams]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"align wants different topics, got {', '.join(map(repr, names)) or 'none'}")
        return Aligned(streams, round(clock.seconds(tolerance) * 1e9))

    @property
    def clocks(self) -> list[dict[str, Any]]:
        """The recorder's clocks at its starts, and what devices' clocks showed when it asked: see the file layout."""
        return self._rows("clocks")

    def device_clock(self, name: str, boot: str) -> DeviceClock:
        """Return one boot of a device's clock, fitted anew; KeyError where it never answered.

        Its `host` returns times on the recorder's monotonic clock; the rows of `clocks` have that beside wall time.
        """
        samples = [
            Sample(row["device_ns"], row["t_mono"] - row["round_trip_ns"], row["t_mono"])
            for row in self.clocks
            if (row.get("name"), row.get("boot")) == (name, boot)
        ]
        if not samples:
            known = sorted({(row["name"], row["boot"]) for row in self.clocks if row.get("name")})
            raise KeyError(f"no clock of {name!r}, boot {boot!r}; there are: {known or 'none'}")
        return DeviceClock(samples)

    def messages(self) -> Iterator[Recorded]:
        """Yield every message in the order it was received, byte for byte."""
        for file in self._files:
            yield from self._messages_of(file)

    def _messages_of(self, file: h5py.File) -> Iterator[Recorded]:
        with _Named(Path(file.filename), "/messages"):
            names = [row["topic"] for row in _table(file, "topics")]
            publishers = [(row["name"], row["boot"]) for row in _table(file, "publishers")]
            ledger = file["messages"]
            rows = ledger[:0]
            base = 0
            for number, _, payload in raw_payloads(file):
                if not base <= number < base + len(rows):
                    base, rows = number, ledger[number : number + 20_000]
                row = rows[number - base]
                known = row["publisher"] != NONE_ID
                name, boot = publishers[row["publisher"]] if known else (None, None)
                yield Recorded(
                    names[row["topic"]], payload, int(row["qos"]), bool(row["flags"] & layout.FLAG_RETAIN),
                    int(row["t_recv"]), None if row["t_device"] == NONE_NS else int(row["t_device"]),
                    int(row["n"]) if known else None, name, boot, int(row["t_mono"]),
                    bool(row["flags"] & layout.FLAG_REPLAYED),
                )  # fmt: skip

    def verify(self) -> Report:
        """Prove the recording; see `ether.recorder.verify.verify`."""
        from ether.recorder.verify import verify

        return verify(self.path)

    def export(
        self, to: str, path: str | PathLike[str] | None = None, *, topics: Sequence[str] = (),
        run: Run | str | None = None, start: Any = None, end: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Path:  # fmt: skip
        """Write the readings for other programs; see `ether.recorder.export.export`."""
        from ether.recorder.export import export

        return export(self, to, path, topics=topics, run=run, start=start, end=end, progress=progress)

    def info(self) -> dict[str, Any]:
        """Return what the recording holds, in short, fit for JSON."""
        first, last = self.span_ns
        publishers = self.publishers
        return {
            "file": str(self.path),
            "parts": [path.name for path in self.parts],
            "damage": self.damage,
            "bytes": sum(path.stat().st_size for path in self.parts),
            "format": f"{layout.FORMAT} {self._file.attrs['format_version']}",
            "state": self.state,
            "session": self.session,
            "started": clock.text(first / 1e9) if first else None,
            "ended": clock.text(last / 1e9) if last else None,
            "duration_s": (last - first) / 1e9,
            "messages": sum(len(file["messages"]) for file in self._files),
            "missing": sum(row["missing"] for row in publishers),
            "duplicates": sum(row["duplicates"] for row in publishers),
            "replayed": sum(row["received"] for row in publishers if row["class"] == REPLAY),
            "topics": {
                topic: {"readings": len(stream), "fields": {name: field.kind for name, field in stream.fields.items()}}
                for topic, stream in self.items()
            },
            "publishers": sorted({row["name"] for row in publishers}),
            "runs": [
                {"name": run.name, "number": run.number, "stopped": run.stopped, "outcome": run.outcome}
                for run in self.runs
            ],
            "annotations": len(self._rows("annotations")),
            "revisions": len(self.revisions),
            "unsealed_journal": journal_folder(self.path.absolute()).is_dir(),
        }

    def _rows(self, name: str, *, last: bool = False) -> list[dict[str, Any]]:
        """Return a table as dicts of plain values, of all parts or of the last; empty where there is none."""
        return [row for file in (self._files[-1:] if last else self._files) for row in _table(file, name)]


class Table:
    """Columns over a time axis, for numpy, pandas and xarray."""

    fields: Mapping[str, Field]
    """The columns, by name."""

    @property
    def time(self) -> np.ndarray:
        """The time axis; datetime64[ns], UTC."""
        raise NotImplementedError

    def values(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a column and which of its values count (None: all). Ragged and bytes columns are object arrays."""
        raise NotImplementedError

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Return the columns by name, beside ``time``. Where a value is missing: NaN, or None in an object array."""
        found = {"time": self.time}
        for name in self.fields:
            values, valid = self.values(name)
            if valid is not None and not valid.all():
                if values.dtype.kind == "f":
                    values = values.copy()
                    values[~valid] = np.nan
                else:
                    filled = np.empty(len(values), dtype=object)
                    for row, value in enumerate(values):
                        filled[row] = (value.item() if isinstance(value, np.generic) else value) if valid[row] else None
                    values = filled
            found[name] = values
        return found

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame indexed by time (UTC). Ints and bools with missing values become nullable columns.

        Raises:
            RecordingError: pandas is not installed.
        """
        pandas = wanted("pandas", "data")
        index = pandas.DatetimeIndex(self.time, name="time", tz="UTC")
        columns = {}
        for name in self.fields:
            values, valid = self.values(name)
            if values.ndim > 1:
                values = _rows_as_objects(values)
            if valid is not None and not valid.all():
                if values.dtype.kind in "ib":
                    array = pandas.arrays.IntegerArray if values.dtype.kind == "i" else pandas.arrays.BooleanArray
                    columns[name] = array(values, ~valid)
                    continue
                values = values.copy()
                values[~valid] = np.nan if values.dtype.kind == "f" else None
            columns[name] = values
        return pandas.DataFrame(columns, index=index, copy=False)  # nobody else has the arrays

    def to_xarray(self) -> xr.Dataset:
        """Return a Dataset along ``time`` (UTC); units and descriptions become attributes.

        Raises:
            RecordingError: xarray is not installed.
        """
        xarray = wanted("xarray", "data")
        variables = {}
        for name, values in self.to_numpy().items():
            if name == "time":
                continue
            field = self.fields[name]
            dimensions = ("time", *(f"{name}_{axis}" for axis in range(1, values.ndim)))
            attributes = {"units": field.unit, "description": field.description}
            variables[name] = (dimensions, values, {key: text for key, text in attributes.items() if text})
        dataset: xr.Dataset = xarray.Dataset(variables, coords={"time": ("time", self.time)})
        return dataset


class Stream(Table):
    """The readings of one topic, or a slice of them. Rows are in the order they were received."""

    def __init__(
        self, recording: Recording, topic: str, groups: list[h5py.Group | None], rows: np.ndarray | None = None
    ) -> None:
        self.recording = recording
        self.topic = topic
        self._groups = groups
        """Its group in each part."""
        self._rows = rows

    def __len__(self) -> int:
        return sum(self._lengths) if self._rows is None else len(self._rows)

    @functools.cached_property
    def _lengths(self) -> list[int]:
        """Readings in each part."""
        return [0 if group is None else len(group["time"]) for group in self._groups]

    def __repr__(self) -> str:
        return f"<Stream {self.topic!r}: {len(self)} readings of {', '.join(self.fields)}>"

    @functools.cached_property
    def fields(self) -> dict[str, Field]:  # type: ignore[override]  # as good as the attribute it stands for
        """The columns, by name; nested fields are ``a.b.c``."""
        found: dict[str, Field] = {}
        parts = []
        for group in self._groups:
            if group is not None:
                with _Named(Path(group.file.filename), group.name):
                    parts.append(_fields_of(group))
        for part in parts:
            for name, field in part.items():
                found[name] = _joined(found[name], field) if name in found else field
        for name, field in found.items():
            kind, lacking = field.kind or "float", any(name not in part for part in parts)
            if lacking or kind != field.kind:
                found[name] = replace(field, kind=kind, optional=field.optional or lacking)
        return found

    @property
    def time(self) -> np.ndarray:
        """When each reading was taken: the publisher's stamp, the receipt where it gave none; datetime64[ns], UTC."""
        return self._column("time").view("datetime64[ns]")

    @property
    def time_device(self) -> np.ndarray | None:
        """What a device's own clock showed, ns since its boot, -2^63 where it has none; None where nobody has."""
        return self._column("time_device") if self._anywhere("time_device") else None

    @property
    def time_error(self) -> np.ndarray | None:
        """How far `time` may be off where it comes from a device's own clock, ns; -2^63 for unknown.

        None where there is no such reading, and while it is being recorded.
        """
        return self._column("time_error") if self._anywhere("time_error") else None

    @property
    def number(self) -> np.ndarray:
        """Sequence numbers, -1 for a publisher that has none; int64."""
        return self._column("number")

    @property
    def publisher(self) -> np.ndarray:
        """Names of the publishers; object array, None where unknown."""
        first, last, rows = self._span()
        found = [np.empty(0, dtype=object)]
        for group, begin, end in self._pieces(first, last):
            names = np.array([row["name"] for row in _table(group.file, "publishers")] + [None], dtype=object)
            ids = self._read(group, "publisher", begin, end).astype("<i8")
            found.append(names[np.where(ids == NONE_ID, len(names) - 1, ids)])
        values = np.concatenate(found)
        return values if rows is None else values[rows]

    def __getitem__(self, key: str | slice) -> Any:
        """Return one column by name, or a slice by time: ``stream["temperature"]``, ``stream[t0:t1]``.

        Times are datetimes, ISO texts or Unix seconds; a datetime without a zone counts as UTC; the end is excluded.
        """
        if isinstance(key, slice):
            return self.between(key.start, key.stop)
        return self.values(key)[0]

    def between(self, start: Any = None, end: Any = None) -> Stream:
        """Return the readings from `start` (included) to `end` (excluded); None is open."""
        return self.within(self.recording.spans(None, start, end))

    def during(self, run: Run | str) -> Stream:
        """Return the readings taken during a run, or during all runs of a name; see `Recording.runs_named`."""
        return self.within(self.recording.spans(run))

    def within(self, spans: Sequence[tuple[int, int]]) -> Stream:
        """Return the readings of some stretches of time, as `Recording.spans` gives them."""
        time = self._column("time")
        chosen = np.zeros(len(time), bool)
        for first, last in spans:
            chosen |= (time >= first) & (time < last)
        return self.take(np.flatnonzero(chosen))

    def take(self, rows: np.ndarray) -> Stream:
        """Return the readings of these rows, in their order; a row may come more than once."""
        found = Stream(self.recording, self.topic, self._groups, rows if self._rows is None else self._rows[rows])
        found.fields = self.fields
        return found

    def chunks(self, size_bytes: int = _CHUNK_BYTES) -> Iterator[Stream]:
        """Yield the readings in pieces, each of about so many bytes, so that any recording fits into memory."""
        rows = max(1, size_bytes // max(1, self._row_bytes()))
        for start in range(0, len(self), rows):
            yield self.take(np.arange(start, min(start + rows, len(self))))

    def values(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        field = self.fields.get(name)
        if field is None:
            raise KeyError(f"no field {name!r} in {self.topic!r}; there are: {', '.join(self.fields) or 'none'}")
        valid = None
        column = field.column
        if field.optional:
            mask = self._column(column + MASK, field)
            valid = mask == VALID
            if field.kind == "float":
                valid |= mask == NULL
        if field.shape is None:
            return self._ragged(column, field), valid
        return self._column(column, field), valid

    def to_xarray(self) -> xr.Dataset:
        return super().to_xarray().assign_attrs(topic=self.topic)

    def _anywhere(self, name: str) -> bool:
        return any(group is not None and name in group for group in self._groups)

    def _pieces(self, first: int, last: int) -> Iterator[tuple[h5py.Group, int, int]]:
        """Yield the groups that hold the rows from `first` to `last`, and from where to where there."""
        before = 0
        for group, length in zip(self._groups, self._lengths, strict=True):
            begin, end = max(first - before, 0), min(last - before, length)
            if group is not None and begin < end:
                yield group, begin, end
            before += length

    def _column(self, name: str, field: Field | None = None) -> np.ndarray:
        """Return a dataset's rows from all parts; `field` says what stands where a part has no such dataset."""
        first, last, rows = self._span()
        found = [self._read(group, name, begin, end, field) for group, begin, end in self._pieces(first, last)]
        values = found[0] if len(found) == 1 else np.concatenate(found or [self._nothing(name, field)])
        return values if rows is None else values[rows]

    def _nothing(self, name: str, field: Field | None) -> np.ndarray:
        """Return no rows of a dataset, as the first part that has it would."""
        for group in self._groups:
            if group is not None and (name in group or field is not None):
                return self._read(group, name, 0, 0, field)
        return np.empty(0, "<i8")

    def _read(self, group: h5py.Group, name: str, begin: int, end: int, field: Field | None = None) -> np.ndarray:
        with _Named(Path(group.file.filename), f"{group.name}/{name}"):
            if name not in group and (field is not None or name in ("time_device", "time_error")):
                return _absent(group, name, end - begin, field)
            dataset = group[name]
            if h5py.check_string_dtype(dataset.dtype):
                return np.array(dataset.asstr()[begin:end], dtype=object)
            values: np.ndarray = dataset[begin:end]
            if field is not None and field.kind == "float" and values.dtype.kind == "i" and name == field.column:
                return _as_floats(values, group[name + MASK][begin:end] if name + MASK in group else None)
            return values

    def _ragged(self, name: str, field: Field) -> np.ndarray:
        first, last, rows = self._span()
        pieces: list[Any] = []
        for group, begin, end in self._pieces(first, last):
            if name + OFFSETS not in group:  # there it is missing, or all rows have one shape
                known = self._read(group, name, begin, end, field)
                pieces.extend(known if name in group else [b"" if field.kind == "bytes" else known[:0]] * (end - begin))
                continue
            with _Named(Path(group.file.filename), f"{group.name}/{name}"):
                offsets = group[name + OFFSETS][begin : end + 1].astype("<i8")
                pool = group[name][offsets[0] : offsets[-1]]
                offsets -= offsets[0]
                shapes = group[name + SHAPE][begin:end] if name + SHAPE in group else None
            for row in range(end - begin):
                piece = pool[offsets[row] : offsets[row + 1]]
                if field.kind == "bytes":
                    pieces.append(piece.tobytes())
                else:
                    pieces.append(piece if shapes is None else piece.reshape(tuple(map(int, shapes[row]))))
        chosen = range(len(pieces)) if rows is None else rows
        found = np.empty(len(chosen), dtype=object)
        for place, row in enumerate(chosen):
            found[place] = pieces[row]
        return found

    def _span(self) -> tuple[int, int, np.ndarray | None]:
        """Return from where to where to read, and which rows of that are ours (None: all)."""
        if self._rows is None:
            return 0, sum(self._lengths), None
        if not len(self._rows):
            return 0, 0, None
        first = int(self._rows.min())
        last = int(self._rows.max()) + 1
        whole = last - first == len(self._rows) and bool((np.diff(self._rows) == 1).all())
        return first, last, None if whole else self._rows - first

    def _row_bytes(self) -> int:
        """Return how many bytes a reading takes, about."""
        found = 8
        for field in self.fields.values():
            for group, length in zip(self._groups, self._lengths, strict=True):
                if group is not None and field.column in group:
                    dataset = group[field.column]
                    one = _TEXT_BYTES if h5py.check_string_dtype(dataset.dtype) else dataset.dtype.itemsize
                    found += one * (dataset.size // max(1, length))
                    break
        return found


class Aligned(Table):
    """Readings of several topics joined on nearest time; columns are named ``topic:field``."""

    def __init__(self, streams: list[Stream], tolerance_ns: int) -> None:
        first, *others = streams
        self.streams: dict[str, Stream] = {}
        """Topic to its readings, a row of each beside the others; where there is none near enough, any reading."""
        self.offset: dict[str, np.ndarray] = {}
        """Topic to how far its reading is from the row's time; timedelta64[ns], NaT where there is none."""
        self.streams[first.topic] = first.take(np.argsort(first.time, kind="stable"))
        self.offset[first.topic] = np.zeros(len(first), "timedelta64[ns]")
        for other in others:
            rows, offset = _nearest(self.time, other.time)
            offset[np.abs(offset) > np.timedelta64(tolerance_ns, "ns")] = np.timedelta64("NaT")
            self.streams[other.topic] = other.take(rows)
            self.offset[other.topic] = offset
        self._where = {
            f"{topic}:{name}": (topic, name) for topic, stream in self.streams.items() for name in stream.fields
        }
        self.fields = {
            column: replace(self.streams[topic].fields[name], name=column)
            for column, (topic, name) in self._where.items()
        }

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    def __repr__(self) -> str:
        return f"<Aligned: {len(self)} readings of {', '.join(self.streams)}>"

    @property
    def time(self) -> np.ndarray:
        return next(iter(self.streams.values())).time

    def __getitem__(self, name: str) -> np.ndarray:
        return self.to_numpy()[name] if name == "time" else self.values(name)[0]

    def values(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        if name not in self._where:
            raise KeyError(f"no column {name!r}; there are: {', '.join(self._where) or 'none'}")
        topic, field = self._where[name]
        here = ~np.isnat(self.offset[topic])
        stream = self.streams[topic]
        if len(stream) < len(here):  # nothing to choose from
            return np.full(len(here), np.nan), here
        values, valid = stream.values(field)
        return values, None if valid is None and here.all() else here if valid is None else here & valid


def _nearest(times: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each time the row of the nearest other, and how far it is; no rows and NaT where there is no other."""
    if not len(others):
        return np.empty(0, "<i8"), np.full(len(times), np.timedelta64("NaT"), "timedelta64[ns]")
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    after = np.searchsorted(ordered, times).clip(max=len(ordered) - 1)
    before = (after - 1).clip(min=0)
    nearer = np.where(np.abs(ordered[before] - times) <= np.abs(ordered[after] - times), before, after)
    return order[nearer], ordered[nearer] - times


def _fields_of(group: h5py.Group) -> dict[str, Field]:
    """Return the columns of one part."""
    found = {}
    for name, dataset in group.items():
        if name.endswith((OFFSETS, SHAPE)) or name in layout.FIXED:
            continue
        column = name.removesuffix(MASK)
        public = layout.field_name(column)
        if column != name:
            if column not in group:  # nothing but None so far
                found[public] = Field(public, "", column=column, optional=True)
            continue
        kind = str(dataset.attrs["kind"])
        ndim = dataset.ndim - 1
        ragged = column + OFFSETS in group
        if ragged:
            shapes = group.get(column + SHAPE)
            ndim = 0 if kind == "bytes" else 1 if shapes is None else shapes.shape[1]
        found[public] = Field(
            public, kind, str(dataset.attrs.get("units", "")), str(dataset.attrs.get("description", "")),
            None if ragged else dataset.shape[1:], column, dataset.dtype.name if kind == "array" else "", ndim,
            column + MASK in group,
        )  # fmt: skip
    return found


def _joined(field: Field, later: Field) -> Field:
    """Return what a column is over two parts: in a later one it may hold floats, arrays of other shapes, or nothing."""
    wider = field if later.kind in ("", "int", field.kind) and field.kind else later
    dtype = wider.dtype
    if field.dtype and later.dtype:
        dtype = np.promote_types(field.dtype, later.dtype).name
    return replace(
        wider, unit=later.unit or field.unit, description=later.description or field.description, dtype=dtype,
        shape=wider.shape if not field.kind or not later.kind or field.shape == later.shape else None,
        optional=field.optional or later.optional,
    )  # fmt: skip


def _absent(group: h5py.Group, name: str, rows: int, field: Field | None) -> np.ndarray:
    """Return what stands for the rows of a part that has no such dataset."""
    if field is None:
        return np.full(rows, NONE_NS, "<i8")
    if name.endswith(MASK):
        return np.full(rows, VALID if field.column in group else ABSENT, "u1")
    if field.kind in ("str", "json"):
        return np.full(rows, "", dtype=object)
    if field.kind == "array":
        shape = field.shape or ()
        return np.full((rows, *shape), np.nan if np.dtype(field.dtype).kind == "f" else 0, field.dtype)
    return {
        "int": np.zeros(rows, "<i8"), "bool": np.zeros(rows, bool)
    }.get(field.kind, np.full(rows, np.nan))  # fmt: skip


def _as_floats(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return ints of a part as the floats that their column holds in another; exact ones, or as they are."""
    if (np.abs(values) > 1 << 53).any():
        return values.astype(object)
    floats = values.astype("<f8")
    if mask is not None:
        floats[mask != VALID] = np.nan
    return floats


def _table(file: h5py.File, name: str) -> list[dict[str, Any]]:
    """Return a table as dicts of plain values; empty where the file has none."""
    if name not in file:
        return []
    with _Named(Path(file.filename), f"/{name}"):
        return table_rows(file[name])


def table_rows(table: h5py.Dataset) -> list[dict[str, Any]]:
    """Return the rows of a compound dataset as dicts of plain values."""
    columns: dict[str, list[Any]] = {}
    rows = table[:]
    for name in table.dtype.names:
        values = rows[name].tolist()
        columns[name] = [value.decode() if isinstance(value, bytes) else value for value in values]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def layout_topic(group: h5py.Group) -> str:
    return str(group.attrs["topic"])


def stream_groups(file: h5py.File) -> list[h5py.Group]:
    found: list[h5py.Group] = []

    def visit(group: h5py.Group) -> None:
        if "topic" in group.attrs and "time" in group:
            found.append(group)
            return
        for child in group.values():
            if isinstance(child, h5py.Group):
                visit(child)

    try:
        visit(file["data"])
    except (OSError, RuntimeError, KeyError) as exc:
        raise RecordingError(f"{file.filename}: /data is damaged ({exc})") from exc
    return found


class Parts(NamedTuple):
    """The open files of one recording."""

    path: Path
    """Its first file, or the part that was asked for where that is not there."""
    files: list[h5py.File]
    damage: list[str]
    """What is missing or was exchanged, one line each."""


def open_parts(path: Path) -> Parts:
    """Open a recording by its first file, or by its folder if that holds no other one.

    A later part that lies there without the first is opened with those that follow it.

    Raises:
        RecordingError: there is no such file, or it is no recording of ours.
    """
    if path.is_dir():
        path = _only_one_in(path)
    first = first_of(path)
    there = parts_of(first)
    begin = next((number for number, part in there.items() if part == path and 1 not in there), 1)
    files = [_open(part_path(first, begin))]
    damage = [f"{first}: is missing; it begins with {path.name}"] if begin > 1 else []
    for number in range(begin, max(there) + 1):
        try:
            if number > begin:
                files.append(_open(part_path(first, number)))
            with _Named(part_path(first, number), "the root"):
                damage += _misfits(files, number)
        except RecordingError as exc:
            damage.append(str(exc))
    last = files[-1].attrs
    if last.get("continued") and not journal_folder(first.absolute()).is_dir():
        damage.append(f"{part_path(first, int(last['part']) + 1)}: no such file, and the part before is not the last")
    return Parts(part_path(first, begin), files, damage)


def _misfits(files: list[h5py.File], number: int) -> list[str]:
    """Return why the last of these files is not the part of this number."""
    file = files[-1]
    part, follows = int(file.attrs.get("part", 1)), str(file.attrs.get("previous_sha256", ""))
    if part != number:
        return [f"{file.filename}: is part {part} of a recording, not part {number}"]
    former = files[-2].attrs if len(files) > 1 else {}
    if follows and former.get("part") == number - 1 and former.get("content_sha256", follows) != follows:
        return [f"{file.filename}: does not follow {files[-2].filename}; one of them was exchanged"]
    return []


def _only_one_in(folder: Path) -> Path:
    found = sorted(path for path in folder.glob("*.h5") if first_of(path) == path)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "there is none"
        raise RecordingError(f"{folder}: a folder; name one recording in it: {names}")
    return found[0]


def _open(path: Path) -> h5py.File:
    """Return the open file of a recording; RecordingError says in one line why there is none."""
    if not path.exists():
        left = journal_folder(path.absolute())
        way_out = f"; a journal of it is left: ether recover {shlex.quote(str(path))}" if left.is_dir() else ""
        raise RecordingError(f"{path}: no such file{way_out}")
    try:
        file = h5py.File(path, "r")
    except OSError as exc:
        reason = str(exc).replace("\n", " ")
        if "signature not found" in reason:
            raise RecordingError(f"{path}: not a recording (no HDF5 file)") from exc
        raise RecordingError(f"{path}: damaged or not readable ({reason})") from exc
    try:
        kind, version = file.attrs.get("format"), int(file.attrs.get("format_version", 0))
    except Exception as exc:
        file.close()
        raise RecordingError(f"{path}: damaged ({exc})") from exc
    if kind != layout.FORMAT:
        file.close()
        raise RecordingError(f"{path}: an HDF5 file, but not a recording of ether's")
    if version > layout.FORMAT_VERSION:
        file.close()
        raise RecordingError(f"{path}: format version {version}; this ether reads up to {layout.FORMAT_VERSION}")
    return file


class _Named:
    """Turns what HDF5 raises on damage into one line that names the place."""

    def __init__(self, path: Path, place: str) -> None:
        self._path = path
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, (OSError, RuntimeError, KeyError, IndexError, ValueError)) and not isinstance(
            exc, RecordingError
        ):
            raise RecordingError(f"{self._path}: {self._place} is damaged ({exc})") from exc


def wanted(module: str, extra: str) -> Any:
    """Return a module of an extra; RecordingError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        library = module.partition(".")[0]
        raise RecordingError(f"{library} is not installed; try `pip install 'ether[{extra}]'`") from exc


def _rows_as_objects(values: np.ndarray) -> np.ndarray:
    found = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        found[row] = value
    return found


def _to_ns(t: Any) -> int:
    if isinstance(t, str):
        t = datetime.fromisoformat(t)
    if isinstance(t, np.datetime64):
        return int(t.astype("datetime64[ns]").astype("<i8"))
    if isinstance(t, datetime):
        t = t.replace(tzinfo=UTC) if t.tzinfo is None else t
        since: timedelta = t - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    return round(float(t) * 1e6) * 1000


def _seconds(t_ns: int) -> float | None:
    return None if t_ns == NONE_NS else t_ns / 1e9


def _any(source: str) -> Any:
    try:
        return json.loads(source)
    except ValueError:
        return source


def _object(source: str) -> dict[str, Any]:
    found = _any(source)
    return found if isinstance(found, dict) else {}
