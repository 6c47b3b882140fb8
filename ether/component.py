"""marks -> Component: the inputs, outputs, timers, calls and hooks of a class, checked, without any I/O.

Validators are built here, once per class and process, never per message.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import math
import sys
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from typing_extensions import TypedDict, is_typeddict

from ether import clock, codecs, topics
from ether.decorators import Call, Hook, Mark, Publish, Subscribe, make_mark, marks_of
from ether.errors import ComponentError, FieldError, Problem, TopicError, suggest
from ether.inbox import QUEUE
from ether.model import Envelope, Policy, Reading

if typing.TYPE_CHECKING:
    from ether.config import Config

__all__ = ["Component", "Input", "Method", "Output", "Parameters", "bind", "check", "load_class", "registry_marks"]

_UNBUILDABLE = (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, TypeError, NameError)
_STREAMS = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)
_EMPTY = inspect.Parameter.empty
_JSON_TYPES: dict[Any, str] = {float: "number", int: "integer", bool: "boolean", str: "string"}


@dataclass(frozen=True, slots=True)
class Output:
    """One topic that a method's results go to."""

    topic: str
    qos: int
    retain: bool
    every: float | None
    """Seconds between samples; None where the method runs for other reasons."""
    batch_count: int | None
    batch_s: float | None
    unit: Mapping[str, str]
    range: tuple[float, float] | None
    type: str | None
    keep: str
    description: str


@dataclass(frozen=True, slots=True)
class Input:
    """One subscription of a method."""

    topic_filter: str
    qos: int
    policy: Policy
    queue: int
    """How many messages may wait; of no meaning to ``latest``."""
    type: str | None
    """The value's, where the mark says it."""


@dataclass(frozen=True, slots=True)
class Method:
    """One marked method."""

    name: str
    label: str
    """``Class.method``, for people."""
    parameters: Parameters
    result: TypeAdapter[Any] | None
    """Validates what the method returns (or yields); None without an annotation."""
    result_schema: Mapping[str, Any]
    outputs: tuple[Output, ...]
    inputs: tuple[Input, ...]
    call: str | None
    """``get``, ``save`` or None."""
    hooks: tuple[Hook, ...]

    def checked(self, result: Any) -> Any:
        """Return a result as its annotation wants it, or raise FieldError."""
        if self.result is None:
            return result
        if hasattr(result, "dtype") and getattr(result, "ndim", None) == 0:
            result = result.item()  # pydantic knows no NumPy scalars
        try:
            return self.result.validate_python(result)
        except ValidationError as exc:
            raise FieldError(f"{self.label} returned what its annotation forbids: {_explain(exc)}") from exc


@dataclass(frozen=True, slots=True)
class Component:
    """What a marked class declares."""

    cls: type
    name: str
    methods: Mapping[str, Method] = field(default_factory=dict)

    @classmethod
    def of(cls, target: type, extra: Mapping[str, Sequence[Mark]] | None = None) -> Component:
        """Return the component that a class declares.

        Args:
            target: any class.
            extra: further marks by method name, as ``registry:`` gives them; the class itself is never touched.

        Raises:
            ComponentError: marks that cannot work; one line each.
        """
        problems: list[str] = []
        found = _marked(target, extra or {}, problems)
        methods = {}
        for name, (owner, marks) in found.items():
            try:
                methods[name] = _read_method(target, owner, name, marks)
            except (ComponentError, TopicError, ValueError) as exc:
                problems.append(f"{target.__qualname__}.{name}: {exc}")
        if problems:
            raise ComponentError("\n".join(problems))
        return cls(target, target.__name__, methods)

    def filters(self) -> dict[str, int]:
        """Return the topic filters to subscribe to, with their QoS; overlapping ones only once."""
        wanted: dict[str, int] = {}
        for method in self.methods.values():
            for each in method.inputs:
                wanted[each.topic_filter] = max(each.qos, wanted.get(each.topic_filter, 0))
        return {name: wanted[name] for name in topics.widest(wanted)}

    def publishes(self) -> dict[str, dict[str, Any]]:
        """Return topic to fields, as the self-description carries them."""
        found: dict[str, dict[str, Any]] = {}
        for method in self.methods.values():
            for output in method.outputs:
                entry = found.setdefault(output.topic, {"fields": {}})
                entry["fields"] |= _with_units(method.result_schema, output)
                if output.every:
                    entry["every"] = output.every
                if output.description:
                    entry["description"] = output.description
        return found

    def subscribes(self) -> dict[str, dict[str, Any]]:
        """Return topic filter to fields and the methods that handle it."""
        found: dict[str, dict[str, Any]] = {}
        for method in self.methods.values():
            for each in method.inputs:
                entry = found.setdefault(each.topic_filter, {"fields": {}, "methods": []})
                entry["fields"] |= {"value": {"type": each.type}} if each.type else method.parameters.schema()
                entry["methods"].append(method.name)
        return found

    def calls(self) -> dict[str, dict[str, Any]]:
        """Return method name to parameters and kind."""
        return {
            method.name: {"params": method.parameters.schema(), "kind": method.call}
            for method in self.methods.values()
            if method.call
        }

    def hooks(self, verb: str) -> list[tuple[Method, Hook]]:
        """Return the methods that run at a lifecycle verb, in the order of the class."""
        return [(method, hook) for method in self.methods.values() for hook in method.hooks if hook.verb == verb]


