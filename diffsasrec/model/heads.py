"""What is added to the score of an item, from its trends and from how often the user had it.

Legend: R rows, V items, F trend features, C pair features, X pairs (user, item), Y and Z pairs
(row, item), M the most pairs of a row.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffsasrec.config.training import ModelConfig
from diffsasrec.model.features import NUM_OF_USER, NUM_OWN, NUM_SIMILAR, NUM_TRENDS

NUM_MIXED = 16  # learned mixtures of trend features, besides the features themselves
MIX_WIDTH = COPY_WIDTH = 64
USER_WIDTH = 32


@dataclass(frozen=True)
class Extras:
    """What is added to single logits: a score for pairs (row, item), each pair once, by row."""

    rows_Y: Tensor
    items_Y: Tensor
    scores_Y: Tensor  # -inf: the row can't have the item

    def of_rows(self, start: int, stop: int) -> "Extras":
        bounds = torch.tensor([start, stop], device=self.rows_Y.device)
        inside = slice(*torch.searchsorted(self.rows_Y, bounds).tolist())
        return Extras(self.rows_Y[inside] - start, self.items_Y[inside], self.scores_Y[inside])

    def add_to(self, logits_RV: Tensor) -> Tensor:
        where = (self.rows_Y, self.items_Y)
        return logits_RV.index_put(where, self.scores_Y.to(logits_RV.dtype), accumulate=True)

    def of_pairs(self, rows_Z: Tensor, items_Z: Tensor, *, num_items: int) -> Tensor:
        """The scores of some pairs, 0 if there is none, [Z]; items must be sorted within a row."""
        keys_Y = self.rows_Y * num_items + self.items_Y
        keys_Z = rows_Z * num_items + items_Z
        at_Z = torch.searchsorted(keys_Y, keys_Z).clamp(max=max(len(keys_Y) - 1, 0))
        if not len(keys_Y):
            return torch.zeros(len(keys_Z), device=keys_Z.device)
        return self.scores_Y[at_Z].float().masked_fill(keys_Y[at_Z] != keys_Z, 0.0)


def merged(one: Extras, other: Extras) -> Extras:
    """The pairs of both, by row, then item; no pair is in both."""
    rows_Y, items_Y = (
        torch.cat(both) for both in ((one.rows_Y, other.rows_Y), (one.items_Y, other.items_Y))
    )
    scores_Y = torch.cat([one.scores_Y.to(other.scores_Y.dtype), other.scores_Y])
    order_Y = items_Y.argsort(stable=True)
    order_Y = order_Y[rows_Y[order_Y].argsort(stable=True)]
    return Extras(rows_Y[order_Y], items_Y[order_Y], scores_Y[order_Y])


def pairs_of_rows(users_R: Tensor, pair_users_X: Tensor) -> tuple[Tensor, Tensor]:
    """For each row its user's pairs: rows [Y] and pairs [Y]; `pair_users_X` is sorted."""
    first_R = torch.searchsorted(pair_users_X, users_R)
    count_R = torch.searchsorted(pair_users_X, users_R, right=True) - first_R
    rows_Y = torch.repeat_interleave(count_R)
    return rows_Y, first_R[rows_Y] + _nth(rows_Y, count_R)


def _nth(rows_Y: Tensor, count_R: Tensor) -> Tensor:
    """The place of each pair among those of its row, [Y]; `rows_Y` is sorted."""
    return torch.arange(len(rows_Y), device=rows_Y.device) - (count_R.cumsum(0) - count_R)[rows_Y]


def padded(values_Y: Tensor, rows_Y: Tensor, num_rows: int) -> Tensor:
    """The values of each row side by side, [R, M], -inf behind the last; `rows_Y` is sorted."""
    count_R = torch.bincount(rows_Y, minlength=num_rows)
    width = int(count_R.max()) if num_rows else 0
    values_RM = torch.full((num_rows, width), -torch.inf, device=values_Y.device)
    where = (rows_Y, _nth(rows_Y, count_R))
    return values_RM.index_put(where, values_Y.detach().float())


@dataclass(frozen=True)
class Pairs:
    """Items with a score for a user, sorted by user, then item: `counters.pairs`."""

    users_X: Tensor
    items_X: Tensor
    features_XC: Tensor

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(*(tensor.to(device) for tensor in vars(self).values()))


class Trends(nn.Module):
    """Item trends -> columns of the item vectors; states and users -> the weights of these."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Linear(NUM_TRENDS, MIX_WIDTH), nn.SiLU(), nn.Linear(MIX_WIDTH, NUM_MIXED)
        )
        self.weights = nn.Linear(hidden_size, NUM_TRENDS + NUM_MIXED)
        self.of_user = nn.Sequential(
            nn.Linear(NUM_OF_USER, USER_WIDTH),
            nn.SiLU(),
            nn.Linear(USER_WIDTH, NUM_TRENDS + NUM_MIXED),
        )

    def start(self) -> None:
        """Gives all-time popularity, column 0, the weight 1, and everything else the weight 0."""
        parts = (self.weights, self.of_user[-1])
        for parameter in (parameter for part in parts for parameter in part.parameters()):
            nn.init.zeros_(parameter)
        with torch.no_grad():
            self.weights.bias[0] = 1.0

    def weights_of(self, states_RD: Tensor, users_RC: Tensor | None) -> Tensor:
        """`users_RC`: `features.user_features` of each row; None: they are not known."""
        # a state has length sqrt(D); scaled to 1 it moves the weights no faster than the bias does
        weights = self.weights(states_RD * states_RD.shape[-1] ** -0.5)
        return weights if users_RC is None else weights + self.of_user(users_RC.to(weights.dtype))

    def columns(self, trends_VF: Tensor) -> Tensor:
        if trends_VF.shape[1] < NUM_TRENDS:  # pretraining knows only all-time popularity
            return trends_VF
        return torch.cat([trends_VF, F.silu(self.mix(trends_VF))], dim=1)


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

    def of_rows(self, queries_RW: Tensor, users_R: Tensor) -> Extras:
        """The score of each row for each item of its user."""
        rows_Y, at_Y = pairs_of_rows(users_R, self.users_X)
        part = self.copy_score
        states_RD = queries_RW[:, : part.state.in_features]
        hidden_YH = F.silu(self.hidden_XH[at_Y] + part.state(states_RD)[rows_Y])
        hidden_YH = F.dropout(hidden_YH, part.dropout, part.training)
        return Extras(rows_Y, self.items_X[at_Y], part.out(hidden_YH)[:, 0])

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
        )

    def rise(self, before_RW: Tensor, after_RW: Tensor) -> Tensor:
        """An upper bound on the rise of any score from one query to the other, [R]."""
        change_RW = (after_RW - before_RW)[:, : self.copy_score.state.in_features]
        return self.copy_score.rise(change_RW).float()
