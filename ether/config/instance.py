"""Instance: one named component, its arguments, and what follows when it ends or hangs."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ether.config.section import Section
from ether.config.values import ClassPath, Duration, Flag, Whole

__all__ = ["Health", "Instance", "ParamMark", "Restart"]


class Restart(Section):
    """When an instance that ended is started again."""

    policy: Literal["never", "on-failure", "always"] = Field(
        default="never", description="`never`, `on-failure` or `always`."
    )
    max: Annotated[Whole, Field(ge=0)] = Field(default=5, description="At most so many restarts within `within`.")
    within: Duration = Field(default=300.0, description="The window of `max`.")
    backoff: Annotated[list[Duration], Field(min_length=2, max_length=2)] = Field(
        default=[0.2, 30.0], description="First and longest wait before a restart; four times as long each time."
    )

    @classmethod
    def _short_form(cls, data: object) -> object:
        if data is False:  # YAML reads `restart: off` and `no` as false
            return {"policy": "never"}
        return {"policy": data} if isinstance(data, str) else data


class Health(Section):
    """When a running instance counts as hanging, and what follows."""

    hang_after: Duration | None = Field(default=None, description="A handler busy for so long hangs.")
    on_hang: Literal["report", "restart"] = Field(
        default="report", description="`report` (stacks in the log, status `alert`) or `restart`."
    )
    safe_within: Duration = Field(default=10.0, description="So long `ether_safe` may take for a lost instance.")


class ParamMark(Section):
    """What may be known of a live parameter."""

    unit: str = Field(default="", description="For people and programs.")
    ge: float | None = Field(default=None, description="At least.")
    le: float | None = Field(default=None, description="At most.")
    description: str = Field(default="", description="One line for people.")


def _params(value: object) -> object:
    """A list of names will do."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return {each: ParamMark() for each in value}
    if isinstance(value, dict):
        return {name: ParamMark() if each is None else each for name, each in value.items()}
    return value


class Instance(Section):
    """One named, configured, running component."""

    class_path: ClassPath = Field(description="`package.module.Class`.")
    args: list[Any] = Field(default=[], description="Positional arguments of the class.")
    kwargs: dict[str, Any] = Field(
        default={}, description="Keyword arguments of the class; `ether_name` renames the instance."
    )
    autorun: Flag = Field(default=True, description="false: declared, started later by `ether.launch(name)`.")
    restart: Restart = Field(default_factory=Restart, description="When it is started again; or just the policy.")
    critical: Flag = Field(default=False, description="true: the session ends when it has failed for good.")
    health: Health = Field(default_factory=Health, description="When it counts as hanging.")
    params: Annotated[
        dict[str, ParamMark],
        BeforeValidator(_params, json_schema_input_type=list[str] | dict[str, ParamMark | None]),
    ] = Field(
        default={},
        description="Attributes and properties that others may read and set meanwhile; or just their names.",
    )
    host: str | None = Field(default=None, description="Launched by the agent of that name; default: here.")
    replicas: Annotated[Whole, Field(ge=1)] = Field(
        default=1, description="So many of them, named `name-1`, `name-2`, …"
    )
