"""Tiny random models, inputs and removals that the tests of `pruning/` share."""

from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
)

from pruning.families import family_of
from pruning.structure import LayerStructure, Structure, shapes

FAMILY_NAMES = ("bert", "roberta", "distilbert")
TASK_NAMES = ("question-answering", "text-classification")
VOCABULARY = 61
LONGEST = 40

ModelFactory = Callable[..., PreTrainedModel]

_CLASSES: dict[tuple[str, str], type[PreTrainedModel]] = {
    ("bert", "question-answering"): BertForQuestionAnswering,
    ("bert", "text-classification"): BertForSequenceClassification,
    ("roberta", "question-answering"): RobertaForQuestionAnswering,
    ("roberta", "text-classification"): RobertaForSequenceClassification,
    ("distilbert", "question-answering"): DistilBertForQuestionAnswering,
    ("distilbert", "text-classification"): DistilBertForSequenceClassification,
}


def tiny_model(
    family: str = "bert",
    task: str = "question-answering",
    *,
    seed: int = 0,
    layers: int = 3,
    hidden: int = 32,
    heads: int = 4,
    intermediate: int = 37,
    labels: int = 2,
    vocabulary: int = VOCABULARY,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """A random model in evaluation mode. Every parameter is random: biases and norms too, so that a forgotten one shows."""
    config = _config(family, layers=layers, hidden=hidden, heads=heads, intermediate=intermediate, num_labels=labels, vocab_size=vocabulary)
    config._attn_implementation = attention
    model = _CLASSES[family, task](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * values if "orm.weight" in name else 0.2 * values)
    return model.to(dtype).eval()


def tiny_bart(
    *,
    seed: int = 0,
    encoder_layers: int = 2,
    decoder_layers: int = 3,
    hidden: int = 32,
    heads: int = 4,
    neurons: tuple[int, int] = (37, 29),
    vocabulary: int = VOCABULARY,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> BartForConditionalGeneration:
    """A random BART in evaluation mode, of `neurons` in encoder and decoder. Its tokens stand apart, so that generation has no ties."""
    config = BartConfig(
        vocab_size=vocabulary,
        d_model=hidden,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=neurons[0],
        decoder_ffn_dim=neurons[1],
        max_position_embeddings=LONGEST,
    )
    config._attn_implementation = attention
    model = BartForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * values if "orm.weight" in name or "norm_embedding.weight" in name else 0.3 * values)
        model.model.shared.weight.mul_(3)
        model.model.decoder.embed_positions.weight.mul_(9)
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=generator))
    return model.to(dtype).eval()


def bart_batch(*, seed: int = 0, rows: int = 3, length: int = 11, target: int = 6, vocabulary: int = VOCABULARY) -> dict[str, Tensor]:
    """Inputs of an encoder as in `random_batch`, with tokens for the decoder, int64 `[rows, target]`."""
    batch = random_batch("roberta", seed=seed, rows=rows, length=length, vocabulary=vocabulary)
    generator = torch.Generator().manual_seed(seed + 1)
    return batch | {"decoder_input_ids": torch.randint(4, vocabulary, (rows, target), generator=generator)}


def random_batch(
    family: str = "bert", *, seed: int = 0, rows: int = 3, length: int = 11, vocabulary: int = VOCABULARY
) -> dict[str, Tensor]:
    """Inputs int64 `[rows, length]`; row i has i tokens of padding at its end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        ids[row, -row:] = 1 if family == "roberta" else 0
        mask[row, -row:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if family == "bert":
        batch["token_type_ids"] = torch.randint(0, 2, (rows, length), generator=generator)
    return batch


def outputs_of(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """All logits of the model side by side, at positions that are not padding."""
    with torch.no_grad():
        outputs = model(**batch)
    if "logits" in outputs:
        return outputs.logits
    real = batch["attention_mask"].bool()
    return torch.stack([outputs.start_logits[real], outputs.end_logits[real]])


def random_structure(rng: np.random.Generator, model: PreTrainedModel) -> Structure:
    """What stays of each block: nothing in one draw of four, everything in one of four, else a random part."""
    return tuple(LayerStructure(_draw(rng, shape.heads), _draw(rng, shape.intermediate)) for shape in shapes(model))


def kill_randomly(rng: np.random.Generator, model: PreTrainedModel) -> Structure:
    """Zero random groups in place, each in a random way that leaves it dead: on its input side (its bias alive) or its output side."""
    structure = random_structure(rng, model)
    with torch.no_grad():
        for layer, kept in zip(family_of(model).layers(model), structure, strict=True):
            if layer.attention:
                block = layer.attention
                for head in sorted(set(range(block.heads)) - set(kept.heads)):
                    columns = slice(head * block.head_size, (head + 1) * block.head_size)
                    _kill(rng, block.value.weight, block.output.weight, columns)
            if layer.feed_forward:
                for neuron in sorted(set(range(layer.feed_forward.neurons)) - set(kept.neurons)):
                    _kill(rng, layer.feed_forward.up.weight, layer.feed_forward.down.weight, slice(neuron, neuron + 1))
    return structure


def _kill(rng: np.random.Generator, inner: Tensor, outer: Tensor, group: slice) -> None:
    if rng.random() < 0.5:
        inner[group] = 0
    else:
        outer[:, group] = 0


def _draw(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    fate = rng.integers(4)
    kept = 0 if fate == 0 else count if fate == 1 else rng.integers(count + 1)
    return tuple(sorted(int(index) for index in rng.choice(count, size=kept, replace=False)))


def _config(family: str, *, layers: int, hidden: int, heads: int, intermediate: int, **others: int) -> PretrainedConfig:
    if family == "distilbert":
        return DistilBertConfig(
            n_layers=layers, dim=hidden, n_heads=heads, hidden_dim=intermediate, max_position_embeddings=LONGEST, **others
        )
    positions = LONGEST + 2 if family == "roberta" else LONGEST
    return {"bert": BertConfig, "roberta": RobertaConfig}[family](
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        type_vocab_size=2 if family == "bert" else 1,
        **others,
    )


def tiny_tokenizer() -> BertTokenizerFast:
    """A lower-casing WordPiece tokenizer over letters, digits and a few words; ids stay below `helpers.VOCABULARY`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789", ".", ",", "?", "the", "good", "bad"]
    words += [f"##{letter}" for letter in "aeiourstlnd"]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return BertTokenizerFast(tokenizer_object=tokenizer)
