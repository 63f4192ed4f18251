"""All that the lists of a scoring are made with, loaded once."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.counters.similar import Similar
from diffsasrec.counters.tables import read_similar
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.decode.trace import Trace
from diffsasrec.errors import ConfigError
from diffsasrec.model.checkpoint import load_checkpoint, parse_tensors
from diffsasrec.score.bucket_lists import (
    Scoring,
    known_trends,
    measured_items,
    read_bucket,
    score_bucket,
)
from diffsasrec.score.counter_lists import Counted, CounterLists
from diffsasrec.score.fallback import PopularLists
from diffsasrec.score.rules import allowed_items, boost_at, boosts_of, category_cap
from diffsasrec.score.state_files import COUNTER, POPULAR, SHOWN, SIMILAR, TRENDS
from diffsasrec.sequences.vocab import reindexing, same_items


def _tensor(scoring: Scoring, name: str) -> npt.NDArray[Any]:
    """The one tensor of a file of a scoring's state."""
    (tensor,) = parse_tensors(scoring.run.read_bytes(f"{scoring.state}/{name}"))[0].values()
    array: npt.NDArray[Any] = tensor.numpy()
    return array


class ListMaker:
    """Loads a model and all that its lists depend on once, then makes lists of buckets.

    Attributes:
        vocab: of the run; the items of `lists` are its indices.
        item_ids: of the weights, by index, as a trace has them.
        recommender: as of the scoring's query time.
    """

    def __init__(self, scoring: Scoring, device: str) -> None:
        self.scoring = scoring
        self._checkpoint = load_checkpoint(scoring.run.sub(scoring.checkpoint))
        # by the configuration, not by the hardware of the node: lists must not depend on placement
        self._checkpoint.model.to(device)
        self.vocab = scoring.run.read_tables("vocab")
        self.item_ids = self._checkpoint.vocab["item_id"].combine_chunks()
        self._known = measured_items(scoring, self.vocab)
        self._allowed = allowed_items(self._checkpoint, scoring.rules)
        self._cap = category_cap(self._checkpoint.vocab, scoring.rules)
        self._boosts = boosts_of(scoring.rules)
        trends = known_trends(_tensor(scoring, TRENDS), self.vocab, self._checkpoint.vocab)
        shown = None
        if scoring.decoding.explores:
            try:
                shown = _tensor(scoring, SHOWN)
            except FileNotFoundError:
                raise ConfigError(
                    f"{scoring.run.url(scoring.state)} has no {SHOWN}: the night of this run "
                    "did not explore; set score.explore_items to 0"
                ) from None
        boost = boost_at(scoring.query_time, self._boosts, self._checkpoint.vocab)
        self._moment = Moment(scoring.query_time, trends, shown, self._similar(), boost)
        self.recommender = self._counter_lists() or self._of_model()
        self._popular = self._popular_lists()

    def move_to(self, query_time: int) -> None:
        """Lists of the model are asked for at this time from now on, microseconds.

        What is boosted at this time is; trends stay those of the scoring.
        """
        assert isinstance(self.recommender, Recommender)
        boost = boost_at(query_time, self._boosts, self._checkpoint.vocab)
        before = self._moment.boost
        is_same = boost is before or (
            boost is not None and before is not None and np.array_equal(boost, before)
        )
        self._moment = replace(self._moment, query_time=query_time, boost=boost)
        if is_same:
            self.recommender.query_time = query_time
        else:
            self.recommender, self._popular = self._of_model(), self._popular_lists()

    def _of_model(self) -> Recommender:
        return Recommender(
            self._checkpoint.model,
            moment=self._moment,
            allowed=self._allowed,
            cap=self._cap,
            decoding=self.scoring.decoding,
        )

    def _popular_lists(self) -> PopularLists | None:
        """None: no user needs one."""
        scoring = self.scoring
        if scoring.users == "holdout":  # they have a history by definition
            return None
        shares = scoring.run.read_table(f"{scoring.state}/{POPULAR}")["log_share"].to_numpy()
        return PopularLists(
            shares,
            self.vocab,
            self._checkpoint.vocab,
            allowed=self._allowed,
            cap=self._cap,
            boost=self._moment.boost,
        )

    def _counter_lists(self) -> CounterLists | None:
        """By the checkpoint's vocabulary; None: the model makes the lists."""
        scoring = self.scoring
        if scoring.counter is None:
            return None
        counted = Counted.read(scoring.run, f"{scoring.state}/{COUNTER}")
        source, target = self.vocab, self._checkpoint.vocab
        if not same_items(source, target):
            counted = counted.reindexed(reindexing(source, target), target.num_rows)
        return CounterLists(
            scoring.counter,
            counted,
            query_time=scoring.query_time,
            allowed=self._allowed,
            cap=self._cap,
            decoding=scoring.decoding,
            boost=self._moment.boost,
        )

    def _similar(self) -> Similar | None:
        """By the checkpoint's vocabulary; None: its model scores no similar items."""
        if not self._checkpoint.model.config.scores_similar:
            return None
        found = read_similar(self.scoring.run, f"{self.scoring.state}/{SIMILAR}")
        source, target = self.vocab, self._checkpoint.vocab
        same = same_items(source, target)
        return found if same else found.reindexed(reindexing(source, target), target.num_rows)

    def read_bucket(self, name: str) -> pa.Table:
        """The rows of a bucket, with what is excluded for each user."""
        return read_bucket(self.scoring, name, self._checkpoint.vocab)

    def lists(
        self, sequences: pa.Table, *, fallback: bool = False, trace: Trace | None = None
    ) -> pa.Table:
        """`score_bucket` of one bucket's rows; on request, the fallback for all of them."""
        return score_bucket(
            sequences,
            self.vocab,
            self._checkpoint,
            self.scoring,
            recommender=None if fallback else self.recommender,
            popular=self._popular,
            known=self._known,
            trace=trace,
        )
