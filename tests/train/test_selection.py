"""How much state and ranker count: what is tried, what is kept, and what it comes to."""

from dataclasses import replace

import torch
from trainings import END, FINETUNE, MODELS, PRETRAIN, make_job, result, train, write_run

from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainStageConfig
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint
from diffsasrec.model.mix import Mix
from diffsasrec.train.training_state import State
from diffsasrec.train.validation import (
    RANKER_WEIGHTS,
    STATE_WEIGHTS,
    best_of,
    chooses_ranker,
    given_mix,
    mixes_to_try,
)

RANKING = ModelConfig(similar_items=9)
NO_TRENDS = ModelConfig(trends=False, similar_items=9)


def test_only_fine_tuning_with_trends_and_without_a_given_weight_has_a_choice():
    every = [Mix(weight) for weight in STATE_WEIGHTS]
    assert mixes_to_try(FinetuneConfig(), ModelConfig()) == every
    assert mixes_to_try(FinetuneConfig(state_weight=0.3), ModelConfig()) == [Mix(0.3)]
    assert mixes_to_try(FinetuneConfig(), NO_TRENDS) == [Mix(1.0)]
    assert mixes_to_try(FinetuneConfig(state_weight=0.3), NO_TRENDS) == [Mix(1.0)]
    assert mixes_to_try(TrainStageConfig(), ModelConfig()) == [Mix(1.0)]


def test_the_weights_of_the_state_are_tried_with_the_given_ranker_or_with_none():
    given = FinetuneConfig(ranker_weight=0.4)
    assert mixes_to_try(given, RANKING) == [Mix(weight, 0.4) for weight in STATE_WEIGHTS]
    assert mixes_to_try(FinetuneConfig(), RANKING) == [Mix(weight) for weight in STATE_WEIGHTS]
    assert mixes_to_try(given, ModelConfig()) == [Mix(weight) for weight in STATE_WEIGHTS]


def test_only_fine_tuning_of_a_model_with_a_ranker_chooses_its_weight():
    assert chooses_ranker(FinetuneConfig(), RANKING)
    assert not chooses_ranker(FinetuneConfig(ranker_weight=0.4), RANKING)
    assert not chooses_ranker(TrainStageConfig(), RANKING)
    for model in (ModelConfig(), NO_TRENDS, RANKING.model_copy(update={"ranker": False})):
        assert not chooses_ranker(FinetuneConfig(), model)


def test_a_phase_that_measures_nothing_takes_the_given_weights_or_those_of_its_start():
    start, given = Mix(0.5, 0.25), FinetuneConfig(state_weight=0.3, ranker_weight=0.0)
    assert given_mix(given, RANKING, start=start) == Mix(0.3, 0.0)
    assert given_mix(FinetuneConfig(), RANKING, start=start) == start
    assert given_mix(TrainStageConfig(), RANKING, start=start) == start


def test_of_two_as_good_the_first_is_kept():
    mixes = [Mix(1.0), Mix(0.5), Mix(0.5, 0.25)]
    assert best_of(dict.fromkeys(mixes, 0.2)) == (Mix(1.0), 0.2)
    assert best_of(dict(zip(mixes, (0.1, 0.3, 0.2), strict=True))) == (Mix(0.5), 0.3)


def test_the_best_epoch_is_kept_and_patience_ends_the_search_for_a_better_one():
    for patience, stopped in ((1, True), (2, False), (None, False)):
        state = State(epoch=1)
        assert state.note_epoch(0.3, Mix(1.0, 0.5), patience=patience)
        state.epoch = 2
        assert not state.note_epoch(0.2, Mix(0.25), patience=patience)
        assert (state.best_epoch, state.stopped) == (1, stopped)
        assert (state.state_weight, state.ranker_weight) == (1.0, 0.5)


def test_the_chosen_weight_is_saved_and_taken_over_by_the_phase_that_repeats_it(tmp_path):
    write_run(tmp_path)
    select = replace(FINETUNE, name="select", output="selected", validate_before=END)
    again = replace(FINETUNE, epochs_from="select")
    train(make_job(tmp_path, MODELS["prefix"]), PRETRAIN, select, again)
    (record,) = result(tmp_path, "select")["history"]
    weight = result(tmp_path, "select")["state_weight"]
    of_ranker = result(tmp_path, "select")["ranker_weight"]
    assert record["state_weight"] == weight and weight in STATE_WEIGHTS
    assert record["ranker_weight"] == of_ranker and of_ranker in (0.0, *RANKER_WEIGHTS)
    run = Storage.of(str(tmp_path))
    for output in ("selected", FINETUNE.output):
        model = load_checkpoint(run.sub(output)).model
        assert (float(model.state_weight), float(model.ranker_weight)) == (weight, of_ranker)
    assert float(load_checkpoint(run.sub(PRETRAIN.output)).model.state_weight) == 1.0


def test_a_training_starts_with_the_weights_of_its_start(tmp_path):
    write_run(tmp_path)
    given = FINETUNE.settings.model_copy(update={"state_weight": 0.25, "ranker_weight": 0.5})
    first = replace(FINETUNE, settings=given, output="first", name="first")
    later = replace(FINETUNE, init_from="first", output="later", name="later")
    train(make_job(tmp_path, MODELS["prefix"]), PRETRAIN, first, later)
    assert result(tmp_path, "later")["state_weight"] == 0.25
    assert result(tmp_path, "later")["ranker_weight"] == 0.5


def test_with_the_weight_0_the_lists_do_not_depend_on_the_state(tmp_path):
    write_run(tmp_path)
    given = FINETUNE.settings.model_copy(update={"state_weight": 0.0})
    train(make_job(tmp_path, MODELS["prefix"]), PRETRAIN, replace(FINETUNE, settings=given))
    model = load_checkpoint(Storage.of(str(tmp_path)).sub(FINETUNE.output)).model
    states = torch.randn(5, MODELS["prefix"].hidden_size)
    queries = model.queries(states)
    assert torch.equal(queries, queries[:1].expand(5, -1))
    assert not queries[:, : states.shape[1]].any()
