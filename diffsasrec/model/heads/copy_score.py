"""A score for an item and a user, from how often the user had it, or what is like it.

Legend: R rows, D hidden size, W width of queries, C features of a pair with its trends, X pairs
(user, item), Y and Z pairs (row, item), H width of the score.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffsasrec.config.training import ModelConfig
from diffsasrec.model.features import NUM_OWN, NUM_SIMILAR, NUM_TRENDS
from diffsasrec.model.heads.pairs import Extras, pairs_of_rows
from diffsasrec.model.heads.ranker import Ranking

COPY_WIDTH = 64


class CopyScore(nn.Module):
    """A score for an item and a user, from the features of the pair, its trends and the state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout, hidden_size = config.dropout, config.hidden_size
        num_features = NUM_OWN + (NUM_SIMILAR if config.scores_similar else 0)
        num_features += config.scores_nearest
        # what is the same for every state is made once
        self.pair = nn.Sequential(
            nn.Linear(num_features + NUM_TRENDS, COPY_WIDTH),
            nn.SiLU(),
            nn.Linear(COPY_WIDTH, COPY_WIDTH),
        )
        self.state = nn.Linear(hidden_size, COPY_WIDTH)
        self.item = nn.Linear(hidden_size, COPY_WIDTH)
        self.out = nn.Linear(COPY_WIDTH, 1)

    def start(self) -> None:
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def hidden(self, pair_XC: Tensor, items_XD: Tensor, chosen_X: Tensor | None) -> Tensor:
        """What is the same for every state, [X, H]; 0 for pairs that are not chosen."""
        if chosen_X is None:
            return self.pair(pair_XC) + self.item(items_XD)
        (at_Z,) = chosen_X.nonzero(as_tuple=True)
        hidden_ZH = self.pair(pair_XC[at_Z]) + self.item(items_XD[at_Z])
        hidden_XH = hidden_ZH.new_zeros((len(pair_XC), hidden_ZH.shape[1]))
        return hidden_XH.index_copy(0, at_Z, hidden_ZH)

    def rise(self, change_RD: Tensor) -> Tensor:
        """An upper bound on the rise of any score for this change of the state, [R].

        The slope of SiLU lies between -0.1 and 1.1.
        """
        product_RH = (change_RD @ self.state.weight.T) * self.out.weight
        return torch.where(product_RH > 0, 1.1 * product_RH, -0.1 * product_RH).sum(-1)


@dataclass(frozen=True)
class OwnItems:
    """The items with a score, by user and item, and what a score needs of them."""

    copy_score: CopyScore
    users_X: Tensor
    items_X: Tensor
    hidden_XH: Tensor  # what is the same for every state
    ranking: Ranking | None = None

    def of_rows(self, queries_RW: Tensor, users_R: Tensor) -> Extras:
        """The score of each row for each item of its user."""
        rows_Y, at_Y = pairs_of_rows(users_R, self.users_X)
        if self.ranking is None:
            return Extras(rows_Y, self.items_X[at_Y], self._copied(queries_RW, rows_Y, at_Y))
        scores_Y = self.ranking.added_X[at_Y]
        (copied_Z,) = self.ranking.is_copied_X[at_Y].nonzero(as_tuple=True)
        # queries are scaled like the rest of the logits, and what this score reads of them is not
        rest = 1.0 - self.ranking.weight
        scores_Z = self._copied(queries_RW / rest, rows_Y[copied_Z], at_Y[copied_Z])
        scores_Y = scores_Y.index_add(0, copied_Z, rest * scores_Z.float())
        return Extras(rows_Y, self.items_X[at_Y], scores_Y)

    def _copied(self, queries_RW: Tensor, rows_Y: Tensor, at_Y: Tensor) -> Tensor:
        """The copy score of some rows and pairs, [Y]."""
        part = self.copy_score
        states_RD = queries_RW[:, : part.state.in_features]
        hidden_YH = F.silu(self.hidden_XH[at_Y] + part.state(states_RD)[rows_Y])
        hidden_YH = F.dropout(hidden_YH, part.dropout, part.training)
        return part.out(hidden_YH)[:, 0]

    def among(self, users_P: Tensor, items_P: Tensor) -> "OwnItems":
        """Only the own items that are in some pairs (user, item)."""
        keys_X, keys_P = self.users_X * 2**40 + self.items_X, users_P * 2**40 + items_P
        return self.take(torch.isin(keys_X, keys_P).nonzero()[:, 0])

    def take(self, chosen_Z: Tensor) -> "OwnItems":
        return OwnItems(
            self.copy_score,
            self.users_X[chosen_Z],
            self.items_X[chosen_Z],
            self.hidden_XH[chosen_Z],
            self.ranking and self.ranking.take(chosen_Z),
        )

    def rise(self, before_RW: Tensor, after_RW: Tensor) -> Tensor:
        """An upper bound on the rise of any score from one query to the other, [R].

        A ranking scales a query up and the score down: the bound is the same.
        """
        change_RW = (after_RW - before_RW)[:, : self.copy_score.state.in_features]
        return self.copy_score.rise(change_RW).float()
