"""Lists per second: `jobs.benchmark score`."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diffsasrec.decode.decoding import Decoding
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint, parse_tensors
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten
from diffsasrec.times import DAY
from jobs.benchmark.measure import (
    SEED,
    Histories,
    _histories,
    _median_seconds,
    _memory_of,
    _model_config,
    _trends,
)
from jobs.benchmark.references import (
    Reencoding,
)
from jobs.planning.workload import products_alone, rows_scored


def _score(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Lists per second, beside the products alone, one step, and encoding at every step."""
    night = _random_night(options) if options.run is None else _night_of(options)
    model = night.model.to(options.device, getattr(torch, options.dtype)).eval()
    recommenders = {}

    def lists(name: str, model: SequenceModel, **settings: Any) -> Callable[[], object]:
        decoding = Decoding(options.k, filter_seen=not options.keep_seen, **settings)
        recommenders[name] = recommender = Recommender(
            model, moment=night.moment, allowed=night.allowed, decoding=decoding
        )
        return lambda: recommender.recommend(*night.histories)

    settings = {"decode": options.decode, "steps": options.steps, "shortlist": 0}
    variants = {"exact": lists("exact", model, **settings)}
    if options.decode == "multi":
        variants["shortlist"] = lists(
            "shortlist", model, **(settings | {"shortlist": Decoding.shortlist})
        )
    if options.device == "cuda":
        variants["fused"] = lists("fused", model, **(settings | {"fused": True}))
    if options.decode != "single":
        variants["single step"] = lists("single step", model, decode="single")
    if options.decode == "multi" and model.config.attention == "prefix":
        anew = Reencoding(model.config, model.num_items).to(model.item_weight).eval()
        anew.load_state_dict(model.state_dict())
        variants["encoding anew"] = lists("encoding anew", anew, **settings)
    num_users = len(night.histories[2]) - 1
    exact = recommenders["exact"]
    if options.device == "cpu" and options.dtype == "float32":
        num_rows = num_users * rows_scored(exact.decoding)
        products = products_alone(num_rows, *exact.catalogue.vectors_CW.shape)
        variants |= {f"products alone {n}": run for n, run in enumerate(products)}
    if options.variants:
        variants = {name: variants[name] for name in options.variants.split(",")}
    memory = {name: round(_memory_of(run)) for name, run in variants.items()}
    alone = 0.0
    for name, seconds in _median_seconds(variants, options.rounds, options.device):
        figures = {"variant": name, "users": num_users, "items": model.num_items}
        figures |= {"users_per_s": round(num_users / seconds, 2), "lists_mib": memory[name]}
        if name.startswith("products alone"):
            alone = max(alone, num_users / seconds)
            continue
        if name == "shortlist":
            uncertain = recommenders[name].num_uncertain / (options.rounds + 3)
            figures["uncertain_steps_per_user"] = round(uncertain / num_users, 4)
        yield figures
    if alone:
        yield {"variant": "products alone", "users": num_users, "users_per_s": round(alone, 2)}


@dataclass(frozen=True)
class _Night:
    """What lists are made from."""

    model: SequenceModel
    moment: Moment
    allowed: npt.NDArray[np.bool_]
    histories: Histories


def _random_night(options: argparse.Namespace) -> _Night:
    histories = _histories(options)
    return _Night(
        SequenceModel(_model_config(options, num_slots=options.k), options.items, seed=SEED),
        Moment(options.max_len * DAY, _trends(options, histories)[0]),
        np.ones(options.items, dtype=bool),
        histories,
    )


def _night_of(options: argparse.Namespace) -> _Night:
    """Trained weights and real histories: those of a run directory, runs/ds=.../..."""
    run = Storage.of(options.run)
    checkpoint = load_checkpoint(run.sub("checkpoint"))
    (trends,) = parse_tensors(run.read_bytes("state/score/trends.safetensors"))[0].values()
    flat = flatten(run.read_table(f"sequences/{bucket_name(0)}"))
    offsets = flat.offsets[: options.users + 1]
    # the trends and the lists are as of the run date, the end of what the weights know
    return _Night(
        checkpoint.model,
        Moment(checkpoint.trained_before, trends.numpy()),
        checkpoint.candidates(),
        (flat.items[: offsets[-1]], flat.times[: offsets[-1]], offsets),
    )
