"""Marks of `registry`: what the decorators would say, of classes that cannot be edited."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, field_serializer

from ether.config.section import Section
from ether.config.values import Batch, Duration, Filter, Flag, Topic, Unit
from ether.model import Policy

__all__ = ["MARKS", "CallMark", "ClassMarks", "HookMark", "MarkList", "MethodMarks", "PubMark", "StartMark", "SubMark"]


def _as_list(value: object) -> object:
    """Read ``null`` as one mark without keywords, and a mapping as a list of one."""
    if value is None:
        return [{}]
    if isinstance(value, list):
        return [{} if item is None else item for item in value]
    return [value]


class HookMark(Section):
    """Keywords of ether_init, ether_save_all, ether_cleanup, ether_safe and ether_shutdown."""

    subtopic: str | None = Field(default=None, description="Names `Class.subtopic` instead of the control topic.")


class StartMark(HookMark):
    """Keywords of ether_start."""

    background: Flag = Field(default=False, description="Run beside the handlers: for long loops.")


class CallMark(Section):
    """Keywords of ether_get and ether_save."""

    description: str | None = Field(default=None, description="One line for people, shown by `ether status`.")


class SubMark(Section):
    """Keywords of ether_sub."""

    topic: Filter | None = Field(default=None, description="Topic or filter; default `ClassName.method_name`.")
    subtopic: str | None = Field(default=None, description="Names `Class.subtopic`.")
    qos: Literal[0, 1, 2] | None = Field(default=None, description="MQTT quality of service; default 1.")
    queue: Annotated[int, Field(ge=1)] | None = Field(default=None, description="How many messages may wait; 1000.")
    policy: Policy | None = Field(
        default=None,
        description="What becomes of more: `block` (default at QoS 1 and 2), `drop-oldest` (at QoS 0) or `latest`.",
    )
    description: str | None = Field(default=None, description="One line for people.")


class PubMark(Section):
    """Keywords of ether_pub."""

    topic: Topic | None = Field(default=None, description="Topic; default `ClassName.method_name`.")
    subtopic: str | None = Field(default=None, description="Names `Class.subtopic`.")
    every: Duration | None = Field(default=None, description="Call the method this often once started: `100ms`, `30s`.")
    batch: Batch | None = Field(default=None, description="Pack readings: a count (`100`) or a duration (`50ms`).")
    qos: Literal[0, 1, 2] | None = Field(default=None, description="MQTT quality of service; default 1.")
    retain: Flag | None = Field(default=None, description="Have the broker keep the last message for late subscribers.")
    unit: Unit | None = Field(default=None, description="Unit of the result, or a mapping of field to unit.")
    description: str | None = Field(default=None, description="One line for people.")


class MethodMarks(Section):
    """What one method is marked with: decorator name to its keywords, null for none, a list for several."""

    ether_pub: Annotated[list[PubMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Publish the result."
    )
    ether_sub: Annotated[list[SubMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it with each message."
    )
    ether_get: Annotated[list[CallMark], BeforeValidator(_as_list)] = Field(default=[], description="Answer a call.")
    ether_save: Annotated[list[CallMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Answer a call with success or error."
    )
    ether_init: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it once connected."
    )
    ether_start: Annotated[list[StartMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it at start."
    )
    ether_save_all: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it to save, also at shutdown."
    )
    ether_cleanup: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it to clean up."
    )
    ether_safe: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it to bring the hardware to a safe state, also when its process is lost."
    )
    ether_shutdown: Annotated[list[HookMark], BeforeValidator(_as_list)] = Field(
        default=[], description="Call it last."
    )

    @classmethod
    def _short_form(cls, data: object) -> object:
        if isinstance(data, str) and data in MARKS:  # `read: ether_get`
            return {data: [{}]}
        if isinstance(data, dict):  # `ether_get:` without a value is a mark, not an absent key
            return {key: [{}] if value is None and key in MARKS else value for key, value in data.items()}
        return data


MARKS: tuple[str, ...] = tuple(MethodMarks.model_fields)
"""The decorator names that `registry` knows."""


def _listed(marks: MethodMarks) -> list[tuple[str, dict[str, Any]]]:
    return [(name, mark.model_dump(exclude_unset=True)) for name in MARKS for mark in getattr(marks, name)]


if TYPE_CHECKING:
    MarkList: TypeAlias = list[tuple[str, dict[str, Any]]]
else:
    MarkList = Annotated[MethodMarks, AfterValidator(_listed)]
"""The marks of one method: ``(decorator name, the keywords given)``; durations are seconds, a float `batch` too."""


class ClassMarks(Section):
    """What the methods of a class that you cannot or will not edit are marked with."""

    methods: dict[str, MarkList] = Field(default={}, description="Method name to its marks.")

    @field_serializer("methods")
    def _dump(self, methods: dict[str, MarkList]) -> dict[str, dict[str, list[dict[str, Any]]]]:
        return {
            method: {name: [keywords for other, keywords in marks if other == name] for name, _ in marks}
            for method, marks in methods.items()
        }
