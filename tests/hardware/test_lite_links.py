"""Links that do not come about: a broker that is mute, one that is not what it says, one that nobody can reach."""

from __future__ import annotations

import socket
import subprocess

import pytest

from ether.brokers import find_mosquitto


@pytest.fixture
def tls_port(certificates, free_port, tmp_path, missing, until):
    """A Mosquitto that speaks TLS only."""
    if find_mosquitto() is None:
        missing("mosquitto")
    lines = [f"listener {free_port} 127.0.0.1", "allow_anonymous true", "user root"]
    lines += [
        f"{key} {certificates.folder / file}" for key, file in (("certfile", "server.pem"), ("keyfile", "server.key"))
    ]
    (tmp_path / "tls.conf").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [str(find_mosquitto()), "-c", str(tmp_path / "tls.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: answers(free_port))
    yield free_port
    process.kill()
    process.wait()


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def der(certificates, name, tmp_path):
    """Return an authority as a board takes it: MicroPython reads PEM only where it was built to."""
    target = tmp_path / f"{name}.der"
    source = certificates.folder / f"{name}.pem"
    command = ["openssl", "x509", "-in", str(source), "-outform", "DER", "-out", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return str(target)


def test_tls_with_the_right_authority_and_not_with_another(start_board, tls_port, certificates, tmp_path):
    given = {"port": tls_port, "every": 0.05, "total": 30, "close": 2, "heap": "64k"}
    right = start_board(name="right", ca=der(certificates, "ca", tmp_path), **given)
    wrong = start_board(name="wrong", ca=der(certificates, "other", tmp_path), **given)

    assert (right.report()["connections"], right.given["total"]) == (1, 30)
    report = wrong.report()
    assert (report["connections"], report["left"]) == (0, 30)
    assert "certificate" in report["error"]


def test_mute_broker_costs_no_reading_and_no_time(start_board):
    """It accepts, and never says a word: the device tries again and again, and samples meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        given = {"every": 0.05, "total": 40, "close": 0, "options": {"timeout": 0.2, "ring": 64}}
        board = start_board(name="mute", port=listener.getsockname()[1], **given)
        report = board.report()

    assert (report["taken"], report["left"], report["connections"]) == (40, 40, 0)
    assert report["error"] == "OSError(110,)"
    longest = max([20, *(took for took, _ in board.slow_polls())])
    print(f"\nlongest poll() with a mute broker: {longest} ms at most")  # -s shows it
    assert longest < 500  # 50 ms alone; a client that waits does so for seconds
