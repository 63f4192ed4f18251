"""Examples -> a batch: what is masked in it, and what must be predicted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.counters.pairs import Pairing, are_seen, as_pairs, joined_pairs, with_similar
from diffsasrec.counters.popular import Popular
from diffsasrec.counters.similar import Similar
from diffsasrec.model.baskets import Baskets
from diffsasrec.model.batch import Batch
from diffsasrec.model.diffusion import MASK, forward_process, stratified_levels
from diffsasrec.model.features import OwnItems, end_ages, own_items, user_features
from diffsasrec.model.heads.pairs import Pairs
from diffsasrec.sequences.histories import Histories, stretches
from diffsasrec.train.examples import DRAWN, Events, Ints, Part, next_baskets
from diffsasrec.typed_events import take


def make_batch(
    events: Events,
    part: Part,
    *,
    query_times: Ints,
    model: ModelConfig,
    objective: ObjectiveConfig,
    generator: torch.Generator,
    filter_seen: bool,
    similar: Callable[[int], Similar] | None = None,
    popular: Callable[[int], Popular] | None = None,
) -> Batch:
    """Draws boundaries and masks for the rows of a rank and builds them.

    Each rank draws for all rows of the global batch, and so the same. Counts are those of its own
    rows; sums over the ranks belong there. `similar`, `popular`: as of a query time, by its number.
    """
    plan = _draw_plan(part, model, objective, generator)
    width = plan.width_L
    source_BT, next_BL = plan.sources(events)
    targets_BT = torch.from_numpy(_take(events.items, source_BT, plan.exists_BT))
    inputs_BT = targets_BT.masked_fill(plan.masked_BT, MASK)
    known = _at_query_times(events, part, query_times, model, filter_seen, similar, popular)
    return Batch(
        history_BL=inputs_BT[:, :width],
        gaps_BL=torch.from_numpy(_take(events.gaps, source_BT[:, :width], plan.in_history_BL)),
        **vars(known),
        lengths_B=torch.from_numpy(plan.lengths),
        slots_BS=inputs_BT[:, width:],
        num_slots_B=torch.from_numpy(plan.num_slots),
        targets_BT=targets_BT,
        next_BL=torch.from_numpy(_take(events.items, next_BL, plan.scored_BL)),
        scored_BL=torch.from_numpy(plan.scored_BL),
        masked_BT=plan.masked_BT,
        p_mask_BT=plan.p_mask_BT,
        num_examples=len(part.rows) * part.counts,
        num_scored=int(plan.scored_BL.sum()),
        num_maskable=plan.num_maskable,
        **_types(events, plan, source_BT),
    )


def _types(events: Events, plan: "_Plan", source_BT: Ints) -> dict[str, Any]:
    """The types of the history and of the slots, of a log with types.

    Behind a batch time, every slot has the type that lists ask for, whatever its event has.
    """
    if events.types is None:
        return {}
    width = plan.width_L
    types_BT = torch.from_numpy(_take(events.types.codes, source_BT, plan.exists_BT))
    slot_types_BS = types_BT[:, width:]
    if not plan.pretraining:
        slot_types_BS = torch.full_like(slot_types_BS, events.types.types.asked)
    return {"types_BL": types_BT[:, :width], "slot_types_BS": slot_types_BS}


@dataclass(frozen=True)
class _Known:
    """What is known as of each row's query time; nothing if the boundaries are drawn."""

    queries_B: Tensor
    ages_B: Tensor | None = None  # of the histories' ends
    users_BC: Tensor | None = None  # their features
    pairs: Pairs | None = None  # own items that are seen
    scored: Pairs | None = None
    shares_X: Tensor | None = None  # that each scored pair is of the user's next basket
    baskets: Baskets | None = None  # the next ones


