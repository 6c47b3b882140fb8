"""Expect: what must come by."""

from pydantic import Field

from ether.config.section import Section
from ether.config.values import Flag, RateText, Unit

__all__ = ["Expect"]


class Expect(Section):
    """What must come by on a topic for the session to be in order."""

    rate: RateText | None = Field(default=None, description="`10Hz`, `2/min ±10%`.")
    from_: str | None = Field(default=None, alias="from", description="The instance that publishes it.")
    unit: Unit | None = Field(default=None, description="Unit of the message, or a mapping of field to unit.")
    required: Flag = Field(default=False, description="A session without it is not in order.")
