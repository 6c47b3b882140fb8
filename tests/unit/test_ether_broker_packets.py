"""ether_broker.packets: strict decoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ether_broker import packets
from ether_broker.packets import MalformedPacket, Message


@pytest.mark.parametrize(
    ("size", "encoded"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (268_435_455, b"\xff\xff\xff\x7f"),
    ],
)
def test_remaining_length_is_as_in_the_standards_table(size: int, encoded: bytes) -> None:
    assert packets.remaining_length(size) == encoded


@pytest.mark.parametrize("data", [b"\xff", b"\xed\xa0\x80", b"a\0", b"\x1f", b"\xef\xbf\xbe", b"\xf0\x9f\xbf\xbf"])
def test_strings_with_forbidden_characters_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        packets.utf8(data)


@given(st.binary(max_size=80))
def test_any_body_decodes_or_is_malformed(body: bytes) -> None:
    for decode in (packets.decode_connect, packets.decode_subscribe, packets.decode_unsubscribe):
        try:
            decode(body)
        except (MalformedPacket, packets.UnacceptableProtocol) as exc:
            assert str(exc)


def test_connect_gives_all_its_fields() -> None:
    body = b"\x00\x04MQTT\x04\xf6\x00\x3c\x00\x01c\x00\x01w\x00\x02\xff\x00\x00\x01u\x00\x01\xfe"

    request = packets.decode_connect(body)

    assert request == packets.Connect("c", True, 60, packets.Will(b"w", b"\xff\x00", 2, True), "u", b"\xfe")


def test_message_is_encoded_once_per_qos() -> None:
    message = Message(b"\x00\x01a", b"v", 2)

    heads = [message.head(1), message.head(2), message.packet(), message.packet(retain=True)]

    assert heads == [b"\x32\x06\x00\x01a", b"\x34\x06\x00\x01a", b"\x30\x04\x00\x01av", b"\x31\x04\x00\x01av"]
    assert message.head(1) is message.head(1)


def test_refusal_never_claims_a_session() -> None:
    assert packets.connack(2, session_present=True) == b"\x20\x02\x00\x02"
