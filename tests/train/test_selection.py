"""The weight of the state: which are tried, which one is kept, and what it comes to."""

from dataclasses import replace

import torch
from trainings import END, FINETUNE, MODELS, PRETRAIN, make_job, result, train, write_run

from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainStageConfig
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint
from diffsasrec.train.training_state import State
from diffsasrec.train.validation import STATE_WEIGHTS, best_of, given_weight, weights_to_try

NO_TRENDS = ModelConfig(trends=False)


def test_only_fine_tuning_with_trends_and_without_a_given_weight_has_a_choice():
    assert weights_to_try(FinetuneConfig(), ModelConfig()) == STATE_WEIGHTS
    assert weights_to_try(FinetuneConfig(state_weight=0.3), ModelConfig()) == (0.3,)
    assert weights_to_try(FinetuneConfig(), NO_TRENDS) == (1.0,)
    assert weights_to_try(FinetuneConfig(state_weight=0.3), NO_TRENDS) == (1.0,)
    assert weights_to_try(TrainStageConfig(), ModelConfig()) == (1.0,)


def test_a_phase_that_measures_nothing_takes_the_given_weight_or_that_of_its_start():
    assert given_weight(FinetuneConfig(state_weight=0.3), ModelConfig(), start=0.5) == 0.3
    assert given_weight(FinetuneConfig(), ModelConfig(), start=0.5) == 0.5
    assert given_weight(TrainStageConfig(), ModelConfig(), start=0.5) == 0.5


def test_of_two_weights_as_good_the_larger_is_kept():
    assert best_of(dict.fromkeys(STATE_WEIGHTS, 0.2)) == (1.0, 0.2)
    assert best_of({1.0: 0.1, 0.5: 0.3, 0.0: 0.2}) == (0.5, 0.3)


def test_the_best_epoch_is_kept_and_patience_ends_the_search_for_a_better_one():
    for patience, stopped in ((1, True), (2, False), (None, False)):
        state = State(epoch=1)
        assert state.note_epoch(0.3, 1.0, patience=patience)
        state.epoch = 2
        assert not state.note_epoch(0.2, 0.25, patience=patience)
        assert (state.best_epoch, state.state_weight, state.stopped) == (1, 1.0, stopped)


def test_the_chosen_weight_is_saved_and_taken_over_by_the_phase_that_repeats_it(tmp_path):
    write_run(tmp_path)
    select = replace(FINETUNE, name="select", output="selected", validate_before=END)
    again = replace(FINETUNE, epochs_from="select")
    train(make_job(tmp_path, MODELS["prefix"]), PRETRAIN, select, again)
    (record,) = result(tmp_path, "select")["history"]
    weight = result(tmp_path, "select")["state_weight"]
    assert record["state_weight"] == weight and weight in STATE_WEIGHTS
    run = Storage.of(str(tmp_path))
    for output in ("selected", FINETUNE.output):
        assert float(load_checkpoint(run.sub(output)).model.state_weight) == weight
    assert float(load_checkpoint(run.sub(PRETRAIN.output)).model.state_weight) == 1.0


def test_a_training_starts_with_the_weight_of_its_start(tmp_path):
    write_run(tmp_path)
    given = FINETUNE.settings.model_copy(update={"state_weight": 0.25})
    first = replace(FINETUNE, settings=given, output="first", name="first")
    later = replace(FINETUNE, init_from="first", output="later", name="later")
    train(make_job(tmp_path, MODELS["prefix"]), PRETRAIN, first, later)
    assert result(tmp_path, "later")["state_weight"] == 0.25


def test_with_the_weight_0_the_lists_do_not_depend_on_the_state(tmp_path):
    write_run(tmp_path)
    given = FINETUNE.settings.model_copy(update={"state_weight": 0.0})
    train(make_job(tmp_path, MODELS["prefix"]), PRETRAIN, replace(FINETUNE, settings=given))
    model = load_checkpoint(Storage.of(str(tmp_path)).sub(FINETUNE.output)).model
    states = torch.randn(5, MODELS["prefix"].hidden_size)
    queries = model.queries(states)
    assert torch.equal(queries, queries[:1].expand(5, -1))
    assert not queries[:, : states.shape[1]].any()
