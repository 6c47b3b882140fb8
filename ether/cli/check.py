"""`ether check FILE`: everything that can be known without starting."""

from __future__ import annotations

from ether.cli import output
from ether.cli.arguments import AsJson, ConfigFile, Overrides
from ether.cli.joined import find_classes_from

__all__ = ["check"]


def check(file: ConfigFile, overrides: Overrides = None, json: AsJson = False) -> int:
    """Tell what is wrong with a configuration.

    Everything that can be known without starting, all at once: keys, classes, methods, arguments.
    """
    from ether.config import Config
    from ether.errors import ConfigError

    find_classes_from(file)
    try:
        config = Config.load(file, overrides or ())
        from ether import component  # later: it is slow, and a wrong file needs it not

        if problems := component.check(config):
            raise ConfigError(problems)
    except ConfigError as exc:
        if not json:
            raise
        for problem in exc.problems:
            output.as_json({"where": problem.where, "what": problem.what})
        return exc.exit_code
    if not json:
        count = len(config.named())
        output.note(f"{file}: ok, {count} instance{'' if count == 1 else 's'}")
    return 0
