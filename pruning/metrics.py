"""Scores of single predictions, and what a sample of them says: values, bootstrap intervals, paired differences.

Every metric here is a ratio of two sums over examples, so that one bootstrap serves all of them: accuracy and SQuAD's scores are sums of
scores over counts, the F1 of a class is 2 TP / (2 TP + FP + FN). Resampling examples resamples both sums together.

SQuAD is scored as by the official scripts of v1.1 (Rajpurkar et al., 2016, arXiv:1606.05250) and v2.0 (2018, arXiv:1806.03822), summaries
by ROUGE (Lin, 2004, https://aclanthology.org/W04-1013) as the library `rouge-score` computes it.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
SEED = 0
_PERCENTILES = (2.5, 97.5)
_CHUNK = 2_000_000
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval, all in one unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric, example by example: its value is sum(numerator) / sum(denominator).

    Attributes:
        numerator: float64 [examples].
        denominator: float64 [examples]; 0 for an example that the metric does not count.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]

    @property
    def examples(self) -> int:
        """Number of examples that the metric counts."""
        return int(np.count_nonzero(self.denominator))

    def percent(self) -> float:
        """The metric over all examples, in percent; 0 when it counts none."""
        return float(np.nan_to_num(_ratio(self.numerator.sum(), self.denominator.sum())))


def mean_of(scores: Sequence[float], counted: Sequence[bool] | None = None) -> Scores:
    """The mean of `scores` [examples] over the examples that are `counted` (all of them by default)."""
    denominator = np.ones(len(scores)) if counted is None else np.asarray(counted, dtype=np.float64)
    return Scores(np.asarray(scores, dtype=np.float64) * denominator, denominator)


def class_f1(predicted: Sequence[int], labels: Sequence[int], positive: int) -> Scores:
    """F1 of the class `positive`, as a ratio of sums: each true positive counts 2 on both sides, each error 1 below.

    An example that is neither labelled nor predicted positive has no part in it.
    """
    said = np.asarray(predicted) == positive
    true = np.asarray(labels) == positive
    return Scores(2.0 * (said & true), said.astype(np.float64) + true.astype(np.float64))


def interval(scores: Scores, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The metric in percent with its percentile bootstrap 95 % interval (Efron, 1979)."""
    drawn = _resampled([scores], resamples, seed)[0]
    return _between(scores.percent(), drawn)


def difference_interval(scores: Scores, other: Scores, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """`scores` minus `other` in points, with its 95 % interval: both are resampled with the same examples, in the same order."""
    drawn, other_drawn = _resampled([scores, other], resamples, seed)
    return _between(scores.percent() - other.percent(), drawn - other_drawn)


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad_v1_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of one prediction as SQuAD v1.1 scores it: 0 or 1, and [0, 1]; the best over the gold answers."""
    said = normalize_answer(prediction)
    golds = [normalize_answer(answer) for answer in answers]
    return float(said in golds), max((_token_f1(said.split(), gold.split()) for gold in golds), default=0.0)


def squad_v2_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of one prediction as SQuAD v2.0 scores it; "" is the only right prediction where there is no answer.

    Gold answers that normalise to nothing are left out, as the official script does, and an empty side is right only beside an empty one.
    """
    said = normalize_answer(prediction)
    golds = [gold for gold in map(normalize_answer, answers) if gold] or [""]
    if not said:
        return float("" in golds), float("" in golds)
    return float(said in golds), max(_token_f1(said.split(), gold.split()) for gold in golds)


def rouge_scores(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """F1 of ROUGE-1, -2, -L and -Lsum of one summary, with stemming; of several references the best for each of them.

    ROUGE-L is of the whole summary; ROUGE-Lsum, which the literature reports of CNN/DailyMail, of its sentences, each on a line.
    """
    found = _rouge().score_multi([_sentence_a_line(reference) for reference in references], _sentence_a_line(prediction))
    return {name: float(score.fmeasure) for name, score in found.items()}


def _sentence_a_line(text: str) -> str:
    from pruning.sentence_splitting import sentences  # as in `_rouge`

    return "\n".join(sentence for line in text.splitlines() for sentence in sentences(line))


@cache
def _rouge() -> Any:  # noqa: ANN401 - the library carries no types
    from rouge_score.rouge_scorer import RougeScorer  # it imports nltk, which is slow to import

    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)


def best_threshold(margins: Sequence[float], span_scores: Sequence[float], has_answer: Sequence[bool]) -> float:
    """The null threshold with the best mean score: a row is answered with its span where margin <= threshold, with nothing elsewhere.

    Args:
        margins: [examples] null score minus best span score.
        span_scores: [examples] score in [0, 1] of answering with the best span.
        has_answer: [examples] whether the question has an answer; one that has none scores 1 for answering nothing.

    Thresholds lie halfway between neighbouring margins, and beyond the outermost by 1; of equally good ones the closest to 0 is taken.
    """
    order = np.argsort(np.asarray(margins), kind="stable")
    ordered = np.asarray(margins, dtype=np.float64)[order]
    gains = (np.asarray(span_scores, dtype=np.float64) - ~np.asarray(has_answer, dtype=bool))[order]
    totals = np.concatenate([[0.0], np.cumsum(gains)])  # [examples + 1]: the first k rows answered with their spans
    thresholds = np.concatenate([[ordered[0] - 1.0], (ordered[:-1] + ordered[1:]) / 2.0, [ordered[-1] + 1.0]])
    possible = np.concatenate([[True], ordered[:-1] < ordered[1:], [True]])  # equal margins cannot be told apart
    best = possible & np.isclose(totals, totals[possible].max(), rtol=0.0, atol=1e-9)
    return float(min(thresholds[best], key=abs))


def _token_f1(predicted: list[str], gold: list[str]) -> float:
    """F1 of two bags of words; 0 when they share none."""
    shared = (Counter(predicted) & Counter(gold)).total()
    return 2.0 * shared / (len(predicted) + len(gold)) if shared else 0.0


def _resampled(metrics: Sequence[Scores], resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """Each metric in percent over the same bootstrap resamples of the examples: one [resamples] for each.

    A metric is not a number where a resample has none of the examples that it counts.
    """
    examples = len(metrics[0].numerator)
    generator = np.random.default_rng(seed)
    drawn: list[list[NDArray[np.float64]]] = [[] for _ in metrics]
    rows = max(1, _CHUNK // examples)
    for start in range(0, resamples, rows):
        chosen = generator.integers(0, examples, size=(min(rows, resamples - start), examples))
        for parts, scores in zip(drawn, metrics, strict=True):
            parts.append(_ratio(scores.numerator[chosen].sum(axis=1), scores.denominator[chosen].sum(axis=1)))
    return [np.concatenate(parts) for parts in drawn]


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """numerator / denominator in percent, not a number where the denominator is 0."""
    percent: NDArray[np.float64] = np.full(np.shape(denominator), np.nan)
    return np.divide(100.0 * numerator, denominator, out=percent, where=np.asarray(denominator) > 0)


def _between(value: float, drawn: NDArray[np.float64]) -> Interval:
    """`value` with the percentiles of what was drawn; the value itself where nothing that was drawn is a number."""
    numbers = drawn[~np.isnan(drawn)]
    low, high = np.percentile(numbers, _PERCENTILES) if numbers.size else (value, value)
    return Interval(value, float(low), float(high))
