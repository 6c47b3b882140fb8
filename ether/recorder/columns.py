"""Readings of any shape as columns of one HDF5 group per topic.

Rules (design of the recording): a column has one type. Ints that meet a float become floats where that is exact;
another clash becomes a sibling column ``<field>@<type>``; a new field is a new column. Nothing here may fail because of
what a message holds; whatever does is undone, so that columns always have the same length.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import h5py
import numpy as np

from ether.recorder import layout
from ether.recorder.layout import ABSENT, ELSEWHERE, MASK, NULL, OFFSETS, SHAPE, VALID

__all__ = ["MISSING", "Block", "Group", "flatten", "new_dataset"]

Keys = tuple[str, ...]

_TEXT = h5py.string_dtype()
_BLOCK_BYTES = 8 << 20
_MOST_FIELDS = 1000
_MOST_DEPTH = 64
_BOOL = np.dtype("bool")
_INT = np.dtype("<i8")
_FLOAT = np.dtype("<f8")
_BYTE = np.dtype("u1")
_U8 = np.dtype("<u8")


class _Missing:
    """Stands for a field that a message does not have."""


MISSING = _Missing()


class Block:
    """Rows of one topic that go into the file together."""

    def __init__(self, rows: int, fields: dict[Keys, Sequence[Any] | np.ndarray]) -> None:
        self.rows = rows
        self.fields = fields
        """By keys from outside in: `rows` values, or an array of first dimension `rows`."""

    @classmethod
    def of_rows(cls, flat: list[dict[Keys, Any]]) -> Block:
        """Return a block of flat readings, one a row."""
        keys: dict[Keys, None] = {}
        for row in flat:
            keys.update(dict.fromkeys(row))
        return cls(len(flat), {key: [row.get(key, MISSING) for row in flat] for key in keys})

    @classmethod
    def joined(cls, blocks: list[Block]) -> Block:
        """Return the rows of blocks that are like each other."""
        fields: dict[Keys, Sequence[Any] | np.ndarray] = {
            keys: np.concatenate([block.fields[keys] for block in blocks]) for keys in blocks[0].fields
        }
        return cls(sum(block.rows for block in blocks), fields)

    def like(self, other: Block) -> bool:
        """Return whether both hold arrays of the same types and shapes, for the same fields."""
        return [*self._form()] == [*other._form()] and all(form[1] is not None for form in self._form())

    def _form(self) -> Iterable[tuple[Keys, Any, tuple[int, ...]]]:
        for keys, values in self.fields.items():
            array = values if isinstance(values, np.ndarray) else None
            yield keys, None if array is None else array.dtype, () if array is None else array.shape[1:]


def flatten(fields: dict[Any, Any]) -> dict[Keys, Any]:
    """Return nested fields as one level, by their keys from outside in. An empty dict stays a value."""
    flat: dict[Keys, Any] = {}
    _flatten(flat, (), fields)
    return flat


def _flatten(flat: dict[Keys, Any], above: Keys, fields: dict[Any, Any]) -> None:
    for key, value in fields.items():
        keys = (*above, key if isinstance(key, str) else repr(key))
        if isinstance(value, dict) and value and len(keys) < _MOST_DEPTH:
            _flatten(flat, keys, value)
        else:
            flat[keys] = value


class Group:
    """The columns of one topic.

    Args:
        group: where they are.
        declared: field path to the kind its publisher declares: ``int``, ``float``, ``bool``, ``str``.
        names: what `names` returned of the part before: a column keeps its name through all parts.
        many: its readings come in batches.
    """

    def __init__(
        self,
        group: h5py.Group,
        declared: dict[str, str] | None = None,
        names: list[tuple[Keys, dict[str, str]]] | None = None,
        many: bool = False,
    ) -> None:
        self.group = group
        self.declared = declared or {}
        self.many = many
        self._former = dict(names or [])
        self.rows = 0
        self.families: dict[Keys, _Family] = {}
        self.version = 0
        """Counts changes of the columns."""

    def append(self, block: Block) -> None:
        """Write a block; on an exception nothing of it stays."""
        try:
            self._make_families(block)
            plans = [
                (family, family.plan(block.fields.get(keys), block.rows)) for keys, family in self.families.items()
            ]
            # Every column exists before anything is written, lest an exception leave some longer than others.
            for family, plan in plans:
                family.prepare(plan)
            for family, plan in plans:
                family.write(plan, self.rows, block.rows)
        except Exception:
            self._undo()
            raise
        self.rows += block.rows

    def _make_families(self, block: Block) -> None:
        for keys in block.fields:
            if keys not in self.families:
                if len(self.families) >= _MOST_FIELDS:
                    raise ValueError(f"more than {_MOST_FIELDS} fields")
                self.families[keys] = _Family(self, keys, self._former.get(keys))

    def _undo(self) -> None:
        for family in self.families.values():
            family.cut(self.rows)

    def names(self) -> list[tuple[Keys, dict[str, str]]]:
        """Return of each field its keys, and kind to the name of its column: all that were ever there."""
        return [*{**self._former, **{keys: family.names for keys, family in self.families.items()}}.items()]

    def describe(self) -> dict[str, str]:
        """Return column name to kind, in the order they appeared."""
        return {column.name: column.kind for family in self.families.values() for column in family.columns.values()}


class _Family:
    """All columns of one field: the first and its siblings, one per kind of value."""

    def __init__(self, owner: Group, keys: Keys, names: dict[str, str] | None = None) -> None:
        self.owner = owner
        self.keys = keys
        self.name = layout.link_name(keys)
        self.columns: dict[str, _Column] = {}
        self.names = dict(names or {})
        """Kind to the name of its column, in this part and those before."""
        self.void: _Column | None = None
        """Holds only the mask, while no value has come yet."""

    def cut(self, rows: int) -> None:
        for column in self._all():
            column.cut(rows)

    def _all(self) -> Iterable[_Column]:
        yield from self.columns.values()
        if self.void is not None:
            yield self.void

    def plan(self, values: Any, rows: int) -> dict[str, tuple[Any, np.ndarray | None]]:
        """Return kind to (values of the rows, mask or None where all are valid)."""
        if values is None:
            return {}
        if isinstance(values, np.ndarray):
            return self._plan_array(values)
        kinds = set(map(type, values))
        if len(kinds) == 1 and (plain := _plain(next(iter(kinds)), values)) is not None:
            return plain
        return _sorted_by_kind(values, rows)

    def _plan_array(self, values: np.ndarray) -> dict[str, tuple[Any, np.ndarray | None]]:
        if values.dtype.kind not in "iufb" or values.dtype.itemsize > 8:
            return _sorted_by_kind(values.tolist(), len(values))
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        if values.ndim > 1:
            return {f"array:{values.dtype.str}:{values.ndim - 1}": (values, None)}
        if values.dtype.kind == "b":
            return {"bool": (values, None)}
        if values.dtype.kind == "f":
            return {"float": (values.astype(_FLOAT), None)}
        if values.dtype.kind in "iu" and (values.dtype != np.uint64 or not len(values) or values.max() < 1 << 63):
            return {"int": (values.astype(_INT), None)}
        return _sorted_by_kind(values.tolist(), len(values))

    def prepare(self, plan: dict[str, tuple[Any, np.ndarray | None]]) -> None:
        """Make the columns of a plan, and fit its kinds to those there are (an int goes into a float column)."""
        masks_only = plan.pop("", None)
        if masks_only is not None and not plan and not self.columns:
            plan[""] = masks_only
            self.void = self.void or _Column.make(self, "", self.name)
            return
        self._fit_numbers(plan)
        for kind, (values, _) in plan.items():
            if kind not in self.columns:
                self._add(kind, values)
        if masks_only is not None:
            first = next(iter(self.columns), None)
            if first is not None and first not in plan:
                plan[first] = (None, masks_only[1])

    def _fit_numbers(self, plan: dict[str, tuple[Any, np.ndarray | None]]) -> None:
        primary = next(iter(self.names), None) or self._declared(plan)
        if "int" in plan and ("float" in plan or primary == "float") and primary in (None, "float", "int"):
            values, mask = plan["int"]
            if "float" in plan or primary == "float":
                valid = values if mask is None else values[mask == VALID]
                if not _exact(valid):
                    return
                if primary == "int" and not self._promote("int", "float"):
                    return
                del plan["int"]
                _join(plan, "float", values.astype(_FLOAT), mask)
        elif "float" in plan and primary == "int":
            self._promote("int", "float")
        elif "float" in plan and primary == "array":
            return
        for kind in [kind for kind in plan if kind.startswith("array:")]:
            self._fit_arrays(plan, kind)

    def _fit_arrays(self, plan: dict[str, tuple[Any, np.ndarray | None]], kind: str) -> None:
        """Let lists of ints and lists of floats share a column, as single numbers do."""
        _, dtype, ndim = kind.split(":")
        if dtype == _INT.str:
            wider = f"array:{_FLOAT.str}:{ndim}"
            if wider in self.names or wider in plan:
                values, mask = plan[kind]
                rows = [values[row] for row in range(len(values)) if mask is None or mask[row] == VALID]
                if kind not in self.names and all(_exact(np.asarray(row)) for row in rows):
                    del plan[kind]
                    floats = [None if value is None else np.asarray(value, _FLOAT) for value in values]
                    _join_objects(plan, wider, floats, mask)
        elif dtype == _FLOAT.str and ndim == "1" and kind not in self.names and _all_empty(plan[kind]):
            # An empty list has no type of its own: it goes where the others are.
            others = [known for known in (*self.names, *plan) if known.startswith("array:") and known.endswith(":1")]
            if others[0] != kind:
                values, mask = plan.pop(kind)
                _join_objects(plan, others[0], list(values), mask)
        elif dtype == _FLOAT.str:
            narrower = f"array:{_INT.str}:{ndim}"
            if next(iter(self.names), None) == narrower and kind not in self.names:
                self._promote(narrower, kind)

    def _promote(self, kind: str, wider: str) -> bool:
        """Let a column hold a wider kind from now on; False where that would not be exact, or another column does."""
        if wider in self.names:
            return False
        if kind in self.columns:
            return self.columns[kind].promote()
        self._rename(kind, wider)  # only the parts before have it
        return True

    def _rename(self, kind: str, wider: str) -> None:
        self.names = {wider if known == kind else known: name for known, name in self.names.items()}

    def _declared(self, plan: dict[str, Any]) -> str | None:
        declared = self.owner.declared.get(".".join(self.keys))
        return declared if declared == "float" else None

    def _add(self, kind: str, values: Any) -> None:
        name = self.names.get(kind) or (f"{self.name}@{_suffix(kind)}" if self.names else self.name)
        column = _Column.make(self, kind, name)
        column.create(values, self.owner.rows)
        void, self.void = self.void, None
        if void is not None and name == self.name:
            column.mask, column.masked = void.mask, void.masked
        elif self.owner.rows:
            column.mask_all(0, np.full(self.owner.rows, ABSENT, "u1") if void is None else void.take_mask())
        self.names[kind] = name
        self.columns[kind] = column
        self.owner.version += 1

    def rename(self, column: _Column, kind: str) -> None:
        """Note that a column has changed its kind."""
        self._rename(next(old for old, known in self.columns.items() if known is column), kind)
        self.columns = {kind if known is column else old: known for old, known in self.columns.items()}
        self.owner.version += 1

    def write(self, plan: dict[str, tuple[Any, np.ndarray | None]], start: int, rows: int) -> None:
        if self.void is not None:
            mask = plan[""][1] if "" in plan else None
            self.void.mask_rows(start, np.full(rows, ABSENT, "u1") if mask is None else mask)
            return
        taken: np.ndarray | None = None
        if len(self.columns) > 1:
            taken = np.zeros(rows, bool)
            nulls = np.zeros(rows, bool)
            for _, mask in plan.values():
                taken |= True if mask is None else mask == VALID
                nulls |= False if mask is None else mask == NULL
        for kind, column in self.columns.items():
            values, mask = plan.get(kind, (None, None))
            if values is None and mask is None:
                mask = np.full(rows, ABSENT, "u1")
            if taken is not None and mask is not None:
                mask = mask.copy()
                mask[(mask != VALID) & taken] = ELSEWHERE
                mask[nulls] = NULL
            column.append(start, rows, values, mask)


class _Column:
    """One dataset and, where needed, its mask."""

    def __init__(self, family: _Family, kind: str, name: str) -> None:
        self.family = family
        self.kind = kind
        self.name = name
        self.data: h5py.Dataset | None = None
        self.mask: h5py.Dataset | None = None
        self.masked = False

    @staticmethod
    def make(family: _Family, kind: str, name: str) -> _Column:
        if kind == "bytes" or kind.startswith("array:"):
            return _ArrayColumn(family, kind, name)
        return _Column(family, kind, name)

    @property
    def group(self) -> h5py.Group:
        return self.family.owner.group

    def forget(self) -> None:
        self.data = self.mask = None

    def dataset(self) -> h5py.Dataset:
        if self.data is None:
            self.data = self.group[self.name]
        return self.data

    def create(self, values: Any, rows: int) -> None:
        fill: Any = None
        if self.kind == "float":
            fill = math.nan
        dtype = {"float": _FLOAT, "int": _INT, "bool": _BOOL}.get(self.kind, _TEXT)
        self.data = new_dataset(self.group, self.name, (rows,), dtype, fill, many=self.family.owner.many)
        self.describe()

    def describe(self) -> None:
        self.dataset().attrs["kind"] = self.kind.partition(":")[0]
        self.dataset().attrs["field"] = json.dumps(self.family.keys)

    def append(self, start: int, rows: int, values: Any, mask: np.ndarray | None) -> None:
        if values is None:
            self.dataset().id.set_extent((start + rows,))
        else:
            write_rows(self.dataset(), start, _as_column(values, self.kind, mask))
        self.mask_rows(start, mask if mask is not None else rows)

    def mask_rows(self, start: int, mask: np.ndarray | int) -> None:
        """Note the mask of new rows; a number stands for so many valid ones."""
        if self.kind == "float" and not self.masked and not isinstance(mask, int) and not (mask > NULL).any():
            mask = len(mask)  # NaN says it already
        if not self.masked:
            if isinstance(mask, int) or not mask.any():
                return
            self.mask_all(start, mask)
            return
        if isinstance(mask, int):
            self._mask_dataset().id.set_extent((start + mask,))
        else:
            write_rows(self._mask_dataset(), start, mask)

    def mask_all(self, start: int, mask: np.ndarray) -> None:
        self.mask = new_dataset(self.group, self.name + MASK, (start,), _BYTE, None)
        self.mask.attrs["meaning"] = "0 valid, 1 null, 2 absent, 3 not representable here"
        self.masked = True
        write_rows(self.mask, start, mask)

    def take_mask(self) -> np.ndarray:
        """Return the mask, which is removed."""
        found: np.ndarray = self._mask_dataset()[:]
        del self.group[self.name + MASK]
        self.forget()
        self.masked = False
        return found

    def _mask_dataset(self) -> h5py.Dataset:
        if self.mask is None:
            self.mask = self.group[self.name + MASK]
        return self.mask

    def cut(self, rows: int) -> None:
        if self.kind:
            self.dataset().id.set_extent((rows,))
        if self.masked:
            self._mask_dataset().id.set_extent((rows,))

    def promote(self) -> bool:
        """Make an int column a float column; False where that would not be exact."""
        old = self.dataset()
        rows = len(old)
        for start in range(0, rows, _BLOCK_BYTES // 8):
            if not _exact(old[start : start + _BLOCK_BYTES // 8]):
                return False
        new = new_dataset(self.group, self.name + "%promoted", (0,), _FLOAT, math.nan, many=self.family.owner.many)
        for start in range(0, rows, _BLOCK_BYTES // 8):
            values = old[start : start + _BLOCK_BYTES // 8].astype(_FLOAT)
            if self.masked:
                values[self._mask_dataset()[start : start + len(values)] != VALID] = math.nan
            write_rows(new, start, values)
        self._replace(new, "float")
        return True

    def _replace(self, new: h5py.Dataset, kind: str) -> None:
        attributes = dict(self.dataset().attrs)
        temporary = new.name
        del self.group[self.name]
        self.group.move(temporary, self.name)
        self.data = self.group[self.name]
        for key, value in attributes.items():
            self.data.attrs[key] = value
        self.kind = kind
        self.describe()
        self.family.rename(self, kind)


class _ArrayColumn(_Column):
    """Arrays: rows of one shape while they all have it, a pool with offsets as soon as one differs."""

    def __init__(self, family: _Family, kind: str, name: str) -> None:
        super().__init__(family, kind, name)
        self.shape: tuple[int, ...] | None = None
        """Shape of every row; None once they differ."""
        self.offsets: h5py.Dataset | None = None
        self.shapes: h5py.Dataset | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return _BYTE if self.kind == "bytes" else np.dtype(self.kind.split(":")[1])

    @property
    def ndim(self) -> int:
        return 1 if self.kind == "bytes" else int(self.kind.split(":")[2])

    def forget(self) -> None:
        super().forget()
        self.offsets = self.shapes = None

    def create(self, values: Any, rows: int) -> None:
        shapes = {np.shape(value) for value in values if value is not None} if self.kind != "bytes" else set()
        if len(shapes) == 1 and 0 not in (shape := next(iter(shapes))):
            self.shape = shape
            self.data = new_dataset(self.group, self.name, (rows, *shape), self.dtype, _fill(self.dtype))
            self.describe()
        else:
            self._create_pool(rows)

    def _create_pool(self, rows: int) -> None:
        self.shape = None
        self.data = new_dataset(self.group, self.name, (0,), self.dtype, None, many=True)
        self.offsets = new_dataset(self.group, self.name + OFFSETS, (rows + 1,), _U8, None)
        self.offsets.attrs["meaning"] = "row i is the pool from offset i up to offset i + 1"
        if self.ndim > 1:
            self.shapes = new_dataset(self.group, self.name + SHAPE, (rows, self.ndim), _U8, None)
        self.describe()

    def append(self, start: int, rows: int, values: Any, mask: np.ndarray | None) -> None:
        self.mask_rows(start, mask if mask is not None else rows)
        if values is None:
            values = [None] * rows
        if self.shape is not None and self._fits(values):
            self._append_rows(start, rows, values, mask)
            return
        if self.shape is not None:
            self._become_pool(start)
        self._append_pool(start, values)

    def _fits(self, values: Any) -> bool:
        if isinstance(values, np.ndarray) and values.dtype != object:
            return bool(values.shape[1:] == self.shape)
        return all(value is None or np.shape(value) == self.shape for value in values)

    def _append_rows(self, start: int, rows: int, values: Any, mask: np.ndarray | None) -> None:
        assert self.shape is not None
        if isinstance(values, np.ndarray) and values.dtype == self.dtype:
            write_rows(self.dataset(), start, np.ascontiguousarray(values))
            return
        if all(value is None for value in values):
            self.dataset().id.set_extent((start + rows, *self.shape))
            return
        per_block = max(1, _BLOCK_BYTES // max(1, self.dtype.itemsize * math.prod(self.shape)))
        for first in range(0, rows, per_block):
            part = values[first : first + per_block]
            block = np.full((len(part), *self.shape), _fill(self.dtype) or 0, self.dtype)
            for place, value in enumerate(part):
                if value is not None:
                    block[place] = value
            write_rows(self.dataset(), start + first, block)

    def _append_pool(self, start: int, values: Any) -> None:
        pool, offsets = self.dataset(), self._offsets_dataset()
        end = pool.shape[0]
        ends, shapes = [], []
        for value in values:
            flat = np.empty(0, self.dtype)
            if value is not None:
                flat = np.frombuffer(value, _BYTE) if self.kind == "bytes" else np.ravel(value).astype(self.dtype)
            if len(flat):
                write_rows(pool, end, flat)
            end += len(flat)
            ends.append(end)
            shapes.append(np.shape(value) if value is not None and self.ndim > 1 else (0,) * self.ndim)
        write_rows(offsets, start + 1, np.array(ends, _U8))
        if self.ndim > 1:
            write_rows(self._shapes_dataset(), start, np.array(shapes, _U8))

    def _become_pool(self, rows: int) -> None:
        """Turn rows of one shape into a pool: the first row of another shape has come."""
        assert self.shape is not None
        old, shape = self.dataset(), self.shape
        attributes = dict(old.attrs)
        self.group.move(self.name, self.name + "%fixed")
        self._create_pool(0)
        assert self.data is not None
        assert self.offsets is not None
        size = math.prod(shape)
        per_block = max(1, _BLOCK_BYTES // max(1, size * self.dtype.itemsize))
        for start in range(0, rows, per_block):
            count = min(per_block, rows - start)
            write_rows(self.data, start * size, np.ascontiguousarray(old[start : start + count]).reshape(-1))
        write_rows(self.offsets, 0, np.arange(rows + 1, dtype=_U8) * np.uint64(size))
        if self.shapes is not None:
            write_rows(self.shapes, 0, np.tile(np.array(shape, _U8), (rows, 1)))
        del self.group[self.name + "%fixed"]
        for key, value in attributes.items():
            self.data.attrs[key] = value
        self.family.owner.version += 1

    def _offsets_dataset(self) -> h5py.Dataset:
        if self.offsets is None:
            self.offsets = self.group[self.name + OFFSETS]
        return self.offsets

    def _shapes_dataset(self) -> h5py.Dataset:
        if self.shapes is None:
            self.shapes = self.group[self.name + SHAPE]
        return self.shapes

    def cut(self, rows: int) -> None:
        if self.masked:
            self._mask_dataset().id.set_extent((rows,))
        if self.shape is not None:
            self.dataset().id.set_extent((rows, *self.shape))
            return
        offsets = self._offsets_dataset()
        offsets.id.set_extent((rows + 1,))
        self.dataset().id.set_extent((int(offsets[rows]),))
        if self.ndim > 1:
            self._shapes_dataset().id.set_extent((rows, self.ndim))

    def promote(self) -> bool:
        """Make int arrays float arrays; False where that would not be exact."""
        old = self.dataset()
        rows, size = old.shape[0], math.prod(old.shape[1:])
        per_block = max(1, _BLOCK_BYTES // max(1, size * 8))
        for start in range(0, rows, per_block):
            if not _exact(old[start : start + per_block]):
                return False
        new = new_dataset(self.group, self.name + "%promoted", (0, *old.shape[1:]), _FLOAT, math.nan)
        for start in range(0, rows, per_block):
            write_rows(new, start, old[start : start + per_block].astype(_FLOAT))
        self._replace(new, f"array:{_FLOAT.str}:{self.ndim}")
        return True


def new_dataset(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any, *, many: bool = False
) -> h5py.Dataset:
    """Return a new growing dataset, in chunks of 1024 rows, or 64 KB where that is less.

    Args:
        many: it will be long: chunks of 64 KB in any case.
    """
    row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
    rows = max(1, (64 << 10) // row_bytes)
    if not many:
        rows = min(1024, rows)
    return group.create_dataset(
        name, shape, dtype, maxshape=(None, *shape[1:]), chunks=(rows, *shape[1:]), fillvalue=fill
    )


def write_rows(dataset: h5py.Dataset, start: int, values: np.ndarray) -> None:
    """Write rows from `start` on, making the dataset exactly so long. Low level: 9 us instead of 140."""
    target, shape = dataset.id, values.shape
    target.set_extent((start + shape[0], *shape[1:]))
    if shape[0]:
        memory, space = _spaces(start, shape)
        target.write(memory, space, values, None if values.dtype.hasobject else _memory_type(values.dtype))


@lru_cache(64)
def _spaces(start: int, shape: tuple[int, ...]) -> tuple[h5py.h5s.SpaceID, h5py.h5s.SpaceID]:
    """Return what rows take in memory, and in a dataset that ends with them: the columns of a topic share them."""
    space = h5py.h5s.create_simple((start + shape[0], *shape[1:]))
    space.select_hyperslab((start,) + (0,) * (len(shape) - 1), shape)
    return h5py.h5s.create_simple(shape), space


@lru_cache(64)
def _memory_type(dtype: np.dtype[Any]) -> h5py.h5t.TypeID:
    """Return HDF5's type of values in memory; not for objects, where equal types may mean different ones."""
    return h5py.h5t.py_create(dtype)


