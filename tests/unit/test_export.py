"""Exports, each read back with the field's own reader: values, times, units, runs, annotations; and what may go wrong."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ether import codecs
from ether.cli import main
from ether.errors import RecordingError
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.export import FORMATS, file_names
from ether.recorder.reader import Recording, open_recording

pd = pytest.importorskip("pandas")

T0 = 1_795_374_229
UNITS = {"fields": {"celsius": {"unit": "degC", "description": "of the air"}, "image": {"unit": "counts"}}}
ODD = "🔥 kiln/№ 1"
ROWS = 6


def readings(number: int) -> dict[str, Any]:
    """Return what the oven says at a time: something of everything."""
    found: dict[str, Any] = {
        "celsius": [20.25, float("nan"), float("inf"), float("-inf"), -0.1, 1e-300][number],
        "count": 2**62 + number,
        "door": number % 2 == 0,
        "who": ["Ada", "=1+1", 'a,b\n"c"', "", "µ\x07", "1"][number],
        "xyz": np.arange(3, dtype="<f4") + number,
        "image": np.full((20, 30), number, np.uint8),
        "list": [float(each) for each in range(number)],
        "blob": bytes(range(number)),
    }
    if number != 2:
        found["sometimes"] = number
        found["maybe"] = True
        found["word"] = f"w{number}"
    return found


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Return a recording with something of everything, two topics that differ in case only, a run and a hole."""
    file = tmp_path_factory.mktemp("export") / "bench.h5"
    about = {"boot": "b", "class": "Oven", "publishes": {"lab/oven": UNITS}}
    run = {"id": "r1", "name": "bake", "number": 1, "started": T0 + 2, "stopped": T0 + 4, "outcome": "success"}
    remark = {"text": "smoke", "t0": T0 + 3.5, "tags": ["doubt"], "values": {"depth": 2}, "by": "ada"}
    with Journal(journal_folder(file)) as journal:

        def message(after: float, topic: str, payload: bytes) -> None:
            journal.append(head(Kind.MESSAGE, 1, round((T0 + after) * 1e9) + 5000, 0, topic), payload)

        journal.append(*note(Kind.SESSION, {"session": {"name": "baking"}, "provenance": {}}))
        message(0, "ether/about/oven", json.dumps(about).encode())
        message(0, "ether/run", json.dumps(run | {"metadata": {"bread": "rye"}}).encode())
        message(0, "ether/annotation", json.dumps(remark).encode())
        for number in range(ROWS):
            when = Envelope("oven", "b", number, T0 + number + 0.123456)
            message(number, "lab/oven", codecs.encode(readings(number), when))
            message(number, "lab/Oven", codecs.encode({"v": number}, Envelope("x", "b", number * 2, T0 + number)))
            message(number, ODD, codecs.encode({"v": number, "time": 7}, Envelope("y", "b", number, T0 + number)))
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return open_recording(file)


def times() -> list[datetime]:
    return [datetime.fromtimestamp(T0 + number + 0.123456, UTC) for number in range(ROWS)]


