"""How long texts are: a distribution, stated in words that a user types (`384`, `16-384`, `32:5,128:3,384:2`) and drawn from a seed."""

import random
import re
from dataclasses import dataclass

from loadtests.errors import TextsError


@dataclass(frozen=True)
class Fixed:
    """Every text has so many tokens."""

    tokens: int

    def draw(self, source: random.Random) -> int:
        """A length."""
        return self.tokens

    def __str__(self) -> str:
        return f"{self.tokens}"


@dataclass(frozen=True)
class Uniform:
    """Every length from `shortest` to `longest`, both included, is as likely as another."""

    shortest: int
    longest: int

    def draw(self, source: random.Random) -> int:
        """A length."""
        return source.randint(self.shortest, self.longest)

    def __str__(self) -> str:
        return f"{self.shortest}-{self.longest}"


@dataclass(frozen=True)
class Mix:
    """Few lengths, each with its weight."""

    weights: tuple[tuple[int, float], ...]

    def draw(self, source: random.Random) -> int:
        """A length."""
        lengths, weights = zip(*self.weights, strict=True)
        return int(source.choices(lengths, weights)[0])

    def __str__(self) -> str:
        return ",".join(f"{tokens}:{weight:g}" for tokens, weight in self.weights)


Lengths = Fixed | Uniform | Mix


def parse_lengths(text: str) -> Lengths:
    """`384` is fixed, `16-384` uniform, `32:5,128:3,384:2` a mix with weights; `TextsError` for anything else."""
    if re.fullmatch(r"\d+", text):
        lengths: Lengths = Fixed(int(text))
    elif found := re.fullmatch(r"(\d+)-(\d+)", text):
        lengths = Uniform(int(found[1]), int(found[2]))
    elif re.fullmatch(r"\d+:[\d.]+(,\d+:[\d.]+)*", text):
        pairs = (pair.split(":") for pair in text.split(","))
        lengths = Mix(tuple((int(tokens), _weight(weight, text)) for tokens, weight in pairs))
    else:
        raise TextsError(f"{text!r} is no length; expected tokens (384), a range (16-384) or lengths with weights (32:5,384:2)")
    return _checked(lengths, text)


def _weight(word: str, text: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise TextsError(f"{text!r}: {word!r} is no weight; expected a number") from error


def _checked(lengths: Lengths, text: str) -> Lengths:
    match lengths:
        case Fixed(tokens):
            good = tokens > 0
        case Uniform(shortest, longest):
            good = 0 < shortest <= longest
        case Mix(weights):
            good = all(tokens > 0 for tokens, _ in weights) and sum(weight for _, weight in weights) > 0
    if not good:
        raise TextsError(f"{text!r}: lengths are at least 1 token, ranges go upwards, and some weight is above 0")
    return lengths
