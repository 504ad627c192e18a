"""Fine-tuning: what is interrupted ends as if it had not been, what is frozen stays, and the order of rows is pure."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast, PreTrainedModel
from transformers.trainer_utils import get_last_checkpoint

from pruning.compaction import compact
from pruning.config import TrainConfig
from pruning.errors import ConfigError, DataError
from pruning.structure import bake
from pruning.tasks import task_named
from pruning.tasks.base import Task
from pruning.training import LengthGroupedSampler, TaskTrainer, TrainingResult, last_whole_checkpoint, steps_of, train
from tests.pruning.helpers import random_structure, tiny_model
from tests.pruning.training_helpers import ROWS, differing, features_of, state, without_dropout

CONFIG = TrainConfig(epochs=2, batch_size=4, learning_rate=1e-3, precision="fp32", save_steps=2, dropout=0.1)


def trainable(task: Task, *, seed: int = 0) -> PreTrainedModel:
    """A tiny model; it has dropout, as its config says by default, so that a resume has to find the random state again."""
    model = tiny_model("bert", task.name, layers=2, seed=seed)
    assert model.config.hidden_dropout_prob > 0
    return model


def run(
    model: PreTrainedModel, tokenizer: BertTokenizerFast, task: Task, folder: Path, config: TrainConfig = CONFIG, **more: object
) -> TrainingResult:
    """Train on the twelve rows."""
    torch.manual_seed(5)
    return train(model, tokenizer, task, features_of(task, tokenizer), config, folder=folder, seed=5, **more)


@pytest.mark.parametrize("steps", [2, 3, 5], ids=["in the first epoch", "at its end, after the last checkpoint", "in the second epoch"])
def test_resumed_equals_uninterrupted(task: str, steps: int, tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after):
    """A training that was interrupted and run again ends with the very bits of one that was not."""
    kind = task_named(task)
    whole, parts = trainable(kind), trainable(kind)
    expected = run(whole, tiny_tokenizer, kind, tmp_path / "whole")
    interrupted_after(steps)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tiny_tokenizer, kind, tmp_path / "parts")
    interrupted_after(100)
    again = trainable(kind, seed=9)
    resumed = run(again, tiny_tokenizer, kind, tmp_path / "parts")
    assert resumed.steps == expected.steps == 6
    assert differing(state(again), state(whole)) == []


def test_what_was_interrupted_counts_the_time_before(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """A training that is over already took what it took, however soon it is found to be."""
    kind = task_named("text-classification")
    run(trainable(kind), tiny_tokenizer, kind, tmp_path)
    last = Path(str(get_last_checkpoint(str(tmp_path)))) / "trainer_state.json"
    content = json.loads(last.read_text())
    content["stateful_callbacks"]["Elapsed"]["args"]["before"] = 5000.0
    last.write_text(json.dumps(content))
    assert 5000 < run(trainable(kind), tiny_tokenizer, kind, tmp_path).seconds < 5100


def test_a_checkpoint_that_does_not_know_its_time_is_gone_on_from(tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after):
    """What an earlier version wrote is resumed, and written again."""
    kind = task_named("text-classification")
    interrupted_after(3)
    with pytest.raises(KeyboardInterrupt):
        run(trainable(kind), tiny_tokenizer, kind, tmp_path)
    last = Path(str(get_last_checkpoint(str(tmp_path)))) / "trainer_state.json"
    content = json.loads(last.read_text())
    del content["stateful_callbacks"]["Elapsed"]
    last.write_text(json.dumps(content))
    interrupted_after(100)
    assert run(trainable(kind), tiny_tokenizer, kind, tmp_path).steps == 6


@pytest.mark.parametrize(("epochs", "steps"), [(2.0, 6), (1.5, 5)], ids=["at the end of an epoch", "inside one"])
def test_a_finished_training_is_not_done_again(
    epochs: float, steps: int, tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after
):
    """Run again after its end, a training takes no step and gives the same weights."""
    kind = task_named("text-classification")
    model, again = trainable(kind), trainable(kind, seed=9)
    config = CONFIG.model_copy(update={"epochs": epochs})
    run(model, tiny_tokenizer, kind, tmp_path, config)
    interrupted_after(0)
    assert run(again, tiny_tokenizer, kind, tmp_path, config).steps == steps
    assert differing(state(again), state(model)) == []


def test_a_checkpoint_cut_short_is_passed_over(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """A newest checkpoint whose writing did not come to its end is removed, and the one before it is used."""
    kind = task_named("text-classification")
    run(trainable(kind), tiny_tokenizer, kind, tmp_path)
    (tmp_path / "checkpoint-6" / "trainer_state.json").unlink()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-6").exists()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": ', encoding="utf-8")
    assert last_whole_checkpoint(tmp_path) is None


def test_a_training_whose_checkpoint_was_cut_short_ends_the_same(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Going on from the checkpoint before the damaged one gives the weights of the uninterrupted run."""
    kind = task_named("text-classification")
    model, again = trainable(kind), trainable(kind, seed=9)
    run(model, tiny_tokenizer, kind, tmp_path)
    (tmp_path / "checkpoint-6" / "trainer_state.json").unlink()
    run(again, tiny_tokenizer, kind, tmp_path)
    assert differing(state(again), state(model)) == []


