"""What the documents say is true: their code runs, their links lead somewhere, their promises have tests.

A fenced block may say more after its language: ``file=NAME`` writes it to a file for the blocks below it,
``no-run: reason`` leaves it out. All ``python`` blocks of a page run as one script, in a folder of their own.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_NOT_OURS = {".venv", "build", "dist", "node_modules", "data"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in _NOT_OURS or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_TEST = re.compile(r"`(?P<path>tests/[\w/]+\.py)(?:::(?P<name>\w+))?`")
_RUN_S = 50.0


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    info: str
    body: str
    line: int

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def file(self) -> str | None:
        found = re.search(r"\bfile=(\S+)", self.info)
        return found[1] if found else None

    @property
    def runs(self) -> bool:
        return self.language == "python" and self.file is None and "no-run" not in self.info


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(match["info"].strip(), match["body"], text.count("\n", 0, match.start()) + 2)
        for match in _FENCE.finditer(text)
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    script = []
    for block in blocks(page):
        if block.file:
            target = tmp_path / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.body, encoding="utf-8")
        elif block.runs:
            missing = block.line - 1 - len("".join(script).splitlines())
            script.append("\n" * max(missing, 0) + block.body)  # a traceback names the line of the page
    (tmp_path / "page.py").write_text("".join(script), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "broker")])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_that_does_not_run_says_why(page: Path) -> None:
    silent = [
        f"{name(page)}:{block.line}"
        for block in blocks(page)
        if block.language == "python" and "no-run" in block.info and not re.search(r"no-run: \S", block.info)
    ]

    assert silent == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for match in _LINK.finditer(text):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            broken.append(match["target"])
        elif anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in map(slug, headings):
                broken.append(match["target"])

    assert broken == []


def test_every_guarantee_names_a_test_that_exists() -> None:
    page = ROOT / "docs/guarantees.md"
    named = list(_TEST.finditer(page.read_text(encoding="utf-8")))
    wrong = []
    for match in named:
        path = ROOT / match["path"]
        if not path.exists() or (match["name"] and match["name"] not in _functions(path)):
            wrong.append(match[0])

    assert named
    assert wrong == []


def test_every_promise_of_the_guarantees_is_shown() -> None:
    lines = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line, below in pairwise(lines) if line.startswith("| ") and not below.startswith("|--")]

    assert rows
    assert [row for row in rows if not _TEST.search(row)] == []


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _commands(page: Path) -> list[str]:
    found = []
    for block in blocks(page):
        if block.language in ("sh", "console"):
            for line in block.body.splitlines():
                command = line.strip().removeprefix("$ ").partition("#")[0].strip()
                if command:
                    found.append(re.sub(r"^(\w+=\S+ )+", "", command))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if _commands(page)], ids=name)
def test_commands_on_a_page_are_known(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    verbs = _verbs()
    unknown = []
    for command in _commands(page):
        words = command.split()
        if words[0] == "make":
            fine = words[1] in targets
        elif words[0] == "ether":
            fine = words[1] in verbs
        elif words[0] == "python" and not words[1].startswith("-"):
            fine = (ROOT / words[1]).exists() or any(block.file == words[1] for block in blocks(page))
        else:
            fine = words[0] in (
                "git",
                "pip",
                "python",
                "apt",
                "brew",
                "mosquitto",
                "mosquitto_pub",
                "mosquitto_sub",
                "h5ls",
                "cd",
                "sudo",
                "cc",
                "./bench",  # what it has compiled
            )
        if not fine:
            unknown.append(command)

    assert unknown == []


def _verbs() -> set[str]:
    """Return the verbs of the `ether` command, as its help lists them."""
    done = subprocess.run(
        [sys.executable, "-c", "from ether.cli import main; main()", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "broker")]), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=_RUN_S,
    )
    return set(re.findall(r"^\W*([a-z]+)  +\S", done.stdout, re.MULTILINE)) | {"--version", "--help"}
