"""Names of months in other languages than English, which alone `strptime` reads."""

import re

import pyarrow as pa
import pyarrow.compute as pc

# German, French, Spanish, Italian, Portuguese and Dutch, without accents, by the English one
_NAMES = {
    "January": "jan janv januar janvier januari janeiro janner jaen jaenner ene enero gen gennaio",
    "February": "feb fev fevr februar fevrier februari febrero febbraio fevereiro",
    "March": "mar mars marz maerz mrz mrt maart marzo marco",
    "April": "apr abr avr avril abril aprile",
    "May": "mai mei mag mayo maio maggio",
    "June": "jun juni juin junio junho giu giugno",
    "July": "jul juli juil juillet julio julho lug luglio",
    "August": "aug ago aout agosto augustus",
    "September": "sep sept set septembre septiembre settembre setembro setiembre",
    "October": "okt oct ott out oktober octobre octubre ottobre outubro",
    "November": "nov novembre noviembre novembro",
    "December": "dez dec dic dezember decembre diciembre dicembre dezembro",
}
_PATTERNS = {
    month: rf"(?i)\b(?:{names.replace(' ', '|')}|{month})\b\.?" for month, names in _NAMES.items()
}


def names_month(layout: str) -> bool:
    """Whether a format of `strptime` has the name of a month."""
    return "%b" in layout or "%B" in layout


def with_full_names(layout: str) -> str:
    """The format of the texts that `in_english` makes of those of another one."""
    return re.sub(r"%[bB]\.?", "%B", layout)


def in_english(texts: pa.Array) -> pa.Array:
    """Texts without accents, and with the full English name for each name of a month.

    A point behind a name goes with it: `3 févr. 2024` becomes `3 February 2024`.
    """
    texts = pc.replace_substring_regex(pc.utf8_normalize(texts, "NFD"), r"\p{M}", "")
    for month, pattern in _PATTERNS.items():
        texts = pc.replace_substring_regex(texts, pattern, month)
    return texts
