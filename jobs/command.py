"""A job as a command: its arguments, then its config, and only then what takes seconds to import.

Every module that is a command begins with a call of this; see jobs/arguments.py for the options.
"""

import json
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from diffsasrec.errors import ConfigError, DiffsasrecError
from jobs.arguments import PARSERS, parse_stages

log = logging.getLogger("jobs")


def run_stages(stages: tuple[str, ...]) -> NoReturn:
    """Runs `stages` (or those of --stages) as the command line says, and exits."""
    arguments = parse_stages(stages, sys.argv[1:])
    set_up_log()
    summary: dict[str, Any] = {"run_id": None, "status": "failed", "stage": None}
    summary |= {"counts": {}, "paths": {}}
    try:
        arguments.loaded = load(arguments.config, arguments.sets)
        if arguments.print_config:
            print(in_yaml(arguments.loaded))
            sys.exit(0)
    except ConfigError as error:
        code = failed(summary, error)
        print(json.dumps(summary, sort_keys=True), flush=True)
        sys.exit(code)
    import_module("jobs.cli").main(arguments, summary)
    sys.exit(0)


def run_command(name: str) -> NoReturn:
    """Runs `jobs.{name}.main` with its arguments, and exits."""
    arguments = PARSERS[name](sys.argv[1:])
    import_module(f"jobs.{name}").main(arguments)
    sys.exit(0)


def set_up_log() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )


def load(path: str, sets: list[str]) -> Any:
    """The Config of a file and its overrides.

    Raises:
        ConfigError: it can't be read, or is wrong.
    """
    from diffsasrec.config import load_config  # with pydantic, which no --help needs

    try:
        text = Path(path).read_text()
    except UnicodeDecodeError:
        raise ConfigError(f"--config {path} is no UTF-8 text; is it the YAML file?") from None
    except OSError as error:
        raise ConfigError(f"--config {path} can't be read: {error.strerror}") from None
    return load_config(text, sets, source=path)


def in_yaml(config: Any) -> str:
    """Every key of a Config, and its digest."""
    import yaml

    return yaml.safe_dump(config.resolved(), sort_keys=False) + f"# sha256 {config.sha256()}"


def failed(summary: dict[str, Any], error: DiffsasrecError) -> int:
    """Says what went wrong, and writes it into the last line; the exit code."""
    log.error("%s: %s", type(error).__name__, error)
    summary |= {"status": "refused" if error.exit_code == 4 else "failed", "error": str(error)}
    return error.exit_code
