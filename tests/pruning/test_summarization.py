"""Documents with summaries become rows for an encoder-decoder, whose losses are per token; a decoder learns to write them."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from pruning.config import DataSource, DistillationConfig, PseudoLabelsConfig, TrainConfig
from pruning.data import check_sources, load_source
from pruning.distillation import Teacher, soft_cross_entropy, token_losses
from pruning.errors import ConfigError, DataError
from pruning.evaluation import rouge
from pruning.examples import SummaryExample
from pruning.metrics import rouge_scores
from pruning.pseudo_labels import with_pseudo_labels, write_summaries
from pruning.tasks.base import IGNORED, batches, collate, inputs_of
from pruning.tasks.summarization import Summarization, in_output_ids
from pruning.training import train
from pruning.vocabulary import keep_vocabulary, output_vocabulary
from tests.pruning.helpers import tiny_bart

TASK = Summarization()
EXAMPLES = [
    SummaryExample("1", "the good dog saw a bad cat, and the cat ran.", ("the dog saw a cat.", "good dog")),
    SummaryExample("2", "the sea is good.", ("sea",)),
]
DECODING = {"decoder_start_token_id": 2, "eos_token_id": 3, "forced_eos_token_id": 3, "pad_token_id": 0, "bos_token_id": 2}


def bart_for(tokenizer: BertTokenizerFast, **options: int) -> torch.nn.Module:
    """A tiny model that decodes with the tokenizer's special tokens."""
    model = tiny_bart(**options)
    for name, value in DECODING.items():
        setattr(model.generation_config, name, value)
        setattr(model.config, name, None if name.startswith("forced") else value)
    return model


def squeezed(text: str) -> str:
    """Text without spaces or the marks of word pieces."""
    return text.replace("##", "").replace(" ", "")


