"""Fine-pruning in bf16: the network computes in it, scores and masked weights do not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertTokenizerFast

from pruning.config import DensityTarget, FinePruneConfig, TrainConfig
from pruning.fine_pruning import fine_prune
from pruning.masking import Masks
from pruning.methods import Mask
from pruning.targets import left_by_density
from pruning.tasks import task_named
from pruning.training import train
from tests.pruning.helpers import tiny_model
from tests.pruning.method_cases import GRANULARITIES, METHODS
from tests.pruning.training_helpers import differing, features_of, state

TASK = task_named("text-classification")


@pytest.mark.parametrize("method", METHODS)
def test_scores_and_masked_weights_stay_in_fp32(
    method: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every masked weight is computed in fp32 while the linears around it compute in bf16, and the density asked for is met."""
    seen: dict[str, set[torch.dtype]] = {"masked": set(), "hidden": set(), "scores": set()}
    masked, model = Mask.forward, tiny_model("bert", TASK.name, layers=2, intermediate=32)

    def forward(self: Mask, weight: Tensor) -> Tensor:
        found = masked(self, weight)
        seen["masked"].add(found.dtype)
        return found

    def hidden(_: nn.Module, __: object, found: Tensor) -> None:
        seen["hidden"].add(found.dtype)

    def finished(masks: Masks) -> None:
        seen["scores"].update(scores.dtype for scores in masks.scores)

    monkeypatch.setattr(Mask, "forward", forward)
    model.bert.encoder.layer[0].intermediate.dense.register_forward_hook(hidden)
    config = FinePruneConfig(
        method=METHODS[method],
        granularity=GRANULARITIES["hybrid"],
        targets=(DensityTarget(density=0.5),),
        score_learning_rate=0.3,
        train=TrainConfig(epochs=4, batch_size=4, precision="bf16"),
    )
    rows, left = features_of(TASK, tiny_tokenizer), left_by_density(model)
    found = fine_prune(model, tiny_tokenizer, TASK, rows, config, left=left, target=0.5, folder=tmp_path, seed=5, finished=finished)
    assert seen["hidden"] == {torch.bfloat16}
    assert seen["masked"] == {torch.float32}
    assert seen["scores"] <= {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert found.left == pytest.approx(0.5, abs=0.03)


def test_a_training_in_bf16_does_not_decide_for_those_after_it(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """What is trained in fp32 is the same, whatever was trained before in the same process."""
    rows, weights = features_of(TASK, tiny_tokenizer), []
    for number, precision in enumerate(("fp32", "bf16", "fp32")):
        model = tiny_model("bert", TASK.name, layers=1)
        config = TrainConfig(epochs=1, batch_size=4, learning_rate=1e-2, precision=precision)
        train(model, tiny_tokenizer, TASK, rows, config, folder=tmp_path / str(number), seed=5)
        weights.append(state(model))
    assert differing(weights[0], weights[2]) == []
    assert differing(weights[0], weights[1]) != []
