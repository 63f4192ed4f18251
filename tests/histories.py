"""Random models and histories of a few items, and the lists that are made of them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.training import ModelConfig
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.model.features import NUM_TRENDS
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.times import DAY, HOUR

NUM_ITEMS, K = 40, 5
SIZES = {
    "hidden_size": 16,
    "num_blocks": 1,
    "num_heads": 2,
    "dropout": 0.0,
    "max_seq_len": 6,
    "num_slots": NUM_ITEMS,
}
CONFIGS = {
    "causal": ModelConfig(kind="sasrec", attention="causal", **SIZES),
    "prefix": ModelConfig(kind="diffusion", attention="prefix", **SIZES),
    "bidirectional": ModelConfig(kind="diffusion", attention="bidirectional", **SIZES),
}
MODES = [  # attention and how it is decoded
    ("causal", "single"),
    ("causal", "autoregressive"),
    *((a, d) for a in ("prefix", "bidirectional") for d in ("single", "multi", "autoregressive")),
]
all_modes = pytest.mark.parametrize(("attention", "decode"), MODES)
Histories = list[list[int]]
NOW = 1000 * DAY
TRENDS = np.random.default_rng(7).normal(size=(NUM_ITEMS, NUM_TRENDS)).astype(np.float32)
MOMENT = Moment(NOW, TRENDS)
OFF = {"time_inputs": False, "trends": False, "copy_score": False}


def lively_model(attention: str, **flags: Any) -> SequenceModel:
    """Random weights that make unlike lists of unlike histories."""
    config = CONFIGS[attention].model_copy(update=flags)
    model = SequenceModel(config, NUM_ITEMS, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def random_histories(num: int, longest: int, seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, num)
    return [rng.integers(NUM_ITEMS, size=length).tolist() for length in lengths]


def flat(histories: Histories) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    lengths = [len(history) for history in histories]
    items = [item for history in histories for item in history]
    return np.array(items, np.int32), np.cumsum([0, *lengths])


def times_of(history: list[int]) -> list[int]:
    """Counted from the end: another event in front moves none of the others."""
    return [NOW - place**2 * 5 * HOUR for place in range(len(history), 0, -1)]


def lists_of(
    model: SequenceModel,
    histories: Histories,
    decoding: DecodingConfig,
    denied: tuple[int, ...] = (),
    moment: Moment = MOMENT,
    times: list[list[int]] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    allowed = np.ones(NUM_ITEMS, bool)
    allowed[list(denied)] = False
    items, offsets = flat(histories)
    times = times or [times_of(history) for history in histories]
    flat_times = np.array([time for user_times in times for time in user_times], np.int64)
    recommender = Recommender(model, moment=moment, allowed=allowed, decoding=decoding)
    return recommender.recommend(items, flat_times, offsets)
