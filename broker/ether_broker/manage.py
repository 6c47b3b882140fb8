"""Manage the users file: `python -m ether_broker.manage add|list|remove|mosquitto`; users call it `ether broker users`.

Exit codes: 0 done, 2 not as asked; then one line on stderr says why.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from . import users
from .acl import ROLES, rights
from .users import SESSION_USER, User, UsersError

__all__ = ["main"]


def main(words: list[str] | None = None) -> int:
    """Do one thing with the users file; returns the exit code."""
    arguments = _arguments(words)
    try:
        arguments.run(arguments)
    except UsersError as exc:
        print(f"ether: {exc}", file=sys.stderr)
        return 2
    return 0


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ether_broker.manage", description="Users of the broker.")
    verbs = parser.add_subparsers(required=True)
    for run, named in ((_add, True), (_list, False), (_remove, True), (_mosquitto, False)):
        verb = verbs.add_parser(run.__name__[1:], help=run.__doc__)
        verb.add_argument("--file", type=Path, default=Path("users.yaml"))
        verb.set_defaults(run=run)
        if named:
            verb.add_argument("name")
        if run is _add:
            verb.add_argument("--role", default="component", help=", ".join(ROLES))
            verb.add_argument("--publish", action="append", default=[], metavar="FILTER")
            verb.add_argument("--subscribe", action="append", default=[], metavar="FILTER")
            verb.add_argument("--password-stdin", action="store_true")
        if run is _mosquitto:
            verb.add_argument("--folder", type=Path, required=True)
            verb.add_argument("--namespace", default="")
            verb.add_argument("--session-stdin", action="store_true", help=f"stdin has the password of {SESSION_USER}")
    return parser.parse_args(words)


def _add(arguments: argparse.Namespace) -> None:
    """Add a user; the password is asked for twice, or is the first line of stdin."""
    path, name = arguments.file, arguments.name
    known = users.read(path) if path.exists() else {}
    if name in known:
        raise UsersError(f"{path}: user {name} exists; `ether broker users remove {name} --file {path}` first")
    granted = tuple(arguments.publish), tuple(arguments.subscribe)
    users.make_user(name, arguments.role, "only checked", *granted)  # before anybody has typed a password
    password = _password(name, arguments.password_stdin)
    user = users.make_user(name, arguments.role, password, *granted)
    users.write(path, {**known, name: user})
    print(f"{name} ({user.role}) added to {path}")


def _password(name: str, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise UsersError("no terminal to ask for a password; give it on stdin with --password-stdin")
    password = getpass.getpass(f"Password of {name}: ")
    if getpass.getpass("Once more: ") != password:
        raise UsersError("the two passwords differ; nothing was changed")
    return password


def _list(arguments: argparse.Namespace) -> None:
    """List names, roles and granted topics."""
    for user in users.read(arguments.file).values():
        granted = [f"{verb} {each}" for verb in ("publish", "subscribe") for each in getattr(user, verb)]
        print(" ".join(filter(None, (f"{user.name:16} {user.role:10}", ", ".join(granted)))).rstrip())


def _remove(arguments: argparse.Namespace) -> None:
    """Remove a user; who is connected stays connected."""
    path, name = arguments.file, arguments.name
    known = users.read(path)
    if name not in known:
        raise UsersError(f"{path}: no user {name}; there are {', '.join(known) or 'none'}")
    del known[name]
    users.write(path, known)
    print(f"{name} removed from {path}")


def _mosquitto(arguments: argparse.Namespace) -> None:
    """Write Mosquitto's `passwords` and `acl` into a folder."""
    known = users.read(arguments.file)
    if arguments.session_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        known[SESSION_USER] = User(SESSION_USER, "admin", "", users.mosquitto_hash(password))
    passwords = "".join(f"{user.name}:{user.mosquitto}\n" for user in known.values())
    try:
        _write_private(arguments.folder / "passwords", passwords)
        _write_private(arguments.folder / "acl", mosquitto_acl(known, arguments.namespace))
    except OSError as exc:
        raise UsersError(f"{exc.filename}: cannot be written: {exc.strerror}") from exc


def mosquitto_acl(known: users.Users, namespace: str = "") -> str:
    """Return the rights of all users as an ACL file. Mosquitto fills in `%c` for everybody or for nobody."""
    lines = []
    for user in known.values():
        granted = rights(user, namespace)
        lines.append(f"user {user.name}")
        lines += [f"topic read {each}" for each in granted.read if "%c" not in each]
        lines += [f"topic write {each}" for each in granted.write]
    below = f"{namespace}/" if namespace else ""
    return "\n".join([*lines, f"pattern read {below}ether/reply/%c", ""])


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
