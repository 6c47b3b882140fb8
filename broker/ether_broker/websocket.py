"""MQTT over WebSocket, for dashboards in browsers: a `Connection` behind a handshake, its bytes in frames.

amqtt serves WebSockets to any page of the web that a user of the lab PC has open. Here the page must come from one of
the listed origins, and its frames may be as large as the broker's packets (amqtt: 1 MiB).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from websockets.exceptions import ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from .connection import CONNECT_BYTES, Connection

if TYPE_CHECKING:
    from .broker import EtherBroker

__all__ = ["WebSocket"]

logger = logging.getLogger(__name__)
_library = logging.getLogger(f"{__name__}.library")
_library.setLevel(logging.WARNING)

_FRAMING_BYTES = 64


class WebSocket(asyncio.Protocol):
    """One socket of a WebSocket listener; towards its `Connection` it plays the transport."""

    def __init__(self, broker: EtherBroker, listener: str, origins: Sequence[str]) -> None:
        self._broker = broker
        self._transport: asyncio.Transport
        self._connection = Connection(broker, listener)
        self._frames = ServerProtocol(
            origins=cast("Sequence[Origin]", origins), subprotocols=[Subprotocol("mqtt")], max_size=CONNECT_BYTES,
            logger=_library,
        )  # fmt: skip
        self._closing = False

    # -- what asyncio calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast("asyncio.Transport", transport)
        self._connection.connection_made(cast("asyncio.BaseTransport", self))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._closing = True
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._connection.resume_writing()

    def eof_received(self) -> None:
        """The client sends no more; asyncio closes the socket."""

    def data_received(self, data: bytes) -> None:
        """Take the handshake, then frames."""
        frames = self._frames
        if self._connection.session is not None:
            frames.max_size = self._broker.limits.packet_bytes + _FRAMING_BYTES
        frames.receive_data(data)
        payloads = []
        for event in frames.events_received():
            if isinstance(event, Request):
                self._answer(event)
            elif isinstance(event, Frame) and not self._closing:
                if event.opcode is Opcode.TEXT:
                    frames.fail(CloseCode.UNSUPPORTED_DATA, "MQTT travels in binary frames")
                elif event.opcode in (Opcode.BINARY, Opcode.CONT):
                    payloads.append(bytes(event.data))
        self._write_frames()
        if frames.parser_exc is not None and not isinstance(frames.parser_exc, EOFError):
            logger.warning("%s: %s; connection closed", self._connection.name, _words(frames.parser_exc))
        if payloads and not self._connection.closed:
            self._connection.data_received(b"".join(payloads) if len(payloads) > 1 else payloads[0])
        if frames.handshake_exc is not None or frames.parser_exc is not None or frames.close_expected():
            self._connection.close()

    def _answer(self, request: Request) -> None:
        frames = self._frames
        response = frames.accept(request)
        if response.status_code == 101 and frames.subprotocol is None:
            response = frames.reject(400, "This is an MQTT broker; ask for the subprotocol mqtt.\n")
        frames.send_response(response)
        if response.status_code != 101:
            origin = request.headers.get("Origin") or "none"
            logger.warning("%s: WebSocket refused (origin %.200r): %s", self._connection.peer, origin,
                           response.reason_phrase)  # fmt: skip

    def _write_frames(self) -> None:
        for data in self._frames.data_to_send():
            if data:
                self._transport.write(data)

    # -- what the connection calls --

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` as one frame."""
        if self._frames.state is OPEN:
            self._frames.send_binary(bytes(data))
            self._write_frames()

    def close(self) -> None:
        """Say goodbye and close after what was written."""
        if not self._closing:
            self._closing = True
            if self._frames.state is OPEN:
                self._frames.send_close(CloseCode.NORMAL_CLOSURE)
                self._write_frames()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def pause_reading(self) -> None:
        """Read no more of the socket."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when `pause_writing` is due."""
        self._transport.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket knows."""
        return self._transport.get_extra_info(name, default)


def _words(exc: Exception) -> str:
    return f"a broken frame, {exc}" if isinstance(exc, ProtocolError) else str(exc)
