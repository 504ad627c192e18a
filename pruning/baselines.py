"""What a summarizer has to beat: a document's first sentence, and its sentence that a pretrained encoder finds most like the whole."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.sentence_splitting import sentences

FIRST, MOST_SIMILAR = "first sentence", "most similar sentence"


def first_sentences(documents: Sequence[str]) -> list[str]:
    """The first sentence of each document; the document where it has none."""
    return [next(iter(sentences(document)), document) for document in documents]


def most_similar_sentences(
    documents: Sequence[str], encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[str]:
    """The sentence of each document whose embedding is most like the document's, by cosine; the document where it has none.

    Embeddings are means over tokens (Reimers & Gurevych, 2019, arXiv:1908.10084), of texts cut at `max_length` tokens.
    """
    found = []
    for document in tqdm(documents, desc="baseline", unit="document"):
        each = sentences(document) or [document]
        vectors = _embeddings([document, *each], encoder, tokenizer, max_length=max_length)
        found.append(each[int((vectors[1:] @ vectors[0]).argmax())])
    return found


@torch.no_grad()
def _embeddings(texts: Sequence[str], encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Tensor:
    """Float `[texts, hidden]` of length 1."""
    batch = tokenizer(list(texts), truncation=True, max_length=max_length, padding=True, return_tensors="pt", verbose=False)
    states = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