def test_csv(recording: Recording, tmp_path: Path) -> None:
    folder = recording.export("csv", tmp_path / "out")

    assert set(os.listdir(folder)) == {
        "__kiln___1.csv", "annotations.csv", "csv-metadata.json", "gaps.csv", "lab_Oven.csv", "lab_oven-2.csv", "runs.csv",
    }  # fmt: skip
    described = {table["dc:title"]: table for table in json.loads((folder / "csv-metadata.json").read_text())["tables"]}
    oven = pd.read_csv(folder / described["lab/oven"]["url"], parse_dates=["time"])
    assert [stamp.to_pydatetime() for stamp in oven["time"]] == times()
    np.testing.assert_array_equal(oven["celsius"], [readings(number)["celsius"] for number in range(ROWS)])
    assert oven["count"].tolist() == [2**62 + number for number in range(ROWS)]
    assert oven["door"].tolist() == [number % 2 == 0 for number in range(ROWS)]
    assert oven["who"].fillna("").tolist() == [readings(number)["who"] for number in range(ROWS)]
    assert oven["xyz[2]"].tolist() == [2.0 + number for number in range(ROWS)]
    assert np.array(json.loads(oven["image"][5])).tolist() == readings(5)["image"].tolist()
    assert [json.loads(text) for text in oven["list"]] == [readings(number)["list"] for number in range(ROWS)]
    assert base64.b64decode(oven["blob"][5]) == bytes(range(5))
    assert oven["sometimes"].isna().tolist() == oven["word"].isna().tolist() == [number == 2 for number in range(ROWS)]
    columns = {column["titles"]: column for column in described["lab/oven"]["tableSchema"]["columns"]}
    assert list(columns) == list(oven.columns)
    assert columns["celsius"] == {
        "titles": "celsius", "datatype": "double", "schema:unitText": "degC", "dc:description": "of the air",
    }  # fmt: skip
    assert pd.read_csv(folder / "runs.csv")["metadata"].tolist() == ['{"bread": "rye"}']
    assert pd.read_csv(folder / "annotations.csv")["text"].tolist() == ["smoke"]
    assert pd.read_csv(folder / "gaps.csv")[["topic", "first", "last"]].to_numpy().tolist() == [
        ["lab/Oven", number, number] for number in range(1, 2 * ROWS - 2, 2)
    ]
    assert pd.read_csv(folder / described[ODD]["url"]).columns.tolist() == ["time", "time@field", "v"]


