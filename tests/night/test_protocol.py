"""Who is measured, on what, from which history and among which items: a slow reference decides."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.errors import RefusedError
from diffsasrec.files.storage import Storage, sha256, to_json
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.checkpoint import save_checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.buckets import bucket_name, bucket_of
from diffsasrec.sequences.fold import finish, fold
from diffsasrec.sequences.histories import Flat, flatten, only_items
from diffsasrec.sequences.holdout import targets_of
from diffsasrec.sequences.vocab import build_vocab, count_items, frequent_before_split
from diffsasrec.times import microseconds
from jobs.evaluate import main as evaluate
from jobs.night.expected_lists import Yardstick, audit_file
from jobs.night.records import Evaluated, Prepared
from jobs.night.replay import remake
from jobs.night.scoring import night_scoring
from jobs.score import main as score
from jobs.training.recipe import job_of

Row = tuple[int, str, int]  # user, item, time
SPLIT = 20


@dataclass
class Expected:
    known: Counter[str]  # the candidates, with their events before the split
    past: dict[int, list[str]]  # of the holdout users: what they had before the split
    targets: dict[int, list[str]]


def reference(ordered: dict[int, list[tuple[str, int]]], min_item_count: int) -> Expected:
    """The rule, one event after the other. `ordered`: histories without duplicates."""
    before = Counter(item for h in ordered.values() for item, time in h if time < SPLIT)
    known = Counter({item: n for item, n in before.items() if n >= min_item_count})
    past, targets = {}, {}
    for user, history in ordered.items():
        left = [(item, time) for item, time in history if item in known]
        earlier = [item for item, time in left if time < SPLIT]
        later = [time for _, time in left if time >= SPLIT]
        if earlier and later:
            basket = [item for item, time in left if time == min(later)]
            past[user], targets[user] = earlier, basket
    return Expected(known, past, targets)


def folded_of(rows: list[Row]) -> pa.Table:
    users, items, times = zip(*rows, strict=True)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    return fold(table, max_user_events=1000)[0]


def ordered_of(folded: pa.Table) -> dict[int, list[tuple[str, int]]]:
    columns = (folded[name].to_pylist() for name in ("user_id", "item_ids", "times"))
    return {u: list(zip(i, t, strict=True)) for u, i, t in zip(*columns, strict=True)}


def vocab_of(folded: pa.Table, min_item_count: int) -> pa.Table:
    items = folded["item_ids"].combine_chunks().flatten()
    times = folded["times"].combine_chunks().flatten().to_numpy()
    counts = count_items(items, times, split_time=SPLIT)
    return build_vocab(counts, min_item_count=min_item_count, item_type=pa.string(), previous=None)


def measured_of(flat: Flat, ids: list[str], known: npt.NDArray[np.bool_]) -> Expected:
    """The same, as flat arrays have it; without candidates."""
    users = flat.user_ids.to_pylist()
    before = flat.histories.first(flat.num_before)
    past, targets = {}, {}
    held = targets_of(flat.histories, flat.holdout, known)
    for number, place in enumerate(np.flatnonzero(flat.holdout >= 0)):
        user, bounds = users[place], held.offsets[number : number + 2]
        past[user] = [ids[i] for i in before.of_users(np.array([place])).items]
        targets[user] = [ids[i] for i in held.items[slice(*bounds)]]
    return Expected(Counter(), past, targets)


ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from("abcdefgh"), st.integers(10, 30)),
    min_size=1,
    max_size=80,
)


@settings(deadline=None, max_examples=200)
@given(ROWS, st.integers(1, 5))
def test_holdout_users_targets_histories_and_candidates_are_those_of_the_rule(rows, min_item_count):
    folded = folded_of(rows)
    expected = reference(ordered_of(folded), min_item_count)
    vocab = vocab_of(folded, min_item_count)
    ids = vocab["item_id"].to_pylist()
    known = frequent_before_split(vocab, min_item_count)
    assert {ids[place] for place in np.flatnonzero(known)} == set(expected.known)
    settings = {"split_time": SPLIT, "min_item_count": min_item_count}
    sequences, holdout, _ = finish(folded, vocab, user_type=pa.int64(), **settings)
    found = measured_of(only_items(flatten(sequences), known), ids, known)
    assert (found.past, found.targets) == (expected.past, expected.targets)
    columns = (holdout[name].to_pylist() for name in ("user_id", "item_id", "weight"))
    assert list(zip(*columns, strict=True)) == [
        (user, item, 1 / len(basket))
        for user, basket in sorted(expected.targets.items())
        for item in basket
    ]


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_where_no_item_is_rare_nothing_is_taken_out_of_what_is_measured(rows):
    folded = folded_of(rows)
    vocab = vocab_of(folded, 1)
    ids = vocab["item_id"].to_pylist()
    flat = flatten(finish(folded, vocab, split_time=SPLIT, user_type=pa.int64())[0])
    known = frequent_before_split(vocab, 1)
    assert measured_of(only_items(flat, known), ids, known) == measured_of(flat, ids, known)
    assert only_items(flat, np.ones(len(ids), bool)) is only_items(flat, None) is flat


def test_a_holdout_and_its_place_follow_what_is_taken_out():
    flat = Flat(
        user_ids=pa.array([1, 2, 3, 4]),
        items=np.array([0, 1, 2, 1, 0, 1, 0], np.int32),
        times=np.array([1, 2, 30, 31, 5, 30, 30], np.int64),
        offsets=np.array([0, 4, 4, 6, 7]),
        num_before=np.array([2, 0, 1, 0], np.int32),
        holdout=np.array([2, -1, 1, -1], np.int32),
    )
    left = only_items(flat, np.array([True, False, True]))
    assert left.items.tolist() == [0, 2, 0, 0] and left.times.tolist() == [1, 30, 5, 30]
    assert left.offsets.tolist() == [0, 2, 2, 3, 4]
    assert left.num_before.tolist() == [1, 0, 1, 0]
    assert left.holdout.tolist() == [1, -1, -1, -1]  # user 3's is gone


def test_every_training_counts_to_its_own_end(tmp_path: Path):
    config = load_config("lake: l\nevents: {path: log}\nsplit: {min_item_count: 7}")
    run = RunDir(Storage.of(str(tmp_path)), "2024-03-01", "r", "i", "a")
    prepared = Prepared(
        counts={},
        num_buckets=1,
        num_items=0,
        split_time=SPLIT,
        second_cut=SPLIT,
        time_quantiles=[1],
    )
    run.finish("prepare", prepared.to_json())
    job = job_of(config, run)
    assert job.min_item_count == 7
    # at any other time, as at the second cut, the buckets are counted
    assert job.counted == {SPLIT: "count_before", microseconds("2024-03-01"): "count"}


# --- the whole of `evaluate`: model and counters ---


def log_with_late_items() -> list[Row]:
    """Users with favourites; some items are hardly there before the split, and popular after it."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(90):
        favourites = rng.integers(0, 12, 3)
        for _ in range(int(rng.integers(2, 14))):
            time = int(rng.integers(0, 30))
            late = rng.random() < (0.5 if time >= SPLIT else 0.06)
            item = int(rng.integers(12, 20)) if late else int(rng.choice(favourites))
            rows.append((user, f"item-{item:02d}", time))
    return rows


