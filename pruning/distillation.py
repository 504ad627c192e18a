"""Distillation losses: pure functions of student and teacher logits, one value per row, normalised per valid token.

Knowledge distillation (Hinton et al., 2015, arXiv:1503.02531): the Kullback-Leibler divergence of the softened distributions, times
the square of the temperature so that its gradient keeps its size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED = -1e6


def soft_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float, mask: Tensor | None = None) -> Tensor:
    """KL(teacher || student) over the last dimension, times `temperature`².

    Args:
        student, teacher: logits `[batch, classes]`, or `[batch, sequence]` where positions are the classes.
        temperature: softens both.
        mask: bool `[batch, sequence]`; positions that are padding take no part.

    Returns:
        `[batch]`, in nats.
    """
    if mask is not None:
        student, teacher = student.float().masked_fill(~mask, MASKED), teacher.float().masked_fill(~mask, MASKED)
    student_log = F.log_softmax(student.float() / temperature, dim=-1)
    teacher_log = F.log_softmax(teacher.float() / temperature, dim=-1)
    return F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1) * temperature**2


def distillation_losses(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, temperature: float, attention_mask: Tensor | None = None
) -> Tensor:
    """Mean of `soft_cross_entropy` over the task's outputs (one for classes; start and end for spans), `[batch]`.

    `attention_mask` is int64 `[batch, sequence]`; it is used where the logits are over positions, and is None where they are over classes.
    """
    mask = None if attention_mask is None else attention_mask.bool()
    parts = [soft_cross_entropy(s, t, temperature=temperature, mask=mask) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(parts).mean(0)