def _at_query_times(
    events: Events,
    part: Part,
    query_times: Ints,
    model: ModelConfig,
    filter_seen: bool,
    similar: Callable[[int], Similar] | None,
    popular: Callable[[int], Popular] | None,
) -> _Known:
    examples = part.examples
    if (examples.query == DRAWN).any():
        return _Known(torch.from_numpy(examples.query))
    source, offsets = stretches(examples.first, examples.boundary)
    types = take(events.types, source)
    histories = Histories(events.items[source], events.times[source], offsets, types)
    query_times_B = query_times[examples.query]
    ages_B = torch.from_numpy(end_ages(histories.times, offsets, query_times_B))
    known = histories.items, histories.times, offsets, query_times_B
    own = own_items(*known, histories.weights())
    users_BC = torch.from_numpy(user_features(*known))
    pairing, others = Pairing.of(model, filter_seen=filter_seen), None
    pairs, scored = as_pairs(own), None
    if filter_seen and histories.types is not None:
        seen_X = are_seen(histories, own)
        pairs, others = as_pairs(own.take(seen_X)), as_pairs(own.take(~seen_X))
    if pairing.num_similar and (similar is not None or others is not None or not filter_seen):
        scored = _with_similar(examples.query, histories, own, pairing, similar, popular)
    elif not pairing.filter_seen:
        scored = pairs
    else:
        scored = others
    baskets, shares_X = next_baskets(events, examples), None
    if scored is not None and scored.ranks_XR is not None:
        shares_X = part.counts * baskets.shares_of(scored.users_X, scored.items_X)
    queries_B = torch.from_numpy(examples.query)
    return _Known(queries_B, ages_B, users_BC, pairs, scored, shares_X, baskets)


def _with_similar(
    queries_B: Ints,
    histories: Histories,
    own: OwnItems,
    pairing: Pairing,
    similar: Callable[[int], Similar] | None,
    popular: Callable[[int], Popular] | None,
) -> Pairs:
    """The pairs of each user, with what is known at its own query time."""
    parts = []
    for query in np.unique(queries_B).tolist():
        (users,) = np.nonzero(queries_B == query)
        tables = None if similar is None else similar(query)
        shown = None if popular is None else popular(query)
        theirs = histories.of_users(users), own.of_users(users)
        parts.append((users, with_similar(*theirs, tables, pairing, shown)))
    return joined_pairs(parts)


def _take(values: npt.NDArray[Any], source: Ints, exists: npt.NDArray[np.bool_]) -> Ints:
    """values[source], 0 where `exists` is false."""
    return np.where(exists, values[np.where(exists, source, 0)], 0).astype(np.int64)


@dataclass(frozen=True)
class _Plan:
    """What was drawn for some rows: where they lie and what is masked in them."""

    boundary: Ints
    lengths: Ints  # of the history before it
    num_slots: Ints  # behind it
    width_L: int
    exists_BT: npt.NDArray[np.bool_]
    scored_BL: npt.NDArray[np.bool_]
    masked_BT: Tensor
    p_mask_BT: Tensor
    num_maskable: int
    pretraining: bool

    @property
    def in_history_BL(self) -> npt.NDArray[np.bool_]:
        return self.exists_BT[:, : self.width_L]

    def sources(self, events: Events) -> tuple[Ints, Ints]:
        """Where the event of each place lies: of the history, then of the slots, [B, T]; and the
        event after each place of the history, [B, L].

        Slots behind a batch time, and the event after the history there, are targets.
        """
        place_T, width = np.arange(self.exists_BT.shape[1]), self.width_L
        boundary_B1 = self.boundary[:, None]
        first_event_B1 = boundary_B1 - self.lengths[:, None]
        history_BT, slots_BT = first_event_B1 + place_T, boundary_B1 + place_T - width
        if not self.pretraining:
            slots_BT = events.targets.after(boundary_B1, place_T - width)
        source_BT = np.where(place_T < width, history_BT, slots_BT)
        is_last_BL = place_T[:width] == self.lengths[:, None] - 1
        next_BL = np.where(is_last_BL, slots_BT[:, width : width + 1], history_BT[:, :width] + 1)
        return source_BT, next_BL


_NEXT, _RANDOM, _SUFFIX = 0, 1, 2  # mask patterns: one slot, the forward process, all slots


