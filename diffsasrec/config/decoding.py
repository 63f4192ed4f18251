"""How a list is made from a history: the settings of the library, and the first keys of `score`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffsasrec.config.fields import Fraction, NonNegativeInt, PositiveInt, Section
from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError

FUSED_MOST = 128  # best items that the kernels find; for more, the tiles are faster


class DecodingConfig(Section):
    k: PositiveInt = Field(10, description="items per user")
    decode: Literal["single", "multi", "autoregressive"] = Field(
        "single", description="how lists are made: at once, by denoising slots, item by item"
    )
    rank: Literal["next_item", "slot"] = Field(
        "next_item", description="order of a list: by next-item probability, or by slot"
    )
    steps: PositiveInt = Field(
        2, description="multi: at most so many denoising steps; exploring takes the last"
    )
    commit: Literal["threshold", "schedule"] = Field(
        "schedule", description="multi: which slots a step commits, where there are several"
    )
    threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="commit=threshold: confidence at which a slot is committed"
    )
    threshold_decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9, description="commit=threshold: the user's falls by this factor while no slot passes"
    )
    lookahead: Fraction = Field(
        0.5,
        description="multi: 0 scores every slot as the next item, 1 by its own state, "
        "which learned later items; between, a mix",
    )
    explore_items: NonNegativeInt = Field(
        1, description="multi: so many places of a list are for items rarely shown; 0: none"
    )
    explore_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5,
        description="such an item is at least so many times as probable as the one whose place "
        "it takes",
    )
    shortlist: NonNegativeInt = Field(
        512,
        description="multi: items per user that the steps look at where they provably suffice; "
        "0: all; lists are the same",
    )
    fused: bool = Field(
        False,
        description="GPU: kernels that keep logits on the chip, in Triton; lists are the same",
    )
    filter_seen: bool = Field(True, description="never recommend what the user has touched")
    batch_size: PositiveInt = Field(256, description="users decoded at once")

    @property
    def explores(self) -> bool:
        return self.decode == "multi" and self.explore_items > 0

    def check_slots(self, model: ModelConfig) -> None:
        """Checks that a model has the mask slots that such lists need.

        Raises:
            ConfigError: it has none, or too few.
        """
        if self.decode == "multi" and model.kind == "sasrec":
            raise ConfigError(
                "score.decode=multi needs mask slots. model.kind=sasrec has none; use single or "
                "autoregressive, or model.kind=diffusion"
            )
        needs_slots = self.decode != "single" and model.kind == "diffusion"
        if needs_slots and self.k > model.num_slots:
            raise ConfigError(
                f"score.k={self.k} with score.decode={self.decode} needs model.num_slots >= "
                f"{self.k}, it is {model.num_slots}; ask for fewer items, or use single"
            )

    @model_validator(mode="after")
    def _check_kernels(self) -> Self:
        if self.fused and self.k > FUSED_MOST:
            raise ValueError(
                f"score.fused=true decides nothing at score.k={self.k}: the kernels find at most "
                f"{FUSED_MOST} items; leave score.fused out"
            )
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.decode != "multi":
            return self
        sure_steps = self.steps - self.explores
        if sure_steps < 1:
            raise ValueError(
                f"score.explore_items={self.explore_items} takes the last step, but "
                f"score.steps={self.steps}; raise score.steps or set score.explore_items=0"
            )
        if self.explore_items >= self.k:
            raise ValueError(
                f"score.explore_items={self.explore_items} leaves no place of score.k={self.k}; "
                "lower it"
            )
        if sure_steps == 1 and self.commit != "schedule":
            raise ValueError(
                f"score.commit={self.commit} decides nothing where one step commits all; raise "
                f"score.steps, it is {self.steps} (exploring takes the last)"
            )
        return self
