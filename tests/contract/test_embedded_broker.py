"""The broker contract on the embedded broker; what it promises beyond is in the files beside this one."""

from ether.testing.broker_contract import BrokerContract, EmbeddedProcess


class TestEmbeddedBroker(BrokerContract):
    broker = EmbeddedProcess
