"""A recording as it is opens elsewhere: NeXus readers find the plot by default, h5web's reader all the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fault_parts import wait_until

from ether import codecs
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.ingest import WriterProcess

T0 = 1_795_374_229
ROWS = 300  # so many that sealing packs columns into chunks
NODE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ether-test"
"""Where `.ci/run` puts h5wasm: npm install --prefix ~/.cache/ether-test h5wasm@0.10"""

READ = """
const h5wasm = await import(process.argv[2]);
await h5wasm.ready;
const file = new h5wasm.File(process.argv[3], "r");
const attribute = (entity, name) => entity.attrs[name]?.value;
let group = file;
const path = [];
while (attribute(group, "default")) { path.push(attribute(group, "default")); group = group.get(path.at(-1)); }
const found = {
  classes: [attribute(file, "NX_class"), attribute(group, "NX_class")], path: group.path,
  signal: attribute(group, "signal"), axes: attribute(group, "axes"), auxiliary: attribute(group, "auxiliary_signals"),
  state: attribute(file, "state"), columns: {},
};
for (const name of group.keys()) {
  const dataset = group.get(name);
  found.columns[name] = {
    shape: dataset.shape, units: attribute(dataset, "units"), type: dataset.dtype,
    enum: Object.keys(dataset.metadata.enum_type?.members ?? {}),
    first: Array.from(dataset.slice([[0, 3]])),
  };
}
found.topics = file.get("topics").value.map((row) => row[1]);
console.log(JSON.stringify(found, (_, value) => typeof value === "bigint" ? value.toString() : value));
"""


@pytest.fixture(scope="module", params=["sealed", "live"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recording that is finished, and one that its writer goes on to write."""
    file = tmp_path_factory.mktemp("viewers") / "r.h5"
    units = {"lab/oven": {"fields": {"celsius": {"unit": "degC"}}}}
    with Journal(journal_folder(file)) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "s"}, "provenance": {}}))
        about = json.dumps({"boot": "b", "publishes": units}).encode()
        journal.append(head(Kind.MESSAGE, 1, T0 * 10**9, 0, "ether/about/oven"), about)
        for number in range(ROWS):
            fields = {
                "celsius": 20.5 + number,
                "door": number % 2 == 0,
                "count": number,
                "who": "Ada µ",
                "mode": f"m{number % 3}",
            }
            payload = codecs.encode(fields, Envelope("oven", "b", number, T0 + number))
            journal.append(head(Kind.MESSAGE, 1, (T0 + number) * 10**9, number, "lab/oven"), payload)
        journal.commit()
        if request.param == "sealed":
            journal.append(*note(Kind.END, {"reason": "stop"}))
            journal.commit()
            writer = None
        else:
            writer = WriterProcess(file, journal_folder(file), lambda kind, content: None)
            writer.start()
            wait_until(lambda: file.exists() and _rows(file) == ROWS, "the writer publishing all")
    if writer is None:
        seal.recover(file)
    yield file
    if writer is not None:
        writer.kill()


def _rows(file: Path) -> int:
    with h5py.File(file) as opened:
        return len(opened["data/lab/oven/readings/celsius"]) if "data/lab" in opened else 0


def state(file: Path) -> str:
    with h5py.File(file) as opened:
        return str(opened.attrs["state"])


def test_nexus_readers_find_the_default_plot(file: Path) -> None:
    nexus = pytest.importorskip("nexusformat.nexus")

    data = nexus.nxload(file).get_default()

    assert (data.nxclass, data.nxpath) == ("NXdata", "/data/lab/oven/readings")
    assert data.nxsignal.nxname == "celsius"
    assert data.nxsignal.nxdata[:3].tolist() == [20.5, 21.5, 22.5]
    assert data.nxsignal.attrs["units"] == "degC"
    (axis,) = data.nxaxes
    assert (axis.nxname, axis.nxdata[1] - axis.nxdata[0]) == ("time", 10**9)
    assert data.is_plottable()


def test_h5web_reads_default_plot_texts_truth_values_and_time(file: Path, missing: Any, tmp_path: Path) -> None:
    module = NODE / "node_modules/h5wasm/dist/node/hdf5_hl.js"
    if shutil.which("node") is None or not module.exists():
        missing("h5wasm for node, of which h5web is made")
    (tmp_path / "read.mjs").write_text(READ)

    done = subprocess.run(
        ["node", tmp_path / "read.mjs", module.as_uri(), file], capture_output=True, text=True, timeout=50
    )

    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["classes"] == ["NXroot", "NXdata"]
    assert (found["path"], found["signal"], found["axes"]) == ("/data/lab/oven/readings", "celsius", ["time"])
    assert found["auxiliary"] == ["door", "count"]
    assert found["state"] == state(file)
    columns = found["columns"]
    assert columns["celsius"]["first"] == [20.5, 21.5, 22.5]
    assert columns["celsius"]["units"] == "degC"
    assert columns["time"]["first"] == [str((T0 + number) * 10**9) for number in range(3)]
    assert columns["time"]["units"] == "ns"
    assert columns["door"]["first"] == [1, 0, 1] and columns["door"]["enum"] == ["FALSE", "TRUE"]
    assert columns["who"]["first"] == ["Ada µ"] * 3
    assert columns["mode"]["first"] == ["m0", "m1", "m2"]
    assert found["topics"] == ["ether/about/oven", "lab/oven"]


def test_h5dump_prints_a_column(file: Path, missing: Any) -> None:
    if shutil.which("h5dump") is None:
        missing("h5dump")

    done = subprocess.run(
        ["h5dump", "-d", "/data/lab/oven/readings/celsius", "-s", "0", "-c", "3", file], capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "(0): 20.5, 21.5, 22.5" in done.stdout
    whole = subprocess.run(["h5dump", file], capture_output=True, text=True)
    assert (whole.returncode, whole.stderr) == (0, "")


def test_xarray_and_pandas_read_the_columns_without_ether(file: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    pandas = pytest.importorskip("pandas")

    with xarray.open_dataset(file, group="data/lab/oven/readings", engine="h5netcdf", phony_dims="sort") as dataset:
        assert dataset["celsius"].values[:2].tolist() == [20.5, 21.5]
        assert dataset["celsius"].attrs["units"] == "degC"
    with h5py.File(file) as plain:
        group = plain["data/lab/oven/readings"]
        table = pandas.DataFrame({name: group[name][:] for name in ("celsius", "door", "count")})
        table.index = pandas.to_datetime(group["time"][:], unit=group["time"].attrs["units"], utc=True)
    assert table.index[1] == pandas.Timestamp(T0 + 1, unit="s", tz="UTC")
    np.testing.assert_array_equal(table["door"][:3], [True, False, True])