def _plain(kind: type, values: Sequence[Any]) -> dict[str, tuple[Any, np.ndarray | None]] | None:
    """Return the plan of values of one simple type; None where they need a closer look."""
    if kind is float:
        return {"float": (np.array(values, _FLOAT), None)}
    if kind is bool:
        return {"bool": (np.array(values, _BOOL), None)}
    if kind is int:
        try:
            return {"int": (np.array(values, _INT), None)}
        except OverflowError:
            return None
    if kind is str and not any("\0" in value for value in values):
        return {"str": (values, None)}
    return None


def _sorted_by_kind(values: Sequence[Any], rows: int) -> dict[str, tuple[Any, np.ndarray | None]]:
    """Return the plan of mixed values; under the kind ``""`` the mask of rows that hold none."""
    plan: dict[str, tuple[Any, np.ndarray | None]] = {}
    empty = np.full(rows, VALID, "u1")
    found: dict[str, dict[int, Any]] = {}
    for row, value in enumerate(values):
        kind, converted = _classified(value)
        if kind in ("null", "absent", "elsewhere"):
            empty[row] = {"null": NULL, "absent": ABSENT, "elsewhere": ELSEWHERE}[kind]
            if kind == "elsewhere" and converted is not None:
                found.setdefault("str", {})[row] = converted
        else:
            found.setdefault(kind, {})[row] = converted
    for kind, by_row in found.items():
        mask = np.where(empty == VALID, ELSEWHERE, empty).astype("u1")
        column: list[Any] = [None] * rows
        for row, value in by_row.items():
            column[row] = value
            if empty[row] == VALID:
                mask[row] = VALID
        plan[kind] = (_as_column(column, kind, mask), mask if mask.any() else None)
    if not found:
        plan[""] = (None, empty)
    return plan


