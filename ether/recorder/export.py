"""Exports: the readings of a recording, with its runs, annotations and gaps, as files that other programs read.

Everything is read and written in pieces of some megabytes. What becomes of a field is told in the how-to on exports.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import itertools
import json
import math
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ether import __version__, codecs, topics
from ether.errors import RecordingError, suggest
from ether.model import Run
from ether.recorder import layout
from ether.recorder.layout import NONE_NS
from ether.recorder.reader import Field, Recording, Stream, wanted

__all__ = ["FORMATS", "export", "file_names"]

FORMATS = {"csv": "-csv", "parquet": "-parquet", "netcdf": ".nc", "mcap": ".mcap", "xlsx": ".xlsx"}
"""Format to what the recording's name ends in instead of ``.h5``; ``-csv`` and ``-parquet`` are folders."""

_LIBRARIES = {"csv": [], "parquet": ["pyarrow"], "netcdf": ["h5netcdf"], "mcap": ["mcap"], "xlsx": ["openpyxl"]}
_SPREAD = 64  # an array of up to so many elements becomes columns of a text table, a larger one a cell of JSON
_SHEET_ROWS = 1_048_576
_CELL_LETTERS = 32_767
_EXACT_INT = 1 << 53  # beyond it a spreadsheet, which knows only floats, would round
_OLDEST_CLOCK_NS = 10**17  # 1973: a smaller stamp counts from the boot of a device without a clock

Column = tuple[np.ndarray, "np.ndarray | None"]
"""Values, and which of them count (None: all)."""
Progress = Callable[[int, int], None]
"""Is called with how many readings are written, and how many there are."""


@dataclass(frozen=True)
class Source:
    """One table to be written: the readings of a topic, or what the recording holds beside them."""

    title: str
    """The topic; or runs, annotations, gaps."""
    name: str
    """Name of its file, unlike those of all others on any file system."""
    fields: list[Field]
    """The columns; a ``time`` holds datetime64[ns]."""
    rows: int
    pieces: Callable[[], Iterator[dict[str, Column]]]
    """Column name to values, piece by piece."""
    group: str
    """Path of the group of a hierarchical file."""


def export(
    recording: Recording,
    to: str,
    path: str | PathLike[str] | None = None,
    *,
    topics: Sequence[str] = (),
    run: Run | str | None = None,
    start: Any = None,
    end: Any = None,
    progress: Progress | None = None,
) -> Path:
    """Write readings for other programs, and return the file or folder that holds them.

    It appears under its name when it is finished; nothing is ever overwritten, and nothing is left when it fails.

    Args:
        recording: where the readings are.
        to: ``csv``, ``parquet`` (folders with a file for each topic), ``netcdf``, ``mcap`` or ``xlsx``.
        path: what to write; by default beside the recording, named like it.
        topics: topics or filters such as ``lab/#``; all by default.
        run: only during this run, or the runs of a name.
        start: only from this time on; see `Stream.between`.
        end: only before this time.
        progress: is called now and then with how much is done, and how much there is.

    Raises:
        KeyError: no such topic or run.
        RecordingError: the target exists or cannot be written, a library is missing, or the format cannot hold it.
    """
    if to not in FORMATS:
        raise RecordingError(f"no format {to!r}{suggest(to, FORMATS)}; there are: {', '.join(FORMATS)}")
    for library in _LIBRARIES[to]:
        wanted(library, "export")
    target = recording.path.with_name(recording.path.stem + FORMATS[to]) if path is None else Path(path)
    if os.path.lexists(target):
        raise RecordingError(f"{target}: exists; nothing is overwritten: remove it, or name another with --out")
    streams = recording.streams(topics, run, start, end)
    spans = recording.spans(run, start, end)
    if not any(map(len, streams)) and to != "mcap":
        raise RecordingError(f"{recording.path}: no reading in what was asked for")
    half = target.with_name(f".{target.name}.{os.getpid()}.part")
    tell = progress or (lambda done, total: None)
    try:
        if to == "mcap":
            _write_mcap(half, recording, topics, spans, tell)
        else:
            _TABLES[to](half, _sources(recording, streams, spans), _about(recording), tell)
        if os.path.lexists(target):
            raise RecordingError(f"{target}: has appeared meanwhile; nothing is overwritten")
        half.rename(target)
    except OSError as exc:
        if isinstance(exc, RecordingError):
            raise
        raise RecordingError(f"{target}: cannot be written ({exc.strerror or exc})") from exc
    finally:
        if half.is_dir():
            shutil.rmtree(half)
        else:
            half.unlink(missing_ok=True)
    return target