def _marked(
    target: type, extra: Mapping[str, Sequence[Mark]], problems: list[str]
) -> dict[str, tuple[str, tuple[Mark, ...]]]:
    """Return method name to (name of the class that marked it, marks), base classes first.

    An override without marks of its own keeps those of the method it overrides.
    """
    found: dict[str, tuple[str, tuple[Mark, ...]]] = {}
    for owner in reversed(target.__mro__):
        for name, attribute in vars(owner).items():
            if isinstance(attribute, (classmethod, staticmethod)) and marks_of(attribute.__func__):
                kind = type(attribute).__name__
                problems.append(f"{owner.__qualname__}.{name}: a {kind} cannot be marked; drop @{kind}")
            elif marks := marks_of(attribute):
                found[name] = (owner.__name__, marks)
    for name, further in extra.items():
        attribute = inspect.getattr_static(target, name, None)
        if isinstance(attribute, (classmethod, staticmethod)):
            problems.append(f"{target.__qualname__}.{name}: a {type(attribute).__name__} cannot be marked")
        elif not callable(getattr(target, name, None)):
            problems.append(f"{target.__qualname__} has no method `{name}`{suggest(name, dir(target))}")
        else:
            owner_name, own = found.get(name, (target.__name__, ()))
            found[name] = (owner_name, (*own, *further))
    return found


def _read_method(target: type, owner: str, name: str, marks: tuple[Mark, ...]) -> Method:
    function = getattr(target, name)
    label = f"{target.__name__}.{name}"
    hints = _hints(function)
    parameters = Parameters.of(function, hints, label)
    outputs: list[Output] = []
    inputs: list[Input] = []
    call = None
    hooks: list[Hook] = []
    for mark in marks:
        if isinstance(mark, Publish):
            outputs.append(_read_output(owner, name, mark, parameters))
        elif isinstance(mark, Subscribe):
            topic_filter = mark.topic or topics.default(owner, mark.subtopic or name)
            inputs.append(_read_input(topic_filter, mark))
        elif isinstance(mark, Call):
            call = mark.kind
        else:
            if parameters.required:
                raise ComponentError(f"runs at {mark.verb!r} without arguments, but needs {parameters.required}")
            hooks.append(mark)
            if mark.subtopic:
                inputs.append(_read_input(topics.default(owner, mark.subtopic), Subscribe()))
    result, schema = _read_result(function, hints) if outputs else (None, {})
    return Method(name, label, parameters, result, schema, tuple(outputs), tuple(inputs), call, tuple(hooks))


