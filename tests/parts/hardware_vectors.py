"""The vectors of `hardware/vectors`, as tests read them."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "hardware" / "vectors"


def vectors(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))


def payload_of(vector):
    return bytes.fromhex(vector["hex"]) if "hex" in vector else vector["payload"].encode("ascii")
