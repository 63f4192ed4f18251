"""One bucket of six users, a checkpoint for their items, and how they are scored."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from similar_logs import random_similar

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.training import ModelConfig
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.model.features import NUM_TRENDS
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.schema import sequences_schema
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.rule_ids import Rules

SPLIT = 100
ITEMS = ["a", "b", "c", "d", "e", "f", "g", "h"]
CONFIG = ModelConfig(
    kind="diffusion", hidden_size=16, num_blocks=1, num_heads=2, max_seq_len=3, num_slots=3
)
# user, items, times, holdout: in the order of the bucket, which is that of user_id
USERS: list[tuple[int, str, list[int], int | None]] = [
    (1, "abcde", [10, 20, 30, 110, 120], 3),
    (2, "ab", [10, 20], None),
    (3, "", [], None),
    (5, "hgf", [50, 100, 130], 1),
    (8, "c", [150], None),
    (9, "", [], None),
]
POPULAR = np.log(np.array([1, 2, 8, 4, 4, 1, 1, 1]) / 22).astype(np.float32)
SCORING = Scoring(
    run=Storage.of("."),
    checkpoint="checkpoint",
    output="recommendations",
    users="all",
    query_time=200,
    state="state",
    active_since=None,
    rules=Rules(),
    decoding=DecodingConfig(k=3),
)
HOLDOUT = replace(SCORING, users="holdout", query_time=SPLIT)
SIMILAR = random_similar(8)
TRENDS = np.random.default_rng(0).normal(size=(8, NUM_TRENDS)).astype(np.float32)


def vocabulary(ids: Sequence[Any], item_type: pa.DataType, counts: Sequence[int]) -> pa.Table:
    columns = {
        "item_id": pa.array(ids, item_type),
        "index": pa.array(range(len(ids)), pa.int32()),
        "count": pa.array(counts, pa.int64()),
    }
    return pa.table(columns)


VOCAB = vocabulary(ITEMS, pa.string(), [9] * 8)


def checkpoint_of(vocab: pa.Table, weights: torch.Tensor | None = None) -> Checkpoint:
    model = SequenceModel(CONFIG, vocab.num_rows).eval()
    if weights is not None:
        model.load_state_dict(checkpoint_of(VOCAB).model.state_dict() | {"items.weight": weights})
    return Checkpoint(model=model, vocab=vocab, trained_before=SPLIT, model_version="0123456789ab")


CHECKPOINT = checkpoint_of(VOCAB)


def sequences(users=USERS, *, items=ITEMS, user_type=None, name=lambda user: user) -> pa.Table:
    rows = [
        {
            "user_id": name(user),
            "items": [items.index(item) for item in history],
            "times": times,
            "num_before": sum(time < SPLIT for time in times),
            "holdout": holdout,
        }
        for user, history, times, holdout in users
    ]
    return pa.Table.from_pylist(rows, sequences_schema(user_type or pa.int64()))
