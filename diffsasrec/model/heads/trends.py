"""What the trends of an item add to its score.

Legend: R rows, D hidden size, V items, F trend features, C features of users.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffsasrec.model.features import NUM_OF_USER, NUM_TRENDS

NUM_MIXED = 16  # learned mixtures of trend features, besides the features themselves
MIX_WIDTH = 64
USER_WIDTH = 32


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
