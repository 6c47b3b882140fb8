"""Run the broker: `python -m ether_broker [--listen HOST:PORT] [--data FOLDER] [--no-persist] [--parent-pipe]`.

Prints `listening mqtt://HOST:PORT` on stdout once it accepts connections, and nothing else; the log goes to stderr.
SIGTERM and SIGINT stop it in order. Exit codes: 0 stopped as asked, 1 a fault of ours, 2 wrong arguments, 4 the address
cannot be bound, 5 the data folder cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .limits import Limits
from .store import FolderInUse

if TYPE_CHECKING:
    from .broker import EtherBroker

__all__ = ["main"]

logger = logging.getLogger("ether_broker")

_PARENT_GONE_GRACE_S = 5.0
"""After the parent died: how long its clients may still finish what they do."""


_FORMAT = "%(asctime)s.%(msecs)03d - broker:%(process)d - %(levelname)s - %(message)s"


def main() -> int:
    """Run until stopped; returns the exit code."""
    arguments = _arguments()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")
    for library in ("amqtt", "transitions", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    _allow_open_files()
    try:
        return asyncio.run(_run(arguments))
    except FolderInUse as exc:
        print(f"ether_broker: {exc}", file=sys.stderr)
        return 5
    finally:
        if arguments.remove_data and arguments.data is not None:
            shutil.rmtree(arguments.data, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ether_broker", description="The embedded MQTT 3.1.1 broker of ether.")
    parser.add_argument(
        "--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT",
        help="where to listen; port 0 takes a free one (default 127.0.0.1:0)",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="keep retained messages and sessions here")
    parser.add_argument("--no-persist", action="store_true", help="keep everything in memory, whatever --data says")
    parser.add_argument(
        "--remove-data", action="store_true", help="remove the --data folder at the end: it is temporary"
    )
    parser.add_argument("--parent-pipe", action="store_true", help="stop when stdin ends, that is when the parent died")
    return parser.parse_args()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


async def _run(arguments: argparse.Namespace) -> int:
    from .broker import EtherBroker  # amqtt takes most of the start; wrong arguments need not wait for it

    host, port = arguments.listen
    config = {"listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}}, "plugins": {}}
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    try:
        broker = EtherBroker(config, None if arguments.no_persist else arguments.data, Limits())
    except OSError as exc:
        print(f"ether_broker: {arguments.data} cannot be used: {exc}", file=sys.stderr)
        return 5
    try:
        await broker.start()
    except OSError as exc:
        reason = "the address is in use already" if exc.errno == errno.EADDRINUSE else exc
        print(f"ether_broker: cannot listen on {host}:{port}: {reason}", file=sys.stderr)
        return 4
    if not _loopback(host):
        logger.warning(
            "listening on %s without users: whoever reaches this machine can read and write all topics", host
        )
    if arguments.parent_pipe:
        _watch_parent(broker, loop, stop)
    # What exists now lives until the end; not looking at it again makes every collection cheap.
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    print(f"listening mqtt://{host}:{broker.addresses[0][1]}", flush=True)
    return await _until_stopped(broker, stop)


async def _until_stopped(broker: EtherBroker, stop: asyncio.Event) -> int:
    stopping = asyncio.create_task(stop.wait(), name="stop")
    assert broker.watch is not None
    await asyncio.wait([stopping, broker.watch], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    failed = broker.watch.exception() if broker.watch.done() else None
    if failed is not None:
        logger.error("stopping, because of an error of the broker's own", exc_info=failed)
    await broker.shutdown()
    return 1 if failed is not None else 0


def _allow_open_files() -> None:
    """Take all the file descriptors the system lets us have: a usual default of 1,024 is too few for 1,000 clients."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(OSError, ValueError):  # macOS says no to some; then it stays as it was
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _watch_parent(broker: EtherBroker, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop when stdin ends, as soon as all clients are gone or after the grace."""

    async def end() -> None:
        logger.warning("the parent process is gone; stopping when its clients are, or in %g s", _PARENT_GONE_GRACE_S)
        deadline = loop.time() + _PARENT_GONE_GRACE_S
        while broker.connections and loop.time() < deadline:
            await asyncio.sleep(0.05)
        stop.set()

    def read() -> None:
        # os.read, in a thread: works on pipes of every system, and holds no lock when the interpreter ends.
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            logger.debug("stdin cannot be read; taken as its end")
        asyncio.run_coroutine_threadsafe(end(), loop)

    threading.Thread(target=read, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
