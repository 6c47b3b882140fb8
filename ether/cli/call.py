"""`ether call NAME.METHOD k=v`: ask an instance."""

from __future__ import annotations

from typing import Annotated

import typer

from ether.cli import output
from ether.cli.arguments import pairs, seconds
from ether.cli.joined import joined

__all__ = ["call"]


def call(
    target: Annotated[str, typer.Argument(metavar="NAME.METHOD", help="An instance or class, and its method.")],
    params: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE…", help="Arguments; values are YAML.")
    ] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")] = None,
) -> None:
    """Call a method of a running instance.

    `ether call oven.set celsius=37` prints the result as JSON.
    """
    name, dot, method = target.rpartition(".")
    if not dot or not name or not method:
        raise typer.BadParameter(f"{target!r}: write NAME.METHOD, such as oven.status", param_hint="NAME.METHOD")
    given, limit = pairs(params), seconds(timeout, "--timeout")
    with joined() as ether:
        result = ether.get(name, method, given, timeout=limit)
    output.as_json(result, indent=2)
