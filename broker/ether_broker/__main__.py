"""Run the broker: `python -m ether_broker [--listen HOST:PORT] [--data FOLDER] [--users FILE] …`; `--help` tells all.

Prints `listening URL…` on stdout once it accepts connections, and nothing else; the log goes to stderr. SIGTERM and
SIGINT stop it in order. Exit codes: 0 stopped as asked, 1 a fault of ours, 2 wrong arguments, users or certificates,
4 the address cannot be bound or may not be without users, 5 the data folder cannot be used.
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
import re
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .limits import Limits
from .store import FolderInUse
from .tls import TlsError, server_context
from .users import UsersError

if TYPE_CHECKING:
    from .broker import EtherBroker

__all__ = ["main"]

logger = logging.getLogger("ether_broker")

_NO_USERS = (
    "{host} can be reached from other machines, and there are no users; make some with `ether broker users add NAME` "
    "and give --users FILE, or --insecure-lan if the whole network may read and write everything"
)
_PARENT_GONE_GRACE_S = 5.0
"""After the parent died: how long its clients may still finish what they do."""
_SIZE = re.compile(r"(\d{1,15})((?:[kMG]|[KMG]i)B)?")
_UNITS = {None: 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
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
        return _fail(5, exc)
    except (UsersError, TlsError) as exc:
        return _fail(2, exc)
    finally:
        if arguments.remove_data and arguments.data is not None:
            shutil.rmtree(arguments.data, ignore_errors=True)


def _fail(code: int, why: object) -> int:
    print(f"ether_broker: {why}", file=sys.stderr)
    return code


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
    safety = parser.add_argument_group("who may do what")
    safety.add_argument(
        "--users", type=Path, metavar="FILE", help="demand credentials; made by `ether broker users add`"
    )
    safety.add_argument("--namespace", default="", help="put before every topic that a role grants")
    safety.add_argument(
        "--session-stdin", action="store_true", help="the first line of stdin is ether-session's password"
    )
    safety.add_argument("--insecure-lan", action="store_true", help="serve other machines without users")
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument("--max-packet", type=_size, metavar="SIZE", help="largest packet accepted (default 64MiB)")
    bounds.add_argument("--max-connections", type=_number, metavar="N", help="clients at once (default 1000)")
    bounds.add_argument(
        "--max-queue", type=_size, metavar="SIZE",
        help="memory for what waits for one client; beyond, on disk or its publishers wait (default 16MiB)",
    )  # fmt: skip
    bounds.add_argument(
        "--session-expiry", type=_number, metavar="SECONDS",
        help="a persistent session is forgotten this long after its client left (default 604800, a week)",
    )  # fmt: skip
    tls = parser.add_argument_group("TLS, on --listen and --websocket")
    tls.add_argument("--cert", type=Path, metavar="PEM")
    tls.add_argument("--key", type=Path, metavar="PEM")
    tls.add_argument("--ca", type=Path, metavar="PEM", help="authority of client certificates")
    tls.add_argument("--require-client-cert", action="store_true", help="refuse clients without one of --ca")
    tls.add_argument(
        "--local", type=_address, metavar="HOST:PORT", help="listen on this loopback address too, without TLS"
    )
    web = parser.add_argument_group("browsers")
    web.add_argument(
        "--websocket", type=_address, metavar="HOST:PORT", help="listen for WebSockets; needs --users, --origin"
    )
    web.add_argument("--origin", action="append", default=[], metavar="URL", help="a page that may connect; repeatable")
    arguments = parser.parse_args()
    wrong = _contradiction(arguments)
    if wrong:
        parser.error(wrong)
    return arguments


def _contradiction(arguments: argparse.Namespace) -> str | None:
    if (arguments.cert is None) != (arguments.key is None):
        return "--cert and --key come together"
    if arguments.ca is not None and arguments.cert is None:
        return "--ca is for TLS; give --cert and --key too"
    if arguments.require_client_cert and arguments.ca is None:
        return "--require-client-cert needs the --ca that signs them"
    if arguments.local is not None and not _loopback(arguments.local[0]):
        return "--local is for loopback addresses; for others use --listen"
    if arguments.websocket is not None and not (arguments.users and arguments.origin):
        return "--websocket needs --users FILE and --origin URL: any page open in a browser here could connect"
    if arguments.session_stdin and arguments.users is None:
        return "--session-stdin needs --users"
    return None


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _size(text: str) -> int:
    """Bytes, or with a unit: `500kB`, `64MiB`."""
    found = _SIZE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write bytes, or 64MiB")
    return int(found[1]) * _UNITS[found[2]]


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _limits(arguments: argparse.Namespace) -> Limits:
    wanted = {
        "packet_bytes": arguments.max_packet, "connections": arguments.max_connections,
        "queue_bytes": arguments.max_queue, "qos0_bytes": arguments.max_queue,
        "session_expiry_s": arguments.session_expiry,
    }  # fmt: skip
    return replace(Limits(), **{name: value for name, value in wanted.items() if value is not None})


async def _run(arguments: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    host, port = arguments.listen
    if not _loopback(host) and arguments.users is None:
        if not arguments.insecure_lan:
            return _fail(4, _NO_USERS.format(host=host))
        logger.warning("INSECURE: no users; whoever can reach %s reads and writes every topic", host)
    elif not _loopback(host) and arguments.cert is None:
        logger.warning("passwords travel to %s in the clear; --cert and --key switch TLS on", host)
    try:
        broker = _broker(arguments)
    except (UsersError, TlsError):
        raise
    except OSError as exc:
        return _fail(5, f"{arguments.data} cannot be used: {exc}")
    try:
        await broker.start()
    except OSError as exc:
        reason = "the address is in use already" if exc.errno == errno.EADDRINUSE else exc.strerror
        wanted = (arguments.listen, arguments.local, arguments.websocket)
        host, port = next((each for each in wanted if each and str(each)[:-1] in str(exc)), arguments.listen)
        return _fail(4, f"cannot listen on {host}:{port}: {reason}")
    if arguments.parent_pipe:
        _watch_parent(broker, loop, stop)
    # What exists now lives until the end; not looking at it again makes every collection cheap.
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    print("listening", *_urls(arguments, broker), flush=True)
    return await _until_stopped(broker, stop)


def _broker(arguments: argparse.Namespace) -> EtherBroker:
    """The broker, not yet listening: `--listen`, then `--local`, then `--websocket`."""
    from .authentication import Guard
    from .broker import EtherBroker  # amqtt takes most of the start; wrong arguments need not wait for it

    wanted = {"default": arguments.listen, "local": arguments.local, "websocket": arguments.websocket}
    listeners = {
        name: {"type": "ws" if name == "websocket" else "tcp", "bind": _bind(*address)}
        for name, address in wanted.items()
        if address is not None
    }
    tls = {}
    if arguments.cert is not None:
        context = server_context(arguments.cert, arguments.key, arguments.ca, arguments.require_client_cert)
        tls = {"default": context, "websocket": context}
    guard = None
    if arguments.users is not None:
        password = sys.stdin.buffer.readline().rstrip(b"\r\n").decode() if arguments.session_stdin else None
        guard = Guard(arguments.users, arguments.namespace, password)
    data = None if arguments.no_persist else arguments.data
    config = {"listeners": listeners, "plugins": {}}
    return EtherBroker(config, data, _limits(arguments), guard=guard, tls=tls, origins=arguments.origin)


def _bind(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _urls(arguments: argparse.Namespace, broker: EtherBroker) -> list[str]:
    """Where we listen, in the order of the listeners."""
    secure = "s" if arguments.cert is not None else ""
    wanted = ((f"mqtt{secure}", arguments.listen), ("mqtt", arguments.local), (f"ws{secure}", arguments.websocket))
    named = [(scheme, address[0]) for scheme, address in wanted if address is not None]
    ports = (port for _, port in broker.addresses)
    return [f"{scheme}://{_bind(host, port)}" for (scheme, host), port in zip(named, ports, strict=True)]


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