def test_parquet(recording: Recording, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = recording.export("parquet", tmp_path / "out")

    found = parquet.read_table(folder / "lab_oven-2.parquet")
    assert found.schema.metadata[b"topic"] == b"lab/oven"
    assert found.schema.metadata[b"content_sha256"].decode() == recording.content_sha256
    assert found.schema.field("celsius").metadata == {b"unit": b"degC", b"description": b"of the air"}
    columns = found.to_pydict()
    assert [str(found.schema.field(name).type) for name in ("time", "xyz", "list", "sometimes")] == [
        "timestamp[ns, tz=UTC]", "fixed_size_list<element: float>[3]", "list<element: double>", "int64",
    ]  # fmt: skip
    assert [stamp.to_pydatetime() for stamp in columns["time"]] == times()
    for number in range(ROWS):
        for name, value in readings(number).items():
            np.testing.assert_array_equal(columns[name][number], value.tolist() if hasattr(value, "tolist") else value)
    assert columns["sometimes"][2] is columns["maybe"][2] is columns["word"][2] is None
    assert pd.read_parquet(folder / "runs.parquet")["started"].tolist() == [pd.Timestamp(T0 + 2, unit="s", tz="UTC")]
    assert pd.read_parquet(folder / "annotations.parquet")["tags"].tolist() == ['["doubt"]']
    assert pd.isna(pd.read_parquet(folder / "annotations.parquet")["end"][0])


def test_netcdf(recording: Recording, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    file = recording.export("netcdf", tmp_path / "out.nc")

    with xarray.open_dataset(file, group="data/lab/oven/readings", engine="h5netcdf") as oven:
        assert [each.astype("datetime64[us]").item() for each in oven["time"].values] == [
            moment.replace(tzinfo=None) for moment in times()
        ]
        assert (oven["celsius"].attrs["units"], oven["celsius"].attrs["long_name"]) == ("degC", "of the air")
        assert oven["celsius"].dims == ("time",)
        np.testing.assert_array_equal(oven["celsius"], [readings(number)["celsius"] for number in range(ROWS)])
        assert oven["count"].values.tolist() == [2**62 + number for number in range(ROWS)]
        assert oven["door"].values.tolist() == [number % 2 == 0 for number in range(ROWS)]
        assert oven["who"].values.tolist() == [readings(number)["who"] for number in range(ROWS)]
        assert oven["image"].dtype == np.uint8 and (oven["image"].values[4] == 4).all()
        np.testing.assert_array_equal(oven["sometimes"], [0, 1, np.nan, 3, 4, 5])
        assert oven["word_missing"].values.tolist() == [0, 0, 1, 0, 0, 0]
        ends = np.cumsum(oven["list_count"].values)
        assert oven["list"].values[ends[3] : ends[4]].tolist() == [0, 1, 2, 3]
        assert oven["list_count"].attrs["sample_dimension"] == "list_sample"
    tree = xarray.open_datatree(file, engine="h5netcdf")
    assert tree["annotations"]["text"].values.tolist() == ["smoke"]
    assert tree["runs"]["stopped"].values[0] == np.datetime64(T0 + 4, "s")
    assert tree.attrs["content_sha256"] == recording.content_sha256
    assert len(list(tree["data"].leaves)) == 3
    tree.close()


def test_mcap(recording: Recording, tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader")
    file = recording.export("mcap", tmp_path / "out.mcap")

    with file.open("rb") as stream:
        found = reader.make_reader(stream)
        summary = found.get_summary()
        messages = list(found.iter_messages(log_time_order=False))
        attachments = {each.name: json.loads(each.data) for each in found.iter_attachments()}
    expected = list(recording.messages())
    assert [(channel.topic, message.data, message.log_time) for _, channel, message in messages] == [
        (each.topic, each.payload, each.received_ns) for each in expected
    ]
    ovens = [message for _, channel, message in messages if channel.topic == "lab/Oven"]
    assert [message.sequence for message in ovens] == [number * 2 for number in range(ROWS)]
    assert ovens[1].publish_time == (T0 + 1) * 10**9
    channels = {channel.topic: channel for channel in summary.channels.values()}
    assert {channels[topic].message_encoding for topic in ("lab/oven", "lab/Oven")} == {"cbor", "json"}
    assert channels["lab/oven"].metadata["unit:celsius"] == "degC"
    schema = json.loads(summary.schemas[channels["lab/Oven"].schema_id].data)
    assert schema["properties"] == {"v": {"type": "integer"}}
    assert attachments["runs.json"][0]["metadata"] == {"bread": "rye"}
    assert attachments["annotations.json"][0]["tags"] == ["doubt"]


def test_xlsx(recording: Recording, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    file = recording.export("xlsx", tmp_path / "out.xlsx")

    book = openpyxl.load_workbook(file)
    assert book.sheetnames == ["lab_Oven", "lab_oven-2", "__kiln___1", "runs", "annotations", "gaps", "fields"]
    rows = list(book["lab_oven-2"].values)
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    assert [each.replace(tzinfo=UTC) for each in columns["time"]] == [  # which it rounds to milliseconds
        each.replace(microsecond=123_000) for each in times()
    ]
    assert columns["celsius [degC]"] == (20.25, None, "inf", "-inf", -0.1, 1e-300)
    assert columns["count"] == tuple(str(2**62 + number) for number in range(ROWS))
    assert columns["who"][:5] == ("Ada", "=1+1", 'a,b\n"c"', None, "µ_x0007_")
    assert book["lab_oven-2"].cell(3, 1 + rows[0].index("who")).data_type == "s"  # no formula
    assert columns["sometimes"] == (0, 1, None, 3, 4, 5)
    assert [row[:3] for row in book["fields"].values][1] == ("lab_Oven", "lab/Oven", "time")
    assert list(book["annotations"].values)[1][2] == "smoke"
    assert pd.read_excel(file, "lab_oven-2")["xyz[1]"].tolist() == [1.0 + number for number in range(ROWS)]
    book.close()


def test_only_what_is_asked_for(recording: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def exported(name: str, *words: str) -> list[int]:
        assert main(["export", str(recording.path), "--to", "csv", "--out", str(tmp_path / name), *words]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
        return pd.read_csv(tmp_path / name / "lab_Oven.csv")["v"].tolist()

    assert exported("a", "--topic", "lab/Oven") == [0, 1, 2, 3, 4, 5]
    assert sorted(os.listdir(tmp_path / "a")) == [
        "annotations.csv", "csv-metadata.json", "gaps.csv", "lab_Oven.csv", "runs.csv",
    ]  # fmt: skip
    assert exported("b", "--topic", "lab/Oven", "--run", "bake") == [2, 3]
    assert exported("c", "--topic", "+/Oven", "--from", "0.5s", "--until", "2.5s") == [1, 2]
    assert exported("d", "--topic", "lab/Oven", "--run", "1", "--until", clock_text(T0 + 3)) == [2]
    assert not (tmp_path / "d" / "annotations.csv").exists()  # it was made later
    mcap = recording.export("mcap", tmp_path / "e", topics=["lab/Oven"], run="bake")
    with mcap.open("rb") as stream:
        found = pytest.importorskip("mcap.reader").make_reader(stream).iter_messages()
        assert [message.sequence for _, _, message in found] == [4, 6]


def clock_text(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--to", "csv", "--topic", "lab/ovn"], "no topic 'lab/ovn' in bench.h5; nearest: 'lab/oven', 'lab/Oven'"),
        (["--to", "csv", "--run", "x"], "no run 'x'; there are: 'bake'"),
        (["--to", "csv", "--from", "soon"], "'soon' is no time"),
        (["--to", "csv", "--from", "1h"], "no reading in what was asked for"),
        (["--to", "mcap", "--from", "1h"], "no message in what was asked for"),
        (["--to", "xml"], "'xml' is not one of 'csv', 'parquet', 'netcdf', 'mcap', 'xlsx'"),
        ([], "missing option '--to'"),
        (["--to", "mcap", "--out", "no/such/folder"], "no/such/folder: cannot be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_done_has_one_line_and_leaves_nothing(
    recording: Recording, words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(recording.path.parent))

    assert main(["export", str(recording.path), *words]) in (1, 2)

    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert (sorted(os.listdir(recording.path.parent)), os.listdir(tmp_path)) == (before, [])


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten(recording: Recording, to: str, tmp_path: Path) -> None:
    recording.export(to, tmp_path / "out")
    before = (tmp_path / "out").stat()

    with pytest.raises(RecordingError, match="out: exists; nothing is overwritten"):
        recording.export(to, tmp_path / "out")

    assert ((tmp_path / "out").stat().st_mtime_ns, os.listdir(tmp_path)) == (before.st_mtime_ns, ["out"])


@pytest.mark.parametrize("to", FORMATS)
def test_ctrl_c_leaves_no_half_file(recording: Recording, to: str, tmp_path: Path) -> None:
    seen = []

    def interrupted(done: int, total: int) -> None:
        seen.extend(os.listdir(tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recording.export(to, tmp_path / "out", progress=interrupted)

    assert (os.listdir(tmp_path), "out" in seen) == ([], False)


def test_an_interrupted_command_exits_with_130(recording: Recording, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom ether.recorder import reader\nfrom ether.cli import main\n"
        "real = reader.Stream.chunks\n"
        "reader.Stream.chunks = lambda self, *a: (os.kill(os.getpid(), signal.SIGINT), real(self, *a))[1]\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["export", str(recording.path), "--to", "csv", "--out", str(tmp_path / "out")]

    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)

    assert (done.returncode, done.stderr, os.listdir(tmp_path)) == (130, "", [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("to", "library"), [("parquet", "pyarrow"), ("netcdf", "h5netcdf"), ("mcap", "mcap"), ("xlsx", "openpyxl")]
)
def test_a_missing_library_names_the_extra(
    recording: Recording, to: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(RecordingError, match=rf"{library} is not installed; try `pip install 'ether\[export\]'`"):
        recording.export(to, tmp_path / "out")


def make(file: Path, topic: str, values: list[Any]) -> Recording:
    with Journal(journal_folder(file)) as journal:
        for number, value in enumerate(values):
            payload = codecs.encode({"v": value}, Envelope("a", "b", number, T0 + number * 0.001))
            journal.append(head(Kind.MESSAGE, 1, T0 * 10**9, 0, topic), payload)
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return open_recording(file)


@pytest.mark.parametrize("to", FORMATS)
def test_frames_of_changing_size_and_any_type(to: str, tmp_path: Path) -> None:
    shapes = [(2, 3), (0, 4), (3, 1)]
    for name, frames in {
        "sizes": [np.arange(a * b, dtype="<i2").reshape(a, b) for a, b in shapes],
        "none": [np.empty(0, "<f4")] * 2,
        "half": [np.arange(2, dtype="<f2")] * 2,
    }.items():
        with make(tmp_path / f"{name}.h5", "a", frames) as recording:
            file = recording.export(to)
        if to == "parquet":
            found = pytest.importorskip("pyarrow.parquet").read_table(file / "a.parquet").to_pydict()["v"]
            assert found == [frame.tolist() for frame in frames]
        if to == "csv" and name == "sizes":
            assert [json.loads(text) for text in pd.read_csv(file / "a.csv")["v"]] == [each.tolist() for each in frames]
        if to == "netcdf" and name == "sizes":
            import h5py

            with h5py.File(file) as plain:
                group = plain["data/a/readings"]
                assert group["v_shape"][:].tolist() == [list(shape) for shape in shapes]
                assert group["v"][:].tolist() == np.concatenate([frame.ravel() for frame in frames]).tolist()


def test_what_a_sheet_cannot_hold_is_refused_before_anything_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openpyxl")
    with make(tmp_path / "r.h5", "a/b", ["x" * 40_000]) as recording:
        with pytest.raises(RecordingError, match="a/b, field v: a text of 40,000 letters, and a cell holds 32,767"):
            recording.export("xlsx", tmp_path / "out")
        monkeypatch.setattr("ether.recorder.export._SHEET_ROWS", 1)
        with pytest.raises(RecordingError, match="a/b: 1 readings, and a sheet holds 0; choose fewer with --from"):
            recording.export("xlsx", tmp_path / "out")
    assert os.listdir(tmp_path) == ["r.h5"]


def test_file_names_are_safe_and_never_collide() -> None:
    titles = ["a/b", "a_b", "A/B", "🙂", "🙁", "", "..", "con", "COM1.x", "Straße", "STRASSE", "x" * 300, "é" * 300]

    names = file_names(titles)

    assert len({name.casefold() for name in names}) == len(titles)
    assert names[:10] == ["a_b", "a_b-2", "A_B-3", "_", "_-2", "_-3", "_-4", "_con", "_COM1.x", "Straße"]
    assert all(0 < len(name.encode()) <= 100 and "/" not in name for name in names)


def test_memory_is_bounded(tmp_path: Path) -> None:
    for library in ("pyarrow", "h5netcdf", "mcap"):
        pytest.importorskip(library)
    size = 64
    frame = np.zeros(1 << 20, np.uint8)
    make(tmp_path / "r.h5", "cam", [frame] * size).close()
    code = (
        "import sys, resource, pyarrow.parquet, h5netcdf, mcap.writer\n"
        "from ether.recorder.reader import open_recording\n"
        "from ether.recorder.reader import Stream; Stream.chunks.__defaults__ = (1 << 20,)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for to in ('parquet', 'netcdf', 'mcap'): open_recording(sys.argv[1]).export(to)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )

    done = subprocess.run([sys.executable, "-c", code, tmp_path / "r.h5"], capture_output=True, text=True)

    assert done.stderr == ""
    assert int(done.stdout) < 0.5 * size
