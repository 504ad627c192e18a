"""What the tests of trainings share: a dozen rows, and weights that are compared bit for bit."""

import torch
from torch import Tensor
from transformers import BertTokenizerFast, PreTrainedModel

from pruning.examples import AnswerSpan, QuestionExample, TextExample
from pruning.tasks.base import Feature, Task

ROWS = 12


def features_of(task: Task, tokenizer: BertTokenizerFast) -> list[Feature]:
    """Twelve rows of several lengths, half of them of each kind."""
    if task.name == "text-classification":
        texts = [TextExample(str(i), "good " * (1 + i) if i % 2 else "bad " * (1 + i), None, i % 2) for i in range(ROWS)]
        return task.features(texts, tokenizer, max_length=20)
    contexts = [f"the sea is {'good ' * (1 + i)}." for i in range(ROWS)]
    spans = [AnswerSpan("good", context.index("good")) for context in contexts]
    questions = [QuestionExample(str(i), "is it?", context, (span,)) for i, (context, span) in enumerate(zip(contexts, spans, strict=True))]
    return task.features(questions, tokenizer, max_length=40, stride=0)


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """The same model; in training it computes what it computes in evaluation."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return model


def state(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of the weights that are not bit for bit the same."""
    return [name for name in first if not torch.equal(first[name], second[name])]