def slow_metrics(lists: dict[int, list[str]], expected: Expected, k: int) -> dict[str, float]:
    gains = []
    for user, basket in expected.targets.items():
        places = [place for place, item in enumerate(lists[user][:k]) if item in basket]
        gains.append(sum(1 / np.log2(place + 2) for place in places) / len(basket))
    shown = {item for user in expected.targets for item in lists[user][:k]}
    shares = {item: count / expected.known.total() for item, count in expected.known.items()}
    popularity = [shares[item] for user in expected.targets for item in lists[user][:k]]
    return {
        "n": len(gains),
        f"NDCG@{k}": float(np.mean(gains)),
        f"Coverage@{k}": len(shown) / len(expected.known),
        f"MeanPopularity@{k}": float(np.mean(popularity)),
    }


def prepared_run(config: Config, folded: pa.Table, vocab: pa.Table, expected: Expected) -> RunDir:
    """A run whose log is prepared in two buckets, with random weights that are to be measured."""
    run = RunDir(Storage.of(config.lake), "2024-03-01", "r", "i", "a")
    run.storage.write_table("vocab/part-00000.parquet", vocab)
    buckets = bucket_of(folded["user_id"].combine_chunks(), 2)
    for bucket in (0, 1):
        tables = finish(
            folded.filter(pa.array(buckets == bucket)),
            vocab,
            split_time=SPLIT,
            user_type=pa.int64(),
            min_item_count=config.split.min_item_count,
        )
        for name, table in zip(("sequences", "holdout"), tables[:2], strict=True):
            run.storage.write_table(f"{name}/{bucket_name(bucket)}", table)
    counts = np.array([expected.known[item] for item in vocab["item_id"].to_pylist()])
    save_checkpoint(
        run.storage.sub("checkpoint_measured"),
        weights=SequenceModel(config.model, len(counts), seed=1).state_dict(),
        config=config.model,
        vocab=vocab,
        counts=counts,
        trained_before=SPLIT,
    )
    prepared = Prepared(
        counts={"users": folded.num_rows, "holdout_users": len(expected.targets)},
        num_buckets=2,
        num_items=len(counts),
        split_time=SPLIT,
        second_cut=12,
    )
    run.finish("prepare", prepared.to_json())
    run.finish("finetune", {})
    return run


