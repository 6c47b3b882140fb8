"""`ether param list|get|set`: live parameters of running instances."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ether import clock, topics
from ether.cli import output
from ether.cli.arguments import AsJson, pairs, seconds
from ether.cli.joined import joined

__all__ = ["app"]

app = typer.Typer(help="Read and set live parameters of instances.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="An instance.")]


@app.command("list")
def list_params(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One instance; default all.")] = None,
    json: AsJson = False,
) -> None:
    """List the parameters, what they are, and who set them last."""
    with joined() as ether:
        if name:
            found = {name: ether.params(name)}
        else:
            found = {each: info.about.params for each, info in ether.instances().items() if info.about is not None}
    if json:
        output.as_json({each: params for each, params in found.items() if params}, indent=2)
        return
    output.table(
        ["PARAM", "VALUE", "UNIT", "TYPE", "SET BY", "AT", "DESCRIPTION"],
        [
            [
                f"{each}.{param}", output.shown(one.get("value")), one.get("unit"), _type(one), one.get("by"),
                clock.text(one["t"]) if "t" in one else "", one.get("description"),
            ]
            for each, params in found.items()
            for param, one in params.items()
        ],
    )  # fmt: skip


@app.command("get")
def get(name: Name, param: Annotated[str, typer.Argument(metavar="PARAM", help="One of its parameters.")]) -> None:
    """Print a parameter as it is now, as JSON."""
    with joined() as ether:
        output.as_json(ether.get(name, topics.PARAM_GET, {"param": param}))


@app.command("set")
def set_params(
    name: Name,
    values: Annotated[list[str], typer.Argument(metavar="PARAM=VALUE…", help="Values are YAML.")],
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")] = None,
) -> None:
    """Set parameters, and print what they are then.

    `ether param set oven gain=2.5`
    """
    given, limit = pairs(values), seconds(timeout, "--timeout")
    with joined() as ether:
        output.as_json({param: ether.set_param(name, param, value, timeout=limit) for param, value in given.items()})


def _type(one: dict[str, Any]) -> str:
    """Return the type and its bounds in a few signs."""
    word = " or ".join(map(str, one.get("enum") or [each.get("type", "") for each in one.get("anyOf") or [one]]))
    bounds = [f"{sign} {one[key]:g}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in one]
    return ", ".join(each for each in (word, *bounds, "read only" if one.get("readonly") else "") if each)
