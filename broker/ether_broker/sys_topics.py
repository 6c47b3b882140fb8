"""The `$SYS` tree, with Mosquitto's names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    from .broker import EtherBroker

__all__ = ["values"]


def values(broker: EtherBroker) -> dict[str, str]:
    """Topic → value, now. Computed only for subscribers, so it may look at every session."""
    counters = broker.counters
    sessions = broker.clients.values()
    connected = sum(session.connection is not None for session in sessions)
    stored = sum(session.waiting for session in sessions) + len(broker.retained)
    kept_bytes = sum(session.queue_bytes + session.inflight_bytes for session in sessions)
    kept_bytes += sum(len(message.payload) for message in broker.retained.values())
    numbers = {
        "clients/total": len(sessions),
        "clients/connected": connected,
        "clients/active": connected,
        "clients/disconnected": len(sessions) - connected,
        "clients/inactive": len(sessions) - connected,
        "clients/maximum": counters.clients_maximum,
        "clients/expired": counters.clients_expired,
        "messages/received": counters.messages_received,
        "messages/sent": counters.messages_sent,
        "messages/stored": stored,
        "store/messages/count": stored,
        "store/messages/bytes": kept_bytes,
        "publish/messages/received": counters.publish_received,
        "publish/messages/sent": counters.publish_sent,
        "publish/messages/dropped": counters.publish_dropped,
        "publish/bytes/received": counters.publish_bytes_received,
        "publish/bytes/sent": counters.publish_bytes_sent,
        "bytes/received": counters.bytes_received,
        "bytes/sent": counters.bytes_sent,
        "retained messages/count": len(broker.retained),
        "subscriptions/count": broker.filters.count,
        "shared_subscriptions/count": broker.filters.shared_count,
    }
    texts = {f"$SYS/broker/{name}": str(number) for name, number in numbers.items()}
    texts["$SYS/broker/version"] = f"ether_broker version {__version__}"
    texts["$SYS/broker/uptime"] = f"{int(time.monotonic() - broker.started_at)} seconds"
    return texts
