"""Fewer tokens to choose from: an encoder-decoder whose output side knows only the tokens that its targets use.

The language-model head is a large part of what each generated token costs. Its rows leave, and with them the decoder's input embeddings,
which are the same table; the encoder reads as before. What the model writes are *output ids* then, which map to the tokenizer's ids at
the edges: `OutputVocabulary`. A token that left can still be spelled: in bytes or characters, which all stay, or in longer pieces.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pruning.errors import ConfigError, DataError, UnsupportedModelError

OUTPUT_IDS = "output_ids"
"""Buffer of a reduced model: the tokenizer's id of each output id, int64 `[kept]`."""
_SPECIAL_FIELDS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


@dataclass(frozen=True)
class OutputVocabulary:
    """What the output ids of a reduced model stand for.

    Attributes:
        ids: The tokenizer's id of each output id.
        spellings: For each of the tokenizer's ids, the output ids that spell it: one for a token that stayed.
    """

    ids: tuple[int, ...]
    spellings: Mapping[int, tuple[int, ...]]

    def to_tokenizer(self, output_ids: Iterable[int]) -> list[int]:
        """The tokenizer's ids for what a model wrote."""
        return [self.ids[index] for index in output_ids]

    def to_output(self, tokenizer_ids: Iterable[int]) -> list[int]:
        """Output ids that spell the same text; as many or more."""
        return [index for token in tokenizer_ids for index in self.spellings[token]]


def keep_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], keep: int, *, others: Sequence[str] = ()
) -> OutputVocabulary:
    """Reduce the output side of `model`, in place, to `keep` tokens.

    Special tokens stay, and what it takes to spell every token there is; then the tokens that are most frequent in `texts`, and after
    all of these the most frequent in `others`. Special tokens keep their ids as far as these fit. Logits of the tokens that stay are
    what they were.

    Args:
        model: An encoder-decoder whose embeddings and head are one table.
        tokenizer: A fast one, of byte-level BPE or WordPiece.
        texts: Targets.
        keep: How many tokens stay.
        others: Texts of less weight, for what is left of `keep`.

    Raises:
        ConfigError: more tokens have to stay than `keep`, or there are not as many.
        DataError: there are no texts.
        UnsupportedModelError: the model's tables or the tokenizer are of another kind.
    """
    _check_model(model)
    chosen = choose_tokens(tokenizer, texts, keep, others=others, special=_special_ids(model, tokenizer))
    if max(chosen) >= model.config.vocab_size:
        raise ConfigError(f"the tokenizer has token {max(chosen)}, the model {model.config.vocab_size}: they do not belong together")
    _reduce(model, torch.tensor(chosen, device=model.device))
    return _vocabulary(tokenizer, chosen)


def output_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> OutputVocabulary | None:
    """What the output ids of a model stand for; None for one whose output is not reduced."""
    ids = getattr(model, OUTPUT_IDS, None)
    return None if ids is None else _vocabulary(tokenizer, ids.tolist())


def choose_tokens(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], keep: int, *, others: Sequence[str] = (), special: Collection[int]
) -> list[int]:
    """The tokenizer's ids that stay, in the order of their output ids; see `keep_vocabulary`."""
    if not texts:
        raise DataError("no target texts: nothing says which tokens are used; give some")
    spelling = _Spelling.of(tokenizer)
    needed = set(special) | spelling.needed()
    known = set(special) | set(spelling.pieces.values())
    if not len(needed) <= keep < len(known):
        raise ConfigError(
            f"cannot keep {keep} of {len(known)} tokens: {len(needed)} have to stay, special tokens and what all others are spelled in"
        )
    used, beside = _counted(tokenizer, texts), _counted(tokenizer, others)
    by_use = sorted(known - needed, key=lambda token: (-used[token], -beside[token], token))
    return _in_order(needed | set(by_use[: keep - len(needed)]), fixed=special)


