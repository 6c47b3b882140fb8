"""`ether_lite` without a broker: its size, the bytes of the vectors, and whatever may come in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ether import codecs

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "hardware" / "micropython"
PARTS = ROOT / "tests" / "parts"
VECTORS = ROOT / "hardware" / "vectors"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
WASM = CACHE / "ether-test" / "node_modules" / "@micropython" / "micropython-webassembly-pyscript"


def compiled_size(mpy_cross, level, tmp_path):
    target = tmp_path / "ether_lite.mpy"
    source = SOURCES / "ether_lite.py"
    subprocess.run([mpy_cross, level, "-s", source.name, str(source), "-o", str(target)], check=True)
    return target.stat().st_size


def test_compiled_size(compiled, mpy_cross, tmp_path):
    assert (compiled / "ether_lite.mpy").stat().st_size <= 6_656
    assert (compiled / "ether_block.mpy").stat().st_size <= 2_048
    assert compiled_size(mpy_cross, "-O2", tmp_path) <= 7_250  # with the numbers of lines


def test_examples_compile_and_the_package_is_whole(mpy_cross, tmp_path):
    for source in sorted([*SOURCES.glob("*.py"), *SOURCES.with_name("circuitpython").glob("*.py")]):
        subprocess.run([mpy_cross, str(source), "-o", str(tmp_path / "compiled.mpy")], check=True)
    package = json.loads((SOURCES / "package.json").read_text())
    assert [name for _, name in package["urls"]] == ["ether_lite.py", "ether_block.py"]
    assert all((SOURCES / name).exists() for _, name in package["urls"])


def test_heap_on_32_bit(compiled, missing):
    """Import and an instance with a ring of 64, in MicroPython compiled to WebAssembly."""
    if not (WASM / "micropython.mjs").exists() or shutil.which("node") is None:
        missing("npm's micropython-webassembly-pyscript")
    (line,) = run(["node", str(PARTS / "lite_heap.mjs"), str(WASM), str(compiled)])

    assert sum(json.loads(line)) <= 12 * 1024


def run(command, **env):
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def vectors_in_files():
    return sum(len(json.loads((VECTORS / f"{name}.json").read_text())) for name in ("outgoing", "incoming", "packets"))


def test_vectors_in_micropython(micropython, compiled):
    lines = run([micropython, str(PARTS / "lite_vectors.py"), str(VECTORS)], MICROPYPATH=f"{compiled}:.frozen")

    assert lines == [f"checked {vectors_in_files()}"]


def test_vectors_in_cpython():
    lines = run([sys.executable, str(PARTS / "lite_vectors.py"), str(VECTORS)], PYTHONPATH=str(SOURCES))

    assert lines == [f"checked {vectors_in_files()}"]


def test_a_hundred_thousand_damaged_packets_stop_nothing(micropython, compiled):
    lines = run([micropython, str(PARTS / "lite_fuzz.py"), "100000"], MICROPYPATH=f"{compiled}:.frozen")

    assert lines[-1].startswith("survived 100000 ")


def test_soak_of_twenty_thousand_messages_does_not_grow(micropython, compiled):
    lines = run([micropython, "-X", "heapsize=48k", str(PARTS / "lite_soak.py")], MICROPYPATH=f"{compiled}:.frozen")

    found = json.loads(lines[-1])
    assert (found["sent"], found["counts"]) == (20_000, {})
    assert found["growth"] < 512


def test_nothing_is_interned_after_the_start(micropython, compiled):
    """MicroPython keeps names in tables of twice the last one's size: the next takes 2 KB in one piece, for ever."""
    before, after, end = run([micropython, str(PARTS / "lite_names.py")], MICROPYPATH=f"{compiled}:.frozen")

    assert before == after
    assert "n_qstr=" in before
    assert end == "{} None [102]"


_NO_JSON = """
from ether_lite import Ether
device = Ether(None, "bench1", "127.0.0.1")
for value in (b"\\xff\\x00", object(), [1, float("nan")], {"a": object()}, {"a": b"\\xff"}, "hot", [1, 2], {"a": 1.5}):
    try:
        device.emit("lab/temp", value)
        print("taken")
    except ValueError:
        print("refused")
"""


def test_a_value_that_is_no_json_is_refused_before_it_is_kept(micropython, compiled):
    """MicroPython's `dumps` writes it all the same; in the ring it would keep everything behind it from being sent."""
    lines = run([micropython, "-c", _NO_JSON], MICROPYPATH=f"{compiled}:.frozen")

    assert lines == 5 * ["refused"] + 3 * ["taken"]


def test_blocks_and_asyncio_in_micropython(micropython, compiled):
    """A block without a connection counts as dropped."""
    (line,) = run([micropython, str(PARTS / "lite_async.py")], MICROPYPATH=f"{compiled}:.frozen")

    *facts, block = line.split()
    assert facts == ["False", "True", "1000", "True"]
    fields, envelope = codecs.decode(bytes.fromhex(block))
    assert (envelope.n, envelope.k, envelope.dt) == (1000, 1000, 1)
    assert fields["value"].tolist() == list(range(1000))