def _classified(value: Any) -> tuple[str, Any]:
    """Return the kind of a value and the value as its column holds it."""
    if value is None:
        return "null", None
    if value is MISSING:
        return "absent", None
    kind = type(value)
    if kind is bool:
        return "bool", value
    if kind is int:
        return ("int", value) if -(1 << 63) <= value < 1 << 63 else ("elsewhere", None)
    if kind is float:
        return "float", value
    if kind is str:
        return ("str", value) if "\0" not in value else ("elsewhere", layout.text(value))
    if isinstance(value, (bytes, bytearray)):
        return "bytes", bytes(value)
    if isinstance(value, np.generic):
        return _classified(value.item())
    if isinstance(value, np.ndarray):
        return _classified_array(value)
    if isinstance(value, list):
        array = _array_of(value)
        if array is not None:
            return f"array:{array.dtype.str}:{array.ndim}", array
    return "json", _json(value)


def _classified_array(value: np.ndarray) -> tuple[str, Any]:
    if value.dtype.kind not in "iufb" or value.dtype.itemsize > 8:
        return "json", _json(value.tolist())
    if value.ndim == 0:
        return _classified(value.item())
    value = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return f"array:{value.dtype.str}:{value.ndim}", value


def _array_of(value: list[Any]) -> np.ndarray | None:
    """Return a list of numbers (or lists of them, of even length) as an array; None for anything else."""
    if not value:
        return np.empty(0, _FLOAT)
    leaves = {type(item) for item in _leaves(value)}
    if not leaves <= {int, float} and leaves != {bool}:
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    if array.dtype.kind not in "ifb" or (leaves == {int, float} and not _exact_leaves(value)):
        return None
    return array


