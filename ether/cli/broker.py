"""`ether broker`: a broker alone, and the users of brokers that we start."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from ether.cli import output
from ether.cli.stopping import stop_on_signals

__all__ = ["app"]

app = typer.Typer(help="Run a broker alone until Ctrl-C, or manage its users.", invoke_without_command=True)
users = typer.Typer(help="Who may use a broker that ether starts.", no_args_is_help=True)
app.add_typer(users, name="users")

File = Annotated[Path, typer.Option("--file", metavar="FILE", help="The users file.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The user; for a component, recorder or device its own name.")
]


@app.callback()
def broker(
    context: typer.Context,
    kind: Annotated[str, typer.Option("--kind", help="auto, embedded, mosquitto, nats or a package's.")] = "auto",
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where; default loopback.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="What it keeps, for its next start; default: none.")
    ] = None,
    users: Annotated[Path | None, typer.Option("--users", metavar="FILE", help="Demand credentials.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", help="Put before every topic that a role grants.")] = "",
    cert: Annotated[Path | None, typer.Option("--cert", metavar="PEM", help="Our certificate: TLS.")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="PEM", help="Its private key.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="PEM", help="Authority of client certificates.")] = None,
    require_client_cert: Annotated[
        bool, typer.Option("--require-client-cert", help="Refuse clients without one.")
    ] = False,
    websocket: Annotated[
        str | None, typer.Option("--websocket", metavar="HOST:PORT", help="Listen for browsers too.")
    ] = None,
    origins: Annotated[
        list[str] | None, typer.Option("--origin", metavar="URL", help="A page that may connect. Repeatable.")
    ] = None,
    insecure_lan: Annotated[
        bool, typer.Option("--insecure-lan", help="Serve other machines without users: read and write for all.")
    ] = False,
    node: Annotated[str, typer.Option("--node", metavar="NAME", help="This node of a cluster of NATS.")] = "",
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="HOST:PORT", help="Where the other nodes reach it.")
    ] = None,
    peers: Annotated[
        list[str] | None, typer.Option("--peer", metavar="HOST:PORT", help="The same of another node. Repeatable.")
    ] = None,
) -> None:
    """Run a broker alone until Ctrl-C, or manage its users.

    Sessions reach it by ETHER_BROKER, or by `broker:` in their YAML.
    """
    from ether import brokers
    from ether.config import broker_kinds
    from ether.errors import suggest

    if context.invoked_subcommand is not None:
        return
    kinds = broker_kinds()
    if kind not in kinds:
        raise typer.BadParameter(f"{kind!r}: one of {', '.join(kinds)}{suggest(kind, kinds)}", param_hint="--kind")
    security = brokers.Security(
        users=users, namespace=namespace, cert=cert, key=key, ca=ca, require_client_cert=require_client_cert,
        websocket=websocket, origins=tuple(origins or ()), insecure_lan=insecure_lan,
    )  # fmt: skip
    place = None
    if node or cluster is not None or peers:
        if cluster is None or not node or data is None:
            raise typer.BadParameter(
                "a node of a cluster needs --node, --cluster, --peer and --data", param_hint="--node"
            )
        place = brokers.Cluster(node, cluster, tuple(peers or ()))
    folder = None if data is None else str(data)
    stop = threading.Event()
    with (
        stop_on_signals(stop),
        brokers.choose(kind, listen=listen, folder=folder, security=security, cluster=place) as running,
    ):
        output.line(f"{running.url} ({running.kind}, {running.why})")
        if isinstance(running, brokers.ChildBroker) and running.open_to_all:
            output.complain(f"INSECURE: no users; whoever can reach {running.host} reads and writes every topic")
        output.note(f"use it with: ETHER_BROKER={running.url} ether up FILE")
        while not stop.wait(0.5):  # in steps, so that every platform hears the signal
            pass


@users.command("add")
def add(
    name: Name,
    role: Annotated[str, typer.Option("--role", help="component, recorder, device, dashboard or admin.")] = "component",
    publish: Annotated[
        list[str] | None, typer.Option("--publish", metavar="FILTER", help="Where it may publish. Repeatable.")
    ] = None,
    subscribe: Annotated[
        list[str] | None, typer.Option("--subscribe", metavar="FILTER", help="What it may read. Repeatable.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="The password is the first line of stdin.")
    ] = False,
    file: File = Path("users.yaml"),
) -> None:
    """Add a user; asks for the password twice."""
    words = [f"--role={role}", *(f"--publish={each}" for each in publish or ())]
    words += [f"--subscribe={each}" for each in subscribe or ()]
    _manage("add", file, *words, *(["--password-stdin"] if password_stdin else []), "--", name)


@users.command("list")
def list_users(file: File = Path("users.yaml")) -> None:
    """List users, their roles and what they were granted."""
    _manage("list", file)


@users.command("remove")
def remove(name: Name, file: File = Path("users.yaml")) -> None:
    """Remove a user."""
    _manage("remove", file, "--", name)


@users.command("mosquitto")
def mosquitto(
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where Mosquitto looks for them.")],
    namespace: Annotated[str, typer.Option("--namespace", help="Put before every topic that a role grants.")] = "",
    file: File = Path("users.yaml"),
) -> None:
    """Write the users as `passwords` and `acl`, for a Mosquitto that ether does not start."""
    _manage("mosquitto", file, f"--folder={folder}", f"--namespace={namespace}")


def _manage(verb: str, file: Path, *words: str) -> None:
    from ether import brokers

    code = brokers.manage_users(verb, f"--file={file}", *words).returncode
    if code:
        raise typer.Exit(code)
