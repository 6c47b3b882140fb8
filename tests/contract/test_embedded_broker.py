"""The broker contract on the embedded broker; what it promises beyond is in the files beside this one."""

import pytest

from ether.testing.broker_contract import PINGREQ, Connect, EmbeddedProcess, ProcessContract, wire


class TestEmbeddedBroker(ProcessContract):
    broker = EmbeddedProcess

    # -- beyond Mosquitto --

    def test_overlapping_subscriptions_deliver_at_the_highest_qos(self, client: Connect) -> None:
        seen = []
        for number, granted in enumerate([(0, 2), (2, 1)]):
            subscriber = client()
            subscriber.subscribe((f"highest/{number}/#", granted[0]), (f"highest/{number}/+", granted[1]))
            client().publish(f"highest/{number}/x", qos=2)
            seen.append([m.qos for m in subscriber.messages(1) + subscriber.drain() if m.kind == 3])

        assert seen == [[2], [2]]

    def test_length_with_needless_bytes_is_malformed(self, client: Connect) -> None:
        each = client()

        each.send(b"\x30\x84\x00" + wire.publish("a")[2:])

        assert each.wait_closed() == []

    @pytest.mark.parametrize("how", ["disconnect", "abort"])
    @pytest.mark.parametrize("other_is_clean", [True, False])
    def test_what_a_lost_member_of_a_shared_subscription_has_not_confirmed_goes_to_another(
        self, client: Connect, how: str, other_is_clean: bool
    ) -> None:
        team = f"$share/{how}{other_is_clean}/work/{how}/+"
        first, second, publisher = client(), client(f"second-{how}", clean=other_is_clean), client()
        first.subscribe((team, 1))
        publisher.publish_many([wire.publish(f"work/{how}/{n}", b"%d" % n, 1, n + 1) for n in range(1500)])
        taken = first.messages(20, acknowledge=False)
        first.send(*(wire.acknowledge(0x40, message.packet_id) for message in taken[:10]))
        first.send(PINGREQ)
        while first.receive().kind != 13:
            pass
        second.subscribe((team, 1))

        getattr(first, how)()

        found = second.messages(1490)
        assert sorted(int(m.payload) for m in found) == list(range(10, 1500))
        assert [m.dup or m.retain for m in found] == [False] * 1490

    def test_what_was_sent_at_qos_2_goes_to_no_other_member(self, client: Connect) -> None:
        first, second, publisher = client(), client(), client()
        first.subscribe(("$share/once/once", 2))
        publisher.publish("once", b"maybe taken", 2)
        first.messages(1, acknowledge=False)
        second.subscribe(("$share/once/once", 2))

        first.disconnect()
        publisher.publish("once", b"next", 2)

        assert [m.payload for m in second.messages(1)] == [b"next"]

    def test_what_a_member_has_by_a_subscription_of_its_own_goes_to_no_other(self, client: Connect) -> None:
        first, second, publisher = client(), client(), client()
        first.subscribe(("$share/own/own/shared", 1), ("own/plain", 1))
        for topic in ("own/plain", "own/shared"):
            publisher.publish(topic)
        first.messages(2, acknowledge=False)
        second.subscribe(("$share/own/own/+", 1), ("$share/own/own/shared", 1))

        first.disconnect()

        assert [m.topic for m in second.drain()] == ["own/shared"]