def _leaves(value: list[Any]) -> Iterable[Any]:
    for item in value:
        if type(item) is list:
            yield from _leaves(item)
        else:
            yield item


def _exact_leaves(value: list[Any]) -> bool:
    return all(type(item) is float or abs(item) <= 1 << 53 for item in _leaves(value))


def _json(value: Any) -> str:
    return layout.text(json.dumps(value, default=_json_default, ensure_ascii=False))


def _json_default(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    return str(value)


def _as_column(values: Any, kind: str, mask: np.ndarray | None) -> Any:
    """Return values as HDF5 takes them, with the fill of their kind where there is none."""
    if isinstance(values, np.ndarray) or kind == "bytes" or kind.startswith("array:"):
        return values
    if kind == "float":
        return np.array([math.nan if value is None else value for value in values], _FLOAT)
    if kind == "int":
        return np.array([0 if value is None else value for value in values], _INT)
    if kind == "bool":
        return np.array([bool(value) for value in values], _BOOL)
    column = np.empty(len(values), _TEXT)
    column[:] = ["" if value is None else layout.text(value) for value in values]
    return column


def _join(plan: dict[str, tuple[Any, np.ndarray | None]], kind: str, values: np.ndarray, mask: Any) -> None:
    """Add values to a plan's kind; where both have rows, each row comes from the one where it is valid."""
    if kind not in plan:
        if mask is not None:
            values[mask != VALID] = math.nan
        plan[kind] = (values, mask)
        return
    others, other_mask = plan[kind]
    assert mask is not None
    assert other_mask is not None
    joined = np.where(mask == VALID, values, others)
    both = np.minimum(mask, other_mask)
    plan[kind] = (joined, both if both.any() else None)


def _join_objects(plan: dict[str, tuple[Any, np.ndarray | None]], kind: str, values: list[Any], mask: Any) -> None:
    if kind not in plan:
        plan[kind] = (values, mask)
        return
    others, other_mask = plan[kind]
    assert other_mask is not None
    both = np.minimum(mask, other_mask)
    plan[kind] = (
        [other if value is None else value for value, other in zip(values, others, strict=True)],
        both if both.any() else None,
    )


def _all_empty(plan: tuple[Any, np.ndarray | None]) -> bool:
    return all(value is None or np.size(value) == 0 for value in plan[0])


def _fill(dtype: np.dtype[Any]) -> float | None:
    return math.nan if dtype.kind == "f" else None


def _exact(values: np.ndarray) -> bool:
    """Return whether numbers survive the way to float and back: floats do, ints up to 2^53."""
    if values.dtype.kind == "f" or not values.size:
        return True
    return bool((values <= 1 << 53).all() and (values >= -(1 << 53)).all())


def _suffix(kind: str) -> str:
    if not kind.startswith("array:"):
        return kind
    _, dtype, ndim = kind.split(":")
    return f"array-{np.dtype(dtype).name}" + (f"-{ndim}d" if ndim != "1" else "")