def file_names(titles: Iterable[str], longest: int = 100) -> list[str]:
    """Return a name for each title that is safe on every file system, and no two that differ in case only.

    Letters and digits of any script, ``-``, ``_`` and ``.`` stay; anything else, such as ``/``, becomes ``_``.

    Args:
        titles: such as topics; all different.
        longest: how many UTF-8 bytes a name may have.
    """
    found: list[str] = []
    taken: set[str] = set()
    for title in titles:
        letters = unicodedata.normalize("NFC", title)
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in letters)
        plain = plain.strip(".") or "_"
        if plain.casefold().partition(".")[0] in _DEVICES:
            plain = f"_{plain}"
        for number in itertools.count(1):
            suffix = "" if number == 1 else f"-{number}"
            name = plain.encode()[: longest - len(suffix)].decode(errors="ignore") + suffix
            key = unicodedata.normalize("NFC", name.casefold())
            if key not in taken:
                break
        taken.add(key)
        found.append(name)
    return found


_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
"""Names that no file of any ending may have on Windows."""


# --- what is to be written


def _about(recording: Recording) -> dict[str, str]:
    """Return where the export comes from."""
    return {
        "source": f"ether {__version__}",
        "recording": recording.path.name,
        "session": recording.session,
        "state": recording.state,
        "content_sha256": recording.content_sha256,
    }


def _sources(recording: Recording, streams: list[Stream], spans: list[tuple[int, int]]) -> list[Source]:
    beside = [source for source in (_runs(recording), _annotations(recording, spans), _gaps(recording)) if source.rows]
    names = file_names([*(source.title for source in beside), *(stream.topic for stream in streams)])
    named = [replace(source, name=name) for source, name in zip(beside, names, strict=False)]
    return [_readings(stream, name) for stream, name in zip(streams, names[len(beside) :], strict=True)] + named


def _readings(stream: Stream, name: str) -> Source:
    fields = [Field("time", "time"), *stream.fields.values()]

    def pieces() -> Iterator[dict[str, Column]]:
        for piece in stream.chunks():
            yield {"time": (piece.time, None)} | {name: piece.values(name) for name in piece.fields}

    return Source(stream.topic, name, fields, len(stream), pieces, layout.group_path(stream.topic))


def _runs(recording: Recording) -> Source:
    rows = [
        {**asdict(run), "started": _ns(run.started), "stopped": _ns(run.stopped), "metadata": json.dumps(run.metadata)}
        for run in recording.runs
    ]
    kinds = {
        "id": "str", "name": "str", "number": "int", "parent": "str", "started": "time", "stopped": "time",
        "outcome": "str", "metadata": "json",
    }  # fmt: skip
    return _table("runs", kinds, rows)


def _annotations(recording: Recording, spans: list[tuple[int, int]]) -> Source:
    rows = []
    for note in recording.annotations:
        begin, end = _ns(note.t0), _ns(note.t1)
        if any(begin < last and first <= max(begin, end) for first, last in spans):
            rows.append(
                {
                    "time": begin, "end": end, "text": note.text, "tags": json.dumps(note.tags),
                    "values": json.dumps(note.values), "by": note.by, "revision": note.revision,
                }
            )  # fmt: skip
    kinds = {"time": "time", "end": "time", "text": "str", "tags": "json", "values": "json", "by": "str"}
    kinds["revision"] = "int"
    return _table("annotations", kinds, rows)


