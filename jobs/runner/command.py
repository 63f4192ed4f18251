"""Runs a job as a command: first its arguments and its config, then the slow imports.

Every module that is a command begins with a call of this file; arguments.py has the options.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from diffsasrec.errors import ConfigError, DiffsasrecError

from ..process.ending import CODES, End, catch_signals
from .arguments import parse_stages

log = logging.getLogger("jobs")


def run_stages(stages: tuple[str, ...], *, pages: str = "") -> NoReturn:
    """Runs `stages` (or those of --stages) as the command line says, and exits.

    Args:
        pages: the module that writes reports and their index; "": the stages write none.
    """
    arguments = parse_stages(stages, sys.argv[1:])
    arguments.pages = pages
    set_up_log()
    end = End({"run_id": None, "status": "failed", "stage": None, "counts": {}, "paths": {}})
    catch_signals(end)
    try:
        arguments.loaded = load(arguments.config, arguments.sets)
        if arguments.print_config:
            print(in_yaml(arguments.loaded))
            sys.exit(0)
    except ConfigError as error:
        code = end.settle(error.exit_code)
        failed(end.summary, error)
        end.print()
        sys.exit(code)
    import_module(".main", __spec__.parent).main(arguments, end)
    sys.exit(0)


def run_command(
    spec: ModuleSpec | None, parse: Callable[[Sequence[str]], argparse.Namespace]
) -> NoReturn:
    """Runs `main` of a module with what `parse` makes of the command line, and exits.

    Args:
        spec: the `__spec__` of the module, which tells by which name it is imported.
    """
    assert spec is not None  # of every module that -m runs
    arguments = parse(sys.argv[1:])
    for number in CODES:  # without a traceback, until a job has handlers of its own
        signal.signal(number, _exit)
    import_module(spec.name).main(arguments)
    sys.exit(0)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(CODES[signal.Signals(number)])


def set_up_log() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )


def load(path: str, sets: list[str]) -> Any:
    """The Config of a file and its overrides.

    Raises:
        ConfigError: it can't be read, or is wrong.
    """
    from diffsasrec.config.load import load_config

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


def failed(summary: dict[str, Any], error: DiffsasrecError) -> None:
    """Says what went wrong, and writes it into the last line."""
    log.error("%s: %s", type(error).__name__, error)
    summary |= {"status": "refused" if error.exit_code == 4 else "failed", "error": str(error)}
