"""Section: what all mappings of a configuration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Section"]


class Section(BaseModel):
    """A mapping of the configuration: unknown keys are errors, a key without value takes its default.

    The modules of blocks do without postponed annotations: pydantic would evaluate each text again.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: object) -> object:
        data = cls._short_form({} if data is None else data)
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @classmethod
    def _short_form(cls, data: object) -> object:
        """Return the mapping that a short form such as ``broker: auto`` stands for."""
        return data