@pytest.mark.parametrize("min_item_count", [1, 4])
def test_model_and_counters_are_measured_by_the_rule(cluster, tmp_path: Path, min_item_count: int):
    text = f"lake: {tmp_path}\nevents: {{path: log}}\nsplit: {{min_item_count: {min_item_count}}}\n"
    text += "model: {hidden_size: 8, num_blocks: 1, max_seq_len: 20}\n"
    text += "score: {k: 4, filter_seen: false}\nevaluate: {ks: [4], bootstrap_samples: 9}\n"
    folded = folded_of(log_with_late_items())
    expected = reference(ordered_of(folded), min_item_count)
    vocab = vocab_of(folded, min_item_count)
    late = set(vocab["item_id"].to_pylist()) - set(expected.known)
    assert bool(late) == (min_item_count > 1) and len(expected.targets) > 30
    config = load_config(text)
    run = prepared_run(config, folded, vocab, expected)

    record = evaluate(config, run)

    assert record.counts["holdout_users"] == len(expected.targets)
    rows = run.storage.read_tables("evaluation").to_pylist()
    lengths = {row["user_id"]: row["history_len"] for row in rows}
    assert lengths == {user: len(past) for user, past in expected.past.items()}
    lists = {row["user_id"]: [item["item_id"] for item in row["items"]] for row in rows}
    assert {item for items in lists.values() for item in items} <= set(expected.known)
    metrics = json.loads(run.storage.read_bytes("metrics.json"))
    own = {u: best(Counter(past), expected) for u, past in expected.past.items()}
    popular = dict.fromkeys(expected.targets, best(expected.known, expected))
    for name, shown in (("own most frequent", own), ("popular", popular)):
        slow = slow_metrics(shown, expected, 4)
        assert {key: metrics["baselines"][name][key] for key in slow} == pytest.approx(slow), name
    slow = slow_metrics(lists, expected, 4)
    assert {key: metrics["model"][key] for key in slow} == pytest.approx(slow)


def best(counts: Counter[str], expected: Expected) -> list[str]:
    return sorted((i for i in counts if i in expected.known), key=lambda i: (-counts[i], i))


# --- a model that is worse than a counter ---


def manifest_of(run: RunDir) -> bytes:
    """That of a published run, as far as lists are made again from it."""
    path = "checkpoint/config.json"
    return to_json({"files": [{"path": path, "sha256": sha256(run.storage.read_bytes(path))}]})


def late_run(tmp_path: Path, *sets: str) -> tuple[Config, RunDir]:
    """A run with random weights, which are worse than any counter, up to its measuring."""
    text = f"lake: {tmp_path}\nevents: {{path: log}}\n"
    text += "model: {hidden_size: 8, num_blocks: 1, max_seq_len: 20}\n"
    text += "score: {k: 4, filter_seen: false}\nevaluate: {ks: [4]}\n"
    config, folded = load_config(text, sets), folded_of(log_with_late_items())
    vocab, expected = vocab_of(folded, 1), reference(ordered_of(folded), 1)
    return config, prepared_run(config, folded, vocab, expected)


def scored_by(config: Config, run: RunDir, record: Evaluated, source: str) -> None:
    """Scores everyone with the weights that were measured; all lists pass the audit."""
    run.finish("evaluate", record.to_json())
    for info in run.storage.list("checkpoint_measured"):
        name = info.path.rpartition("/")[2]
        run.storage.write_bytes(f"checkpoint/{name}", run.storage.read_bytes(info.path))
    run.finish("refit", {})
    scored = score(config, run)
    lists = run.storage.read_tables("recommendations")
    assert set(lists["source"].to_pylist()) == {source}
    assert scored.counts[source] == lists.num_rows and scored.counts["left_out_inactive"] == 0
    scoring = night_scoring(config, run)
    for bucket in (0, 1):
        assert not audit_file(bucket, scoring, Yardstick.of(scoring))[1]
    run.storage.write_bytes("manifest.json", manifest_of(run))
    again = remake(config, run, bucket_name(0), lists["user_id"].combine_chunks()[:2])
    assert [row["source"] for row in again.rows] == [source] * len(again.rows)


def test_the_counter_that_was_best_before_makes_the_lists_of_a_model_that_is_worse(
    cluster, tmp_path: Path
):
    config, run = late_run(tmp_path)
    record = evaluate(config, run)
    metrics = json.loads(run.storage.read_bytes("metrics.json"))
    versus, counter = metrics["versus"], metrics["counter"]
    assert record.counter == counter and versus["interval"][1] < 0
    measured = metrics["model"]["NDCG@4"] - metrics["baselines"][counter["name"]]["NDCG@4"]
    assert versus["difference"] == pytest.approx(measured)
    of_users = [row for row in metrics["slices"] if row["by"] == "history_events"]
    assert sum(row["n"] for row in of_users) == versus["num_users"]
    mean = sum(row["n"] * row["difference"] for row in of_users) / versus["num_users"]
    assert mean == pytest.approx(versus["difference"])
    scored_by(config, run, record, "counter")


def test_such_a_model_is_refused_where_the_gate_says_so(cluster, tmp_path: Path):
    config, run = late_run(tmp_path, "gate.otherwise=refuse")
    with pytest.raises(RefusedError, match=r"below that of .* \(gate.otherwise=refuse\)"):
        evaluate(config, run)


def test_such_a_model_serves_where_the_gate_says_so_also_a_causal_one_item_by_item(
    cluster, tmp_path: Path
):
    causal = ("model.kind=sasrec", "model.attention=causal", "score.decode=autoregressive")
    config, run = late_run(tmp_path, "gate.otherwise=model", *causal)
    record = evaluate(config, run)
    assert record.counter is None
    scored_by(config, run, record, "model")
