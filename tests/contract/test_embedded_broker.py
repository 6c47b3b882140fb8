"""The broker contract on the embedded broker, and what it promises beyond."""

from ether.testing.broker_contract import BrokerContract, EmbeddedProcess


class TestEmbeddedBroker(BrokerContract):
    broker = EmbeddedProcess
