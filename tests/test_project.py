"""The project around the code: what is shipped, locked, listed and promised in its metadata."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ether
from ether.component import check
from ether.config import Config

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if (path / "session.yaml").exists())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked() -> set[str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {_normal(line.partition("==")[0]) for line in lines if line and not line.startswith("#")}


def test_the_lock_pins_every_direct_dependency() -> None:
    groups = PROJECT["dependency-groups"].values()
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(line for group in groups for line in group if isinstance(line, str)),
    ]
    names = {_normal(re.split(r"[<>=\[ ]", line)[0]) for line in wanted}

    assert names - _locked() == set()


def test_the_lock_names_exact_versions_and_no_place() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.+!]+", line)] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_complete(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(example))

    config = Config.load(example / "session.yaml")

    assert check(config) == []
    assert (example / "README.md").exists()
    assert (ROOT / f"tests/examples/test_{example.name}.py").exists()
    assert f"({example.name}/README.md)" in (ROOT / "examples/README.md").read_text(encoding="utf-8")


def test_importing_ether_is_light() -> None:
    heavy = "{'h5py', 'numpy', 'paho', 'pydantic', 'amqtt', 'typer', 'ether_broker'}"
    code = f"import sys, ether; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ether.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ether, name) is not None


def test_public_names_are_in_the_reference() -> None:
    pages = "".join(
        (ROOT / f"docs/reference/{page}.md").read_text(encoding="utf-8") for page in ("decorators", "python")
    )

    assert [name for name in ether.__all__ if f"{name}" not in pages] == []


def test_every_method_of_the_ether_object_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    methods = [name for name in vars(ether.Ether) if not name.startswith("_")]

    assert [name for name in methods if f"ether.{name}" not in page] == []


def test_every_decision_is_listed_and_has_its_parts() -> None:
    folder = ROOT / "docs/decisions"
    listed = (folder / "README.md").read_text(encoding="utf-8")

    for path in sorted(folder.glob("0*.md")):
        text = path.read_text(encoding="utf-8")
        assert f"({path.name})" in listed
        for part in ("Date: ", "Status: ", "## Context", "## Decision", "## Consequences"):
            assert part in text, f"{path.name}: {part}"
