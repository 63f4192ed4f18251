"""Ids of a command line in the type of a log."""

import re

import pyarrow as pa

from diffsasrec.errors import ConfigError
from diffsasrec.schema import canonical_type


def id_of(text: str, id_type: pa.DataType, *, option: str) -> pa.Scalar:
    """The id of that type which `text` spells.

    Args:
        option: where the text comes from, as in user or item.

    Raises:
        ConfigError: there is none.
    """
    if canonical_type(id_type) == pa.string():
        return pa.scalar(text, id_type)
    try:
        if not re.fullmatch(r"-?(0|[1-9][0-9]*)", text):  # 007 is no integer of a log
            raise ValueError
        return pa.scalar(int(text), id_type)
    except (ValueError, OverflowError, pa.ArrowException):
        raise ConfigError(f"--{option} {text}: {option} ids of this log are {id_type}") from None
