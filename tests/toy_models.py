"""Models of twenty items whose random weights let every input matter.

Legend: B users, L history length, S slots, T history and slots, D hidden size, V items, F trend
features, W width of the item vectors, X pairs (user, item of the history).
"""

from typing import Any

import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig
from diffsasrec.model.transformer import SequenceModel

NUM_ITEMS = 20
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_blocks": 2,
    "num_heads": 2,
    "dropout": 0.0,
    "max_seq_len": 6,
    "num_slots": 3,
}
CAUSAL = ModelConfig(kind="sasrec", attention="causal", **SIZES)
PREFIX = ModelConfig(kind="diffusion", attention="prefix", **SIZES)
BIDIRECTIONAL = ModelConfig(kind="diffusion", attention="bidirectional", **SIZES)
CONFIGS = [CAUSAL, PREFIX, BIDIRECTIONAL]
MASKS = torch.tensor([[-1, -1, -1]])


def lively_model(config: ModelConfig) -> SequenceModel:
    """Random weights so large that an input which should matter does."""
    model = SequenceModel(config, NUM_ITEMS, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            parameter.add_(0.3 * noise)
    return model


@torch.no_grad()
def states_of(
    model: SequenceModel, history: list[int], slots: Tensor = MASKS, *, pad: int = 0, fill: int = 0
) -> tuple[Tensor, Tensor]:
    """States [L, D] of the events and [S, D] of the slots, `pad` times `fill` behind the events."""
    items_BL = torch.tensor([history + [fill] * pad], dtype=torch.int64)
    encoded = model.encode(items_BL, torch.tensor([len(history)]))
    if model.config.kind == "sasrec":
        assert encoded.states_BLD is not None
        return encoded.states_BLD[0, : len(history)], torch.zeros(0)
    states_BLD, slots_BSD = model.denoise(encoded, slots)
    return states_BLD[0, : len(history)], slots_BSD[0]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


# --- what is known as of a query time ---

OFF = {"time_inputs": False, "trends": False, "copy_score": False}

COUNTER_PARTS = ("age", "trends", "copy_score")
