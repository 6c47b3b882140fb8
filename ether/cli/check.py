"""`ether check FILE`: everything that can be known without starting."""

from __future__ import annotations

from ether.cli import output
from ether.cli.arguments import AsJson, ConfigFile, Overrides
from ether.cli.joined import find_classes_from

__all__ = ["check"]


def check(file: ConfigFile, overrides: Overrides = None, json: AsJson = False) -> int:
    """Tell what is wrong with a configuration.

    Everything that can be known without starting, all at once: keys, classes, methods, arguments; and the wiring:
    topics that nobody publishes or nobody hears (warnings), handlers that refuse what is published (errors where that
    is certain).
    """
    from ether.config import Config
    from ether.errors import ConfigError

    find_classes_from(file)
    try:
        config = Config.load(file, overrides or ())
        from ether import component  # later: it is slow, and a wrong file needs it not

        if problems := component.check(config):
            raise ConfigError(problems)
        from ether.wiring import Wiring

        findings = Wiring.of_config(config).findings(config)
        told = [(each.level, config.problem(each.path, each.what)) for each in findings]
        errors = [problem for level, problem in told if level == "error"]
    except ConfigError as exc:
        told, errors = [("error", problem) for problem in exc.problems], exc.problems
    if json:
        for level, problem in told:
            output.as_json({"level": level, "where": problem.where, "what": problem.what})
    else:
        for level, problem in told:
            if level == "note":
                output.note(f"{file}: {problem.what}")
            elif level == "warning":
                output.line(f"{problem.where}: warning: {problem.what}")
    if errors:
        failure = ConfigError(errors)
        if not json:
            raise failure
        return failure.exit_code
    if not json:
        warnings = sum(level == "warning" for level, _ in told)
        more = f", {_number(warnings, 'warning')}" if warnings else ""
        output.note(f"{file}: ok, {_number(len(config.named()), 'instance')}{more}")
    return 0


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
