"""A score for the candidates of a user, learned among these alone.

Legend: B users, F trend features, X pairs (user, item), Z some of them.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diffsasrec.config.training import ModelConfig
from diffsasrec.model.features import NUM_OWN, NUM_SIMILAR, NUM_TRENDS
from diffsasrec.model.heads.pairs import Pairs

RANKER_WIDTH = 64
NUM_RANKS = 4  # of a candidate; one more where the nearest users count
BEHIND = 0.5  # how far what is no candidate lies behind the last one, in logits


class Ranker(nn.Module):
    """A score for the candidates of a user, learned among these alone.

    A softmax over a catalogue has to know first which items nothing points to. A ranker never sees
    those, and knows which place a candidate has among the others (two-stage recommenders, for
    instance Covington et al. 2016).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num_features = NUM_OWN + NUM_SIMILAR + config.scores_nearest
        num_features += NUM_RANKS + config.scores_nearest + NUM_TRENDS
        self.score = nn.Sequential(
            nn.Linear(num_features, RANKER_WIDTH),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(RANKER_WIDTH, RANKER_WIDTH),
            nn.SiLU(),
            nn.Linear(RANKER_WIDTH, 1, bias=False),  # a bias would move no softmax
        )

    def forward(self, pairs: Pairs, trends_XF: Tensor) -> Tensor:
        """`trends_XF`: of the item of each pair, as of the query time of its user. -> [X]."""
        assert pairs.ranks_XR is not None
        pair_XC = torch.cat([pairs.features_XC, pairs.ranks_XR, trends_XF], dim=1)
        return self.score(pair_XC.to(next(self.parameters()).dtype))[:, 0]


def of_hits(pairs: Pairs, shares_X: Tensor) -> tuple[Pairs, Tensor]:
    """The pairs and shares of users of whose next basket a candidate is; the loss of others is 0.

    The candidates of most users hold nothing of it, so that this saves most of the ranker's work.
    """
    hit_B = shares_X.new_zeros(int(pairs.users_X.max()) + 1 if len(pairs.users_X) else 0)
    hit_B = hit_B.index_add(0, pairs.users_X, shares_X)
    chosen_Z = (hit_B > 0)[pairs.users_X].nonzero()[:, 0]
    return pairs.take(chosen_Z), shares_X[chosen_Z]


def ranking_loss(scores_X: Tensor, users_X: Tensor, shares_X: Tensor) -> Tensor:
    """The sum over pairs of their share of the user's next basket times -log softmax, [].

    The softmax is that over the pairs of the user (the listwise loss of Cao et al. 2007, top one).
    """
    scores_X = scores_X.float()
    num_users = int(users_X.max()) + 1 if len(users_X) else 0
    zeros_B = scores_X.new_zeros(num_users)
    top_B = zeros_B.scatter_reduce(0, users_X, scores_X.detach(), "amax", include_self=False)
    below_X = scores_X - top_B[users_X]
    total_B = zeros_B.index_add(0, users_X, below_X.exp())
    return (shares_X * (total_B.log()[users_X] - below_X)).sum()


@dataclass(frozen=True)
class Ranking:
    """What a ranker adds to the logits of its candidates, where these have a part of the score."""

    added_X: Tensor
    is_copied_X: Tensor  # bool: has a copy score too
    weight: float

    @staticmethod
    def of(scores_X: Tensor, pairs: Pairs, weight: float) -> "Ranking":
        """What is no candidate lies `BEHIND` the last candidate of the user."""
        assert pairs.is_copied_X is not None
        num_users = int(pairs.users_X.max()) + 1 if len(pairs.users_X) else 0
        scores_X = scores_X.float()
        least_B = scores_X.new_zeros(num_users)
        least_B = least_B.scatter_reduce(0, pairs.users_X, scores_X, "amin", include_self=False)
        added_X = weight * (scores_X - least_B[pairs.users_X] + BEHIND)
        return Ranking(added_X, pairs.is_copied_X, weight)

    def take(self, chosen_Z: Tensor) -> "Ranking":
        return replace(self, added_X=self.added_X[chosen_Z], is_copied_X=self.is_copied_X[chosen_Z])
