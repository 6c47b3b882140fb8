"""A broker's URL, taken apart."""

from __future__ import annotations

import pytest

from ether.address import Address
from ether.errors import BrokerError


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("mqtt://bench", Address((("bench", 1883),)), "mqtt://bench:1883"),
        ("mqtts://bench/", Address((("bench", 8883),), secure=True), "mqtts://bench:8883"),
        ("mqtt://u:p%40%2C@bench:7", Address((("bench", 7),), "u", "p@,"), "mqtt://u@bench:7"),
        ("mqtt://[::1]:7", Address((("::1", 7),)), "mqtt://[::1]:7"),
        (
            "mqtts://u:p@a:7,b, [::1]",
            Address((("a", 7), ("b", 8883), ("::1", 8883)), "u", "p", secure=True),
            "mqtts://u@a:7,b:8883,[::1]:8883",
        ),
    ],
)
def test_a_url_is_taken_apart_and_shown_without_its_password(url: str, address: Address, shown: str) -> None:
    assert (Address.parse(url), str(Address.parse(url))) == (address, shown)
    assert Address.parse(shown).nodes == address.nodes


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("bench", "`bench` is no scheme that ether speaks; write mqtt://HOST:PORT or mqtts://HOST:PORT"),
        ("mqtt://a:1,", "'mqtt://a:1,' is no broker address; write mqtt://HOST:PORT"),
        ("mqtt://u:secret@a,b:x", "the port in 'mqtt://u:***@a,b:x' is no number from 0 to 65535"),
        ("mqtts://u:secret@a/x", "'mqtts://u:***@a/x' is no broker address; write mqtts://HOST:PORT"),
    ],
)
def test_what_is_no_address_is_told_in_one_line_without_the_password(url: str, told: str) -> None:
    with pytest.raises(BrokerError) as error:
        Address.parse(url)

    assert str(error.value) == told