def _read_input(topic_filter: str, mark: Subscribe) -> Input:
    qos, policies = _check_qos(mark.qos), get_args(Policy)
    policy = mark.policy or ("block" if qos else "drop-oldest")
    if policy not in policies:
        raise ComponentError(f"policy={policy!r}: write {', '.join(policies[:-1])} or {policies[-1]}")
    if policy == "block" and not qos:
        raise ComponentError("policy='block' needs qos=1: the broker does not keep messages of QoS 0")
    if mark.queue is not None and policy == "latest":
        raise ComponentError("policy='latest' keeps one message of each topic; drop queue=")
    if mark.queue is not None and (not isinstance(mark.queue, int) or isinstance(mark.queue, bool) or mark.queue < 1):
        raise ComponentError(f"queue={mark.queue!r}: a number of messages, 1 or more")
    return Input(
        topics.check_filter(topic_filter), qos, cast("Policy", policy), mark.queue or QUEUE, _json_type(mark.type)
    )


def _read_output(owner: str, name: str, mark: Publish, parameters: Parameters) -> Output:
    topic = topics.check_topic(mark.topic or topics.default(owner, mark.subtopic or name))
    every = None if mark.every is None else clock.seconds(mark.every)
    if every is not None and every <= 0:
        raise ComponentError(f"every={mark.every!r}: must be longer than nothing")
    if every is not None and parameters.required:
        raise ComponentError(f"is sampled every {every:g} s without arguments, but needs {parameters.required}")
    count = mark.batch if isinstance(mark.batch, int) and not isinstance(mark.batch, bool) else None
    if count is not None and count < 1:
        raise ComponentError(f"batch={count}: a batch holds at least one reading")
    span = clock.seconds(mark.batch) if mark.batch is not None and count is None else None
    unit = {"value": mark.unit} if isinstance(mark.unit, str) else dict(mark.unit or {})
    if mark.keep not in ("all", "last", "none"):
        raise ComponentError(f"keep={mark.keep!r}: 'all', 'last' or 'none'")
    if mark.range is not None and (len(mark.range) != 2 or not mark.range[0] <= mark.range[1]):
        raise ComponentError(f"range={mark.range!r}: the lowest and the highest value")
    return Output(
        topic, _check_qos(mark.qos), mark.retain, every, count, span, unit, mark.range, _json_type(mark.type),
        mark.keep, mark.description,
    )  # fmt: skip


def _json_type(given: Any) -> str | None:
    """Return JSON's name of the type that a mark gives."""
    return None if given is None else _JSON_TYPES.get(given, str(given))


def _check_qos(qos: Any) -> int:
    if qos not in (0, 1, 2) or isinstance(qos, bool):
        raise ComponentError(f"qos={qos!r}: MQTT has 0, 1 and 2")
    return int(qos)


def _hints(function: Any) -> dict[str, Any]:
    """Return the resolved annotations; those that cannot be resolved here (TYPE_CHECKING imports) are left out."""
    target = inspect.unwrap(function)
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # noqa: BLE001, S110 - resolving runs whatever the user wrote
        pass
    found = {}
    for name, annotation in getattr(target, "__annotations__", {}).items():
        lone = type("_", (), {"__annotations__": {name: annotation}, "__module__": getattr(target, "__module__", "")})
        try:
            found[name] = typing.get_type_hints(lone, getattr(target, "__globals__", {}), include_extras=True)[name]
        except Exception:  # noqa: BLE001, S112 - as above
            continue
    return found


def _read_result(function: Any, hints: Mapping[str, Any]) -> tuple[TypeAdapter[Any] | None, dict[str, Any]]:
    annotation = hints.get("return", Any)
    if get_origin(annotation) in _STREAMS and get_args(annotation):
        annotation = get_args(annotation)[0]
    if annotation in (Any, None, type(None), _EMPTY, dict, list, object):
        return None, {}
    adapter = _adapter(annotation)
    return adapter, {} if adapter is None else _fields_schema(adapter, "serialization")


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """Return a validator, or None for an annotation that pydantic cannot read."""
    if typing.is_typeddict(annotation):
        annotation = _readable(annotation)
    annotation = _of_numpy(annotation)
    if is_typeddict(annotation) or is_dataclass(annotation) or _is_model(annotation):
        arguments: dict[str, Any] = {}
    else:
        arguments = {"config": ConfigDict(arbitrary_types_allowed=True)}
    try:
        return TypeAdapter(annotation, **arguments)
    except _UNBUILDABLE:
        return None