def _gaps(recording: Recording) -> Source:
    kinds = {"publisher": "str", "boot": "str", "topic": "str", "first": "int", "last": "int", "reason": "str"}
    return _table("gaps", kinds, recording.gaps)


def _table(title: str, kinds: dict[str, str], rows: list[dict[str, Any]]) -> Source:
    columns: dict[str, Column] = {}
    for name, kind in kinds.items():
        values = [row[name] for row in rows]
        if kind == "time":
            columns[name] = np.array(values, "<i8").view("datetime64[ns]"), None
        elif kind == "int":
            columns[name] = np.array([value or 0 for value in values], "<i8"), _valid(values)
        else:
            columns[name] = np.array(values, object), _valid(values)
    fields = [Field(name, kind, optional=columns[name][1] is not None) for name, kind in kinds.items()]
    return Source(title, title, fields, len(rows), lambda: iter([columns]), f"/{title}")


def _valid(values: list[Any]) -> np.ndarray | None:
    valid = np.array([value is not None for value in values], bool)
    return None if valid.all() else valid


def _ns(unix_s: float | None) -> int:
    return NONE_NS if unix_s is None else round(unix_s * 1e6) * 1000


def _counted(sources: list[Source], source: Source, tell: Progress) -> Iterator[dict[str, Column]]:
    """Yield the pieces of a source, and tell before each how much is done."""
    total = sum(each.rows for each in sources)
    done = sum(each.rows for each in sources[: sources.index(source)])
    tell(done, total)
    for piece in source.pieces():
        yield piece
        done += len(next(iter(piece.values()))[0])
        tell(done, total)


# --- text tables: CSV and Excel


def _headings(field: Field) -> list[str]:
    """Return the columns that a field becomes in a table of single values."""
    if field.kind == "array" and field.shape and math.prod(field.shape) <= _SPREAD:
        return [f"{field.name}[{','.join(map(str, place))}]" for place in np.ndindex(field.shape)]
    return [field.name]


def _cells(field: Field, column: Column) -> list[list[Any]]:
    """Return the same columns of a piece, as lists of plain values; None where there is none."""
    values, valid = column
    if field.kind == "array":
        headings = _headings(field)
        if headings != [field.name]:
            spread = values.reshape(len(values), len(headings))
            return [_blanked(each.tolist(), valid) for each in spread.T]
        return [_blanked([_json(value) for value in values], valid)]
    if field.kind == "bytes":
        import base64

        return [_blanked([base64.b64encode(value).decode() for value in values], valid)]
    return [_blanked(values.tolist(), valid)]


def _blanked(cells: list[Any], valid: np.ndarray | None) -> list[Any]:
    if valid is None:
        return cells
    return [cell if here else None for cell, here in zip(cells, valid.tolist(), strict=True)]


def _json(value: np.ndarray) -> str:
    """Return an array as JSON, which has neither NaN nor infinity: null."""
    plain = value.astype(object)
    if value.dtype.kind == "f":
        plain[~np.isfinite(value)] = None
    elif value.dtype.kind == "c":
        return json.dumps(np.stack([value.real, value.imag], -1).tolist())
    return json.dumps(plain.tolist())


def _write_csv(folder: Path, sources: list[Source], about: dict[str, str], tell: Progress) -> None:
    folder.mkdir()
    for source in sources:
        with (folder / f"{source.name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([heading for field in source.fields for heading in _headings(field)])
            for piece in _counted(sources, source, tell):
                columns = [cells for field in source.fields for cells in _csv_cells(field, piece[field.name])]
                writer.writerows(zip(*columns, strict=True))
    tables = [
        {
            "url": f"{source.name}.csv", "dc:title": source.title,
            "tableSchema": {"columns": [column for field in source.fields for column in _csvw(field)]},
        } for source in sources
    ]  # fmt: skip
    facts = {f"dc:{name}" if name == "source" else f"ether:{name}": text for name, text in about.items()}
    described = {"@context": "http://www.w3.org/ns/csvw", **facts, "tables": tables}
    text = json.dumps(described, ensure_ascii=False, indent=1)
    (folder / "csv-metadata.json").write_text(text, encoding="utf-8")


def _csv_cells(field: Field, column: Column) -> list[list[Any]]:
    values, valid = column
    if field.kind == "time":
        return [[None if text == "NaT" else f"{text}Z" for text in np.datetime_as_string(values, unit="ns").tolist()]]
    if field.kind == "bool":
        return [_blanked(np.where(values, "true", "false").tolist(), valid)]
    cells = _cells(field, column)
    if values.dtype.kind == "f":  # as CSV on the Web spells them
        return [[_ODD.get(str(cell), cell) if cell is not None else None for cell in each] for each in cells]
    return cells


_ODD = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}
_CSVW_TYPES = {
    "time": "dateTimeStamp", "int": "long", "float": "double", "bool": "boolean", "json": "json",
    "bytes": "base64Binary",
}  # fmt: skip