def rows(path: Path, *content: object) -> DataSource:
    """These rows as a file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return DataSource(path=str(path))


@pytest.mark.parametrize(
    "row",
    [
        {"document": "a b", "summaries": ["x", " y "]},
        {"text": "a b", "summary": ["x", "y", ""]},
        {"article": "a b", "highlights": ["x", "y"]},
    ],
)
def test_documents_and_summaries_are_found_by_their_usual_names(tmp_path: Path, row: dict[str, object]):
    """Columns of the usual data sets need not be named; a document may have several summaries, of which empty ones are left out."""
    [found] = load_source(rows(tmp_path / "a.jsonl", row), "summarization")
    assert found == SummaryExample("0", "a b", ("x", "y"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"document": "a"}, "no column 'summaries'"),
        ({"summary": "a"}, "no column 'document'"),
        ({"document": " ", "summary": "a"}, "no text in column 'document'"),
        ({"document": "a", "summary": []}, "no summary in column 'summary'"),
    ],
)
def test_bad_rows_are_one_line(tmp_path: Path, row: dict[str, object], said: str):
    """A row without a document or a summary is named in one line."""
    with pytest.raises(DataError, match=said) as error:
        load_source(rows(tmp_path / "a.jsonl", row), "summarization")
    assert "\n" not in str(error.value)


def test_copies_need_no_summaries(tmp_path: Path):
    """With `copy_target`, texts without summaries do, each once; their targets are sentences of their own."""
    text = "The good dog saw a bad cat yesterday. The cat ran from the good dog at once. It rained."
    source = rows(tmp_path / "a.jsonl", {"text": text}, {"text": text}).model_copy(update={"copy_target": "best_sentence", "passages": 2})

    check_sources([source], "summarization")
    found = load_source(source, "summarization")

    assert {each.document for each in found} >= {text}
    assert len(found) <= 3
    assert all(isinstance(each, SummaryExample) and each.summaries[0] in each.document for each in found)


def test_rows_begin_with_the_start_and_end_with_the_end(tiny_tokenizer: BertTokenizerFast):
    """There is a row for each summary; the decoder reads [CLS] and the summary, and writes the summary and [SEP]."""
    found = TASK.features(EXAMPLES, tiny_tokenizer, max_length=12, target_length=5)

    assert len(found) == 3
    for row in found:
        assert row["decoder_input_ids"] == [tiny_tokenizer.cls_token_id, *row["labels"][:-1]]
        assert row["labels"][-1] == tiny_tokenizer.sep_token_id
        assert tiny_tokenizer.cls_token_id not in row["labels"]
        assert len(row["input_ids"]) <= 12
        assert len(row["labels"]) < 5


def test_bart_starts_with_the_end_of_text(tiny_tokenizer: BertTokenizerFast):
    """A tokenizer with an end of text of its own, as BART's, starts decoding with it, and writes the first token, too."""
    special = {"bos_token": "[CLS]", "cls_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    bart = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, **special)

    [row] = TASK.features(EXAMPLES[1:], bart, max_length=12, target_length=9)

    assert row["decoder_input_ids"][:2] == [bart.eos_token_id, bart.bos_token_id]
    assert row["labels"][0] == bart.bos_token_id
    assert row["labels"][-1] == bart.eos_token_id


def test_loss_is_that_of_the_model(tiny_tokenizer: BertTokenizerFast):
    """The mean over a row's tokens is the loss of transformers for that row alone: padding takes no part."""
    model = tiny_bart(dtype=torch.float64)
    features = TASK.features(EXAMPLES, tiny_tokenizer, max_length=30, target_length=20)
    batch = collate(features, tiny_tokenizer)

    losses = TASK.losses(model(**inputs_of(batch, TASK)), batch)

    alone = [collate([feature], tiny_tokenizer) for feature in features]
    assert (batch["labels"] == IGNORED).any()
    assert_close(losses, torch.stack([model(**each).loss for each in alone]).float())


def test_token_losses_are_means_over_what_is_written():
    """Positions of padding take no part, and get no gradient."""
    student, teacher = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 3, 7)
    labels = torch.tensor([[1, 2, 3], [4, IGNORED, IGNORED]])

    found = token_losses(student, teacher, temperature=2.0, labels=labels)
    found.sum().backward()

    each = soft_cross_entropy(student, teacher, temperature=2.0)
    assert_close(found, torch.stack([each[0].mean(), each[1, 0]]))
    assert student.grad is not None
    assert not student.grad[1, 1:].any()


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_a_model_has_nothing_to_learn_of_itself(tiny_tokenizer: BertTokenizerFast, hidden: float):
    """Its own logits and states cost nothing, those of another model do, and both stacks of it get gradients."""
    model, other = tiny_bart(), tiny_bart(seed=1)
    batch = collate(TASK.features(EXAMPLES, tiny_tokenizer, max_length=30, target_length=20), tiny_tokenizer)
    config = DistillationConfig(weight=1.0, hidden=hidden)

    def loss(teacher: torch.nn.Module) -> torch.Tensor:
        taught = Teacher(teacher, config, TASK)
        outputs = model(**inputs_of(batch, TASK), **taught.asks)
        return taught.blended(TASK.losses(outputs, batch), outputs, batch).mean()

    assert_close(loss(model).detach(), torch.tensor(0.0), atol=1e-6, rtol=0)
    loss(other).backward()
    for name in ("encoder.layers.0.fc1", "decoder.layers.0.fc1"):
        assert model.model.get_submodule(name).weight.grad.abs().max() > 0


def test_attention_of_an_encoder_decoder_is_refused():
    """What is not there is said in one line."""
    with pytest.raises(ConfigError, match="attention"):
        Teacher(tiny_bart(), DistillationConfig(attention=1.0), TASK)


