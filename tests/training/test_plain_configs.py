"""The two plain systems to compare with, jobs/reference.yaml and jobs/vanilla.yaml: toy trainings.

Users walk round a circle of eight items, one a day.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sources import ROOT
from trainings import CUT, NUM_ITEMS, make_job, train, write_run

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint
from diffsasrec.train.phases import Phase

# as the circle needs; all else is that of the file
SHORT = ["pretrain.epochs=60", "pretrain.batch_size=8", "pretrain.learning_rate=0.005"]
SHORT += ["score.k=3", "evaluate.ks=[3]"]


def config_of(name: str, *overrides: str) -> Config:
    text = (ROOT / "jobs" / f"{name}.yaml").read_text()
    masked = ["model.num_slots=3", "pretrain.epochs=150"]  # masks alone teach a circle slowly
    return load_config(text, [*SHORT, *(masked if name == "reference" else []), *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """The run directory of each system."""
    roots = {name: tmp_path_factory.mktemp(name) for name in ("reference", "vanilla")}
    for name, root in roots.items():
        write_run(root)
        config = config_of(name)
        phase = Phase("pretrain", config.pretrain, CUT, "checkpoint")
        train(make_job(root, config.model), phase)
    return roots


def lists_of(root: Path, config: Config) -> npt.NDArray[np.int64]:
    """Of a user who has walked twelve steps to item 4, and of one whose last item is 2."""
    checkpoint = load_checkpoint(Storage.of(str(root)).sub("checkpoint"))
    recommender = Recommender(
        checkpoint.model,
        moment=Moment(CUT, None),
        allowed=checkpoint.candidates(),
        decoding=config.score.model_copy(update={"filter_seen": False}),
    )
    items = np.r_[np.arange(1, 13), np.arange(7, 19)].astype(np.int32) % NUM_ITEMS
    return recommender.recommend(items, np.zeros(24, np.int64), np.array([0, 12, 24]))[0]


@pytest.mark.parametrize("decode", ["single", "multi"])
def test_the_reference_fills_one_mask_or_three_with_what_comes_next(trained, decode: str):
    config = config_of("reference", f"score.decode={decode}")
    lists = lists_of(trained["reference"], config)
    assert lists[:, 0].tolist() == [5, 3]
    assert all(len({*row}) == 3 for row in lists.tolist())


def test_the_plain_sasrec_puts_first_what_comes_next(trained):
    lists = lists_of(trained["vanilla"], config_of("vanilla"))
    assert lists[:, 0].tolist() == [5, 3]


def test_both_are_plain_and_differ_in_diffusion_alone():
    reference, vanilla = (config_of(name).model for name in ("reference", "vanilla"))
    for model in (reference, vanilla):
        assert (model.hidden_size, model.num_blocks, model.num_heads) == (50, 2, 2)
        assert (model.dropout, model.max_seq_len) == (0.2, 200)
        assert not (model.time_inputs or model.trends or model.copy_score or model.similar_items)
    assert (reference.kind, vanilla.kind) == ("diffusion", "sasrec")
    shares = config_of("reference").pretrain.objective
    assert (shares.next_item, shares.random_mask, shares.suffix_mask) == (0, 1, 0)