def _csvw(field: Field) -> list[dict[str, Any]]:
    """Return the columns of a field as CSV on the Web describes them."""
    headings = _headings(field)
    datatype = _CSVW_TYPES.get(field.kind, "string")
    if field.kind == "array":
        whole = np.dtype(field.dtype).kind in "iu"
        datatype = "json" if field.shape is None or headings == [field.name] else "long" if whole else "double"
    more = {key: text for key, text in (("schema:unitText", field.unit), ("dc:description", field.description)) if text}
    return [{"titles": heading, "datatype": datatype, **more} for heading in headings]


def _write_xlsx(path: Path, sources: list[Source], about: dict[str, str], tell: Progress) -> None:
    for source in sources:
        if source.rows >= _SHEET_ROWS:
            raise RecordingError(
                f"{source.title}: {source.rows:,} readings, and a sheet holds {_SHEET_ROWS - 1:,}; choose fewer with "
                "--from and --until, or csv or parquet"
            )
    import openpyxl
    import openpyxl.utils.exceptions

    book = openpyxl.Workbook(write_only=True)
    names = file_names(["fields", "history", *(source.name for source in sources)], longest=31)
    try:
        for source, name in zip(sources, names[2:], strict=True):
            sheet = book.create_sheet(name)
            sheet.freeze_panes = "B2"
            sheet.column_dimensions["A"].width = 24
            units = [(heading, field.unit) for field in source.fields for heading in _headings(field)]
            sheet.append(
                [_sheet_text(sheet, f"{heading} [{unit}]" if unit else heading, heading) for heading, unit in units]
            )
            for piece in _counted(sources, source, tell):
                columns = [
                    _sheet_cells(sheet, source, field, cells)
                    for field in source.fields
                    for cells in _cells(field, piece[field.name])
                ]
                for row in zip(*columns, strict=True):
                    sheet.append(row)
        sheet = book.create_sheet("fields")
        sheet.append(["sheet", "topic", "field", "kind", "unit", "description"])
        for source, name in zip(sources, names[2:], strict=True):
            for field in source.fields:
                words = (name, source.title, field.name, field.kind, field.unit, field.description)
                sheet.append([_sheet_text(sheet, word, field.name) for word in words])
        for key, text in about.items():
            sheet.append([_sheet_text(sheet, word, key) for word in (key, text)])
        book.save(path)
    except BaseException:
        for sheet in book.worksheets:
            with contextlib.suppress(openpyxl.utils.exceptions.WorkbookAlreadySaved):
                sheet.close()
        raise


def _sheet_cells(sheet: Any, source: Source, field: Field, cells: list[Any]) -> list[Any]:
    """Return cells as a sheet holds them: times without a zone, no NaN, whole numbers only where they stay exact."""
    if field.kind == "time":
        return [_sheet_time(sheet, ns) for ns in cells]
    if field.kind in ("int", "array"):
        cells = [str(cell) if isinstance(cell, int) and abs(cell) > _EXACT_INT else cell for cell in cells]
    if field.kind in ("float", "array"):
        cells = [_sheet_float(cell) if isinstance(cell, float) else cell for cell in cells]
    if field.kind in ("str", "json", "bytes", "array"):
        place = f"{source.title}, field {field.name}"
        cells = [_sheet_text(sheet, cell, place) if isinstance(cell, str) else cell for cell in cells]
    return cells


