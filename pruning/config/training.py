"""How a model is trained: the dense one, one that is pruned meanwhile, and a compact one that recovers."""

from typing import Literal

from pydantic import Field, model_validator

from pruning.config.base import Section


class PseudoLabelsConfig(Section):
    """Summaries that the teacher writes, for the student to learn (Kim & Rush, 2016, arXiv:1606.07947; Shleifer & Rush, 2020)."""

    beams: int = Field(4, gt=0, description="Beams that the teacher searches with.")
    batch_size: int = Field(16, gt=0, description="Documents that are summarized at a time.")
    references: bool = Field(True, description="Learn the summaries of the data, too.")


class DistillationConfig(Section):
    """Knowledge distillation from a teacher's logits (Hinton et al., 2015, arXiv:1503.02531), and from its layers."""

    teacher: str = Field("dense", description="Folder or hub name of the teacher; `dense` is the run's own dense model.")
    temperature: float = Field(2.0, gt=0, description="Softens both distributions; the loss is multiplied by its square.")
    weight: float = Field(0.9, ge=0, le=1, description="Weight of the teacher's loss; the labels' loss has the rest.")
    hidden: float = Field(
        0.0, ge=0, description="Weight of the loss of hidden states, layer by layer, which is added (Jiao et al., 2020, arXiv:1909.10351)."
    )
    attention: float = Field(
        0.0, ge=0, description="Weight of the loss of attention, averaged over heads, which is added; computed without SDPA, so slower."
    )
    pseudo_labels: PseudoLabelsConfig | None = Field(
        None, description="Summarization: also learn what the teacher writes; none by default."
    )


class TrainConfig(Section):
    """Hyper-parameters of one training, by `transformers.Trainer`."""

    epochs: float = Field(2.0, gt=0, description="Passes over the training data.")
    learning_rate: float = Field(8e-5, gt=0, description="Peak learning rate.")
    batch_size: int = Field(32, gt=0, description="Examples per optimizer step and process.")
    accumulation: int = Field(1, gt=0, description="Micro-batches per optimizer step; `batch_size` is split by it.")
    warmup: float = Field(0.06, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear", description="Learning-rate schedule.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of hidden states and of the head's input.")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of attention probabilities; 0 is much faster on CPU.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the task's loss.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    freeze_embeddings: bool = Field(True, description="Leave the embedding tables as they are, so that models can share their file.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the machine computes in it.")
    distillation: DistillationConfig | None = Field(None, description="Distil from a teacher; none by default.")
    save_steps: int = Field(500, gt=0, description="Optimizer steps between checkpoints that a rerun resumes from.")
    patience: int | None = Field(
        None,
        gt=0,
        description="Stop after this many evaluations without a better validation loss, one every `save_steps`, and keep the best weights; "
        "none: train to the end.",
    )

    @model_validator(mode="after")
    def _splits_evenly(self) -> "TrainConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(f"`batch_size` {self.batch_size} is not divisible by `accumulation` {self.accumulation}")
        return self


class RecoverConfig(TrainConfig):
    """Training of a compact model after pruning."""

    fill: bool = Field(
        False,
        description="Revive the zeros inside what is left, which cost nothing in a compact model; without it they stay zero.",
    )
    quantization_aware: bool = Field(
        False, description="Round weights and inputs of the layers while training as the int8 variant does, which then loses less."
    )
    fixed_ranges: bool = Field(
        False,
        description="With `quantization_aware` and `scheme: static`: round inputs between ranges found before this training, in the place "
        "of those of each row.",
    )
