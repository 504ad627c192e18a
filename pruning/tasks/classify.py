"""Text classification: a text or a pair of texts, one label of several."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput

from pruning.errors import DataError
from pruning.examples import Example, TextExample
from pruning.tasks.base import Feature
from service.artifact import TaskName


class Classification:
    """Single-label classification of a text or a pair (GLUE: Wang et al., 2018, arXiv:1804.07461)."""

    name: TaskName = "text-classification"
    auto_class: Any = AutoModelForSequenceClassification
    targets: tuple[str, ...] = ("labels",)

    def features(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int = 0, target_length: int = 64
    ) -> list[Feature]:
        """One row per example, cut at `max_length`; `stride` and `target_length` are not used.

        Raises:
            DataError: an example is a question, not a text.
        """
        texts = [e for e in examples if isinstance(e, TextExample)]
        if not texts or len(texts) != len(examples):
            raise DataError("text classification needs texts with labels, as JSON lines or CSV")
        pairs = [e.text_pair or "" for e in texts] if any(e.text_pair is not None for e in texts) else None
        encoded = tokenizer([e.text for e in texts], pairs, truncation=True, max_length=max_length)
        names = [name for name in tokenizer.model_input_names if name in encoded]
        return [{**{name: encoded[name][i] for name in names}, "labels": e.label} for i, e in enumerate(texts)]

    def losses(self, outputs: ModelOutput, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        """Cross entropy, `[batch]`."""
        return F.cross_entropy(outputs.logits.float(), batch["labels"], reduction="none", label_smoothing=label_smoothing)

    def logits(self, outputs: ModelOutput) -> tuple[Tensor, ...]:
        """Class logits `[batch, classes]`."""
        return (outputs.logits,)
