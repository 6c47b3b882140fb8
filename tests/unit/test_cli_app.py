"""The command as a whole: exit codes, words, options that stand anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ether import errors
from ether.cli import app, main, output

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "settings", output.Settings())
    for name in ("NO_COLOR", "ETHER_LOG_LEVEL", "ETHER_BROKER", "ETHER_DATA"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `ether schema` raise."""

    def fail_with(exc: BaseException) -> None:
        def raising() -> None:
            raise exc

        monkeypatch.setattr("ether.config.json_schema", raising)

    return fail_with


def test_ctrl_c_before_the_command_is_read_has_no_traceback_either(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "ether.cli.app", Interrupted("ether.cli.app"))

    assert main(["--version"]) == 130


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (errors.CallError("gone"), 1),
        (errors.StartError({"oven": "boom"}), 1),
        (errors.TopicError("bad topic"), 2),
        (errors.ConfigError([errors.Problem("a.yaml:1:1", "wrong")]), 3),
        (errors.BrokerError("no broker"), 4),
        (RuntimeError("a bug"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_becomes_its_exit_code_without_a_traceback(
    exc: BaseException, code: int, failing: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(exc)

    assert main(["schema"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_every_problem_of_a_configuration_is_a_line(
    failing: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(errors.ConfigError([errors.Problem("a.yaml:1:1", "wrong"), errors.Problem("a.yaml:2:1", "worse")]))

    main(["schema"])

    assert capsys.readouterr().err == "ether: a.yaml:1:1: wrong\nether: a.yaml:2:1: worse\n"


def test_an_unexpected_error_is_one_line_and_a_traceback_with_debug(
    failing: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyError("x"))

    assert (main(["schema"]), capsys.readouterr().err) == (1, "ether: KeyError: 'x'; `ether --debug …` shows where\n")
    assert main(["schema", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["upp"], "no verb `upp`; did you mean `up`?"),
        (["zzzz"], "no verb `zzzz`; `ether --help` lists them"),
        (["run", "strat"], "no verb `strat`; did you mean `start`?"),
        (["up"], "missing argument 'FILE'; see `ether up --help`"),
        (["up", "a.yaml", "--for", "soon"], "a duration was wanted"),
        (["call", "oven"], "write NAME.METHOD, such as oven.status"),
        (["call", "oven.set", "celsius"], "'celsius': write name=value"),
        (["annotate", "x", "--at", "noon"], "'noon' is no time; write 11:28 or 2026-01-16T11:28:42"),
        (["topic", "pub", "a", '{"b"'], "is not valid JSON"),
        (["broker", "--kind", "mosquito"], "did you mean `mosquitto`?"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    told = capsys.readouterr()
    assert said in told.err and told.err.count("\n") == 1 and told.out == ""


@pytest.mark.parametrize("arguments", [[], ["topic"], ["run"]])
def test_no_verb_shows_the_help_and_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().out.startswith("Usage: ether")


def test_version_and_help_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["--version"]), main(["up", "-h"])) == (0, 0)
    assert capsys.readouterr().out.startswith("ether 0.")


def test_general_options_stand_anywhere_before_a_double_dash() -> None:
    arguments = ["call", "--session", "a", "x.y", "-q", "--session=b", "--", "--debug"]

    assert app._hoisted(arguments) == ["--session", "a", "-q", "--session=b", "call", "x.y", "--", "--debug"]


@pytest.mark.parametrize(
    ("options", "level"),
    [([], "WARNING"), (["-v"], "INFO"), (["-v", "-v"], "DEBUG"), (["-vv"], "DEBUG"), (["-q"], "ERROR")],
)
def test_quiet_and_verbose_set_the_level_of_the_log(options: list[str], level: str) -> None:
    main(["schema", "--out", os.devnull, *options])

    assert os.environ["ETHER_LOG_LEVEL"] == level


def test_the_environment_sets_the_level_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETHER_LOG_LEVEL", "INFO")

    main(["schema", "--out", os.devnull])

    assert os.environ["ETHER_LOG_LEVEL"] == "INFO"


def test_no_color_reaches_the_processes_of_instances() -> None:
    main(["schema", "--out", os.devnull, "--no-color"])

    assert os.environ["NO_COLOR"] == "1"
    assert output.console().no_color


def test_help_loads_neither_session_nor_configuration() -> None:
    code = (
        "import sys; from ether.cli import main; main(['--help']);"
        "print([n for n in ('pydantic', 'yaml', 'paho', 'h5py', 'numpy', 'rich', 'ether.session') if n in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("typed", "offered"), [("ether dem", "demo"), ("ether topic ec", "echo"), ("ether up --det", "--detach")]
)
def test_the_shell_completes_verbs_and_options(typed: str, offered: str) -> None:
    words = typed.split()
    environment = {
        **os.environ, "_ETHER_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ether.cli"], env=environment, capture_output=True, text=True, check=False
    )

    assert offered in done.stdout.split()


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from ether.cli import main; sys.exit(main(['schema']))"
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (0, b"")


def test_the_reference_names_every_verb_and_option() -> None:
    import typer

    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    group: Any = typer.main.get_command(app.app)

    def missing(command: Any, path: str) -> list[str]:
        if hasattr(command, "commands"):
            return [lack for name, each in command.commands.items() for lack in missing(each, f"{path} {name}")]
        row = next((line for line in page.splitlines() if line.startswith(f"| `{path}")), "")
        options = [max(option.opts, key=len) for option in command.params if option.param_type_name == "option"]
        return ([] if row else [path]) + [f"{path} {each}" for each in options if f"`{each}`" not in row]

    assert missing(group, "ether") == []
