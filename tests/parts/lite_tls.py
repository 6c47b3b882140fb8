"""TLS for a board, a file of its own because it takes heap where there is little."""

import ssl


def context(ca):
    """Return the SSLContext that trusts the authority in a file, and no other."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.verify_mode = ssl.CERT_REQUIRED
    with open(ca, "rb") as file:
        found.load_verify_locations(cadata=file.read())
    return found
