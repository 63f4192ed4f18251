"""AdamW, of whole parameters and of the rows of a step; the average of an embedding by rows."""

import pytest
import torch
from torch import Tensor, nn

from diffsasrec.train.adamw import AdamW, EmbeddingRows

NUM_ITEMS, WIDTH, LR, DECAY = 6, 3, 0.1, 0.01
AVERAGES = [0.1, 0.4, 0.7, 0.9, 0.9, 0.9, 0.9, 0.9]  # of each step


def gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(NUM_ITEMS, WIDTH, generator=generator) for _ in AVERAGES]


def start() -> Tensor:
    return torch.randn(NUM_ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))


def test_it_is_torchs_own_to_the_last_bit_also_where_a_parameter_has_no_gradient_at_first():
    mine, torchs = ([nn.Parameter(start()), nn.Parameter(start()[0])] for _ in range(2))
    rates = (LR, 0.3)
    groups = [{"params": [p], "full_lr": lr} for p, lr in zip(mine, rates, strict=True)]
    adamw = AdamW(groups, weight_decay=DECAY)
    reference = torch.optim.AdamW([{"params": [p]} for p in torchs], weight_decay=DECAY)
    for number, gradient in enumerate(gradients()):
        share = min(1.0, (number + 1) / 3)
        for (whole, row), group in ((mine, None), (torchs, reference.param_groups)):
            whole.grad = gradient.clone()
            row.grad = gradient[1].clone() if number > 1 else None
            for each, lr in zip(group or (), rates, strict=False):
                each["lr"] = lr * share
        adamw.step(share)
        reference.step()
        assert all(map(torch.equal, mine, torchs))
    assert [float(adamw.state[p]["step"]) for p in mine] == [8.0, 6.0]


def step(rows: EmbeddingRows, chosen: Tensor, gradient_VD: Tensor, ema_decay: float) -> None:
    taken = rows.take(chosen)
    taken.grad = gradient_VD[chosen].clone()
    rows.update(chosen, taken, lr=LR, weight_decay=DECAY, ema_decay=ema_decay)


def test_where_every_step_sees_every_row_it_is_adamw_and_its_average():
    rows = EmbeddingRows(start(), start())
    dense, average = nn.Parameter(start()), start()
    optimizer = torch.optim.AdamW([dense], lr=LR, weight_decay=DECAY)
    for gradient, ema_decay in zip(gradients(), AVERAGES, strict=True):
        step(rows, torch.arange(NUM_ITEMS), gradient, ema_decay)
        dense.grad = gradient.clone()
        optimizer.step()
        average.lerp_(dense.detach(), 1 - ema_decay)
    assert torch.allclose(rows.weight_VD, dense, atol=1e-6)
    assert torch.allclose(rows.average_VD, average, atol=1e-6)


SEEN = [[0, 1, 4], [1], [], [0, 4, 5], [4], [1, 4], [0, 5], [4]]  # rows 2 and 3 never


@pytest.mark.parametrize("rows_at_once", [2, 100])
@pytest.mark.parametrize("settled", [[], [2], [0, 3, 4, 7], range(8)])
def test_each_row_is_trained_as_if_it_were_alone_and_averaged_over_all_steps(
    monkeypatch, settled, rows_at_once
):
    monkeypatch.setattr("diffsasrec.train.adamw.ROWS_AT_ONCE", rows_at_once)  # a size, for parts
    rows = EmbeddingRows(start(), start() + 1.0)
    for number, (gradient, ema_decay) in enumerate(zip(gradients(), AVERAGES, strict=True)):
        step(rows, torch.tensor(SEEN[number], dtype=torch.int64), gradient, ema_decay)
        if number in settled:
            rows.settle()
    rows.settle()
    for row in range(NUM_ITEMS):
        alone = nn.Parameter(start()[row])
        optimizer = torch.optim.AdamW([alone], lr=LR, weight_decay=DECAY)
        average = start()[row] + 1.0
        for number, (gradient, ema_decay) in enumerate(zip(gradients(), AVERAGES, strict=True)):
            if row in SEEN[number]:
                alone.grad = gradient[row].clone()
                optimizer.step()
            average.lerp_(alone.detach(), 1 - ema_decay)
        assert torch.allclose(rows.weight_VD[row], alone, atol=1e-6)
        assert torch.allclose(rows.average_VD[row], average, atol=1e-6)


def test_without_averaging_the_average_is_the_weights():
    rows = EmbeddingRows(start(), start())
    for number, gradient in enumerate(gradients()):
        step(rows, torch.tensor(SEEN[number], dtype=torch.int64), gradient, 0.0)
    rows.settle()
    assert torch.equal(rows.average_VD, rows.weight_VD)


def test_settled_rows_go_on_from_their_saved_state():
    rows = EmbeddingRows(start(), start())
    other = None
    for number, (gradient, ema_decay) in enumerate(zip(gradients(), AVERAGES, strict=True)):
        chosen = torch.tensor(SEEN[number], dtype=torch.int64)
        step(rows, chosen, gradient, ema_decay)
        if other is not None:
            step(other, chosen, gradient, ema_decay)
        if number == 3:
            rows.settle()
            other = EmbeddingRows(rows.weight_VD.clone(), rows.average_VD.clone())
            other.load({name: tensor.clone() for name, tensor in rows.state().items()})
    assert other is not None
    for one, two in ((rows.weight_VD, other.weight_VD), (rows.average_VD, other.average_VD)):
        assert torch.equal(one, two)
