"""Distillation losses against torch and against what they should be by definition; teachers that are larger, compact, or unsuitable."""

import logging
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import BertTokenizerFast, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.utils.logging import warning_once

from pruning.compaction import compact
from pruning.config import DistillationConfig
from pruning.distillation import (
    Teacher,
    attention_losses,
    check_teacher,
    distillation_losses,
    hidden_losses,
    matched_layers,
    soft_cross_entropy,
)
from pruning.errors import ConfigError
from pruning.families import family_of
from pruning.structure import LayerStructure, bake
from pruning.tasks import task_named
from pruning.tasks.base import TEACHER_LOGITS, Batch, collate, inputs_of
from tests.pruning.helpers import TASK_NAMES, random_batch, tiny_model
from tests.pruning.training_helpers import ROWS, features_of

LAYERS = {"output_hidden_states": True, "output_attentions": True}
EVERYTHING = DistillationConfig(weight=1.0, hidden=1.0, attention=1.0)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teacher's logits, `[4, 7]`, in float32."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 4, 7, generator=generator)
    return student, teacher


def test_equal_logits_cost_nothing(logits: tuple[torch.Tensor, torch.Tensor]):
    """A student that agrees with its teacher has no loss, at any temperature, and logits are equal up to a constant."""
    student, _ = logits
    assert_close(soft_cross_entropy(student + 5, student, temperature=3.0), torch.zeros(4), atol=1e-5, rtol=0)


def test_other_logits_cost_something(logits: tuple[torch.Tensor, torch.Tensor]):
    """Where they disagree the divergence is positive."""
    assert (soft_cross_entropy(*logits, temperature=2.0) > 0.01).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_it_is_torchs_divergence(logits: tuple[torch.Tensor, torch.Tensor], temperature: float):
    """Row by row it is KL(teacher || student) of the softened distributions, times the temperature squared."""
    student, teacher = logits
    expected = torch.stack(
        [
            F.kl_div((s / temperature).log_softmax(0), (t / temperature).softmax(0), reduction="sum")
            for s, t in zip(student, teacher, strict=True)
        ]
    )
    assert_close(soft_cross_entropy(student, teacher, temperature=temperature), expected * temperature**2)


def test_masked_positions_take_no_part(logits: tuple[torch.Tensor, torch.Tensor]):
    """Padding changes nothing, whatever the logits there are; the rest is normalised among itself."""
    student, teacher = logits
    mask = torch.arange(7).expand(4, 7) < 5
    expected = soft_cross_entropy(student[:, :5], teacher[:, :5], temperature=2.0)
    assert_close(soft_cross_entropy(student, teacher, temperature=2.0, mask=mask), expected)
    assert_close(soft_cross_entropy(student + 9 * ~mask, teacher - 7 * ~mask, temperature=2.0, mask=mask), expected)


def test_masked_positions_get_no_gradient(logits: tuple[torch.Tensor, torch.Tensor]):
    """The gradient is finite everywhere and zero at padding."""
    student = logits[0].clone().requires_grad_()
    mask = torch.arange(7).expand(4, 7) < 5
    soft_cross_entropy(student, logits[1], temperature=2.0, mask=mask).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[~mask] == 0).all()
    assert (student.grad[mask] != 0).any()


def test_half_precision_is_widened(logits: tuple[torch.Tensor, torch.Tensor]):
    """Losses are computed in float32 whatever the logits come in."""
    student, teacher = logits
    found = soft_cross_entropy(student.bfloat16(), teacher.bfloat16(), temperature=2.0)
    assert found.dtype == torch.float32
    assert_close(found, soft_cross_entropy(student.bfloat16().float(), teacher.bfloat16().float(), temperature=2.0))


def test_several_outputs_are_averaged(logits: tuple[torch.Tensor, torch.Tensor]):
    """Starts and ends weigh the same, with the padding of both left out."""
    student, teacher = logits
    attention = (torch.arange(7).expand(4, 7) < 6).long()
    parts = [soft_cross_entropy(s, t, temperature=2.0, mask=attention.bool()) for s, t in ((student, teacher), (teacher, student))]
    found = distillation_losses((student, teacher), (teacher, student), temperature=2.0, attention_mask=attention)
    assert_close(found, (parts[0] + parts[1]) / 2)