def test_no_folder_has_no_checkpoint(tmp_path: Path):
    """A training that has not begun starts from its model."""
    assert last_whole_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_embeddings_stay_as_they_were(frozen: bool, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Frozen, the embedding tables keep their bits and the rest is trained; not frozen, they are trained too."""
    kind = task_named("text-classification")
    model = trainable(kind)
    before = state(model)
    run(model, tiny_tokenizer, kind, tmp_path, CONFIG.model_copy(update={"freeze_embeddings": frozen}))
    changed = differing(before, state(model))
    assert ("bert.embeddings.word_embeddings.weight" in changed) != frozen
    assert any("encoder" in name for name in changed)
    assert not (frozen and any("embeddings" in name for name in changed))


def test_training_learns(task: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """The loss on the training rows falls, epoch by epoch, to less than half."""
    kind = task_named(task)
    rows = features_of(kind, tiny_tokenizer)
    config = CONFIG.model_copy(update={"epochs": 10, "learning_rate": 1e-2, "save_steps": 1000, "warmup": 0.0})
    result = run(trainable(kind), tiny_tokenizer, kind, tmp_path, config, validation=rows)
    assert len(result.validation_loss) == 10
    assert result.validation_loss[-1] < result.validation_loss[0] / 2


def test_a_compact_model_trains_and_resumes(tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after):
    """Recovery: a model with unequal heads and widths is trained, interrupted and resumed as a dense one is."""
    kind = task_named("text-classification")
    masked = trainable(kind)
    bake(masked, random_structure(np.random.default_rng(2), masked))
    whole, parts = compact(masked), compact(masked)
    run(whole, tiny_tokenizer, kind, tmp_path / "whole")
    interrupted_after(4)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tiny_tokenizer, kind, tmp_path / "parts")
    interrupted_after(100)
    again = compact(masked)
    run(again, tiny_tokenizer, kind, tmp_path / "parts")
    assert differing(state(again), state(whole)) == []


def test_a_student_that_is_its_teacher_has_no_loss(task: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """With all of the weight on a teacher that equals the student, the loss is zero."""
    kind = task_named(task)
    model, teacher = without_dropout(tiny_model("bert", task)), tiny_model("bert", task)
    few = {"epochs": 1, "learning_rate": 1e-9}  # Adam makes whole steps of gradients that are nothing but rounding
    config = TrainConfig.model_validate({**CONFIG.model_dump(), **few, "distillation": {"weight": 1.0}})
    assert run(model, tiny_tokenizer, kind, tmp_path, config, teacher=teacher).loss == pytest.approx(0.0, abs=1e-6)


def test_a_teacher_is_followed(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Distilled from a teacher, a student's logits come closer to its, and the teacher itself stays as it is."""
    kind = task_named("text-classification")
    student, teacher = tiny_model("bert", kind.name, seed=1), tiny_model("bert", kind.name, seed=2)
    kept = state(teacher)
    rows = features_of(kind, tiny_tokenizer)
    batch = tiny_tokenizer.pad([{name: row[name] for name in tiny_tokenizer.model_input_names} for row in rows], return_tensors="pt")

    def distance() -> float:
        with torch.no_grad():
            return float((student(**batch).logits.softmax(-1) - teacher(**batch).logits.softmax(-1)).abs().mean())

    before = distance()
    config = CONFIG.model_copy(update={"epochs": 8, "learning_rate": 5e-3})
    run(
        student,
        tiny_tokenizer,
        kind,
        tmp_path,
        TrainConfig.model_validate({**config.model_dump(), "distillation": {"weight": 1.0}}),
        teacher=teacher,
    )
    assert distance() < before / 2
    assert differing(kept, state(teacher)) == []


def test_micro_batches_add_up(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Two micro-batches a step give the steps, and but for rounding the weights, of one batch of both."""
    kind = task_named("text-classification")
    models = [without_dropout(tiny_model("bert", kind.name)) for _ in range(2)]
    for accumulation, model in enumerate(models, 1):
        config = CONFIG.model_copy(update={"accumulation": accumulation, "batch_size": ROWS, "epochs": 1})
        assert run(model, tiny_tokenizer, kind, tmp_path / str(accumulation), config).steps == 1
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


def test_progress_leaves_stdout_alone(tiny_tokenizer: BertTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The bar and the losses are messages, not results: they go to stderr."""
    kind = task_named("text-classification")
    run(trainable(kind), tiny_tokenizer, kind, tmp_path, validation=features_of(kind, tiny_tokenizer))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "6/6" in captured.err
    assert "eval_loss" in captured.err


def test_no_rows_are_refused(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """A training without rows is one line that says where to look."""
    kind = task_named("text-classification")
    with pytest.raises(DataError, match=r"data\.train"):
        train(tiny_model("bert", kind.name), tiny_tokenizer, kind, [], CONFIG, folder=tmp_path, seed=1)


@given(lengths=st.lists(st.integers(1, 50), max_size=300), batch_size=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_the_order_is_a_permutation_that_seed_and_epoch_decide(lengths: list[int], batch_size: int, seed: int, epoch: int):
    """Every row comes once; the order is the same for the same seed and epoch, however often it is asked for."""
    sampler, other = (LengthGroupedSampler(lengths, batch_size, seed=seed) for _ in range(2))
    list(other)
    sampler.set_epoch(epoch)
    other.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths))) == list(range(len(sampler)))
    assert list(sampler) == list(sampler) == list(other)


def test_epochs_and_seeds_have_orders_of_their_own():
    """Another epoch or seed gives another order."""
    sampler = LengthGroupedSampler(range(1, 101), 4, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first != list(LengthGroupedSampler(range(1, 101), 4, seed=2))


def test_rows_of_a_batch_are_of_like_lengths():
    """Within a batch the lengths are closer than in a batch drawn at random."""
    lengths = torch.randint(1, 300, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    order = [lengths[i] for i in LengthGroupedSampler(lengths, 10, seed=1)]
    spread = [max(order[i : i + 10]) - min(order[i : i + 10]) for i in range(0, 1000, 10)]
    assert sum(spread) / len(spread) < 30


@pytest.mark.parametrize(("rows", "batch_size", "accumulation", "epochs"), [(12, 4, 1, 2), (13, 4, 2, 2), (10, 4, 2, 1.5), (3, 8, 1, 1)])
def test_steps_are_foreseen(
    rows: int, batch_size: int, accumulation: int, epochs: float, tiny_tokenizer: BertTokenizerFast, tmp_path: Path
):
    """The steps that are announced are those that are taken."""
    kind = task_named("text-classification")
    features = (features_of(kind, tiny_tokenizer) * 2)[:rows]
    config = CONFIG.model_copy(update={"batch_size": batch_size, "accumulation": accumulation, "epochs": epochs, "save_steps": 1000})
    result = train(tiny_model("bert", kind.name, layers=1), tiny_tokenizer, kind, features, config, folder=tmp_path, seed=1)
    assert result.steps == steps_of(config, rows)
    shutil.rmtree(tmp_path)


def distilled(config: TrainConfig, **distillation: float) -> TrainConfig:
    """The same training from a teacher."""
    return TrainConfig.model_validate({**config.model_dump(), "distillation": distillation})


def larger(task: Task) -> PreTrainedModel:
    """A teacher with other layers, heads and width."""
    return tiny_model("bert", task.name, layers=3, hidden=48, heads=3, seed=2)


@pytest.mark.parametrize(
    ("task", "distillation"),
    [("question-answering", {"weight": 0.5}), ("text-classification", {"weight": 0.5, "hidden": 1.0, "attention": 1.0})],
    ids=["logits that are kept", "projected states, and attention"],
)
def test_a_distilled_training_resumes(
    task: str, distillation: dict[str, float], tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after
):
    """With all that a teacher brings, interrupted and run again it ends with the very bits of one that was not."""
    kind, config = task_named(task), distilled(CONFIG, **distillation)
    whole, parts, again = trainable(kind), trainable(kind), trainable(kind, seed=9)
    run(whole, tiny_tokenizer, kind, tmp_path / "whole", config, teacher=larger(kind))
    interrupted_after(3)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tiny_tokenizer, kind, tmp_path / "parts", config, teacher=larger(kind))
    interrupted_after(100)
    run(again, tiny_tokenizer, kind, tmp_path / "parts", config, teacher=larger(kind))
    assert differing(state(again), state(whole)) == []
    assert list(state(whole)) == list(state(parts)) == list(state(trainable(kind)))


def test_kept_logits_train_as_a_live_teacher_does(
    task: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The weights are those of a training whose teacher is asked in every step."""
    kind, config = task_named(task), distilled(CONFIG, weight=0.8)
    kept, live = (tiny_model("bert", task, layers=2, dtype=torch.float64) for _ in range(2))
    teacher = tiny_model("bert", task, seed=2, dtype=torch.float64)
    run(kept, tiny_tokenizer, kind, tmp_path / "kept", config, teacher=teacher)
    monkeypatch.setattr(TaskTrainer, "_ask_teacher", lambda _: None)
    run(live, tiny_tokenizer, kind, tmp_path / "live", config, teacher=teacher)
    torch.testing.assert_close(state(kept), state(live), atol=1e-6, rtol=0)
    assert differing(state(kept), state(tiny_model("bert", task, layers=2, dtype=torch.float64)))


@pytest.mark.parametrize(("epochs", "distillation", "calls"), [(1, {}, 3), (2, {}, 3), (2, {"hidden": 1.0}, 6)])
def test_a_teacher_is_asked_once(
    epochs: int, distillation: dict[str, float], calls: int, tiny_tokenizer: BertTokenizerFast, tmp_path: Path
):
    """For its logits once for each row, and not again when all is done; for its layers in each step, since they are too large to keep."""
    kind, teacher, asked = task_named("text-classification"), tiny_model("bert", "text-classification"), []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    config = distilled(CONFIG.model_copy(update={"epochs": epochs}), **distillation)
    for _ in range(2):
        run(trainable(kind), tiny_tokenizer, kind, tmp_path, config, teacher=teacher)
        assert len(asked) == calls


def test_states_of_a_wider_teacher_are_followed(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Learning nothing but a teacher's states, a student and its projection come closer to them."""
    kind = task_named("text-classification")
    config = distilled(CONFIG.model_copy(update={"learning_rate": 1e-2, "save_steps": 1000}), weight=0.0, hidden=1.0)

    def loss_after(epochs: int) -> float:
        longer = config.model_copy(update={"epochs": epochs})
        return run(trainable(kind), tiny_tokenizer, kind, tmp_path / str(epochs), longer, teacher=larger(kind)).loss or 0.0

    assert loss_after(8) < loss_after(1) / 2


def test_an_unsuitable_teacher_is_refused_before_the_training(tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after):
    """One line, and no step."""
    kind = task_named("text-classification")
    interrupted_after(0)
    with pytest.raises(ConfigError, match="3 classes"):
        run(trainable(kind), tiny_tokenizer, kind, tmp_path, distilled(CONFIG), teacher=tiny_model("bert", kind.name, labels=3))
