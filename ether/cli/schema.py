"""`ether schema`: the JSON Schema of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ether.cli import output

__all__ = ["schema"]


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it there.")] = None,
) -> None:
    """Print the JSON Schema for editors.

    A first line `# yaml-language-server: $schema=ether.schema.json` in the YAML makes an editor use it.
    """
    from ether.config import json_schema

    text = output.json_text(json_schema(), indent=2)
    if out is None:
        output.line(text)
    else:
        output.write(out, text + "\n")
