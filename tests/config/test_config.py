"""The configuration refuses what it does not know, and nothing in it is decoration."""

import ast
from pathlib import Path

import pytest
from sources import ROOT

from diffsasrec.config.config import Config
from diffsasrec.config.load import leaf_keys, load_config
from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError

LEAST = "lake: lake\nevents: {path: log.parquet}\n"


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(text, overrides)
    return str(caught.value)


def test_the_least_config_has_defaults_for_everything_else():
    config = load_config(LEAST)
    assert (config.score.k, config.model.kind, config.seed) == (10, "diffusion", 0)


def test_an_unknown_key_names_the_nearest_known_one():
    assert "score.filter_seen" in refusal(LEAST + "score: {filter_sen: true}")
    assert "did you mean model" in refusal(LEAST + "modle: {kind: sasrec}")


def test_a_missing_key_is_named_with_the_way_to_set_it():
    assert "events.path" in refusal("lake: lake\nevents: {}")


def test_a_value_out_of_range_names_key_and_value():
    message = refusal(LEAST, "score.k=0")
    assert "score.k=0" in message


def test_heads_must_divide_the_width():
    assert "hidden_size=65" in refusal(LEAST, "model.hidden_size=65")


@pytest.mark.parametrize(
    ("kind", "attention", "decode", "word"),
    [
        ("sasrec", "causal", "multi", "score.decode=multi"),
        ("sasrec", "prefix", "single", "model.attention=prefix"),
        ("sasrec", "bidirectional", "single", "model.attention=bidirectional"),
        ("diffusion", "causal", "single", "model.attention=causal"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(kind, attention, decode, word):
    sets = [f"model.kind={kind}", f"model.attention={attention}", f"score.decode={decode}"]
    assert word in refusal(LEAST, *sets)


@pytest.mark.parametrize(
    ("kind", "attention", "decode"),
    [("sasrec", "causal", decode) for decode in ("single", "autoregressive")]
    + [
        ("diffusion", attention, decode)
        for attention in ("prefix", "bidirectional")
        for decode in ("single", "multi", "autoregressive")
    ],
)
def test_the_other_combinations_load(kind, attention, decode):
    sets = [f"model.kind={kind}", f"model.attention={attention}", f"score.decode={decode}"]
    assert load_config(LEAST, sets).score.decode == decode


def test_more_items_than_slots_are_refused_where_slots_are_decoded():
    assert "model.num_slots" in refusal(LEAST, "score.k=20", "score.decode=multi")
    assert load_config(LEAST, ["score.k=20"]).score.k == 20


def test_kernels_for_a_gpu_need_a_gpu():
    assert "score.gpus_per_actor is 0" in refusal(LEAST, "score.fused=true")
    on_a_gpu = ["score.fused=true", "score.gpus_per_actor=1"]
    assert load_config(LEAST, on_a_gpu).score.fused
    assert "score.k=129" in refusal(LEAST, *on_a_gpu, "score.k=129")


def test_exploring_needs_a_step_and_places_of_its_own():
    multi = "score.decode=multi"
    assert "score.steps=1" in refusal(LEAST, multi, "score.steps=1")
    assert "score.explore_items=10" in refusal(LEAST, multi, "score.explore_items=10")
    nowhere = [multi, "score.explore_items=0", "score.steps=1"]
    assert load_config(LEAST, nowhere).score.steps == 1
    assert load_config(LEAST, ["score.steps=1"]).score.decode == "single"


def test_a_commit_rule_needs_several_steps_to_choose_between():
    rule = ["score.decode=multi", "score.commit=threshold"]
    assert "score.commit=threshold" in refusal(LEAST, *rule)
    assert "score.commit=threshold" in refusal(
        LEAST, *rule, "score.explore_items=0", "score.steps=1"
    )
    assert load_config(LEAST, [*rule, "score.steps=3"]).score.commit == "threshold"
    assert load_config(LEAST, [*rule, "score.explore_items=0"]).score.steps == 2


def test_a_cut_off_beyond_the_list_and_an_unmeasured_gate_are_refused():
    assert "score.k" in refusal(LEAST, "evaluate.ks=[10, 20]")
    assert "NDCG@7" in refusal(LEAST, "gate.floors={NDCG@7: 0.1}")
    assert "gate" in refusal(LEAST, "gate.floors={NDCG@10: .nan}")


def test_overrides_are_yaml_values_on_dotted_paths():
    sets = ["pretrain.learning_rate=1e-3", "score.filter_seen=false", "evaluate.ks=[5, 10]"]
    config = load_config(LEAST, sets)
    assert config.pretrain.learning_rate == 0.001
    assert config.score.filter_seen is False
    assert config.evaluate.ks == (5, 10)


@pytest.mark.parametrize("override", ["score.k", "=3", "lake.x=1", "score.k=[1"])
def test_a_malformed_override_is_named_in_the_error(override: str):
    key, separator, _ = override.partition("=")
    assert f"--set {key}{separator}" in refusal(LEAST, override)


def test_a_config_is_frozen_and_its_digest_follows_its_values():
    config = load_config(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    assert config.sha256() == load_config(LEAST).sha256()
    assert config.sha256() != load_config(LEAST, ["seed=1"]).sha256()


def test_fine_tuning_may_be_left_out_and_pretraining_may_not():
    assert load_config(LEAST, ["finetune.epochs=0"]).finetune.epochs == 0
    assert "pretrain.epochs=0" in refusal(LEAST, "pretrain.epochs=0")


@pytest.mark.parametrize("share", ["0", "1", "-0.5"])
def test_batch_times_lie_in_a_real_part_of_the_events(share: str):
    assert f"finetune.query_share={share}" in refusal(LEAST, f"finetune.query_share={share}")


@pytest.mark.parametrize("flag", ["time_inputs", "trends", "copy_score"])
def test_each_counter_is_on_and_can_be_left_out(flag: str):
    assert getattr(load_config(LEAST).model, flag) is True
    assert getattr(load_config(LEAST, [f"model.{flag}=false"]).model, flag) is False


OTHERS = {"grid.yaml", "alerts.yaml"}  # no configurations
CONFIGS = sorted(path for path in ROOT.glob("jobs/*.yaml") if path.name not in OTHERS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_shipped_configs_load(path: Path):
    load_config(path.read_text(), source=path.name)


# A section also goes by these names where it is handed on as a whole.
ALIASES = {
    "pretrain": {"settings"},
    "finetune": {"settings"},
    "score": {"settings", "decoding"},
    "items": {"settings"},
    "iceberg": {"settings"},
    "train": {"train"},
    "model": {"config", "model"},
    "": {"config"},
}


def attributes_read(root: Path) -> set[tuple[str, str]]:
    """Every `owner.name` that is read in the sources, as (last name of the owner, name)."""
    read: set[tuple[str, str]] = set()
    for path in [*root.rglob("diffsasrec/**/*.py"), *root.rglob("jobs/**/*.py")]:
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = str(getattr(owner, "attr", None) or getattr(owner, "id", ""))
                read.add((name, node.attr))
    return read


def unread_keys(keys: list[str], read: set[tuple[str, str]]) -> list[str]:
    unread = []
    for key in keys:
        section, _, leaf = key.rpartition(".")
        root, last = section.split(".")[0], section.rpartition(".")[2]
        owners = {last} if last != root else {root, *ALIASES.get(root, set())}
        if not any((owner, leaf) in read for owner in owners):
            unread.append(key)
    return unread


def test_every_key_is_read_somewhere():
    assert unread_keys([key for key, _ in leaf_keys()], attributes_read(ROOT)) == []


def test_a_key_that_nothing_reads_is_found():
    read = attributes_read(ROOT)
    assert unread_keys(["score.decoration", "decoration"], read) == [
        "score.decoration",
        "decoration",
    ]


def test_every_key_says_what_it_means():
    assert [key for key, field in leaf_keys(Config) if not field.description] == []


def test_an_override_of_a_section_leaves_its_yaml_alias_alone():
    text = f"{LEAST}pretrain: &stage {{epochs: 2}}\nfinetune: *stage\n"
    config = load_config(text, ["finetune.epochs=0"])
    assert (config.pretrain.epochs, config.finetune.epochs) == (2, 0)


def test_similar_items_have_a_score_by_default_where_seen_items_are_filtered():
    def similar(*overrides: str) -> int | None:
        return load_config(LEAST, overrides).model.similar_items

    assert similar("score.filter_seen=true") == 100
    assert similar("score.filter_seen=false") == 0
    assert similar("score.filter_seen=true", "model.similar_items=7") == 7
    assert similar("score.filter_seen=true", "model.similar_items=0") == 0
    assert similar("score.filter_seen=true", "model.copy_score=false") == 0
    assert not ModelConfig().scores_similar  # without a night: only if it is said


def test_the_cut_off_and_the_metric_of_the_gate_follow_the_length_of_a_list():
    config = load_config(LEAST, ["score.k=5", "gate.max_relative_drop=0.1"])
    assert (config.evaluate.ks, config.gate.metric) == ((5,), "NDCG@5")
    assert config.resolved()["evaluate"]["ks"] == [5]
    assert config.resolved()["gate"]["metric"] == "NDCG@5"
    assert load_config(LEAST).evaluate.ks == (10,)
    config = load_config(LEAST, ["score.k=20", "evaluate.ks=[10, 20]"])
    assert (config.evaluate.ks, config.gate.metric) == ((10, 20), "NDCG@10")
    assert load_config(LEAST, ["gate.metric=HR@10"]).gate.metric == "HR@10"


def test_how_items_are_similar_is_refused_where_no_such_table_is_made():
    with pytest.raises(ConfigError, match=r"similar_items\.by=vectors decides nothing while"):
        load_config(LEAST, ["similar_items.by=vectors"])
    assert (
        load_config(LEAST, ["similar_items.by=vectors", "similar_items.k=3"]).similar_items.k == 3
    )
