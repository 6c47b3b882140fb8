"""What Prometheus is told of a session."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ether.errors import SessionError


def scraped(url: str) -> dict[tuple[str, ...], float]:
    """Return the samples: family and the labels' values, in the order of their names, to value."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_statuses_and_alarms_are_on_the_page_and_its_port_is_free_afterwards(ether, free_port, until) -> None:
    ether.tap(
        {
            "broker": "embedded", "record": "off", "metrics": free_port,
            "instances": {"echo": {"class_path": "lab_parts.Echo"}},
            "expect": {"nobody/publishes": {"rate": "1/s", "required": True}},
        }
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}/metrics"
    ether.start()
    for number in range(3):
        ether.pub({"x": number}, "echo/in")
    until(lambda: scraped(url).get(("ether_count", "echo", "handled")) == 3, 10.0, "three handled")
    until(lambda: any(key[0] == "ether_alarm_seconds" for key in scraped(url)), 15.0, "the alarm")

    found = scraped(url)
    ether.shutdown()

    assert found["ether_up", "echo", "ready"] == found["ether_up", "session", "ready"] == 1
    assert 0 <= found["ether_method_seconds", "echo", "0.5"] <= found["ether_method_seconds", "echo", "0.99"] < 5
    assert [key[1:] for key in found if key[0] == "ether_alarm_seconds"] == [("missing", "session", "nobody/publishes")]
    with pytest.raises(urllib.error.URLError):
        scraped(url)


def test_a_port_that_is_taken_ends_the_start_in_one_line(ether, free_port) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()

        with pytest.raises(SessionError, match=rf"^metrics: port {free_port}: Address already in use; choose another"):
            ether.tap({"broker": "embedded", "record": "off", "metrics": free_port})
    assert not ether.tapped
