"""Examples -> a batch: what of it is masked, and what is asked for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.model.diffusion import MASK, forward_process, stratified_levels
from diffsasrec.model.features import end_ages
from diffsasrec.model.heads import own_pairs
from diffsasrec.model.objective import Batch
from diffsasrec.sequences.histories import stretches
from diffsasrec.train.examples import DRAWN, Events, Examples, Ints


def make_batch(
    events: Events,
    examples: Examples,
    *,
    query_times: Ints,
    model: ModelConfig,
    objective: ObjectiveConfig,
    generator: torch.Generator,
    rank: int,
    world_size: int,
) -> Batch:
    """Draws boundaries and masks for the global batch and builds the rows rank, rank + world, ...

    A rank without a row gets one that counts nothing. `query_times`: what `Examples.query` means.
    """
    items = events.items
    plan = _draw_plan(examples, model, objective, generator)
    rows = np.arange(rank, len(examples), world_size)
    counts = len(rows) > 0
    rows = rows if counts else np.zeros(1, np.int64)
    width = plan.width_L
    place_T = np.arange(plan.exists_BT.shape[1])
    first_event_B1 = (plan.boundary - plan.lengths)[rows, None]
    source_BT = np.where(
        place_T < width,
        first_event_B1 + place_T,
        plan.boundary[rows, None] + place_T - width,
    )
    masked_BT, scored_BL = plan.masked_BT[rows], plan.scored_BL[rows]
    targets_BT = torch.from_numpy(_take(items, source_BT, plan.exists_BT[rows]))
    inputs_BT = targets_BT.masked_fill(masked_BT, MASK)
    in_history_BL = plan.exists_BT[rows, :width]
    query = examples.query[rows]
    ages_B = pairs = None
    if (query != DRAWN).all():
        source, offsets = stretches(examples.first[rows], examples.boundary[rows])
        own = (events.items[source], events.times[source], offsets, query_times[query])
        ages_B = torch.from_numpy(end_ages(*own[1:]))
        pairs = own_pairs(*own)
    return Batch(
        history_BL=inputs_BT[:, :width],
        gaps_BL=torch.from_numpy(_take(events.gaps, source_BT[:, :width], in_history_BL)),
        ages_B=ages_B,
        queries_B=torch.from_numpy(query),
        pairs=pairs,
        lengths_B=torch.from_numpy(plan.lengths[rows]),
        slots_BS=inputs_BT[:, width:],
        num_slots_B=torch.from_numpy(plan.num_slots[rows]),
        targets_BT=targets_BT,
        next_BL=torch.from_numpy(_take(items, source_BT[:, :width] + 1, scored_BL)),
        scored_BL=torch.from_numpy(scored_BL & counts),
        masked_BT=masked_BT & counts,
        p_mask_BT=plan.p_mask_BT[rows],
        num_scored=int(plan.scored_BL.sum()),
        num_maskable=plan.num_maskable,
    )


def _take(values: npt.NDArray[Any], source: Ints, exists: npt.NDArray[np.bool_]) -> Ints:
    """values[source], 0 where nothing exists."""
    return np.where(exists, values[np.where(exists, source, 0)], 0).astype(np.int64)


@dataclass(frozen=True)
class _Plan:
    """What was drawn for a global batch: where its rows lie and what is masked in them."""

    boundary: Ints
    lengths: Ints  # of the history before it
    num_slots: Ints  # behind it
    width_L: int
    exists_BT: npt.NDArray[np.bool_]
    scored_BL: npt.NDArray[np.bool_]
    masked_BT: Tensor
    p_mask_BT: Tensor
    num_maskable: int


_NEXT, _RANDOM, _SUFFIX = 0, 1, 2  # mask patterns: one slot, the forward process, all slots


def _draw_plan(
    examples: Examples,
    model: ModelConfig,
    objective: ObjectiveConfig,
    generator: torch.Generator,
) -> _Plan:
    """Which loss: a diffusion model takes the next-item loss at every history position where the
    history is causal (prefix); where it is not, or in fine-tuning, a share of the examples has a
    single masked slot instead. The forward process reaches into a history only if that is not
    causal.
    """
    num = len(examples)
    pretraining = bool((examples.boundary == DRAWN).all())
    is_sasrec = model.kind == "sasrec"
    is_dense = is_sasrec or (model.attention == "prefix" and pretraining)
    draws = torch.rand((2, num), generator=generator).numpy()
    shares = np.cumsum(_pattern_shares(model, objective, is_dense=is_dense))
    pattern = np.searchsorted(shares[:-1] / shares[-1], draws[0], side="right")
    if pretraining:
        longest = np.minimum(examples.end - examples.start - 1, model.num_slots)
    else:
        longest = examples.end - examples.boundary
    num_slots = np.where(pattern == _RANDOM, longest, 1 + (draws[1] * longest).astype(np.int64))
    num_slots = np.where(pattern == _NEXT, 1, num_slots)
    boundary = examples.end - num_slots if pretraining else examples.boundary
    lengths = np.minimum(boundary - examples.start, model.max_seq_len)

    width = max(int(lengths.max(initial=1)), 1)
    place_T = np.arange(width + int(num_slots.max(initial=1)))
    in_history = place_T < lengths[:, None]
    in_slots = (place_T >= width) & (place_T < width + num_slots[:, None])
    is_random = (pattern == _RANDOM)[:, None]
    maskable = in_slots | (in_history & is_random & (model.attention == "bidirectional"))
    maskable = maskable & (not is_sasrec)
    levels_B = stratified_levels(num, generator)
    masked_BT, p_mask_BT = forward_process(torch.from_numpy(maskable), levels_B, generator)
    whole_BT = torch.from_numpy(maskable & ~is_random)
    scored = in_history[:, :width] & is_dense
    if not pretraining:
        scored = scored & (place_T[:width] == lengths[:, None] - 1)
    return _Plan(
        boundary=boundary,
        lengths=lengths,
        num_slots=num_slots,
        width_L=width,
        exists_BT=in_history | in_slots,
        scored_BL=scored,
        masked_BT=masked_BT | whole_BT,
        p_mask_BT=torch.where(whole_BT, 1.0, p_mask_BT),
        num_maskable=int(maskable.sum()),
    )


def _pattern_shares(
    model: ModelConfig, objective: ObjectiveConfig, *, is_dense: bool
) -> list[float]:
    if model.kind == "sasrec":
        return [1.0, 0.0, 0.0]
    next_item = 0.0 if is_dense else objective.next_item
    return [next_item, objective.random_mask, objective.suffix_mask]
