"""What a real session leaves in its recording about code, arguments and machine."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ether.cli import main
from ether.recorder.reader import open_recording

SCRIPT = """
import queue, sys
from ether import ether, ether_pub

class Oven:
    limit = 80
    def __init__(self, celsius: float, password: str = "") -> None:
        self.celsius = celsius

    @ether_pub(topic="lab/oven", every="20ms")
    def read(self) -> dict[str, float]:
        return {"celsius": self.celsius}

heard = queue.Queue()
oven = {"class_path": Oven, "args": [float(sys.argv[1])], "kwargs": {"password": "hush-hush"}}
scale = {"class_path": "scale_parts.Scale"}
with ether.session({"broker": "embedded", "instances": {"oven": oven, "scale": scale}}) as lab:
    lab.subscribe("lab/oven", heard.put)
    lab.start()
    heard.get(timeout=20)
"""

SCALE = """
from ether import ether_sub

class Scale:
    @ether_sub(topic="lab/oven")
    def take(self, celsius: float) -> None:
        pass
"""


def test_code_and_arguments_of_every_instance_are_kept_and_compared(
    workdir: Path, script: Callable[..., Any], nothing_left: None, capsys: Any
) -> None:
    Path("scale_parts.py").write_text(SCALE)
    author = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "scale_parts.py"], [*author, "commit", "-q", "-m", "the scale"]):
        subprocess.run(["git", *words], check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    first = script(SCRIPT, "20").end(50)
    assert first.code == 0, first.transcript()
    assert script(SCRIPT.replace("80", "90"), "30").end(50).code == 0
    one, other = sorted(Path("data").glob("*.h5"))

    with open_recording(other) as recording:
        provenance = recording.provenance
        rows = {row["name"]: row for row in provenance["instances"]}
    code = Path("messung.py").read_bytes()
    assert rows["oven"]["file"] == str(Path("messung.py").absolute())
    assert rows["oven"]["source"] == f"sha256:{sha256(code).hexdigest()}"
    assert (rows["oven"]["args"], rows["oven"]["kwargs"]) == ({"celsius": 30.0}, {"password": "***"})
    assert provenance["sources"][rows["oven"]["source"]]["text"] == code.decode().replace("hush-hush", "***")
    assert "class Scale" in provenance["sources"][rows["scale"]["source"]]["text"]
    assert (provenance["host"], provenance["platform"]) == (socket.gethostname(), platform.platform())
    assert {"h5py", "numpy", "paho-mqtt"} <= set(provenance["packages"])
    assert (provenance["git"]["commit"], provenance["git"]["dirty"]) == (commit, True)
    assert "embedded" in json.dumps(provenance["config"])
    assert "hush-hush" not in json.dumps(provenance)

    assert main(["info", "--diff", str(one), str(other), "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)
    assert set(changes["instances"]) == {"oven"}
    assert changes["instances"]["oven"]["args"] == {"celsius": [20.0, 30.0]}
    assert [line for line in changes["instances"]["oven"]["code"] if line[:2] in ("- ", "+ ")] == [
        "-    limit = 80",
        "+    limit = 90",
    ]
