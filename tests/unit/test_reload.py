"""Which files are watched, and what counts as edited."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from ether.reload import Sources


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that is imported."""
    path = tmp_path / "lab.py"
    path.write_text("x = 1\n")
    found = ModuleType("lab_of_this_test")
    found.__file__ = str(path)
    monkeypatch.setitem(sys.modules, found.__name__, found)
    return path


def test_an_edited_module_is_told_once_and_one_that_is_gone_for_a_moment_not(module: Path) -> None:
    sources = Sources()
    assert sources.changed() == []

    module.unlink()
    assert sources.changed() == []
    module.write_text("x = 22\n")

    assert sources.changed() == [module]
    assert sources.changed() == []


def test_neither_python_nor_ether_nor_installed_packages_are_watched(module: Path) -> None:
    watched = Sources()._files()

    assert module in watched
    installed = [sys.modules[name].__file__ for name in ("json", "pytest", "ether.errors")]
    assert not watched & {Path(file).resolve() for file in installed if file}


def test_a_file_that_does_not_compile_is_named_and_waited_for(module: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("ether.reload._LOOK_S", 0.01)
    sources = Sources()
    module.write_text("x = (\n")
    found: list[Path | None] = []
    ended = threading.Event()
    thread = threading.Thread(target=lambda: found.append(sources.wait(ended)))
    thread.start()
    while "not reloaded" not in caplog.text:
        assert thread.is_alive()
    os.replace(_written(module.with_name("new"), "x = (3)\n"), module)
    thread.join(5)

    assert found == [module]
    assert f"{module}: not reloaded: '(' was never closed (lab.py, line 1)" in caplog.text


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
