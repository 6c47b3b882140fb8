"""`ether broker`: a broker alone."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from ether.cli import output
from ether.cli.stopping import stop_on_signals

__all__ = ["broker"]


def broker(
    kind: Annotated[str, typer.Option("--kind", help="auto, embedded or mosquitto.")] = "auto",
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where; default loopback.")
    ] = None,
) -> None:
    """Run a broker alone until Ctrl-C.

    Sessions reach it by ETHER_BROKER, or by `broker:` in their YAML.
    """
    from ether import brokers
    from ether.errors import suggest

    kinds = ("auto", "embedded", "mosquitto")
    if kind not in kinds:
        raise typer.BadParameter(f"{kind!r}: one of {', '.join(kinds)}{suggest(kind, kinds)}", param_hint="--kind")
    stop = threading.Event()
    with stop_on_signals(stop), brokers.choose(kind, listen=listen) as running:
        output.line(f"{running.url} ({running.kind}, {running.why})")
        output.note(f"use it with: ETHER_BROKER={running.url} ether up FILE")
        while not stop.wait(0.5):  # in steps, so that every platform hears the signal
            pass