def _readable(annotation: Any) -> Any:
    """Return a TypedDict of `typing` as one that pydantic reads before Python 3.12 too."""
    if annotation.__module__ == "typing_extensions" or sys.version_info >= (3, 12):
        return annotation
    required = annotation.__required_keys__
    hints = typing.get_type_hints(annotation, include_extras=True)
    plain = {
        name: get_args(hint)[0] if get_origin(hint) in (typing.Required, NotRequired) else hint
        for name, hint in hints.items()
    }
    fields = {name: hint if name in required else NotRequired[hint] for name, hint in plain.items()}
    return TypedDict(annotation.__name__, fields)  # type: ignore[operator]  # built at run time


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields_schema(adapter: TypeAdapter[Any], mode: typing.Literal["validation", "serialization"]) -> dict[str, Any]:
    """Return JSON Schema fragments by field; a value that is no object is the field ``value``."""
    try:
        schema = adapter.json_schema(mode=mode)
    except Exception:  # noqa: BLE001 - pydantic raises many kinds for types without a JSON form, such as arrays
        return {}
    definitions = schema.pop("$defs", {})
    schema = _inline(schema, definitions, 0)
    if "properties" in schema:
        return dict(schema["properties"])
    return {} if schema.get("type") == "object" or not schema else {"value": schema}


