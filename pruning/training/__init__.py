"""Fine-tuning of dense and of compact models."""

from pruning.training.arguments import computes_in_bf16
from pruning.training.checkpoints import last_whole_checkpoint
from pruning.training.rows import LengthGroupedSampler
from pruning.training.trainer import TaskTrainer, TrainingResult, steps_of, train

__all__ = [
    "LengthGroupedSampler",
    "TaskTrainer",
    "TrainingResult",
    "computes_in_bf16",
    "last_whole_checkpoint",
    "steps_of",
    "train",
]