def test_a_student_of_fewer_tokens_learns_of_a_teacher_of_all(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Rows are spelled in the student's output ids, and the same text comes back; the teacher's other tokens are passed over."""
    teacher, student = tiny_bart(), tiny_bart()
    features = TASK.features(EXAMPLES, tiny_tokenizer, max_length=30, target_length=20)
    keep_vocabulary(student, tiny_tokenizer, ["the dog"], 57)
    spelled = in_output_ids(features, student, tiny_tokenizer)
    vocabulary = output_vocabulary(student, tiny_tokenizer)
    config = TrainConfig(epochs=1, batch_size=2, precision="fp32", distillation=DistillationConfig(weight=1.0))

    result = train(student, tiny_tokenizer, TASK, features, config, folder=tmp_path, seed=1, teacher=teacher)

    assert vocabulary is not None
    assert result.steps == 2
    for row, other in zip(features, spelled, strict=True):
        back = tiny_tokenizer.decode(vocabulary.to_tokenizer(other["labels"]))
        assert squeezed(back) == squeezed(tiny_tokenizer.decode(row["labels"]))
        assert len(other["decoder_input_ids"]) == len(other["labels"])


def test_summaries_are_learnt(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Training makes the references likelier, with frozen embeddings as they were."""
    model = bart_for(tiny_tokenizer)
    features = TASK.features(EXAMPLES, tiny_tokenizer, max_length=30, target_length=20) * 8
    config = TrainConfig(epochs=4, batch_size=4, learning_rate=1e-2, precision="fp32")
    table = model.model.shared.weight.detach().clone()
    batch = collate(features[:3], tiny_tokenizer)
    before = TASK.losses(model(**inputs_of(batch, TASK)), batch).mean().item()

    train(model, tiny_tokenizer, TASK, features, config, folder=tmp_path, seed=1)

    assert TASK.losses(model(**inputs_of(batch, TASK)), batch).mean().item() < 0.7 * before
    assert torch.equal(model.model.shared.weight, table)


def test_pseudo_labels_go_on_where_they_stopped(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """What was written is kept, a line that was cut short is written again, and the result is that of one go."""
    model, path = bart_for(tiny_tokenizer), tmp_path / "summaries.jsonl"
    documents, config = [each.document for each in EXAMPLES], PseudoLabelsConfig(beams=2, batch_size=1)
    options = {"max_length": 30, "target_length": 8}
    whole = write_summaries(model, tiny_tokenizer, documents, config, path=tmp_path / "whole.jsonl", **options)
    path.write_text('[0, "kept"]\n[1, "cut sh', encoding="utf-8")

    found = write_summaries(model, tiny_tokenizer, documents, config, path=path, **options)

    assert found == ["kept", whole[1]]
    assert write_summaries(model, tiny_tokenizer, documents, config, path=path, **options) == found


def test_pseudo_labels_are_learnt_beside_references_or_instead():
    """A teacher's summary is one more, or the only one; where it wrote nothing, references stay."""
    assert [each.summaries for each in with_pseudo_labels(EXAMPLES, ["x", ""], references=True)] == [
        (*EXAMPLES[0].summaries, "x"),
        ("sea",),
    ]
    assert with_pseudo_labels(EXAMPLES, ["x", ""], references=False)[0].summaries == ("x",)


def test_rouge_by_hand():
    """Unigrams, bigrams and the longest common subsequence, stemmed; of several references each measure takes its best."""
    scores = rouge_scores("the dogs saw a cat", ["the dog saw the cat", "a cat"])

    assert scores == pytest.approx({"rouge1": 0.8, "rouge2": 0.5, "rougeL": 0.8, "rougeLsum": 0.8})
    assert set(rouge_scores("", ["a"]).values()) == {0.0}


@pytest.mark.parametrize("between", [" ", "\n"])
def test_sentences_in_another_order_lose_nothing_of_rouge_lsum(between: str):
    """Each is compared on its own, on a line of its own or not; of the whole text only one of them is in order."""
    scores = rouge_scores(f"A cat sat there.{between}It rained all night.", [f"It rained all night.{between}A cat sat there."])
    assert (scores["rougeL"], scores["rougeLsum"]) == (0.5, 1.0)


def test_rouge_of_the_references_is_all():
    """A prediction that is one of the references scores 100 in every measure."""
    found = rouge([example.summaries[-1] for example in EXAMPLES], EXAMPLES)
    assert found["rouge1"].percent() == found["rougeL"].percent() == 100.0


def test_batches_hold_every_row_once(tiny_tokenizer: BertTokenizerFast):
    """Rows of unequal lengths on both sides become tensors."""
    features = TASK.features(EXAMPLES, tiny_tokenizer, max_length=30, target_length=20)
    found = batches(features, tiny_tokenizer, batch_size=2)
    assert sum(len(batch["labels"]) for batch in found) == 3
    assert all(batch["labels"].shape == batch["decoder_input_ids"].shape for batch in found)
