"""The users file: one for the embedded broker and for Mosquitto, written by `ether broker users`.

Each user has two hashes of the same password, because neither broker can check the other's: argon2 for this one, and
PBKDF2 in Mosquitto's own form. Whoever steals the file attacks the weaker of the two, PBKDF2.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import argon2
import yaml

from .acl import ROLES, check_filter

__all__ = ["SESSION_USER", "User", "Users", "UsersError", "make_user", "mosquitto_hash", "read", "verify", "write"]

SESSION_USER = "ether-session"
"""The processes of a session itself, with a password made at its start."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_PASSWORD_MIN, _PASSWORD_BYTES = 8, 1024
_ITERATIONS = 5_000
"""Of PBKDF2, some 5 ms; mosquitto_passwd takes 101. Mosquitto checks at every CONNECT and in its only thread, so that a
hundred boards that come back together hold up everybody's messages for the sum of it."""
_HEAD = "# Users of the MQTT broker. Written by `ether broker users`; keep it readable by yourself only (mode 0600).\n"
# OWASP's figures for argon2id; 19 MiB and some 25 ms, so that a small board can be the broker of a hundred devices.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class UsersError(ValueError):
    """The users file, or what is to be put into it, is wrong; the text is one line with the way out."""


@dataclass(frozen=True, slots=True)
class User:
    """One user."""

    name: str
    role: str
    argon2: str
    mosquitto: str
    publish: tuple[str, ...] = ()
    """Filters granted beside the role."""
    subscribe: tuple[str, ...] = ()


Users = Mapping[str, User]


def make_user(
    name: str, role: str, password: str, publish: tuple[str, ...] = (), subscribe: tuple[str, ...] = ()
) -> User:
    """Return a user with both hashes of `password`.

    Raises:
        UsersError: a name, role, filter or password that will not do.
    """
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise UsersError(f"user {name}: the password is no UTF-8, as which devices send it") from None
    if len(password) < _PASSWORD_MIN or size > _PASSWORD_BYTES:
        raise UsersError(
            f"user {name}: a password has {_PASSWORD_MIN} characters at least, {_PASSWORD_BYTES} bytes at most"
        )
    user = User(name, role, "", "", publish, subscribe)
    _check(user)
    return User(name, role, _HASHER.hash(password), mosquitto_hash(password), publish, subscribe)


def mosquitto_hash(password: str) -> str:
    """Return a salted hash in the form of `mosquitto_passwd`: `$7$iterations$salt$PBKDF2-HMAC-SHA512`."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def verify(hashed: str, password: bytes) -> bool:
    """Whether `password` is the one of an argon2 hash. Takes tens of milliseconds: not for the event loop."""
    try:
        return _HASHER.verify(hashed, password)
    except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError):
        return False


def read(path: Path) -> dict[str, User]:
    """Return the users in `path` by name.

    Raises:
        UsersError: it is missing, readable by others, or not as `write` writes it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsersError(
            f"{path}: no such users file; make it with `ether broker users add NAME --file {path}`"
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise UsersError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if sys.platform != "win32" and mode & 0o077:
        raise UsersError(f"{path}: others on this machine may read it (mode {mode & 0o777:o}); run `chmod 600 {path}`")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise UsersError(f"{path}: not YAML: {' '.join(str(exc).split())}") from exc
    entries = content.get("users") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise UsersError(f"{path}: not a users file; it begins with `users:`, a name and its role below it")
    found = {}
    for name, entry in entries.items():
        try:
            found[name] = _user(name, entry)
        except ValueError as exc:
            raise UsersError(f"{path}: {exc}") from None
    return found


def write(path: Path, users: Users) -> None:
    """Replace the users in `path`, at once and readable by its owner only.

    Raises:
        UsersError: it cannot be written.
    """
    entries = {}
    for user in users.values():
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(user).items()}
        entries[user.name] = {key: value for key, value in fields.items() if key != "name" and value}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(_HEAD + yaml.safe_dump({"users": entries}, sort_keys=False))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise UsersError(f"{path}: cannot be written: {exc.strerror}") from exc


def _user(name: Any, entry: Any) -> User:
    known = ("role", "argon2", "mosquitto", "publish", "subscribe")
    if not isinstance(name, str) or not isinstance(entry, dict):
        raise UsersError(f"user {name!r}: a name with role, argon2 and mosquitto below it was wanted")
    for key in entry:
        if key not in known:
            raise UsersError(f"user {name}: {key!r} is unknown; known are {', '.join(known)}")
    for key in known[:3]:
        if not isinstance(entry.get(key), str):
            raise UsersError(f"user {name}: `{key}` is missing; remove the user and add it again")
    filters = []
    for key in known[3:]:
        listed = entry.get(key) or []
        if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
            raise UsersError(f"user {name}: `{key}` is a list of topic filters")
        filters.append(tuple(listed))
    user = User(name, entry["role"], entry["argon2"], entry["mosquitto"], *filters)
    _check(user)
    if not user.argon2.startswith("$argon2") or not re.fullmatch(r"\$7\$\d+\$[\w+/=]+\$[\w+/=]+", user.mosquitto):
        raise UsersError(f"user {name}: a hash is damaged; remove the user and add it again")
    return user


def _check(user: User) -> None:
    if not _NAME.match(user.name):
        raise UsersError(f"user {user.name!r}: a name has up to 64 letters, digits, `_`, `-` and `.`")
    if user.name == SESSION_USER:
        raise UsersError(f"user {user.name}: that name is taken by the processes of a session; choose another")
    if user.role not in ROLES:
        raise UsersError(f"user {user.name}: {user.role!r} is no role; there are {', '.join(ROLES)}")
    if user.name == "ether" and user.role in ("component", "device"):
        raise UsersError(
            f"user {user.name}: the data of a {user.role} of that name would be ether's own topics; choose another name"
        )
    for publish, filters in ((True, user.publish), (False, user.subscribe)):
        for topic_filter in filters:
            try:
                check_filter(topic_filter, publish=publish)
            except ValueError as exc:
                raise UsersError(f"user {user.name}: {exc}") from None
