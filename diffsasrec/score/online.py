"""Lists for a few users in this process, to serve them between two nights.

Weights, trends, rules and the counts of what lists show are the same as in a run. The histories are
as they are now. No Ray is started.
"""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.recommender import Recommender
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.event_types import EventTypes
from diffsasrec.files.storage import Storage, sha256
from diffsasrec.model.checkpoint import CONFIG, read_description
from diffsasrec.schema import TIMESTAMP, TYPE, canonical
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.list_maker import ListMaker
from diffsasrec.score.rule_ids import Rules
from diffsasrec.score.state_files import NIGHT_STATE
from diffsasrec.sequences.fold import finish, fold

NO_RULES = Rules()
COLUMNS = ("user_id", "item_id", "timestamp")


def check_description(run: Storage) -> None:
    """Checks the checkpoint's config.json, which vouches for its other files, with the manifest.

    Raises:
        ConfigError: the directory has no manifest, so it is not a published run.
        InfrastructureError: the file was changed after publishing.
    """
    path = f"checkpoint/{CONFIG}"
    try:
        files = json.loads(run.read_bytes("manifest.json"))["files"]
    except FileNotFoundError:
        raise ConfigError(f"{run.root} has no manifest.json; name a published run") from None
    if sha256(run.read_bytes(path)) not in [f["sha256"] for f in files if f["path"] == path]:
        raise InfrastructureError(
            f"{run.url(path)} is not the file that was published: its sha256 is not in "
            "manifest.json; restore it or publish another run"
        )


class OnlineRecommender:
    """Makes lists from histories of item ids.

    Args:
        run: the directory of a published run, {lake}/runs/ds=D/{run_id}.
        decoding: how lists are made; the nightly run takes it from `score` in its configuration.
            Exploring needs the run of a night that explored.
        rules: which items may be recommended, and which are boosted at the time of a question.
    """

    def __init__(self, run: str, decoding: DecodingConfig, *, rules: Rules = NO_RULES) -> None:
        storage = Storage.of(run)
        check_description(storage)
        self._maker = ListMaker(
            Scoring(
                run=storage,
                checkpoint="checkpoint",
                output="",
                users="all",
                query_time=read_description(storage.sub("checkpoint"))["trained_before"],
                state=NIGHT_STATE,
                active_since=None,
                rules=rules,
                decoding=decoding,
            ),
            "cpu",
        )

    def recommend(self, events: pa.Table, *, query_time: datetime) -> pa.Table:
        """A list for every user of `events`, sorted by user_id, in the schema of recommendations.

        Args:
            events: user_id, item_id and timestamp (a timestamp type): all events of each user, in
                any order; events of items that the run does not know are ignored. If the log of the
                run has types, a column `type` with their names; events of others are ignored.
            query_time: when the lists are asked for, with a time zone; later events are left out.

        Raises:
            ValueError: a column is missing or has a null.
        """
        assert isinstance(self._maker.recommender, Recommender)  # no counter was asked for
        types = self._maker.recommender.model.event_types
        for name in (*COLUMNS, *([TYPE] if types else [])):
            if name not in events.column_names or events[name].null_count:
                raise ValueError(f"events need a column {name} without nulls")
        now = (query_time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        user_type = events["user_id"].type
        times = events["timestamp"].cast(TIMESTAMP).cast(pa.int64())
        ids = canonical(events["user_id"]), canonical(events["item_id"])
        codes = None if types is None else _codes(events[TYPE], types)
        events = pa.table([*ids, times], names=COLUMNS)
        if codes is not None:
            events = events.append_column(TYPE, codes).filter(codes.is_valid())
            times = events["timestamp"]
        folded, _ = fold(events.filter(pc.less(times, now)), max_user_events=len(events))
        sequences, _, _ = finish(
            folded, self._maker.vocab, split_time=now, user_type=user_type, types=types
        )
        self._maker.move_to(now)
        return self._maker.lists(sequences)


def _codes(names: pa.ChunkedArray, types: EventTypes) -> pa.ChunkedArray:
    """The codes of types; null for a type that the run does not know."""
    known = pa.array(types.names, pa.string())
    return pc.index_in(names.cast(pa.string()), value_set=known).cast(pa.int8())
