"""`ether init [NAME]`: a session to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ether.cli import output

__all__ = ["init"]

_SESSION = """\
# yaml-language-server: $schema=ether.schema.json
# One session: which processes run. `ether check session.yaml` tells what is wrong with it,
# `ether up session.yaml` runs it.

session:
  name: {name}
  data: data/                 # recordings go here

broker: auto                  # Mosquitto where installed, else ether's own; or mqtt://host:1883

# record: off                 # everything is recorded unless this says so

instances:
  sensor:                     # the name it has on the bench
    class_path: components.Sensor
    kwargs: {{start: 20.0}}     # arguments of the class
  controller:
    class_path: components.Controller
    kwargs: {{limit: 21.0}}

"""

_COMPONENTS = '''\
"""Plain classes. The decorators tie methods to topics, and change nothing when you call them by hand."""

import math
import time

from ether import ether_get, ether_pub, ether_sub


class Sensor:
    """Measures a temperature that swings around `start`."""

    def __init__(self, start: float = 20.0) -> None:
        self.start = start

    @ether_pub(topic="lab/temperature", every="100ms", unit={"celsius": "degC"})
    def read(self) -> dict[str, float]:
        return {"celsius": self.start + 2 * math.sin(time.time())}


class Controller:
    """Switches a heater off above `limit`."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.heating = True

    @ether_sub(topic="lab/temperature")
    @ether_pub(topic="lab/heater")
    def decide(self, celsius: float) -> dict[str, bool]:
        self.heating = celsius < self.limit
        return {"heating": self.heating}

    @ether_get
    def status(self) -> dict[str, object]:
        """`ether call controller.status` asks for this."""
        return {"heating": self.heating, "limit": self.limit}
'''


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The folder to write, and the session's name.")] = "lab",
) -> None:
    """Write a session to start from, ready to run."""
    from ether.config import json_schema

    folder = Path(name)
    files = {
        "session.yaml": _SESSION.format(name=output.json_text(folder.resolve().name)),
        "components.py": _COMPONENTS,
        "ether.schema.json": output.json_text(json_schema(), indent=2) + "\n",
    }
    taken = [str(folder / file) for file in files if (folder / file).exists()]
    if taken:
        raise typer.BadParameter(f"{', '.join(taken)} exists; choose another name", param_hint="NAME")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise typer.BadParameter(f"{folder}: {exc.strerror or exc}", param_hint="NAME") from None
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    output.note(f"wrote {folder}/session.yaml and {folder}/components.py")
    output.note(f"next: ether up {folder}/session.yaml")
