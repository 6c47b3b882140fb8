"""YAML -> Config: strict, and every problem found at once, each with ``file:line:column`` and the way out.

`Config.load` is the door. Above the YAML stands the environment (`ETHER_BROKER`, `ETHER_DATA`), above that overrides.
Nothing of the user's is imported here; `ether.component.check` looks at the classes.
"""

from ether.config.bridge import Bridge
from ether.config.broker import broker_kinds, check_origin
from ether.config.config import Config
from ether.config.expect import Expect
from ether.config.ingest import Availability, IngestField, IngestTime, Rule
from ether.config.instance import Instance
from ether.config.marks import MARKS
from ether.config.reader import read_value
from ether.config.schema import json_schema
from ether.config.sources import Source, profile_files
from ether.config.values import Rate, duration, rate, size

__all__ = [
    "MARKS",
    "Availability",
    "Bridge",
    "Config",
    "Expect",
    "IngestField",
    "IngestTime",
    "Instance",
    "Rate",
    "Rule",
    "Source",
    "broker_kinds",
    "check_origin",
    "duration",
    "json_schema",
    "profile_files",
    "rate",
    "read_value",
    "size",
]