def _sheet_time(sheet: Any, ns: int | None) -> Any:
    from openpyxl.cell import WriteOnlyCell

    if ns is None:
        return None
    since = datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000, tzinfo=None)
    cell = WriteOnlyCell(sheet, since)
    cell.number_format = "yyyy-mm-dd hh:mm:ss.000"
    return cell


def _sheet_float(value: float) -> float | str | None:
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)


def _sheet_text(sheet: Any, text: str, place: str) -> Any:
    """Return a cell of text that is never taken for a formula; what XML cannot hold is escaped as Excel does."""
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if len(text) > _CELL_LETTERS:
        raise RecordingError(
            f"{place}: a text of {len(text):,} letters, and a cell holds {_CELL_LETTERS:,}; choose csv, parquet or "
            "netcdf, or leave its topic out"
        )
    cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub(lambda found: f"_x{ord(found[0]):04X}_", text))
    cell.data_type = "s"
    return cell


# --- Parquet


def _write_parquet(folder: Path, sources: list[Source], about: dict[str, str], tell: Progress) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for source in sources:
        schema = pa.schema(
            [
                pa.field(field.name, _arrow_type(pa, field), metadata=_described(field) or None)
                for field in source.fields
            ],
            metadata={"topic": source.title, **about},
        )
        with pq.ParquetWriter(folder / f"{source.name}.parquet", schema) as writer:
            for piece in _counted(sources, source, tell):
                arrays = [_arrow(pa, schema.field(field.name).type, piece[field.name]) for field in source.fields]
                writer.write_batch(pa.record_batch(arrays, schema=schema))


def _described(field: Field) -> dict[str, str]:
    facts = {"unit": field.unit, "description": field.description}
    if field.kind == "json":
        facts["kind"] = field.kind
    return {key: text for key, text in facts.items() if text}


def _arrow_type(pa: Any, field: Field) -> Any:
    if field.kind == "array":
        found = pa.from_numpy_dtype(np.dtype(field.dtype))
        for length in reversed(field.shape) if field.shape else [-1] * field.ndim:
            found = pa.list_(found, length)
        return found
    return {
        "time": pa.timestamp("ns", tz="UTC"), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
        "bytes": pa.large_binary(),
    }.get(field.kind, pa.string())  # fmt: skip


def _arrow(pa: Any, kind: Any, column: Column) -> Any:
    values, valid = column
    mask = None if valid is None else ~valid
    if pa.types.is_fixed_size_list(kind):
        return _fixed_lists(pa, kind, values, mask)
    if values.dtype.kind != "O":
        return pa.array(values, kind, mask=mask)
    items = [value if here else None for value, here in zip(values, _all(valid, len(values)), strict=True)]
    if pa.types.is_list(kind) and pa.types.is_list(kind.value_type):
        items = [None if item is None else item.tolist() for item in items]
    return pa.array(items, kind)


