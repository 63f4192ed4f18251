"""How the slots of lists were filled, step by step: on request, never in a night.

Legend: B users, K list length, D width, F filled slots.
"""

from dataclasses import dataclass, field

from torch import Tensor

from diffsasrec.retrieve.catalogue import Candidates
from diffsasrec.retrieve.shortlist import ascending, logits_of, own_among
from diffsasrec.retrieve.top_k import top_items


@dataclass(frozen=True)
class Step:
    """What one step filled."""

    kind: str  # "pass": one state for all; "commit", "explore", "next": a state for each slot
    users_F: Tensor
    slots_F: Tensor
    items_F: Tensor
    confidence_F: Tensor  # probability among all candidates left before the step


@dataclass
class Trace:
    """Records the steps of one batch while it is decoded."""

    steps: list[Step] = field(default_factory=list)

    def note(
        self,
        kind: str,
        before_BK: Tensor,
        after_BK: Tensor,
        states_BKD: Tensor,
        candidates: Candidates,
    ) -> None:
        """Records a step that has filled slots, and the states that it used."""
        users_F, slots_F = (before_BK != after_BK).nonzero(as_tuple=True)
        if not len(users_F):
            return
        states_FD = states_BKD[users_F, slots_F]
        # over the whole catalogue, even if the step has looked only at a shortlist
        normaliser_F = top_items(
            states_FD, users_F, candidates, 1, besides_BK=before_BK, normalise=True
        ).normaliser_R
        items_BK = ascending(after_BK)
        logits_FK = logits_of(
            states_FD, users_F, items_BK, candidates, own_among(candidates, items_BK)
        )
        items_F = after_BK[users_F, slots_F]
        place_F = (items_BK[users_F] == items_F[:, None]).int().argmax(1)
        logit_F = logits_FK.gather(1, place_F[:, None])[:, 0]
        confidence_F = (logit_F - normaliser_F).exp()
        self.steps.append(Step(kind, users_F, slots_F, items_F, confidence_F))
