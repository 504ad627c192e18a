"""Distillation losses against torch and against what they should be by definition."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pruning.distillation import distillation_losses, soft_cross_entropy


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
