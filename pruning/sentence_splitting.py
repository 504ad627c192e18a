"""English text, split into its sentences."""

from functools import cache

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

ABBREVIATIONS = (
    *("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "gen", "col", "sen", "rep", "gov", "lt", "sgt", "capt", "rev"),
    *("vs", "etc", "al", "fig", "eq", "no", "vol", "inc", "corp", "co", "ltd", "e.g", "i.e", "u.s", "u.k", "u.n", "a.m", "p.m", "d.c"),
    *("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
)


def sentences(text: str) -> list[str]:
    """The sentences of an English text, by Punkt (Kiss & Strunk, 2006) with a list of abbreviations; spaces around them are gone."""
    return [" ".join(sentence.split()) for sentence in _splitter().tokenize(text) if sentence.strip()]


@cache
def _splitter() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)
