"""What a notice of the report is made of, and how it says numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    level: str  # bad: something is wrong; look: it may be
    title: str
    seen: str
    usual: str
    remedy: str
    section: str  # the id of the section with the numbers


def nights(number: int) -> str:
    return f"the last {number} nights" if number != 1 else "the last night"


def median_of(value: str | None, number: int) -> str:
    """What is usual on `number` nights, in words."""
    if value is None:
        return "no earlier night to compare with"
    return f"{value} (median of {nights(number)})"


def share(value: float) -> str:
    """A share in per cent, with as many digits as a small one needs."""
    if 0 < value < 1e-5:
        return "less than 0.001 %"
    digits = 0 if value == 0 else 3 if value < 0.001 else 2 if value < 0.1 else 1
    return f"{value * 100:.{digits}f} %"
