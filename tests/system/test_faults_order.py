"""The proof of order: no acknowledgement and no confirmation leaves a recorder before the sync that covers it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from order import order, strace

from ether import codecs, process, topics
from ether.model import Envelope
from ether.mqtt import Connection

pytestmark = pytest.mark.timeout(300)
if shutil.which("strace") is None and os.environ.get("ETHER_TEST_REQUIRE_ALL") != "1":
    pytest.skip("STRACE IS NOT INSTALLED: the order of system calls is not proven", allow_module_level=True)

COUNT, SYNCS = (10_000, 100) if os.environ.get("SOAK_ROUNDS") else (1000, 20)


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)  # it is the recorder's order
def test_nothing_is_told_before_the_sync_that_covers_it(broker: Any, tmp_path: Path, until: Any) -> None:
    """Every acknowledgement and confirmation that left the process, in the log of its system calls; syncs fail, too."""
    log, file = tmp_path / "log", tmp_path / "order.h5"
    failing = ["-e", "inject=fdatasync:error=EIO:when=4+15"]
    code = "from ether.recorder.ingest import main; main()"
    child = subprocess.Popen([*strace(log, *failing), sys.executable, "-c", code], stdin=subprocess.PIPE)
    said: list[bytes] = []
    client = Connection(broker.url, "test")
    client.on_message = lambda message, _: said.append(message.payload)
    client.subscribe([topics.status("recorder"), topics.stored("oven")])
    client.open(10)
    try:
        process.give_orders(child, {"url": broker.url, "file": str(file), "start_timeout": 30.0})
        until(lambda: any(b'"ready"' in payload for payload in said), 30.0, "the recorder being ready")
        for number in range(COUNT):
            client.publish("lab/oven", codecs.encode({"value": number}, Envelope("oven", "b1", number, 1.0)))
            if (number + 1) % (COUNT // SYNCS) == 0:
                last = b'"lab/oven":%d}' % number
                until(lambda last=last: any(last in payload for payload in said), 60.0, "all being confirmed")
        client.publish(topics.command("recorder", "stop"), b"{}")
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        client.close(1)

    found = order(log, broker.port, "lab/oven")

    assert found.early == []
    assert (found.acknowledged, found.confirmed) == (COUNT, COUNT - 1)
    assert found.syncs >= SYNCS
    assert found.failed_syncs > 0
    assert found.synced_again == []
    assert any(b'"alert"' in payload for payload in said)
