"""Bridge: which dashboards hear of the session's components."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ether.config.section import Section
from ether.config.values import Duration, Flag, Topic

__all__ = ["Bridge"]


class Bridge(Section):
    """Where the components of the session are announced, for dashboards that know nothing of ether."""

    homeassistant: Flag = Field(default=False, description="Home Assistant's discovery documents.")
    homie: Flag = Field(default=False, description="Homie 5: descriptions, states and values.")
    homeassistant_prefix: Topic = Field(default="homeassistant", description="Home Assistant's discovery prefix.")
    homie_domain: Topic = Field(default="homie", description="Homie's domain, the first level of its topics.")
    every: Annotated[Duration, Field(gt=0)] = Field(
        default=1.0, description="A Homie value is told this often at most: the latest."
    )
    commands: Flag = Field(default=True, description="Announce what can be set: parameters and subscriptions.")
    foreign: Flag = Field(default=False, description="Announce devices of `ingest` too; most do so themselves.")

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not (self.homeassistant or self.homie):
            raise ValueError("announces to nobody; set `homeassistant: true`, `homie: true`, or both")
        return self
