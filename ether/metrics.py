"""Metrics: what the statuses of a session say, as Prometheus asks for it, over HTTP on loopback.

Nothing is counted here: members count, and tell it within two seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ether import clock
from ether.client import InstanceInfo
from ether.errors import SessionError
from ether.model import State

__all__ = ["Metrics"]

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_QUANTILES = {"handle_ms_p50": "0.5", "handle_ms_p99": "0.99"}
_ALIVE = (State.READY, State.ALERT)


class Metrics:
    """A page for Prometheus at ``http://127.0.0.1:PORT/metrics``."""

    def __init__(
        self, port: int, instances: Callable[[], Mapping[str, InstanceInfo]],
        alarms: Callable[[], Mapping[str, list[dict[str, Any]]]],
    ) -> None:  # fmt: skip
        """Serve, in a thread of its own.

        Args:
            port: 0 takes a free one.
            instances: what is known of each member, when asked.
            alarms: what stands, by who raised it.

        Raises:
            SessionError: the port is taken, or prometheus-client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise SessionError("metrics: prometheus-client is missing: pip install 'ether[metrics]'") from None
        self._instances, self._alarms = instances, alarms
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, _HOST, registry)
        except OSError as exc:
            raise SessionError(f"metrics: port {port}: {exc.strerror}; choose another one under `metrics:`") from exc
        self.url = f"http://{_HOST}:{self._server.server_port}/metrics"
        logger.info("metrics at %s", self.url)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterator[Any]:
        """Yield the families; called by prometheus-client for each request."""
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily("ether_up", "Whether a member is ready or alert.", labels=["name", "state"])
        counts = GaugeMetricFamily("ether_count", "What a member counts, as in its status.", labels=["name", "what"])
        times = GaugeMetricFamily(
            "ether_method_seconds", "Quantiles of how long the last 1,000 runs of methods took.",
            labels=["name", "quantile"],
        )  # fmt: skip
        for name, info in self._instances().items():
            up.add_metric([name, str(info.state)], float(info.state in _ALIVE))
            for what, value in (info.counts or {}).items():
                if what in _QUANTILES:
                    times.add_metric([name, _QUANTILES[what]], value / 1e3)
                else:
                    counts.add_metric([name, what], value)
        alarms = GaugeMetricFamily(
            "ether_alarm_seconds", "How long an alarm has been standing.", labels=["name", "topic", "kind"]
        )
        for name, found in self._alarms().items():
            for each in found:
                since = each.get("since")
                age = clock.now() - since if isinstance(since, (int, float)) else 0.0
                alarms.add_metric([name, str(each.get("topic", "")), str(each.get("kind", ""))], age)
        yield from (up, counts, times, alarms)
