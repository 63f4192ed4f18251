"""A training that dies and goes on equals one that did not, bit for bit."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import save
from trainings import (
    FINETUNE,
    MODELS,
    PRETRAIN,
    SELECT,
    Death,
    die_at,
    make_job,
    result,
    steps_to,
    train,
    trained_by_rows,
    weights,
    with_dropout,
    write_run,
)

from diffsasrec.model.checkpoint import parse_tensors


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training per model with dropout, validation and sampled negatives, then a second phase."""
    roots = {}
    for name, model in MODELS.items():
        roots[name] = tmp_path_factory.mktemp(name)
        write_run(roots[name])
        train(make_job(roots[name], with_dropout(model), negatives=5), SELECT, FINETUNE)
    return roots


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_training_equals_an_unbroken_one_bit_for_bit(tmp_path, unbroken, name, step):
    write_run(tmp_path)
    job = make_job(tmp_path, with_dropout(MODELS[name]), negatives=5)
    with pytest.raises(Death):
        train(job, SELECT, FINETUNE, tell=die_at(step))
    taken: list[int] = []
    train(job, SELECT, FINETUNE, tell=steps_to(taken))
    # it dies before the save of that step: states are saved every two steps
    assert taken[0] == (step - 1) // 2 * 2 + 1
    for output in ("checkpoint_pretrained", "checkpoint"):
        assert weights(tmp_path, output) == weights(unbroken[name], output)
    for phase in ("pretrain", "finetune"):
        assert result(tmp_path, phase) == result(unbroken[name], phase)


@pytest.mark.parametrize("step", [2, 3, 5, 8, 12])
def test_a_resumed_training_by_rows_equals_an_unbroken_one_bit_for_bit(tmp_path, step):
    model = with_dropout(MODELS["prefix"])
    with trained_by_rows(True):
        for name in ("unbroken", "broken"):
            write_run(tmp_path / name)
        train(make_job(tmp_path / "unbroken", model, negatives=3), SELECT, FINETUNE)
        job = make_job(tmp_path / "broken", model, negatives=3)
        with pytest.raises(Death):
            train(job, SELECT, FINETUNE, tell=die_at(step))
        train(job, SELECT, FINETUNE)
    for output in ("checkpoint_pretrained", "checkpoint"):
        assert weights(tmp_path / "broken", output) == weights(tmp_path / "unbroken", output)


def test_a_training_that_dies_again_and_again_equals_an_unbroken_one(tmp_path, unbroken):
    write_run(tmp_path)
    model = with_dropout(MODELS["prefix"])
    for attempt, step in enumerate((3, 5, 6, 9, 12)):
        job = make_job(tmp_path, model, attempt=f"attempt-{attempt}", negatives=5)
        with pytest.raises(Death):
            train(job, SELECT, FINETUNE, tell=die_at(step))
    train(make_job(tmp_path, model, attempt="last", negatives=5), SELECT, FINETUNE)
    assert weights(tmp_path, "checkpoint") == weights(unbroken["prefix"], "checkpoint")


def test_the_newest_state_of_any_attempt_is_picked_up(tmp_path):
    write_run(tmp_path)
    # of two that ran at once, the one whose name sorts first came further
    for attempt, step in (("a-far", 8), ("b-near", 4)):
        other = tmp_path / attempt
        write_run(other)
        with pytest.raises(Death):
            train(make_job(other, MODELS["causal"], attempt=attempt), PRETRAIN, tell=die_at(step))
        shutil.copytree(other / "state", tmp_path / "state", dirs_exist_ok=True)
    taken: list[int] = []
    job = make_job(tmp_path, MODELS["causal"], attempt="c")
    train(job, PRETRAIN, tell=steps_to(taken))
    assert taken == [7, 8]


def test_a_finished_training_without_its_result_is_only_written_again(tmp_path):
    write_run(tmp_path)
    train(make_job(tmp_path, MODELS["prefix"]), SELECT)
    before, saved = weights(tmp_path), result(tmp_path, "pretrain")
    (tmp_path / "state" / "pretrain" / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoint_pretrained")
    train(make_job(tmp_path, MODELS["prefix"], attempt="two"), SELECT, tell=die_at(1))
    assert weights(tmp_path) == before and result(tmp_path, "pretrain") == saved


def test_an_attempt_keeps_its_two_newest_states(tmp_path):
    write_run(tmp_path)
    train(make_job(tmp_path, MODELS["causal"]), PRETRAIN)
    states = sorted(path.name for path in (tmp_path / "state" / "pretrain" / "one").iterdir())
    assert states == ["step-000000006.safetensors", "step-000000008.safetensors"]


def spoil(state: Path, *, data: bytes | None = None) -> None:
    """A state with one value that is no number, or with other bytes."""
    tensors, metadata = parse_tensors(state.read_bytes())
    tensors["average.items.weight"][0, 0] = float("nan")
    state.write_bytes(save(tensors, metadata) if data is None else data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "average.items.weight has values that are no finite numbers"),
        (b"", "it is damaged"),
        (b"\x08" + b"\0" * 7 + b"no json!", "it is damaged"),
    ],
)
def test_a_state_from_which_no_training_goes_on_is_passed_over_and_named(tmp_path, data, reason):
    for name in ("broken", "unbroken"):
        write_run(tmp_path / name)
    train(make_job(tmp_path / "unbroken", MODELS["prefix"]), PRETRAIN)
    job = make_job(tmp_path / "broken", MODELS["prefix"])
    with pytest.raises(Death):
        train(job, PRETRAIN, tell=die_at(7))
    path = "state/pretrain/one/step-000000006.safetensors"
    spoil(tmp_path / "broken" / path, data=data)
    taken: list[int] = []
    train(job, PRETRAIN, tell=steps_to(taken))
    assert taken[0] == 5  # after the state before
    assert weights(tmp_path / "broken") == weights(tmp_path / "unbroken")
    assert result(tmp_path / "broken", "pretrain")["ignored_states"] == [f"{path}: {reason}"]


def test_where_no_state_is_of_use_the_training_begins_anew(tmp_path):
    write_run(tmp_path)
    job = make_job(tmp_path, MODELS["prefix"])
    with pytest.raises(Death):
        train(job, PRETRAIN, tell=die_at(7))
    for path in (tmp_path / "state/pretrain/one").iterdir():
        spoil(path)
    taken: list[int] = []
    train(job, PRETRAIN, tell=steps_to(taken))
    assert taken == [*range(1, 9)]
