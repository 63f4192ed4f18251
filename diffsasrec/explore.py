"""Exploring: a little of a list goes to items of which everyone gets too few.

Everything random here is a hash of the history, the query time and the item, so that a list does
not depend on batch mates and a rerun of a night makes the same one.

Legend: B users, R rows (user, slot), M choices per row, V items, X events.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

CHOICES = 100  # a slot explores among so many of its most probable items, or K where that is more


@dataclass(frozen=True)
class Exploration:
    """How `num_items` of a multi-step list are chosen.

    They have the highest log-probability - `lift` * log popularity + `temperature` * Gumbel noise.
    The lift is that of maximum mutual information (Li et al. 2016, arXiv 1510.03055), the noise
    that of LLaDA's sampling. Where they stand in the list is decided as for the other items.
    """

    num_items: int = 1
    lift: float = 0.25
    temperature: float = 0.5

    def adjusted(
        self,
        logprob_RM: Tensor,
        items_RM: Tensor,
        keys_R: Tensor,
        log_popularity_V: Tensor | None,
    ) -> Tensor:
        """What exploring ranks by, -inf where there is no item (-1); keys are `history_keys`."""
        adjusted_RM = logprob_RM + self.temperature * gumbel_noise(keys_R, items_RM)
        if log_popularity_V is not None:
            adjusted_RM = adjusted_RM - self.lift * log_popularity_V[items_RM.clamp(min=0)]
        return adjusted_RM.masked_fill(items_RM < 0, -torch.inf)


def history_keys(
    items: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    *,
    query_time: int,
) -> Tensor:
    """A number for each history as of the query time, [B] int64; any change changes it."""
    events_X = mix_bits(mix_bits(torch.from_numpy(items).long()) ^ torch.from_numpy(times))
    running_X = F.pad(events_X.cumsum(0), (1, 0))  # sums wrap around, and so do differences
    bounds = torch.from_numpy(offsets)
    history_B = running_X[bounds[1:]] - running_X[bounds[:-1]]
    return mix_bits(history_B ^ mix_bits(torch.tensor(query_time)))


def gumbel_noise(keys_R: Tensor, items_RM: Tensor) -> Tensor:
    """Standard Gumbel noise [R, M] float32, a function of a row's key and the item alone."""
    bits_RM = mix_bits(keys_R[:, None] ^ mix_bits(items_RM))
    uniform_RM = (_shifted(bits_RM, 12).double() + 0.5) * 2.0**-52  # never 0, never 1
    return -torch.log(-torch.log(uniform_RM)).float()


def mix_bits(values: Tensor) -> Tensor:
    """SplitMix64 (Steele et al. 2014), one step from each value: int64 in, int64 out."""
    values = values - 0x61C8864680B583EB
    values = (values ^ _shifted(values, 30)) * -0x40A7B892E31B1A47
    values = (values ^ _shifted(values, 27)) * -0x6B2FB644ECCEEE15
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, by: int) -> Tensor:
    """A logical shift to the right: torch has an arithmetic one."""
    return (values >> by) & (2 ** (64 - by) - 1)