def _inline(node: Any, definitions: Mapping[str, Any], depth: int) -> Any:
    """Return a schema with its references written out, so that a field stands alone; recursion ends at 8 levels."""
    if isinstance(node, list):
        return [_inline(item, definitions, depth) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions.get(str(node["$ref"]).rpartition("/")[2], {})
        return {} if depth >= 8 else _inline(target, definitions, depth + 1)
    return {key: _inline(value, definitions, depth) for key, value in node.items() if key != "title"}


def _with_units(schema: Mapping[str, Any], output: Output) -> dict[str, Any]:
    fields = {name: dict(fragment) for name, fragment in schema.items()}
    for name in output.unit or ("value",):
        if output.type:
            fields.setdefault(name, {}).setdefault("type", output.type)
        if name in output.unit:
            fields.setdefault(name, {})["unit"] = output.unit[name]
        if output.range:
            fields.setdefault(name, {})["range"] = list(output.range)
    return fields


def _as_array(value: Any) -> Any:
    numpy = sys.modules["numpy"]  # loaded, since the annotation named it
    return numpy.asarray(value) if isinstance(value, list) else value


class Parameters:
    """How a message's fields become the arguments of a method; everything is prepared, `accept` only validates.

    * fields become keyword arguments; further fields are ignored (or go to ``**``), missing ones take their defaults;
    * a parameter annotated with a model, dataclass or TypedDict gets the whole message;
    * one named ``root``, or the only parameter of a message that is a bare value, gets the value;
    * one annotated with `Reading` gets the reading.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.required: list[str] = []
        self._order: list[tuple[str, bool]] = []  # name, positional only
        self._readings: list[str] = []
        self._only: str | None = None
        self._only_is_root = False
        self._any_keywords = False
        self._opaque = False
        self._fields: TypeAdapter[Any] | None = None
        self._whole: dict[str, TypeAdapter[Any]] = {}
        self._fast: TypeAdapter[Any] | None = None
        self._fast_is_whole = False

    @classmethod
    def of(cls, function: Any, hints: Mapping[str, Any], label: str) -> Parameters:
        self = cls(label)
        try:
            signature = inspect.signature(function)
        except (ValueError, TypeError):  # written in C, without a signature: hand it what comes
            self._opaque = True
            return self
        annotations: dict[str, Any] = {}
        for parameter in list(signature.parameters.values())[1:]:  # without self
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                self._any_keywords = True
                continue
            annotation = hints.get(parameter.name, Any)
            if annotation is Reading:
                self._readings.append(parameter.name)
            else:
                self._order.append((parameter.name, parameter.kind is parameter.POSITIONAL_ONLY))
                optional = parameter.default is not _EMPTY
                annotations[parameter.name] = _field(annotation, optional)
                if not optional:
                    self.required.append(parameter.name)
                self._note_whole(parameter.name, annotation)
        self._prepare(annotations)
        return self

    def _note_whole(self, name: str, annotation: Any) -> None:
        if (
            _is_model(annotation)
            or is_typeddict(annotation)
            or (is_dataclass(annotation) and annotation is not Reading)
        ):
            adapter = _adapter(annotation)
            if adapter is not None:
                self._whole[name] = adapter

    def _prepare(self, annotations: dict[str, Any]) -> None:
        names = [name for name, _ in self._order]
        if len(names) == 1 and not self._any_keywords:
            self._only = names[0]
            self._only_is_root = self._only == "root"
        config = ConfigDict(arbitrary_types_allowed=True, extra="allow" if self._any_keywords else "ignore")
        if names or self._any_keywords:
            self._fields = _build_fields(self.label, annotations, config)
        if self._readings or self._any_keywords or self._only_is_root or any(only for _, only in self._order):
            return
        if self._only in self._whole:
            if not _keeps_extras(self._whole[self._only]):
                self._fast, self._fast_is_whole = self._whole[self._only], True
        elif not self._whole:
            self._fast = self._fields

    def schema(self) -> dict[str, Any]:
        """Return JSON Schema fragments by field, for the self-description."""
        if self._only in self._whole:
            return _fields_schema(self._whole[self._only], "validation")
        return {} if self._fields is None else _fields_schema(self._fields, "validation")

    def accept(self, topic: str, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments that a message gives, or raise FieldError or PayloadError.

        Straight from the bytes where the method's parameters allow it.
        """
        if not self._order and not self._readings and not self._any_keywords and not self._opaque:
            return (), {}
        if self._fast is not None and payload[:1] == b"{":
            try:
                found = self._fast.validate_json(payload)
            except ValidationError:
                pass  # a bare value, a NaN, or really wrong: the long way tells which
            else:
                return ((), {self._only: found}) if self._fast_is_whole else ((), found)  # type: ignore[dict-item]
        fields, envelope = codecs.decode(payload)
        return self.arguments(fields, topic, envelope)

    def arguments(
        self, fields: dict[str, Any], topic: str = "", envelope: Envelope | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments that decoded fields give (the fields of a message, or the parameters of a call)."""
        if self._opaque:
            bare = set(fields) == {"value"}
            return ((fields["value"],), {}) if bare else (tuple(fields.values()), {})
        found = self._validated(fields) if self._fields is not None else {}
        for name in self._readings:
            found[name] = _reading(topic, fields, envelope)
        positional = tuple(found.pop(name) for name, only in self._order if only and name in found)
        return positional, found

    def _validated(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Try the readings of a message that its parameters allow, likeliest first; report the first one's error."""
        attempts: list[Callable[[], dict[str, Any]]] = []
        assert self._fields is not None
        by_field = self._fields
        bare = set(fields) == {"value"}
        if self._only is not None:
            only = self._only
            if only in self._whole:
                attempts.append(lambda: {only: _validate(self._whole[only], fields)})
            if self._only_is_root:
                attempts.append(lambda: _validate(by_field, {only: fields["value"] if bare else fields}))
            elif bare and only not in fields:
                attempts.append(lambda: _validate(by_field, {only: fields["value"]}))
            if not self._only_is_root and (only in fields or not attempts):
                attempts.append(lambda: _validate(by_field, fields))
        else:
            attempts.append(lambda: _validate(by_field, fields))
            if self._whole:
                attempts.append(
                    lambda: _validate(by_field, {**fields, **{n: _validate(a, fields) for n, a in self._whole.items()}})
                )
        first: ValidationError | None = None
        for attempt in attempts:
            try:
                return attempt()
            except ValidationError as exc:
                first = first or exc
        assert first is not None
        raise FieldError(f"{self.label}: {_explain(first)}") from first


def _of_numpy(annotation: Any) -> Any:
    """Return the annotation of a NumPy number as one that pydantic validates: as Python's, and made one of NumPy's."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not (isinstance(annotation, type) and issubclass(annotation, numpy.generic)):
        return annotation
    plain: tuple[tuple[Any, Any], ...] = ((numpy.bool_, bool), (numpy.integer, int), (numpy.floating, float))
    found = next((python for base, python in plain if issubclass(annotation, base)), None)
    if found is None:
        return annotation
    try:
        annotation(0)
    except TypeError:  # numpy.floating and its like name many types
        return found

    def make(value: Any) -> Any:
        try:
            return annotation(value)
        except OverflowError as exc:  # a number that it has no room for
            raise ValueError(str(exc)) from exc

    return Annotated[found, AfterValidator(make)]


def _field(annotation: Any, optional: bool) -> Any:
    annotation = _of_numpy(annotation)
    if "ndarray" in str(annotation) and "numpy" in sys.modules:
        annotation = Annotated[annotation, BeforeValidator(_as_array)]
    return NotRequired[annotation] if optional else annotation


def _build_fields(label: str, annotations: dict[str, Any], config: ConfigDict) -> TypeAdapter[Any]:
    """Return the validator of a method's fields; an annotation that pydantic cannot read accepts anything."""

    def build(wanted: dict[str, Any]) -> TypeAdapter[Any]:
        shape = TypedDict(label.replace(".", "_"), wanted)  # type: ignore[misc]  # built at run time
        shape.__pydantic_config__ = config  # type: ignore[attr-defined]  # where pydantic looks for it
        return TypeAdapter(shape)

    try:
        return build(annotations)
    except _UNBUILDABLE:
        readable = {}
        for name, annotation in annotations.items():
            try:
                build({name: annotation})
                readable[name] = annotation
            except _UNBUILDABLE:
                readable[name] = NotRequired[Any] if get_origin(annotation) is NotRequired else Any
        return build(readable)


def _keeps_extras(adapter: TypeAdapter[Any]) -> bool:
    """Return whether a model would take or refuse the reserved member ``_ether`` as a field of its own."""
    config = getattr(adapter._type, "model_config", None) or getattr(adapter._type, "__pydantic_config__", None) or {}  # noqa: SLF001
    return config.get("extra") in ("allow", "forbid")


def _validate(adapter: TypeAdapter[Any], content: Any) -> Any:
    """Validate, taking null for NaN in float fields: JSON has no other way to carry it."""
    try:
        return adapter.validate_python(content)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False)
        if not all(error["type"] == "float_type" and error["input"] is None for error in errors):
            raise
        try:
            for error in errors:
                content = _replaced(content, error["loc"], math.nan)
        except (KeyError, IndexError, TypeError):
            raise exc from None
        return adapter.validate_python(content)


def _replaced(content: Any, path: Sequence[Any], value: Any) -> Any:
    """Return a copy of nested dicts and lists with one place changed."""
    if not path:
        return value
    copy = content.copy()
    copy[path[0]] = _replaced(content[path[0]], path[1:], value)
    return copy


def _reading(topic: str, fields: dict[str, Any], envelope: Envelope | None) -> Reading:
    if envelope is None:
        return Reading(topic, fields)
    time = envelope.t if isinstance(envelope.t, (int, float)) else None
    return Reading(topic, fields, time, envelope.n, envelope.by, envelope.b, envelope.replay)


def _explain(exc: ValidationError) -> str:
    """Return what is wrong in one line: field, expected, got."""
    parts = []
    for error in exc.errors(include_url=False, include_context=False)[:5]:
        place = ".".join(str(step) for step in error["loc"])
        if error["type"] == "missing":
            given = error["input"]
            got = f"got {sorted(map(str, given))}" if isinstance(given, dict) else f"got {given!r:.80}"
            parts.append(f"field `{place}` is missing; {got}")
        else:
            got = f"got {error['input']!r:.80} ({type(error['input']).__name__})"
            parts.append(f"field `{place}`: {error['msg']}, {got}" if place else f"{error['msg']}, {got}")
    more = exc.error_count() - len(parts)
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


# --- classes named in a configuration


def load_class(path: str) -> type:
    """Return the class that ``package.module.Class`` names, or raise ComponentError with the nearest name."""
    parts = path.split(".")
    if len(parts) < 2:
        raise ComponentError(f"class_path {path!r}: write package.module.Class")
    module = None
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        try:
            module = sys.modules["__main__"] if _is_running_script(name) else importlib.import_module(name)
            break
        except ModuleNotFoundError as exc:
            if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
                raise ComponentError(f"class_path {path!r}: importing {name} failed: {exc}") from exc
            missing = exc
        except Exception as exc:
            raise ComponentError(f"class_path {path!r}: importing {name} raised {type(exc).__name__}: {exc}") from exc
    if module is None:
        raise ComponentError(f"class_path {path!r}: {missing}; is its folder on the path?")
    target: Any = module
    for part in parts[cut:]:
        if not hasattr(target, part):
            hint = suggest(part, dir(target))
            raise ComponentError(f"class_path {path!r}: {getattr(target, '__name__', target)} has no `{part}`{hint}")
        target = getattr(target, part)
    if not isinstance(target, type):
        raise ComponentError(f"class_path {path!r}: a {type(target).__name__}, not a class")
    return target


def _is_running_script(name: str) -> bool:
    """Return whether a module is the script that runs: importing it under its own name would run it again."""
    if name == "__main__":
        return True
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or name in sys.modules or Path(file).stem != name.rpartition(".")[2]:
        return False
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(file).resolve()


def parameter_names(target: type) -> Iterator[str]:
    """Yield the names that positional arguments of a class go by: its parameters', then ``3``, ``4`` … by place."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (ValueError, TypeError):  # written in C
        parameters = []
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    yield from names
    yield from map(str, itertools.count(len(names)))


def source_of(target: type) -> tuple[Path, bytes] | None:
    """Return the file that a class was read from, and what is in it now; None where there is none."""
    try:
        if target.__module__ == "__main__":  # a class of the script that began the session has come here by value
            codes = [inspect.unwrap(each).__code__ for each in vars(target).values() if inspect.isfunction(each)]
            file = next((code.co_filename for code in codes if Path(code.co_filename).is_file()), None)
        else:
            file = inspect.getsourcefile(target)
        return None if file is None else (Path(file).absolute(), Path(file).read_bytes())
    except (OSError, TypeError):
        return None


def bind(target: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return constructor arguments as the annotations want them; nothing is constructed.

    Raises:
        ComponentError: abstract class, or arguments that are missing, unknown or of the wrong type; one line each.
    """
    if inspect.isabstract(target):
        missing = ", ".join(sorted(target.__abstractmethods__))  # type: ignore[attr-defined]  # an abstract class has it
        raise ComponentError(f"{target.__qualname__} is abstract; it lacks {missing}")
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # written in C
        return tuple(args), dict(kwargs)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as exc:
        unknown = [name for name in kwargs if name not in signature.parameters]
        hint = suggest(unknown[0], signature.parameters) if unknown else ""
        raise ComponentError(f"{target.__qualname__}{signature}: {exc}{hint}") from None
    hints = _hints(target.__init__) | _hints(target)  # type: ignore[misc]  # looked at, not called
    problems = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if name not in hints or kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        adapter = _adapter(hints[name])
        if adapter is None:
            continue
        try:
            bound.arguments[name] = adapter.validate_python(value)
        except ValidationError as exc:
            problems.append(f"{target.__qualname__}: argument `{name}`: {_explain(exc)}")
    if problems:
        raise ComponentError("\n".join(problems))
    return bound.args, bound.kwargs


def registry_marks(methods: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]) -> dict[str, tuple[Mark, ...]]:
    """Return method name to marks, from (decorator name, keywords) pairs as ``registry:`` gives them."""
    return {
        name: tuple(make_mark(decorator, **keywords) for decorator, keywords in marks)
        for name, marks in methods.items()
    }


def check(config: Config) -> list[Problem]:
    """Return what is wrong with the classes, methods and arguments a configuration names; nothing is constructed."""
    problems: list[Problem] = []

    def note(path: tuple[Any, ...], exc: Exception) -> None:
        problems.extend(config.problem(path, line) for line in str(exc).splitlines())

    for path, entry in config.registry.items():
        try:
            Component.of(load_class(path), registry_marks(entry.methods))
        except ComponentError as exc:
            note(("registry", path), exc)
    for key, instance in dict(config.named().values()).items():
        at: tuple[Any, ...] = ("instances", key, "class_path")
        try:
            target = config.classes.get(instance.class_path) or load_class(instance.class_path)
            if instance.class_path not in config.registry:
                Component.of(target)
            at = ("instances", key, "kwargs") if instance.kwargs else ("instances", key)
            bind(target, instance.args, instance.kwargs)
        except ComponentError as exc:
            note(at, exc)
    return problems
