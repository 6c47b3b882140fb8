"""All verbs in one application, and the one place that turns what went wrong into words and an exit code."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ether import __version__
from ether.cli import (
    annotate,
    broker,
    call,
    check,
    demo,
    doctor,
    down,
    export,
    graph,
    info,
    init,
    instances,
    logs,
    output,
    param_verbs,
    plot,
    prune,
    ps,
    record,
    recover,
    replay,
    run_verbs,
    schema,
    serial,
    status,
    top,
    topic,
    up,
    verify,
    why,
)
from ether.errors import EtherError

__all__ = ["app", "run"]

INTERRUPTED = 130
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # the library keeps its name private
_HOISTED = ("--debug", "--no-color", "--quiet", "-q", "--verbose", "-v", "-vv")

app = typer.Typer(
    name="ether",
    help="Turn a lab bench into one observable, recorded system.",
    epilog="Start with: ether demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("check")(check.check)
app.command("graph")(graph.graph)
app.command("up")(up.up)
app.command("down")(down.down)
app.command("start")(instances.start)
app.command("stop")(instances.stop)
app.command("restart")(instances.restart)
app.command("ps")(ps.ps)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("why")(why.why)
app.command("logs")(logs.logs)
app.add_typer(topic.app, name="topic")
app.command("call")(call.call)
app.add_typer(param_verbs.app, name="param")
app.command("annotate")(annotate.annotate)
app.add_typer(run_verbs.app, name="run")
app.command("record")(record.record)
app.command("info")(info.info)
app.command("verify")(verify.verify)
app.command("recover")(recover.recover)
app.command("prune")(prune.prune)
app.command("replay")(replay.replay)
app.command("export")(export.export)
app.command("plot")(plot.plot)
app.command("serial")(serial.serial)
app.add_typer(broker.app, name="broker")
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        output.line(f"ether {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More of the log; twice for all.")] = 0,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; NO_COLOR does the same.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="Which running session; default the newest.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    output.settings.quiet = quiet
    output.settings.debug = debug
    output.settings.session = session
    if no_color:
        os.environ["NO_COLOR"] = "1"  # for the processes of instances, too
    if verbose or quiet:
        os.environ["ETHER_LOG_LEVEL"] = "ERROR" if quiet else "INFO" if verbose == 1 else "DEBUG"
    else:
        os.environ.setdefault("ETHER_LOG_LEVEL", "WARNING")


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    output.settings.debug = False  # until the options are read
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without UTF-8 must not turn `±` into an exception
            stream.reconfigure(errors="replace")
    try:
        code = app(args=_hoisted(arguments), prog_name="ether", standalone_mode=False)
        sys.stdout.flush()
    except EtherError as exc:
        return _tell(exc)
    except _UsageError as exc:
        return _tell_usage(exc)
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):  # the library makes an exit of it
            return _nobody_reads()
        raise
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - the edge of the process
        if output.settings.debug:
            traceback.print_exc()
        else:
            output.complain(f"{type(exc).__name__}: {exc}; `ether --debug …` shows where")
        return 1
    return code if isinstance(code, int) else 0


def _nobody_reads() -> int:
    """Return 0 for `ether topic echo … | head`, with nothing left to flush into the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return 0


def _hoisted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the general options in front, so that `ether up FILE --debug` works too."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*front, *rest, word, *words]
        if word == "--session":
            front += [word, *itertools.islice(words, 1)]
        else:
            (front if word in _HOISTED or word.startswith("--session=") else rest).append(word)
    return [*front, *rest]


def _tell(exc: EtherError) -> int:
    if output.settings.debug:
        traceback.print_exc()
    else:
        for line in str(exc).splitlines() or [type(exc).__name__]:
            output.complain(line)
    return exc.exit_code


def _tell_usage(exc: BaseException) -> int:
    from ether.errors import suggest

    ctx = getattr(exc, "ctx", None)
    message = str(getattr(exc, "format_message", lambda: exc)()).rstrip()
    if type(exc).__name__ == "NoArgsIsHelpError":
        output.line(message)
        return 2
    if message.startswith("No such command") and ctx is not None:
        word = message.split("'")[1]
        message = f"no verb `{word}`{suggest(word, ctx.command.commands) or '; `ether --help` lists them'}"
    elif ctx is not None:
        message = f"{' '.join(message.split()).rstrip('.')}; see `{ctx.command_path} --help`"
    output.complain(message[0].lower() + message[1:])
    return 2
