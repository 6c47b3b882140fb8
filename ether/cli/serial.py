"""`ether serial PORT --name NAME`: a board on a serial port takes part."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Annotated

import typer

from ether import process
from ether.cli import output
from ether.cli.hosting import READY
from ether.cli.joined import end_with, take_part
from ether.cli.stopping import stop_on_signals

__all__ = ["serial"]

_OUTBOX = ".outbox"


def serial(
    port: Annotated[
        str | None, typer.Argument(metavar="PORT", help="/dev/ttyACM0, COM3, socket://HOST:PORT, rfc2217://HOST:PORT.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Of the board; required.")] = None,
    baud: Annotated[int, typer.Option("--baud", min=1, help="Bits a second, as the board has it.")] = 115_200,
    topics: Annotated[
        list[str] | None,
        typer.Option("--topic", metavar="CHANNEL=TOPIC", help="Where it goes; default NAME/CHANNEL. Repeatable."),
    ] = None,
    units: Annotated[
        list[str] | None,
        typer.Option("--unit", metavar="CHANNEL=UNIT", help="Where the board does not say it. Repeatable."),
    ] = None,
    subscribe: Annotated[
        list[str] | None, typer.Option("--subscribe", metavar="CHANNEL", help="Goes to the board. Repeatable.")
    ] = None,
    broker: Annotated[
        str | None, typer.Option("--broker", metavar="URL", help="Serve this broker, whatever sessions come and go.")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", help="Below which the broker lets us in.")] = "",
    ca: Annotated[Path | None, typer.Option("--ca", metavar="PEM", help="Authority to trust, for mqtts.")] = None,
    list_ports: Annotated[bool, typer.Option("--list", help="List the ports of this machine, and end.")] = False,
) -> int:
    """Make a board on a serial port an instance, until Ctrl-C: its lines are readings.

    It takes part in the running session and ends with it; with --broker (or ETHER_BROKER) it stays. What a line says
    stands in hardware/serial/README.md.
    """
    from ether.serial_gateway import SerialBoard, ports, serve
    from ether.topics import check_name

    if list_ports:
        output.table(["PORT", "WHAT"], [[device, said] for device, said in ports().items()])
        return 0
    if port is None or name is None:
        raise typer.BadParameter("write `ether serial PORT --name NAME`; `ether serial --list` tells the ports")
    check_name(name)
    process.log_to_stderr(name, os.environ["ETHER_LOG_LEVEL"])
    board = SerialBoard(port, baud, _pairs(topics, "--topic"), _pairs(units, "--unit"), subscribe or ())
    stop = threading.Event()
    guest, config = take_part(broker, namespace, ca)
    outbox = None if config.broker.url is None else config.session.data.absolute() / _OUTBOX
    try:
        if outbox is None:
            end_with(guest, stop)
        with stop_on_signals(stop):
            counts = serve(
                board, name, guest, outbox, stop,
                ready=lambda: output.line(f"{READY} {name} ({port}) at {guest.connection.address}"),
            )  # fmt: skip
    finally:
        guest.close()
    published, rejected = counts.get("published", 0), counts.get("rejected", 0)
    output.note(f"{name}: {published:,} readings published, {rejected:,} lines rejected")
    return 0


def _pairs(words: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for word in words or ():
        channel, equals, text = word.partition("=")
        if not equals or not text:
            raise typer.BadParameter(f"{word!r}: write CHANNEL=…, such as temp=degC", param_hint=option)
        found[channel] = text
    return found