def test_outputs_must_be_as_many(logits: tuple[torch.Tensor, torch.Tensor]):
    """A teacher of another task is a mistake, not a silent cut."""
    with pytest.raises(ValueError, match="shorter"):
        distillation_losses(logits, logits[:1], temperature=2.0)


def layer_losses(student: ModelOutput, teacher: ModelOutput, attention_mask: Tensor) -> Tensor:
    """Both losses of the layers, `[2, batch]`."""
    return torch.stack(
        [
            hidden_losses(student.hidden_states[1:], teacher.hidden_states[1:], attention_mask=attention_mask),
            attention_losses(student.attentions, teacher.attentions, attention_mask=attention_mask),
        ]
    )


def blended(student: PreTrainedModel, teacher: Teacher, batch: Batch) -> Tensor:
    """What a training's loss of each row is made of, where the labels' loss is zero; `[batch]`."""
    with teacher.teaches(student, seed=3):
        return teacher.blended(torch.zeros(len(batch["input_ids"])), student(**batch, **teacher.asks), batch)


def pruned(family: str) -> PreTrainedModel:
    """A compact student whose layers have two heads of four, neither attention nor feed-forward, and all that they had."""
    model = tiny_model(family)
    bake(model, (LayerStructure((0, 2), tuple(range(9))), LayerStructure((), ()), LayerStructure((0, 1, 2, 3), tuple(range(37)))))
    return compact(model)


def weights(model: PreTrainedModel) -> list[list[Tensor]]:
    """The matrices of what each layer has left, those of its attention first."""
    found: list[list[Tensor]] = []
    for layer in family_of(model).layers(model):
        attention, feed_forward = layer.attention, layer.feed_forward
        linears = [attention.query, attention.key, attention.value, attention.output] if attention else []
        linears += [feed_forward.up, feed_forward.down] if feed_forward else []
        found.append([linear.weight for linear in linears])
    return found


def learns(matrices: Sequence[Tensor]) -> bool:
    """Whether a gradient has come to each of these weights."""
    return all(weight.grad is not None and bool(weight.grad.isfinite().all()) and bool(weight.grad.any()) for weight in matrices)


def test_layers_are_spread_evenly():
    """Half as many layers learn from every second one; whichever of the two is deeper, the last learns from the last."""
    assert matched_layers(6, 12) == [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]
    assert matched_layers(6, 24) == [(0, 3), (1, 7), (2, 11), (3, 15), (4, 19), (5, 23)]
    assert matched_layers(3, 4) == [(0, 0), (1, 1), (2, 3)]
    assert matched_layers(4, 2) == [(1, 0), (3, 1)]


@given(student=st.integers(1, 50), teacher=st.integers(1, 50))
def test_layers_are_matched_in_order(student: int, teacher: int):
    """As many pairs as there can be, each layer in one of them, in the order of both."""
    ours, theirs = zip(*matched_layers(student, teacher), strict=True)
    assert ours == tuple(sorted(set(ours)))
    assert theirs == tuple(sorted(set(theirs)))
    assert len(ours) == min(student, teacher)
    assert (ours[0] >= 0, theirs[0] >= 0, ours[-1], theirs[-1]) == (True, True, student - 1, teacher - 1)


def test_equal_layers_cost_nothing(family: str):
    """A student that is its teacher has no loss of states or attention, and another one has, on each row."""
    batch = random_batch(family)
    same, other = (tiny_model(family, seed=seed)(**batch, **LAYERS) for seed in (0, 1))
    assert (layer_losses(same, same, batch["attention_mask"]) == 0).all()
    assert (layer_losses(other, same, batch["attention_mask"]) > 1e-3).all()


def test_hidden_losses_are_mean_squares(family: str):
    """Over layers, the tokens that are not padding, and dimensions."""
    batch = random_batch(family)
    student, teacher = (tiny_model(family, seed=seed)(**batch, **LAYERS).hidden_states[1:] for seed in (0, 1))
    found = hidden_losses(student, teacher, attention_mask=batch["attention_mask"])
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        squares = [F.mse_loss(s[row, :length], t[row, :length]) for s, t in zip(student, teacher, strict=True)]
        assert_close(found[row], torch.stack(squares).mean())


