"""The broker contract on the broker in memory: what passes here is no weaker than what runs in a lab."""

from ether.testing.broker_contract import BrokerContract, InMemory


class TestMemoryBroker(BrokerContract):
    broker = InMemory
