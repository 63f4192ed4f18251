"""Lists per second: `jobs.benchmark score`."""

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.counters.tables import read_similar
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint, parse_tensors
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten
from diffsasrec.times import DAY

from ..planning.workload import products_alone, rows_scored
from .measure import (
    SEED,
    Histories,
    Variants,
    median_seconds,
    memory_of,
    model_config,
    random_histories,
    random_trends,
)
from .references import (
    Reencoding,
)

ALONE = "products alone"


def score(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Lists per second, beside the products alone, one step, and encoding at every step."""
    inputs = _random_inputs(options) if options.run is None else _inputs_of_run(options)
    recommenders = _recommenders(options, inputs)
    num_users = len(inputs.histories[2]) - 1
    variants: Variants = {
        name: partial(recommender.recommend, *inputs.histories)
        for name, recommender in recommenders.items()
    }
    if options.device == "cpu" and options.dtype == "float32":
        variants |= _products(recommenders["exact"], num_users)
    if options.variants:
        variants = {name: variants[name] for name in options.variants.split(",")}
    memory = {name: round(memory_of(run)) for name, run in variants.items()}
    alone = 0.0
    for name, seconds in median_seconds(variants, options.rounds, options.device):
        figures = {"variant": name, "users": num_users, "items": inputs.model.num_items}
        figures |= {"users_per_s": round(num_users / seconds, 2), "lists_mib": memory[name]}
        if name.startswith(ALONE):
            alone = max(alone, num_users / seconds)
            continue
        if name == "shortlist":
            uncertain = recommenders[name].num_uncertain / (options.rounds + 3)
            figures["uncertain_steps_per_user"] = round(uncertain / num_users, 4)
        yield figures
    if alone:
        yield {"variant": ALONE, "users": num_users, "users_per_s": round(alone, 2)}


@dataclass(frozen=True)
class _Inputs:
    """What lists are made from."""

    model: SequenceModel
    moment: Moment
    allowed: npt.NDArray[np.bool_]
    histories: Histories


def _recommenders(options: argparse.Namespace, inputs: _Inputs) -> dict[str, Recommender]:
    """The ways in which lists are made, by name."""
    model = inputs.model.to(options.device, getattr(torch, options.dtype)).eval()

    def recommender(model: SequenceModel, **settings: Any) -> Recommender:
        decoding = DecodingConfig(k=options.k, filter_seen=not options.keep_seen, **settings)
        return Recommender(model, moment=inputs.moment, allowed=inputs.allowed, decoding=decoding)

    settings = {"decode": options.decode, "steps": options.steps}
    exactly = settings | {"shortlist": 0}
    made = {"exact": recommender(model, **exactly)}
    if options.decode == "multi":
        made["shortlist"] = recommender(model, **settings)
    if options.device == "cuda":
        made["fused"] = recommender(model, **(exactly | {"fused": True}))
    if inputs.moment.similar is not None:
        made["exact, no ranker"] = recommender(_without_ranker(model), **exactly)
        made["exact, no pairs"] = recommender(_without_ranker(model, pairs=False), **exactly)
    if options.decode != "single":
        made["single step"] = recommender(model, decode="single")
    if options.decode == "multi" and model.config.attention == "prefix":
        anew = Reencoding(model.config, model.num_items).to(model.item_weight).eval()
        anew.load_state_dict(model.state_dict())
        made["encoding anew"] = recommender(anew, **exactly)
    return made


def _without_ranker(model: SequenceModel, *, pairs: bool = True) -> SequenceModel:
    """A copy of a model without the score of the ranker, or without any score of pairs."""
    bare = copy.deepcopy(model)
    bare.ranker_weight.zero_()
    if not pairs:
        bare.copy_score = None
    return bare


def _products(exact: Recommender, num_users: int) -> Variants:
    """The matrix products of the exact lists and nothing else, once per shape of a tile."""
    num_rows = num_users * rows_scored(exact.decoding)
    products = products_alone(num_rows, *exact.catalogue.vectors_CW.shape)
    return {f"{ALONE} {n}": run for n, run in enumerate(products)}


def _random_inputs(options: argparse.Namespace) -> _Inputs:
    histories = random_histories(options)
    return _Inputs(
        SequenceModel(model_config(options, num_slots=options.k), options.items, seed=SEED),
        Moment(options.max_len * DAY, random_trends(options, histories)[0]),
        np.ones(options.items, dtype=bool),
        histories,
    )


def _inputs_of_run(options: argparse.Namespace) -> _Inputs:
    """Trained weights and real histories: those of a run directory, runs/ds=.../..."""
    run = Storage.of(options.run)
    checkpoint = load_checkpoint(run.sub("checkpoint"))
    similar = None
    if checkpoint.model.config.scores_similar:
        similar = read_similar(run, "state/score/similar.safetensors")
    (trends,) = parse_tensors(run.read_bytes("state/score/trends.safetensors"))[0].values()
    flat = flatten(run.read_table(f"sequences/{bucket_name(0)}"))
    offsets = flat.offsets[: options.users + 1]
    # the trends and the lists are as of the run date, the end of what the weights know
    return _Inputs(
        checkpoint.model,
        Moment(checkpoint.trained_before, trends.numpy(), similar=similar),
        checkpoint.candidates(),
        (flat.items[: offsets[-1]], flat.times[: offsets[-1]], offsets),
    )
