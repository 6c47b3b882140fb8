"""Who is it: user names and passwords, checked without ever stalling the loop.

argon2 is slow on purpose, so it runs in a thread, two at a time. What it has found right is remembered as an HMAC under
a key that lives as long as this process: a hundred boards that come back after a power cut are let in at once.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import users
from .acl import Access, rights
from .users import SESSION_USER, User, UsersError

__all__ = ["Guard"]

logger = logging.getLogger(__name__)

_AT_ONCE = 2
_REPEAT_S = 60.0
"""A client that keeps failing is worth a line a minute."""
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43
"""Checked for unknown names, so that the time of a refusal does not tell which names exist."""


class Guard:
    """The users of one broker: who may connect, and with what rights.

    The file is read again when it has changed; whoever is connected keeps the rights of its CONNECT.

    Args:
        path: the users file.
        namespace: put before every topic that a role or a user is granted.
        session_password: lets in `ether-session`, the processes of the session that started this broker.

    Raises:
        UsersError: the file cannot be used.
    """

    def __init__(self, path: Path, namespace: str = "", session_password: str | None = None) -> None:
        self._path = path
        self._namespace = namespace
        self._session = User(SESSION_USER, "admin", "", "") if session_password is not None else None
        self._key = secrets.token_bytes(32)
        self._verified: dict[str, tuple[str, bytes]] = {}
        """User → the hash in the file that was checked, and the HMAC of the password it stands for."""
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="argon2")
        self._failures: dict[tuple[str, str], tuple[float, int]] = {}
        """(user, host) → when it was last told, and how often it has happened since."""
        self._stamp = self._find_stamp()
        self._users = users.read(path)
        if session_password is not None:
            self._verified[SESSION_USER] = ("", self._seal(SESSION_USER, session_password.encode()))

    def remembered(self, name: str | None, password: bytes | None) -> User | None:
        """The user, if these credentials have been checked before."""
        user = self._find(name)
        if user is None or password is None:
            return None
        hashed, sealed = self._verified.get(user.name, ("", b""))
        fits = hmac.compare_digest(sealed, self._seal(user.name, password))
        return user if fits and hashed == user.argon2 else None

    async def check(self, name: str | None, password: bytes | None) -> User | None:
        """The user, if the password is right; takes its time."""
        if name is None or password is None:
            return None
        async with self._turn:
            user = self._find(name)
            hashed = user.argon2 if user is not None and user.argon2 else _NOBODY
            right = await asyncio.get_running_loop().run_in_executor(self._threads, users.verify, hashed, password)
        if user is None or not right:
            return None
        self._verified[user.name] = (hashed, self._seal(user.name, password))
        return user

    def access(self, user: User, client_id: str) -> Access:
        """The rights of one connection of `user`."""
        return Access(user.name, rights(user, self._namespace), client_id)

    def exists(self, name: str) -> bool:
        """Whether there is such a user, now."""
        return self._find(name) is not None

    def refused(self, peer: str, client_id: str, name: str | None) -> None:
        """Tell of wrong credentials: the first of a user and host at once, further ones once a minute."""
        now = time.monotonic()
        host, who = peer.rpartition(":")[0], name or ""
        told_at, silent = self._failures.get((who, host), (-_REPEAT_S, 0))
        if now - told_at < _REPEAT_S:
            self._failures[who, host] = (told_at, silent + 1)
            return
        if len(self._failures) >= 1000:
            self._failures.clear()
        self._failures[who, host] = (now, 0)
        what = f"wrong credentials for user {name!r}" if name is not None else "no user name"
        more = f"; {silent} more since it was last told" if silent else ""
        logger.warning("%s: refused, %s (client %r)%s", host, what, client_id[:80], more)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _find(self, name: str | None) -> User | None:
        if name == SESSION_USER:
            return self._session
        self._reload()
        return self._users.get(name or "")

    def _reload(self) -> None:
        stamp = self._find_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._users = users.read(self._path)
        except UsersError as exc:
            logger.error("the users stay as they were: %s", exc)
        else:
            logger.info("%s read again, %d users", self._path, len(self._users))

    def _find_stamp(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_ino, status.st_mode)

    def _seal(self, name: str, password: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + password, "sha256")
