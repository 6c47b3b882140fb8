"""TLS for listeners. amqtt asks for client certificates but lets in who has none; here required means required."""

from __future__ import annotations

import ssl
from pathlib import Path

__all__ = ["TlsError", "server_context"]


class TlsError(ValueError):
    """A certificate or key cannot be used; the text is one line."""


def server_context(cert: Path, key: Path, ca: Path | None = None, require_client_cert: bool = False) -> ssl.SSLContext:
    """Return the context of a listener; only clients with a certificate of `ca` get in if one is required.

    Raises:
        TlsError: a file is missing, is no PEM, or does not fit the others.
    """
    for path in filter(None, (cert, key, ca)):
        try:
            path.open("rb").close()
        except OSError as exc:
            raise TlsError(f"{path}: cannot be read: {exc.strerror}") from exc
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password="")  # rather than ask on a terminal nobody looks at
    except (OSError, ValueError) as exc:
        raise TlsError(
            f"{cert} and {key} are not a certificate and its key, in PEM and without a password: {exc}"
        ) from exc
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ValueError) as exc:
            raise TlsError(f"{ca}: no certificate of an authority in PEM: {exc}") from exc
        context.verify_mode = ssl.CERT_REQUIRED if require_client_cert else ssl.CERT_OPTIONAL
    return context
