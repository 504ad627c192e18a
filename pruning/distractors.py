"""Paragraphs that do not hold the answer: around a question's own, so that it has to be found, or in its place, so that none is there."""

import random
from collections.abc import Sequence
from dataclasses import replace

from pruning.examples import Example, QuestionExample


def with_distractors(examples: Sequence[QuestionExample], count: int, *, seed: int) -> list[Example]:
    """Put `count` other contexts of the list around each one, in random order, so that the answer has to be found among them.

    A context that holds any of the gold answers is not taken; answers keep their place in their own context.
    """
    rng = random.Random(seed)
    contexts = sorted({e.context for e in examples})
    return [_among_others(example, contexts, count, rng) for example in examples]


def with_wrong_paragraphs(examples: Sequence[QuestionExample], share: float, *, seed: int) -> list[Example]:
    """Add questions paired with a paragraph that does not contain their answers, until they are `share` of the result.

    The paragraph is drawn from the others of the list; one that holds any of the gold answers is not taken.
    """
    rng = random.Random(seed)
    answerable = [e for e in examples if e.answers]
    contexts = sorted({e.context for e in examples})
    wanted = round(len(examples) * share / (1 - share))
    added: list[Example] = []
    for example in rng.sample(answerable, min(wanted, len(answerable))):
        context = _unrelated(example, contexts, rng)
        if context is not None:
            added.append(replace(example, id=f"{example.id}/wrong-paragraph", context=context, answers=()))
    return [*examples, *added]


def _among_others(example: QuestionExample, contexts: Sequence[str], count: int, rng: random.Random) -> QuestionExample:
    drawn = [context for context in (_unrelated(example, contexts, rng) for _ in range(count)) if context is not None]
    place = rng.randint(0, len(drawn))
    before = "".join(f"{context} " for context in drawn[:place])
    after = "".join(f" {context}" for context in drawn[place:])
    answers = tuple(replace(answer, start=answer.start + len(before)) for answer in example.answers)
    return replace(example, context=before + example.context + after, answers=answers)


def _unrelated(example: QuestionExample, contexts: Sequence[str], rng: random.Random) -> str | None:
    gold = [answer.text.lower() for answer in example.answers]
    for _ in range(20):
        context = rng.choice(contexts)
        lowered = context.lower()
        if context != example.context and not any(text in lowered for text in gold):
            return context
    return None
