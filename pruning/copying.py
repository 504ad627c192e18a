"""Copying as a first lesson in summarization: a document's own sentence is its summary, so any text will do.

The sentence most like the rest of its document is what gap-sentence generation takes out of it (Zhang et al., 2020, arXiv:1912.08777);
here it stays in, which teaches a decoder to read through its cross-attention where there is little text to learn from. Denoising, which
BART itself was made by (Lewis et al., 2020, arXiv:1910.13461, section 2.2), wants all of a text back from what is left of it: here words
are deleted, which needs no mask token, and sentences are in another order.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from rouge_score.tokenize import tokenize

from pruning.sentence_splitting import sentences

SentenceKind = Literal["best_sentence", "first_sentence"]
CopyKind = Literal[SentenceKind, "denoised"]
FEWEST_WORDS, MOST_WORDS = 6, 45
LONGEST_PASSAGE = 8
DELETED_WORDS = 0.2


def copies(document: str, *, kind: CopyKind, passages: int, seed: int) -> Iterator[tuple[str, str]]:
    """The document with one of its sentences, and the same for passages of it; or what noise leaves of each, with the whole of it.

    Args:
        document: Any text.
        kind: Which sentence, the one most like the others or the first; `denoised` for all of them, out of a text without a share of
            `DELETED_WORDS` of its words and with its sentences shuffled.
        passages: How many passages of 2 to `LONGEST_PASSAGE` consecutive sentences are drawn.
        seed: Of the passages and the noise.
    """
    found, rng = sentences(document), random.Random(seed)
    bags = [Counter(tokenize(sentence, None)) for sentence in found]
    for start, end in [(0, len(found)), *_passages(len(found), passages, rng)]:
        whole = " ".join(found[start:end])
        if kind == "denoised":
            yield _noised(found[start:end], rng), whole
            continue
        target = _chosen(bags[start:end], kind=kind)
        if target is not None:
            yield whole, found[start + target]


def chosen_sentence(found: Sequence[str], *, kind: SentenceKind) -> str | None:
    """Of a text's sentences the first, or the one with the best ROUGE-1 F1 against all others; None if none is of a summary's length."""
    target = _chosen([Counter(tokenize(sentence, None)) for sentence in found], kind=kind)
    return None if target is None else found[target]


def _noised(found: Sequence[str], rng: random.Random) -> str:
    """These sentences in random order without some of their words, of which one stays at least."""
    words = " ".join(rng.sample(found, len(found))).split()
    return " ".join([word for word in words if rng.random() >= DELETED_WORDS] or words[:1])


def _chosen(bags: Sequence[Counter[str]], *, kind: SentenceKind) -> int | None:
    fitting = [index for index, bag in enumerate(bags) if FEWEST_WORDS <= bag.total() <= MOST_WORDS]
    if not fitting or kind == "first_sentence":
        return fitting[0] if fitting else None
    whole: Counter[str] = Counter()
    for bag in bags:
        whole.update(bag)
    return max(fitting, key=lambda index: _likeness(bags[index], whole))


def _passages(length: int, count: int, rng: random.Random) -> list[tuple[int, int]]:
    """Stretches of consecutive sentences of a text of `length`, shorter than the whole, no two alike: first, and one past the last."""
    most = min(LONGEST_PASSAGE, length - 1)
    if most < 2:
        return []
    sizes = [rng.randint(2, most) for _ in range(count)]
    starts = [rng.randint(0, length - size) for size in sizes]
    return sorted({(start, start + size) for start, size in zip(starts, sizes, strict=True)})


def _likeness(sentence: Counter[str], whole: Counter[str]) -> float:
    """ROUGE-1 F1 of a bag of words against what else is in the whole that it is of; 0 where there is nothing else."""
    shared = sum(min(count, whole[word] - count) for word, count in sentence.items())
    return 2 * shared / whole.total()