def test_attention_losses_are_divergences(family: str):
    """Of what a token of the teacher's attends to from what the student's does, averaged over heads."""
    batch = random_batch(family)
    student, teacher = (tiny_model(family, seed=seed)(**batch, **LAYERS).attentions for seed in (0, 1))
    found = attention_losses(student, teacher, attention_mask=batch["attention_mask"])
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        maps = [(s[row].mean(0)[:length, :length], t[row].mean(0)[:length, :length]) for s, t in zip(student, teacher, strict=True)]
        expected = [F.kl_div(s.log(), t, reduction="batchmean") for s, t in maps]
        assert_close(found[row], torch.stack(expected).mean(), atol=1e-5, rtol=1e-5)


def test_padding_of_layers_takes_no_part(family: str):
    """A row's losses are the same padded among others as alone and unpadded."""
    batch = random_batch(family)
    student, teacher = (tiny_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1))
    padded = layer_losses(student(**batch, **LAYERS), teacher(**batch, **LAYERS), batch["attention_mask"])
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}
        found = layer_losses(student(**alone, **LAYERS), teacher(**alone, **LAYERS), alone["attention_mask"])
        assert_close(found[:, 0], padded[:, row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["hidden", "attention"])
def test_every_layer_learns(family: str, kind: str):
    """States give a gradient to all weights of each layer, attention to its queries and keys; the teacher has none."""
    batch = random_batch(family)
    student, model = tiny_model(family, seed=1), tiny_model(family)
    blended(
        student, Teacher(model, DistillationConfig(weight=0.0, **{kind: 1.0}), task_named("question-answering")), batch
    ).sum().backward()
    assert all(learns(matrices if kind == "hidden" else matrices[:2]) for matrices in weights(student))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_deeper_and_wider_teacher_teaches(family: str, task: str):
    """Its width is reached by a projection, which learns, is the same for the same seed, and is gone afterwards."""
    batch = random_batch(family)
    student, names = tiny_model(family, task, seed=1), list(tiny_model(family, task).state_dict())
    teacher = Teacher(tiny_model(family, task, layers=4, hidden=48, heads=3), EVERYTHING, task_named(task))
    first, second = (blended(student, teacher, batch) for _ in range(2))
    assert (first > 0).all()
    assert_close(first, second, atol=0, rtol=0)
    with teacher.teaches(student, seed=3):
        teacher.blended(torch.zeros(3), student(**batch, **teacher.asks), batch).sum().backward()
        projection = student.get_parameter("distillation_projection.weight")
        assert projection.shape == (48, 32)
        assert learns([projection, *(matrix for matrices in weights(student) for matrix in matrices)])
    assert list(student.state_dict()) == names
    assert student(**batch, output_hidden_states=True).hidden_states[-1].shape[-1] == 32


@pytest.mark.parametrize("dropped", [(), (1,), (0, 2)], ids=["all layers", "without the empty one", "the empty one alone"])
def test_a_compact_student_learns(family: str, dropped: tuple[int, ...]):
    """With unequal heads, without a layer's attention, or without the layer, each row has a loss and what is left learns."""
    batch = random_batch(family)
    student = compact(pruned(family), drop_layers=dropped).train()
    losses = blended(student, Teacher(tiny_model(family), EVERYTHING, task_named("question-answering")), batch)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert (losses > 0).all()
    assert all(learns(matrices) for matrices in weights(student))


def test_layers_without_attention_cost_nothing():
    """Where no matched layers attend to anything, there is nothing to learn."""
    assert_close(
        attention_losses([None], [None, torch.ones(2, 1, 3, 3)], attention_mask=torch.ones(2, 3, dtype=torch.int64)), torch.zeros(2)
    )


def test_attention_that_dropout_took_away_is_finite():
    """A student's probabilities may be zero where the teacher's are not."""
    student = torch.tensor([[[[0.0, 2.0], [0.0, 0.0]]]], requires_grad=True)
    loss = attention_losses([student], [torch.full((1, 1, 2, 2), 0.5)], attention_mask=torch.ones(1, 2, dtype=torch.int64))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_attention_of_models_made_for_sdpa(family: str):
    """It is what the eager implementation has, and the models keep their own."""
    batch, found = random_batch(family), []
    for attention in ("sdpa", "eager"):
        models = [tiny_model(family, seed=seed, attention=attention) for seed in (0, 1)]
        found.append(blended(models[0], Teacher(models[1], EVERYTHING, task_named("question-answering")), batch))
        assert [model.config._attn_implementation for model in models] == [attention, attention]
    assert_close(found[0], found[1], atol=0, rtol=0)


def test_no_warning_of_slower_attention(family: str, caplog: pytest.LogCaptureFixture):
    """Who asks for attention gets it without the library's advice on how to load models, which others still get."""
    student, batch = tiny_model(family), random_batch(family)
    logger = logging.getLogger(type(student).__module__)
    logger.addHandler(caplog.handler)
    warning_once.cache_clear()
    try:
        blended(student, Teacher(tiny_model(family), EVERYTHING, task_named("question-answering")), batch)
        assert "Falling back" not in caplog.text
        warning_once.cache_clear()
        student(**batch, output_attentions=True)
        assert "Falling back" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_a_teacher_of_another_family_gets_what_it_takes():
    """DistilBERT, which has no token types, teaches BERT."""
    losses = blended(
        tiny_model("bert"), Teacher(tiny_model("distilbert"), EVERYTHING, task_named("question-answering")), random_batch("bert")
    )
    assert losses.isfinite().all()


def test_logits_kept_with_the_rows_are_those_of_the_batch(task: str, tiny_tokenizer: BertTokenizerFast):
    """Computed once, in batches of their own, and padded, the teacher's logits give the loss that asking it again gives."""
    kind = task_named(task)
    student, model = (tiny_model("bert", task, seed=seed, dtype=torch.float64) for seed in (1, 0))
    teacher, rows = Teacher(model, DistillationConfig(weight=1.0), kind), features_of(kind, tiny_tokenizer)
    answered = teacher.answered(rows, partial(collate, tokenizer=tiny_tokenizer), batch_size=5)
    kept, live = collate(answered, tiny_tokenizer), collate(rows, tiny_tokenizer)
    assert [{**row, TEACHER_LOGITS: None} for row in answered] == [{**row, TEACHER_LOGITS: None} for row in rows]
    assert list(inputs_of(kept, kind)) == list(inputs_of(live, kind)) == ["input_ids", "token_type_ids", "attention_mask"]
    outputs = student(**inputs_of(live, kind))
    assert_close(*(teacher.blended(torch.zeros(ROWS), outputs, batch) for batch in (kept, live)), atol=1e-6, rtol=1e-6)


def test_logits_are_the_same_each_time(task: str, tiny_tokenizer: BertTokenizerFast):
    """Whoever asks again, as a resumed training does, gets the same bits."""
    kind = task_named(task)
    teacher, rows = Teacher(tiny_model("bert", task), DistillationConfig(), kind), features_of(kind, tiny_tokenizer)
    first, second = (teacher.answered(rows, partial(collate, tokenizer=tiny_tokenizer), batch_size=5) for _ in range(2))
    assert all(torch.equal(a[TEACHER_LOGITS], b[TEACHER_LOGITS]) for a, b in zip(first, second, strict=True))


def test_a_teacher_of_other_classes_is_refused():
    """Its logits would mean something else; the line says how many each has."""
    with pytest.raises(ConfigError, match="teacher has 3 classes and the student 2"):
        check_teacher(tiny_model(task="text-classification"), tiny_model(task="text-classification", labels=3))


def test_a_teacher_with_another_order_of_classes_is_refused():
    """The same names in another order are the commonest mistake, and nothing else would show it."""
    student, teacher = (tiny_model(task="text-classification") for _ in range(2))
    student.config.id2label, teacher.config.id2label = {0: "good", 1: "bad"}, {0: "BAD", 1: "GOOD"}
    with pytest.raises(ConfigError, match="bad, good and the student's good, bad"):
        check_teacher(student, teacher)


def test_a_teacher_with_another_vocabulary_is_refused():
    """It would read other words."""
    with pytest.raises(ConfigError, match="vocabulary has 70 tokens and the student's 61"):
        check_teacher(tiny_model(), tiny_model(vocabulary=70))


def test_a_teacher_of_another_size_and_family_is_welcome():
    """Depth, width and family may differ, and names of classes that were never given say nothing."""
    student, teacher = tiny_model(task="text-classification"), tiny_model("distilbert", "text-classification", layers=1, hidden=16)
    teacher.config.id2label = {0: "bad", 1: "good"}
    check_teacher(student, teacher)