def _fixed_lists(pa: Any, kind: Any, values: np.ndarray, mask: np.ndarray | None) -> Any:
    levels = []
    while pa.types.is_fixed_size_list(kind):
        levels.append(kind)
        kind = kind.value_type
    found = pa.array(np.ascontiguousarray(values).ravel(), kind)
    for level in reversed(levels[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, type=level)
    return pa.FixedSizeListArray.from_arrays(found, type=levels[0], mask=None if mask is None else pa.array(mask))


def _all(valid: np.ndarray | None, rows: int) -> Iterable[bool]:
    return itertools.repeat(True, rows) if valid is None else valid.tolist()


# --- netCDF-4


def _write_netcdf(path: Path, sources: list[Source], about: dict[str, str], tell: Progress) -> None:
    import h5netcdf

    with h5netcdf.File(path, "w") as file:
        file.attrs["Conventions"] = "CF-1.11"
        for key, text in about.items():
            file.attrs[key] = text
        for source in sources:
            group = file.create_group(source.group)
            readings = source.group.startswith("/data/")
            group.attrs["topic" if readings else "title"] = source.title
            rows = "time" if readings else source.title.removesuffix("s")
            group.dimensions = {rows: source.rows}
            columns = [_NetcdfColumn(group, rows, field, source.rows) for field in source.fields]
            for piece in _counted(sources, source, tell):
                for column in columns:
                    column.append(*piece[column.field.name])


class _NetcdfColumn:
    """One field as a variable: missing ints are the fill value, lists a contiguous ragged array, as CF has them."""

    def __init__(self, group: Any, rows: str, field: Field, length: int) -> None:
        self.field = field
        self._group = group
        self._row = 0
        self._sample = 0
        name = field.name
        self._missing = self._count = None
        dimensions: tuple[str, ...] = (rows,)
        chunk: tuple[int, ...] | None = (min(length, 65_536),) if length else None
        fill: Any = None
        kind: Any = {"int": "<i8", "time": "<i8", "float": "<f8", "bool": "i1", "bytes": "u1"}.get(field.kind)
        if field.kind == "array":
            found = np.dtype(field.dtype)
            kind = np.dtype("i1") if found.kind == "b" else np.dtype("<f4") if found == np.float16 else found
        if kind is None:
            kind = h5py.string_dtype()
        if field.shape is None:
            dimensions = (f"{name}_sample",)
            group.dimensions[f"{name}_sample"] = None
            chunk = (65_536,)
            self._count = group.create_variable(f"{name}_count", (rows,), "<i8")
            self._count.attrs["sample_dimension"] = f"{name}_sample"
            if field.ndim > 1:
                group.dimensions[f"{name}_axis"] = field.ndim
                self._shape = group.create_variable(f"{name}_shape", (rows, f"{name}_axis"), "<i8")
        else:
            for axis, size in enumerate(field.shape, 1):
                group.dimensions[f"{name}_{axis}"] = size
                dimensions += (f"{name}_{axis}",)
            if field.shape and length:
                chunk = (max(1, min(length, 1_000_000 // max(1, math.prod(field.shape)))), *field.shape)
        if field.kind == "time":
            fill = NONE_NS if name != "time" else None
        elif field.optional and field.kind in ("int", "bool"):
            fill = NONE_NS if field.kind == "int" else -1
        elif field.optional and field.kind != "float":
            self._missing = group.create_variable(f"{name}_missing", (rows,), "i1")
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        if h5py.check_string_dtype(np.dtype(kind)) or chunk is None:
            packed = {}
        self._variable = group.create_variable(name, dimensions, kind, fillvalue=fill, chunks=chunk, **packed)
        self._fill = fill
        self._describe()

    def _describe(self) -> None:
        attributes = self._variable.attrs
        if self.field.kind == "time":
            attributes["units"] = "nanoseconds since 1970-01-01"
            attributes["calendar"] = "proleptic_gregorian"
        elif self.field.kind == "bool" and self._fill is None:
            attributes["dtype"] = "bool"  # what xarray goes by: netCDF has no truth values
        if self.field.name == "time":
            attributes["standard_name"] = "time"
        if self.field.unit:
            attributes["units"] = self.field.unit
        if self.field.description:
            attributes["long_name"] = self.field.description
        if self._missing is not None:
            attributes["ancillary_variables"] = self._missing.name.rpartition("/")[2]

    def append(self, values: np.ndarray, valid: np.ndarray | None) -> None:
        """Write the next piece."""
        here = slice(self._row, self._row + len(values))
        self._row = here.stop
        if self._missing is not None and valid is not None:
            self._missing[here] = (~valid).astype("i1")
        if self._count is not None:
            self._append_samples(values, valid, here)
            return
        if values.dtype.kind == "M":
            values = values.view("<i8")
        elif values.dtype.kind == "O":
            values = np.array(["" if value is None else value for value in values], object)
        elif values.dtype.kind == "b":
            values = values.astype("i1")
        if self._fill is not None and valid is not None:
            values = np.where(valid, values, self._fill)
        self._variable[here] = values

    def _append_samples(self, values: np.ndarray, valid: np.ndarray | None, here: slice) -> None:
        assert self._count is not None
        parts = [np.frombuffer(value, "u1") if isinstance(value, bytes) else value for value in values]
        self._count[here] = [part.size for part in parts]
        if self.field.ndim > 1:
            self._shape[here] = [part.shape for part in parts]
        pool = np.concatenate([part.ravel() for part in parts]) if parts else np.empty(0)
        if len(pool):
            end = self._sample + len(pool)
            self._group.resize_dimension(f"{self.field.name}_sample", end)
            self._variable[self._sample : end] = pool
            self._sample = end


# --- MCAP: the messages themselves


def _write_mcap(
    path: Path, recording: Recording, topic_filters: Sequence[str], spans: list[tuple[int, int]], tell: Progress
) -> None:
    from mcap.writer import Writer

    total = recording.info()["messages"]
    written = 0
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="", library=f"ether {__version__}")
        writer.add_metadata("ether", _about(recording))
        channel = functools.cache(lambda topic, encoding: _channel(writer, recording, topic, encoding))
        with contextlib.closing(recording.messages()) as messages:  # type: ignore[type-var]  # it is a generator
            for done, message in enumerate(messages):
                if done % 1000 == 0:
                    tell(done, total)
                stamped = message.time_ns is not None and message.time_ns > _OLDEST_CLOCK_NS
                time_ns = message.time_ns if stamped and message.time_ns is not None else message.received_ns
                if topic_filters and not topics.matches_any(topic_filters, message.topic):
                    continue
                if not any(first <= time_ns < last for first, last in spans):
                    continue
                writer.add_message(
                    channel(message.topic, _encoding(message.payload)), message.received_ns, message.payload, time_ns,
                    (message.number or 0) & 0xFFFFFFFF,
                )  # fmt: skip
                written += 1
        if not written:
            raise RecordingError(f"{recording.path}: no message in what was asked for")
        now = datetime.now(UTC)
        for source in (_runs(recording), _annotations(recording, spans), _gaps(recording)):
            if source.rows:
                stamp = int(now.timestamp() * 1e9)
                writer.add_attachment(stamp, stamp, f"{source.title}.json", "application/json", _as_json(source))
        writer.finish()  # type: ignore[no-untyped-call]  # theirs
    tell(total, total)


def _encoding(payload: bytes) -> str:
    if payload.startswith(codecs.CBOR_MAGIC):
        return "cbor"
    return "json" if payload[:1] in _JSON_STARTS else ""


_JSON_STARTS = {bytes([letter]) for letter in b'{["-0123456789tfn'}


def _channel(writer: Any, recording: Recording, topic: str, encoding: str) -> int:
    """Register a topic; its schema tells the fields with their units, as JSON Schema."""
    fields = recording[topic].fields.values() if topic in recording else []
    schema = 0
    if fields and encoding == "json":
        properties = {field.name: _json_schema(field) for field in fields}
        text = json.dumps({"type": "object", "title": topic, "properties": properties}, ensure_ascii=False)
        schema = writer.register_schema(topic, "jsonschema", text.encode())
    units = {f"unit:{field.name}": field.unit for field in fields if field.unit}
    found: int = writer.register_channel(topic, encoding, schema, units)
    return found


def _json_schema(field: Field) -> dict[str, str]:
    kind = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "array": "array"}.get(field.kind)
    facts = {"type": kind, "unit": field.unit, "description": field.description}
    return {key: text for key, text in facts.items() if text}


def _as_json(source: Source) -> bytes:
    (piece,) = source.pieces()
    columns = [
        [json.loads(cell) for cell in cells] if field.kind == "json" else cells
        for field in source.fields
        for cells in _csv_cells(field, piece[field.name])
    ]
    names = [field.name for field in source.fields]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


_TABLES: dict[str, Callable[[Path, list[Source], dict[str, str], Progress], None]] = {
    "csv": _write_csv, "parquet": _write_parquet, "netcdf": _write_netcdf, "xlsx": _write_xlsx,
}  # fmt: skip
