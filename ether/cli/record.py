"""`ether record FILE`: a second recorder, which only listens."""

from __future__ import annotations

import os
import re
import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ether import process
from ether.cli import output
from ether.cli.hosting import READY
from ether.cli.joined import end_with, take_part
from ether.cli.stopping import stop_on_signals
from ether.cli.verify import verdict

if TYPE_CHECKING:
    from ether.config import Config
    from ether.guest import Guest
    from ether.recorder.ingest import Recorder

__all__ = ["record"]


def record(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to; one that is there stays, the next is FILE-2.")
    ],
    topics: Annotated[
        list[str] | None, typer.Option("--topic", metavar="FILTER", help="What to record; default all. Repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="FILTER", help="What to leave out. Repeatable.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of this recorder; default recorder-HOST.")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option("--broker", metavar="URL", help="Record on this broker, whatever sessions come and go."),
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", help="Below which the broker lets us in.")] = "",
    ca: Annotated[Path | None, typer.Option("--ca", metavar="PEM", help="Authority to trust, for mqtts.")] = None,
) -> int:
    """Record beside a session, into a file of one's own, until Ctrl-C: a second copy, as on another disk or machine.

    It ends with the running session; with --broker (or ETHER_BROKER) it stays. It only listens: publishers wait for the
    session's recorder alone, so what it missed while it was away comes again only if the broker kept it, and
    `ether verify` tells.
    """
    from ether.recorder.ingest import NAME, Recorder
    from ether.recorder.verify import verify
    from ether.topics import check_filter, check_name

    name = name or f"{NAME}-{re.sub(r'[^A-Za-z0-9_.-]', '-', socket.gethostname())}"
    check_name(name)
    if name == NAME:
        raise typer.BadParameter("the recorder of a session is called so; choose another", param_hint="--name")
    for each in [*(topics or ()), *(exclude or ())]:
        check_filter(each)
    process.log_to_stderr(name, os.environ["ETHER_LOG_LEVEL"])
    stop = threading.Event()
    guest, config = take_part(broker, namespace, ca)
    try:
        guest.check_free(name)
        if config.broker.url is None:
            end_with(guest, stop)
        where = {"name": name, "file": str(file.absolute()), "topics": topics, "exclude": exclude}
        recorder = Recorder({**where, **_orders(guest, config)})
        threading.Thread(target=_stop_with, args=(recorder, stop), name="stop", daemon=True).start()
        with stop_on_signals(stop):
            code = recorder.run(
                lambda file: output.line(f"{READY} {name} at {guest.connection.address}, into {output.path(file)}")
            )
    finally:
        guest.close()
    if code:
        return code
    report = verify(recorder.file)
    output.line(f"recorded: {output.path(recorder.file)}, {verdict(report)}")
    return 0 if report.complete else 5


def _orders(guest: Guest, config: Config) -> dict[str, Any]:
    """Return what a recorder is told of the broker and the session that it listens to."""
    from ether.provenance import provenance_of

    session = guest.client.session
    return {
        "url": guest.url,
        "tls": None if guest.tls is None else asdict(guest.tls),
        "namespace": guest.namespace,
        "limits": asdict(guest.connection.limits),
        "reserve": config.record.reserve if config.record is not None else 0,
        "session": {key: session[key] for key in ("id", "name", "started") if key in session},
        "provenance": provenance_of(config),
        "log_level": os.environ["ETHER_LOG_LEVEL"],
    }


def _stop_with(recorder: Recorder, stop: threading.Event) -> None:
    stop.wait()
    recorder.stop("stop")