def _draw_plan(
    part: Part, model: ModelConfig, objective: ObjectiveConfig, generator: torch.Generator
) -> _Plan:
    """Which loss: a diffusion model takes the next-item loss at every history position if the
    history is causal (prefix). If it is not, or in fine-tuning, a share of the examples has a
    single masked slot instead. The forward process reaches into a history only if that is not
    causal.
    """
    examples = part.examples
    pretraining = bool((examples.boundary == DRAWN).all())
    is_sasrec = model.kind == "sasrec"
    is_dense = is_sasrec or (model.attention == "prefix" and pretraining)
    shares = _pattern_shares(model, objective, is_dense=is_dense)
    most = model.num_slots if pretraining else None
    pattern, num_slots = _draw_slots(part, shares, generator, most=most)
    boundary = examples.end - num_slots if pretraining else examples.boundary
    lengths = np.minimum(boundary - examples.start, model.max_seq_len)

    width = max(int(lengths.max(initial=1)), 1)
    in_history, in_slots = _places(lengths, num_slots, width)
    is_random = (pattern == _RANDOM)[:, None]
    maskable = in_history & is_random & (model.attention == "bidirectional")
    maskable = (in_slots | maskable) & (not is_sasrec) & part.counts
    masked_BT, p_mask_BT = _mask(maskable, is_random, generator, part, width=width, model=model)
    is_last = np.arange(width) == lengths[:, None] - 1
    scored = in_history[:, :width] & is_dense & (pretraining | is_last) & part.counts
    return _Plan(
        boundary=boundary,
        lengths=lengths,
        num_slots=num_slots,
        width_L=width,
        exists_BT=in_history | in_slots,
        scored_BL=scored,
        masked_BT=masked_BT,
        p_mask_BT=p_mask_BT,
        num_maskable=int(maskable.sum()),
        pretraining=pretraining,
    )


def _draw_slots(
    part: Part, shares: list[float], generator: torch.Generator, *, most: int | None
) -> tuple[Ints, Ints]:
    """The mask pattern of each example, and how many slots it has behind its boundary.

    `most`: at most so many slots if the boundary is drawn, as it keeps an event before it; None:
    the boundaries are given.
    """
    examples = part.examples
    draws = torch.rand((2, part.num_rows), generator=generator).numpy()[:, part.rows]
    bounds = np.cumsum(shares)
    pattern = np.searchsorted(bounds[:-1] / bounds[-1], draws[0], side="right")
    if most is None:
        longest = examples.end - examples.boundary
    else:
        longest = np.minimum(examples.end - examples.start - 1, most)
    num_slots = np.where(pattern == _RANDOM, longest, 1 + (draws[1] * longest).astype(np.int64))
    return pattern, np.where(pattern == _NEXT, 1, num_slots)


def _places(
    lengths: Ints, num_slots: Ints, width: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether each place holds an event of the history, or one behind the boundary, [B, T]."""
    place_T = np.arange(width + int(num_slots.max(initial=1)))
    in_slots = (place_T >= width) & (place_T < width + num_slots[:, None])
    return place_T < lengths[:, None], in_slots


def _mask(
    maskable: npt.NDArray[np.bool_],
    is_random: npt.NDArray[np.bool_],
    generator: torch.Generator,
    part: Part,
    *,
    width: int,
    model: ModelConfig,
) -> tuple[Tensor, Tensor]:
    """What is masked, and with which probability: all that can be, or by the forward process.

    That draws for the widest possible batch: how wide the rows of other ranks are, nobody knows
    here.
    """
    levels, most = stratified_levels(part.num_rows, generator), model.max_seq_len
    at = part.rows[:, None], np.r_[:width, most : most + maskable.shape[1] - width]
    wide = np.zeros((part.num_rows, most + model.num_slots), bool)
    wide[at] = maskable
    is_masked, p_mask = forward_process(torch.from_numpy(wide), levels, generator)
    masked_BT, p_mask_BT = is_masked[at], p_mask[at]
    whole_BT = torch.from_numpy(maskable & ~is_random)
    return masked_BT | whole_BT, torch.where(whole_BT, 1.0, p_mask_BT)


def _pattern_shares(
    model: ModelConfig, objective: ObjectiveConfig, *, is_dense: bool
) -> list[float]:
    if model.kind == "sasrec":
        return [1.0, 0.0, 0.0]
    next_item = 0.0 if is_dense else objective.next_item
    return [next_item, objective.random_mask, objective.suffix_mask]
