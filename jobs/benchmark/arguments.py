"""The command line of `jobs.benchmark`, which needs nothing that takes seconds to import."""

import argparse
from collections.abc import Sequence

from ..faults.reliability import add_arguments as add_figures
from ..runner.arguments import new_parser

DECODINGS = ("single", "multi", "autoregressive")
STEPS = 2  # as score.steps, in a file that answers before pydantic is imported

# what is measured, by the command
MEASURES = {
    "score": "Lists per second, beside the products alone, one step, and encoding at every step.",
    "train": "Sequences per second of pretraining, beside its encoder alone and a plain way.",
    "prepare": "Rows per second from Parquet to sequences, by Ray Data, beside DuckDB and Polars.",
    "ray": "What Ray Data costs per block and per batch, with actors that only sleep.",
    "plan": "Hours, buckets, bytes and the driver's load of a night of another size.",
    "reliability": "How often nights that are disturbed on purpose end right.",
    "night": "The cost of lists and their audit where only users of the last days get one.",
}


def parse_benchmark(words: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("benchmark", "Measures this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=text) for name, text in MEASURES.items()}
    for name in ("score", "train"):
        _add_model(parsers[name])
    _add_score(parsers["score"])
    parsers["train"].add_argument("--batch-size", type=int, default=128)
    _add_prepare(parsers["prepare"])
    parsers["ray"].add_argument("--actors", type=int, default=2)
    parsers["ray"].add_argument("--block-seconds", type=float, default=2.0)
    add_plan(parsers["plan"])
    add_figures(parsers["reliability"])
    parsers["night"].add_argument("--run", required=True, help="directory of a published run")
    parsers["night"].add_argument("--active-days", type=float, nargs="+", default=[1, 7, 30])
    for command in parsers.values():
        command.add_argument("--rounds", type=int, default=5, help="the median of so many counts")
        command.add_argument("--json", action="store_true", help="one JSON object per line")
    return parser.parse_args(words)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--items", type=int, default=3500)
    command.add_argument("--users", type=int, default=2048)
    command.add_argument("--max-len", type=int, default=200)
    command.add_argument("--lengths", choices=("lognormal", "full"), default="lognormal")
    command.add_argument("--hidden", type=int, default=64)
    command.add_argument("--blocks", type=int, default=2)
    command.add_argument("--heads", type=int, default=2)
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--variants", help="only these, with commas between them")


def _add_score(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", help="a run's directory: its weights and users, not random ones")
    command.add_argument("--keep-seen", action="store_true", help="as score.filter_seen: false")
    command.add_argument("--k", type=int, default=10)
    command.add_argument("--decode", choices=DECODINGS, default="multi")
    command.add_argument("--steps", type=int, default=STEPS, help="of multi-step decoding")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")


def _add_prepare(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rows", type=int, default=1_000_000)
    command.add_argument("--users", type=int, default=50_000)
    command.add_argument("--items", type=int, default=20_000)
    command.add_argument("--variants", help="only these, with commas between them")


def add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument("--users", type=float, default=1e8)
    command.add_argument("--items", type=float, default=1e6)
    command.add_argument("--history", type=float, default=50, help="mean events of a history")
    command.add_argument("--hidden", type=int, default=64)
    command.add_argument("--blocks", type=int, default=2)
    command.add_argument("--heads", type=int, default=2)
    command.add_argument("--k", type=int, default=10)
    command.add_argument("--decode", choices=DECODINGS, default="multi")
    command.add_argument("--steps", type=int, default=STEPS, help="of multi-step decoding")
    command.add_argument("--actors", type=int, default=8, help="that score at the same time")
    command.add_argument("--workers", type=int, default=8, help="that train at the same time")
