"""How verbs reach the running session or a broker, and how all of them find the user's classes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ether import runtime
from ether.cli import output
from ether.model import GONE, Status

if TYPE_CHECKING:
    from ether.config import Config
    from ether.guest import Guest

__all__ = ["end_with", "find_classes_from", "joined", "take_part"]


@contextmanager
def joined() -> Iterator[Any]:
    """Join the running session and leave it again: by ETHER_BROKER, else the newest, or the one of `--session`.

    Raises:
        BrokerError: no session runs.
    """
    from ether import ether

    name = output.settings.session
    ether.tap({"session": {"name": name}} if name else None, join_only=True)
    try:
        yield ether
    finally:
        ether.shutdown()


def find_classes_from(file: Path) -> None:
    """Make classes beside the YAML file and in the working directory importable, as a script there would."""
    for folder in (os.getcwd(), str(file.resolve().parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def take_part(broker: str | None, namespace: str, ca: Path | None) -> tuple[Guest, Config]:
    """Connect to a broker (else that of ETHER_BROKER), or join the running session, which leaves `broker.url` None.

    Raises:
        BrokerError: there is none.
    """
    from ether.config import Config
    from ether.guest import join

    url = broker or os.environ.get("ETHER_BROKER")
    name = output.settings.session
    session = {"namespace": namespace, **({"name": name} if name else {})}
    overrides = [f"broker.url={url}"] if url else []
    if ca is not None:
        overrides.append(f"broker.tls.ca={ca.absolute()}")
    config = Config.load({"session": session}, overrides)
    guest = join(config, only=True)
    assert guest is not None  # else it has raised
    return guest, config


def end_with(guest: Guest, stop: threading.Event) -> None:
    """Set `stop` once the joined session has ended, in order or by being killed."""

    def changed(name: str, status: Status | None) -> None:
        if name == "session" and (status is None or status.state in GONE):
            stop.set()

    def watch() -> None:
        while not stop.wait(1.0):
            if not guest.connection.connected and runtime.find(namespace=guest.namespace) is None:
                stop.set()

    guest.client.on_change = changed
    threading.Thread(target=watch, name="session", daemon=True).start()
