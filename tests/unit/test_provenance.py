"""How two recordings differ in how they came to be; and what of a secret is left in them: nothing."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ether.cli import main
from ether.component import parameter_names, source_of
from ether.journal import Journal
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.reader import open_recording
from ether.recorder.redact import redacted, redacted_code

CODE = "class Oven:\n    limit = 80\n    api_key = 'hush-hush'\n"


def record(file: Path, code: str = CODE, *, gain: int = 1, numpy: str = "2.4.6", **facts: Any) -> Path:
    source = f"sha256:{sha256(code.encode()).hexdigest()}"
    provenance = {
        "python": "3.11.7", "host": "bench", "packages": {"numpy": numpy, "h5py": "3.16.0"},
        "config": f"instances:\n  oven: {{gain: {gain}}}\n", "resolved": {"instances": {"oven": {"gain": gain}}},
        "git": {"commit": "abc", "dirty": True, "diff": "+password = 'hush-hush'\n+x = 1\n"},
        "sources": {source: {"file": "/bench/oven.py", "text": code}}, **facts,
    }  # fmt: skip
    about = {
        "boot": "b", "class": "oven.Oven", "file": "/bench/oven.py", "source": source, "args": {"limit": 80},
        "kwargs": {"gain": gain, "token": "hush-hush"},
    }  # fmt: skip
    with Journal(journal_folder(file)) as journal:
        journal.append(*note(Kind.SESSION, {"session": {"name": "s", "id": file.name}, "provenance": provenance}))
        journal.append(head(Kind.MESSAGE, 1, 10**18, 0, "ether/about/oven"), json.dumps(redacted(about)).encode())
        journal.append(*note(Kind.END, {"reason": "stop"}))
        journal.commit()
    seal.recover(file)
    return file


def test_equal_provenance_is_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = record(tmp_path / "a.h5"), record(tmp_path / "b.h5")

    assert main(["info", "--diff", str(one), str(other)]) == 0
    assert capsys.readouterr().out == f"{one} and {other}: same configuration, code, versions and machine\n"
    assert main(["info", "--diff", str(one), str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_what_changed_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = record(tmp_path / "a.h5")
    other = record(tmp_path / "b.h5", CODE.replace("80", "90"), gain=2, numpy="2.5.0", host="kitchen")

    assert main(["info", str(one), str(other), "--diff", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["facts"] == {"host": ["bench", "kitchen"]}
    assert found["packages"] == {"numpy": ["2.4.6", "2.5.0"]}
    assert found["resolved"] == {"instances.oven.gain": [1, 2]}
    assert found["config"][-2:] == ["-  oven: {gain: 1}", "+  oven: {gain: 2}"]
    oven = found["instances"]["oven"]
    assert oven["kwargs"] == {"gain": [1, 2]}
    assert oven["code"][:6] == [
        "--- /bench/oven.py", "+++ /bench/oven.py", "@@ -1,3 +1,3 @@", " class Oven:", "-    limit = 80", "+    limit = 90",
    ]  # fmt: skip
    assert "uncommitted" not in found

    assert main(["info", "--diff", str(one), str(other)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "  numpy: 2.4.6 → 2.5.0" in told
    assert "  kwargs gain: 1 → 2" in told
    assert "  -    limit = 80" in told


def test_an_instance_or_package_that_only_one_has_is_listed(tmp_path: Path) -> None:
    from ether.recorder.provenance import compare

    one, other = record(tmp_path / "a.h5"), record(tmp_path / "b.h5", packages={"numpy": "2.4.6"}, git=None)
    with open_recording(one) as before, open_recording(other) as after:
        found = compare(before, after)

    assert found["packages"] == {"h5py": ["3.16.0", None]}
    assert found["facts"] == {"git commit": ["abc", None], "git dirty": [True, None]}


@pytest.mark.parametrize("words", [["--diff", "a.h5"], ["a.h5", "b.h5"]])
def test_a_comparison_wants_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *words]) == 2
    assert "compares two recordings: `ether info --diff A B`" in capsys.readouterr().err


def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    file = record(tmp_path / "a.h5", command_line=["ether", "up", "--set", "broker.password=hush-hush"])

    with open_recording(file) as recording:
        provenance = recording.provenance
    assert "hush" not in json.dumps(provenance)
    (oven,) = provenance["instances"]
    assert (oven["args"], oven["kwargs"]) == ({"limit": 80}, {"gain": 1, "token": "***"})
    assert provenance["sources"][oven["source"]]["text"] == CODE.replace("hush-hush", "***")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ('password = "a"', 'password = "***"'),
        ("x.api_key: str = 'it\\'s'", "x.api_key: str = '***'"),
        ('{"token": b"a", "n": "b"}', '{"token": b"***", "n": "b"}'),
        ('os.environ["SECRET"] = "a"', 'os.environ["SECRET"] = "***"'),
        ("connect(user='u', password='p')", "connect(user='u', password='***')"),
        ("key = row['id']", "key = row['id']"),
        ('url = "mqtt://u:p@host"', 'url = "mqtt://u:***@host"'),
        ("monkey = 'a'", "monkey = 'a'"),
    ],
)
def test_secrets_written_out_in_code_are_hidden(code: str, shown: str) -> None:
    assert redacted_code(code) == shown


def test_the_file_of_a_class_and_the_names_of_its_arguments() -> None:
    found = source_of(Recorded)

    assert found is not None and found[0] == Path(__file__).absolute() and b"class Recorded" in found[1]
    assert source_of(int) is None
    names = parameter_names(Recorded)
    assert [next(names) for _ in range(4)] == ["a", "b", "2", "3"]


class Recorded:
    def __init__(self, a: int, b: int = 0, *more: int) -> None: ...
