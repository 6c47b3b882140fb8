"""Params: attributes and properties of a component that others may read and set while it runs.

Everything here runs in the thread that runs the instance, as its handlers do.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

from ether.decorators import Param
from ether.errors import ComponentError, FieldError, suggest

__all__ = ["Params"]

_UNBUILDABLE = (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, TypeError, NameError)
_PLAIN = (bool, int, float, str, list, dict)


@dataclass(frozen=True, slots=True)
class _One:
    mark: Param
    adapter: TypeAdapter[Any]
    computed: bool
    """A property: reading it runs the user's code, which may take long."""
    writable: bool


class Params:
    """The live parameters of one object."""

    def __init__(self, target: Any, given: Mapping[str, Param] | None = None) -> None:
        """Find them.

        Args:
            target: the user's object.
            given: by attribute, further ones than its class marks, and what is said anew of those that it marks.

        Raises:
            ComponentError: no such attribute, or one that cannot be a parameter; one line each.
        """
        self._target = target
        cls = type(target)
        properties = {name: each for name in dir(cls) if isinstance(each := getattr(cls, name, None), property)}
        hints = _hints(cls) | {name: _hints(each.fget).get("return") for name, each in properties.items()}
        marks = {name: mark for name, hint in hints.items() if (mark := _mark_in(hint)) is not None}
        problems: list[str] = []
        self._all: dict[str, _One] = {}
        given = given or {}
        for name in {**marks, **given}:
            try:
                self._all[name] = self._one(name, _over(marks.get(name), given.get(name)), hints.get(name))
            except ComponentError as exc:
                problems.append(str(exc))
        if problems:
            raise ComponentError("\n".join(problems))
        self.by: dict[str, tuple[str, float]] = {}
        """Who set a parameter last, and when."""
        self._values = {name: self._read(name) for name in self._all}

    def __len__(self) -> int:
        return len(self._all)

    def _one(self, name: str, mark: Param, hint: Any) -> _One:
        cls = type(self._target)
        found = getattr(cls, name, None)
        computed = isinstance(found, property) or (hasattr(found, "__get__") and hasattr(found, "__set__"))
        if not computed and not hasattr(self._target, name):
            known = [each for each in dir(self._target) if not each.startswith("_")]
            raise ComponentError(f"params: {cls.__name__} has no attribute {name!r}{suggest(name, known)}")
        if callable(found) and not computed:
            raise ComponentError(f"params: {cls.__name__}.{name} is a method; call it instead")
        if hint is None and not computed:
            value = getattr(self._target, name)
            hint = (int | float) if type(value) is int else type(value) if isinstance(value, _PLAIN) else Any
        bounds = {word: bound for word in ("ge", "le") if (bound := getattr(mark, word)) is not None}
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(Annotated[Any if hint is None else hint, Field(**bounds)])  # type: ignore[arg-type]  # built at run time
        except _UNBUILDABLE as exc:
            why = str(exc).partition("\n")[0].partition(". Set `")[0]  # pydantic goes on, for who writes types
            raise ComponentError(f"params: {cls.__name__}.{name}: its annotation cannot be checked: {why}") from None
        writable = not (isinstance(found, property) and found.fset is None)
        return _One(mark, adapter, computed, writable)

    def _read(self, name: str) -> Any:
        return getattr(self._target, name, None)

    def get(self, name: str) -> Any:
        """Return a parameter as it is now."""
        self._known(name)
        value = self._values[name] = self._read(name)
        return value

    def set(self, name: str, value: Any, by: str, at: float) -> tuple[Any, Any]:
        """Set a parameter; return what it was and what it is, which a setter may have made something else.

        Raises:
            FieldError: no such parameter, one that is only to be read, or a value that it cannot have.
        """
        one = self._known(name)
        if not one.writable:
            raise FieldError(f"{name} is only to be read: its property has no setter")
        try:
            wanted = one.adapter.validate_python(value)
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_context=False)[0]
            raise FieldError(f"{name}: {error['msg']}, got {value!r:.80} ({type(value).__name__})") from None
        before = self._values[name]
        setattr(self._target, name, wanted)
        self._values[name] = self._read(name)
        self.by[name] = by, at
        return before, self._values[name]

    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Return what the component itself has changed since the last look: name to before and now; no properties."""
        found = {}
        for name, one in self._all.items():
            if not one.computed:
                now = self._read(name)
                if now is not self._values[name] and not _same(now, self._values[name]):
                    found[name] = self._values[name], now
                    self._values[name] = now
        return found

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return them as the self-description carries them."""
        return {name: self._described(name, one) for name, one in self._all.items()}

    def _described(self, name: str, one: _One) -> dict[str, Any]:
        found: dict[str, Any] = {"value": self._values[name], **_schema(one.adapter)}
        if one.mark.unit:
            found["unit"] = one.mark.unit
        if one.mark.description:
            found["description"] = one.mark.description
        if not one.writable:
            found["readonly"] = True
        if name in self.by:
            found["by"], found["t"] = self.by[name]
        return found

    def _known(self, name: str) -> _One:
        if name not in self._all:
            known = ", ".join(sorted(self._all)) or "none"
            raise FieldError(f"no parameter {name!r}; there are: {known}")
        return self._all[name]


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # noqa: BLE001 - resolving runs whatever the user wrote
        return {}


def _mark_in(hint: Any) -> Param | None:
    if get_origin(hint) is not Annotated:
        return None
    for extra in get_args(hint)[1:]:
        if isinstance(extra, Param):
            return extra
        if extra is Param:
            return Param()
    return None


def _over(mark: Param | None, given: Param | None) -> Param:
    """Return what holds of a parameter: what was given of it, and for the rest what its class says."""
    said = {key: value for key, value in asdict(given).items() if value not in ("", None)} if given is not None else {}
    return replace(mark or Param(), **said)


def _schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    try:
        found = adapter.json_schema()
    except Exception:  # noqa: BLE001 - a type without a JSON Schema is still one
        return {}
    return {key: value for key, value in found.items() if key not in ("title", "default", "$defs")}


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays have no single answer
        return False
