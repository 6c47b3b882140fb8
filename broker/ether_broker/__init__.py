"""ether_broker: the embedded MQTT 3.1.1 broker, started as `python -m ether_broker`.

amqtt is the engine (listeners, TLS, configuration, authentication plug-ins); the data plane is ours. Why, and what
differs from Mosquitto: `broker/README.md`. This package never imports `ether`; whoever wants a broker starts a process.

The files, from the wire inwards: `packets` (bytes), `connection` (one socket), `sessions` (one client's state),
`matching` (topics to subscribers), `store` (what survives), `sys_topics` (`$SYS`), `broker` (all of them together).
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