def _counted(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Counter[int]:
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return Counter(token for row in rows for token in row)


def input_vocabulary(model: PreTrainedModel) -> int | None:
    """Tokens that the encoder of a reduced model reads; None for a model that is not reduced."""
    return int(model.get_input_embeddings().num_embeddings) if hasattr(model, OUTPUT_IDS) else None


def reduced_table(model: PreTrainedModel) -> nn.Embedding | None:
    """The decoder's table of a reduced model; None for a model that is not reduced."""
    return _tables(model)[1] if hasattr(model, OUTPUT_IDS) else None


def separate_tables(model: PreTrainedModel, tokens: int) -> None:
    """Make room in a new model of a reduced config, in place: a table of `tokens` rows for the encoder, and its buffer of ids."""
    encoder_table, decoder_table, head = _tables(model)
    rows = nn.Parameter(decoder_table.weight.new_empty(tokens, model.config.hidden_size))
    for table in (model.get_input_embeddings(), encoder_table):
        _set_rows(table, rows)
    head.weight = decoder_table.weight
    model.register_buffer(OUTPUT_IDS, torch.zeros(head.out_features, dtype=torch.int64))


@dataclass(frozen=True)
class _Spelling:
    """How the tokens of a vocabulary are spelled in others.

    Attributes:
        pieces: Ids by token; without special and added tokens, which are not part of words.
        prefix: What a token begins with that goes on with a word; "" where it does not show.
    """

    pieces: Mapping[str, int]
    prefix: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "_Spelling":
        model = tokenizer.backend_tokenizer.model
        if not isinstance(model, models.WordPiece) and not _is_byte_level(tokenizer.backend_tokenizer):
            raise UnsupportedModelError(f"cannot reduce a vocabulary of {type(model).__name__}: only WordPiece, and BPE that is byte-level")
        whole = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
        pieces = {token: index for token, index in tokenizer.get_vocab().items() if index not in whole}
        return cls(pieces, model.continuing_subword_prefix or "")

    def needed(self) -> set[int]:
        """Bytes or characters, and the tokens that these do not spell."""
        single = {token: index for token, index in self.pieces.items() if len(self._split(token)[1]) == 1}
        return set(single.values()) | {index for token, index in self.pieces.items() if self.spell(token, single) is None}

    def spell(self, token: str, pieces: Mapping[str, int]) -> tuple[int, ...] | None:
        """The longest pieces from the left that make up the token; None where they do not."""
        start, word = self._split(token)
        found: list[int] = []
        while word:
            ends = (end for end in range(len(word), 0, -1) if start + word[:end] in pieces)
            end = next(ends, None)
            if end is None:
                return None
            found.append(pieces[start + word[:end]])
            start, word = self.prefix, word[end:]
        return tuple(found)

    def _split(self, token: str) -> tuple[str, str]:
        """The prefix if the token begins with it, and the rest."""
        inner = self.prefix and token.startswith(self.prefix) and token != self.prefix
        return (self.prefix, token[len(self.prefix) :]) if inner else ("", token)


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether tokens are sequences of bytes, each a character of its own: what a token says does not depend on where it stands then."""
    model, document = tokenizer.model, json.loads(tokenizer.to_str())
    if not isinstance(model, models.BPE) or model.byte_fallback or model.end_of_word_suffix:
        return False
    return all("ByteLevel" in _types(document[part]) for part in ("pre_tokenizer", "decoder"))


def _types(part: Mapping[str, Any] | None) -> set[str]:
    """Types of a part of a tokenizer, and of those that it is a sequence of."""
    inner = [] if part is None else [*part.get("pretokenizers", ()), *part.get("decoders", ())]
    return {each["type"] for each in inner} | ({part["type"]} if part else set())


def _vocabulary(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> OutputVocabulary:
    spelling, output = _Spelling.of(tokenizer), {token: index for index, token in enumerate(ids)}
    kept = {token: output[index] for token, index in spelling.pieces.items() if index in output}
    spelled = {index: spelling.spell(token, kept) for token, index in spelling.pieces.items() if index not in output}
    return OutputVocabulary(
        tuple(ids), {token: (index,) for token, index in output.items()} | {token: way for token, way in spelled.items() if way}
    )


def _in_order(tokens: Collection[int], *, fixed: Collection[int]) -> list[int]:
    """The tokens, each of `fixed` at the place of its own number if that is one of theirs, the others in ascending order between."""
    own = {token for token in fixed if token in tokens and token < len(tokens)}
    others = iter(sorted(set(tokens) - own))
    return [place if place in own else next(others) for place in range(len(tokens))]


def _special_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Special and added tokens, and those that generation knows by their number."""
    named = [getattr(config, field, None) for config in (model.config, model.generation_config) for field in _SPECIAL_FIELDS]
    numbers = [number for value in named if value is not None for number in (value if isinstance(value, list) else [value])]
    return {*numbers, *tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}


def _check_model(model: PreTrainedModel) -> None:
    if not model.config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{type(model).__name__} generates nothing: only an encoder-decoder has an output vocabulary")
    if hasattr(model, OUTPUT_IDS):
        raise ConfigError("the output vocabulary of this model was reduced before; start from the model that it comes from")
    if len({id(table.weight) for table in _tables(model)}) > 1:
        raise UnsupportedModelError(f"this {type(model).__name__} has a language-model head that is not its embedding table")


def _tables(model: PreTrainedModel) -> tuple[nn.Embedding, nn.Embedding, nn.Linear]:
    """Embeddings of encoder and decoder, and the language-model head."""
    return model.get_encoder().get_input_embeddings(), model.get_decoder().get_input_embeddings(), model.get_output_embeddings()


@torch.no_grad()
def _reduce(model: PreTrainedModel, ids: Tensor) -> None:
    """Leave the output side these tokens, int64 `[kept]`."""
    _, decoder_table, head = _tables(model)
    rows = nn.Parameter(head.weight[ids].clone(), head.weight.requires_grad)
    _set_rows(decoder_table, rows)
    head.weight, head.out_features = rows, len(ids)
    model.register_buffer("final_logits_bias", model.final_logits_bias[:, ids].clone())
    model.register_buffer(OUTPUT_IDS, ids)
    model.config.vocab_size, model.config.tie_word_embeddings = len(ids), False
    output = {token: index for index, token in enumerate(ids.tolist())}
    for config in (model.config, model.generation_config):
        _renumber(config, output)
    decoder_table.padding_idx = model.config.pad_token_id


def _set_rows(table: nn.Embedding, rows: nn.Parameter) -> None:
    table.weight, table.num_embeddings = rows, len(rows)


def _renumber(config: Any, output: Mapping[int, int]) -> None:  # noqa: ANN401 - of a model or of generation
    """Special tokens by their output ids."""
    for field in _SPECIAL_FIELDS:
        value = getattr(config, field, None)
        if value is not None:
            setattr(config, field, [output[each] for each in value] if isinstance(value, list) else output[value])
