"""Sockets for `ether_lite` where there is only a socket pool: CircuitPython, and CPython's `socket` module."""

import ether_lite

_BUSY = (2, 3, 11, 35, 36, 115, 119)  # nothing now; 2 and 3: TLS wants to read or write first, in CPython


class _Stream:
    """A socket as `ether_lite` wants it: what cannot be done without waiting returns None."""

    def __init__(self, connection):
        self._connection = connection
        self.close = connection.close

    def readinto(self, buffer):
        return self._try(self._connection.recv_into, buffer)

    def write(self, data):
        return self._try(self._connection.send, data)

    def _try(self, call, data):
        try:
            return call(data)
        except OSError as problem:
            if problem.errno in _BUSY:
                return None
            raise


def connect_by(pool, ssl_context=None, timeout=3):
    """Return what the option `connect` of `Ether` wants.

    Args:
        pool: a `socketpool.SocketPool`, or CPython's module `socket`.
        ssl_context: for TLS.
        timeout: seconds that connecting waits at most, and TLS for each of its steps; nothing else waits.
    """

    def connect(host, port):
        family, kind, _, _, address = pool.getaddrinfo(host, port, 0, pool.SOCK_STREAM)[0]
        connection = pool.socket(family, kind)
        try:
            connection.settimeout(timeout)
            if ssl_context:
                connection = ssl_context.wrap_socket(connection, server_hostname=host)
                address = (host, port)
            connection.connect(address)
            try:
                connection.setsockopt(pool.IPPROTO_TCP, pool.TCP_NODELAY, 1)
            except (AttributeError, OSError):
                pass  # an older CircuitPython: messages may wait 40 ms for each other
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        return _Stream(connection)

    return connect


class Ether(ether_lite.Ether):
    """An `ether_lite.Ether` over a socket pool.

    Args:
        pool: a `socketpool.SocketPool`, or CPython's module `socket`.
        target, name, host, port, options: as of `ether_lite.Ether`; `timeout` bounds the wait for a connection, too.
    """

    def __init__(self, pool, target, name, host, port=1883, **options):
        context = options.pop("ssl", None)
        options.setdefault("timeout", 3)
        super().__init__(target, name, host, port, connect=connect_by(pool, context, options["timeout"]), **options)
