"""CRC-32 of the journal and the recording, as fast as the machine can."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32  # four to thirteen times as fast as zlib's
except ImportError:  # no wheel for this machine; the values are the same
    from zlib import crc32

__all__ = ["crc32"]
