"""The types of configuration fields, and the base class of the sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeInt = Annotated[int, Field(ge=0)]


def check_gpus(key: str, number: float) -> None:
    if number > 1 and number % 1:
        raise ValueError(f"{key}={number:g}: above 1 Ray gives whole GPUs only; set it to 1")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
