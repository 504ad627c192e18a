"""Distillation: what a student is to learn of a frozen teacher, and the losses of it, one value per row, normalised per valid token.

Of the logits (Hinton et al., 2015, arXiv:1503.02531): the Kullback-Leibler divergence of the softened distributions, times the square of
the temperature so that its gradient keeps its size. Of the layers (Sun et al., 2019, arXiv:1908.09355; Jiao et al., 2020,
arXiv:1909.10351): the hidden states, and where each position attends to. The losses are pure functions; `Teacher` is what a training holds.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from pruning.config import DistillationConfig
from pruning.errors import ConfigError
from pruning.processes import is_main, process_count, process_index
from pruning.tasks.base import IGNORED, TEACHER_LOGITS, Batch, Feature, Task, inputs_of
from pruning.vocabulary import input_vocabulary

MASKED = -1e6
LEAST_ATTENTION = 1e-9
PROJECTION = "distillation_projection"


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


def token_losses(student: Tensor, teacher: Tensor, *, temperature: float, labels: Tensor) -> Tensor:
    """Mean of `soft_cross_entropy` over the tokens that a decoder is to write, `[batch]`; logits are `[batch, target, vocabulary]`.

    `labels` are int64 `[batch, target]`, `IGNORED` where there is padding.
    """
    valid = labels != IGNORED
    each = torch.zeros(labels.shape, device=labels.device)
    each[valid] = soft_cross_entropy(student[valid], teacher[valid], temperature=temperature)
    return _mean_over_tokens(each, valid)


def matched_layers(student: int, teacher: int) -> list[tuple[int, int]]:
    """Layers of a student and of a teacher that stand for each other, counted from 0: spread evenly over both, the last with the last.

    Six layers learn from the 2nd, 4th, ... 12th of twelve. Of a deeper student's layers some have no teacher.
    """
    pairs = min(student, teacher)
    return [(nth * student // pairs - 1, nth * teacher // pairs - 1) for nth in range(1, pairs + 1)]


def hidden_losses(student: Sequence[Tensor], teacher: Sequence[Tensor], *, attention_mask: Tensor) -> Tensor:
    """Mean squared difference of the hidden states, over matched layers, tokens that are not padding, and dimensions.

    Args:
        student, teacher: states after each layer, `[batch, sequence, hidden]`, of one width; either may have more layers.
        attention_mask: int64 `[batch, sequence]`.

    Returns:
        `[batch]`.
    """
    pairs = matched_layers(len(student), len(teacher))
    parts = [(student[s].float() - teacher[t].float()).square().mean(-1) for s, t in pairs]
    return _mean_over_tokens(torch.stack(parts).mean(0), attention_mask)


def attention_losses(student: Sequence[Tensor | None], teacher: Sequence[Tensor | None], *, attention_mask: Tensor) -> Tensor:
    """KL(teacher || student) of where a position attends to, averaged over heads; mean over matched layers and valid positions.

    A divergence, as in MiniLM (Wang et al., 2020, arXiv:2002.10957), does not shrink as rows get longer, which a squared difference of
    probabilities does. Averages over heads can be compared where pruning left unequal numbers of them.

    Args:
        student, teacher: probabilities of each layer, `[batch, heads, sequence, sequence]`; None where a layer has no attention, which
            takes no part.
        attention_mask: int64 `[batch, sequence]`.

    Returns:
        `[batch]`, in nats; 0 where no matched layers have attention.
    """
    pairs = [(student[s], teacher[t]) for s, t in matched_layers(len(student), len(teacher))]
    parts = [_attention_divergence(s, t, attention_mask) for s, t in pairs if s is not None and t is not None]
    return torch.stack(parts).mean(0) if parts else torch.zeros(len(attention_mask), device=attention_mask.device)


def _attention_divergence(student: Tensor, teacher: Tensor, attention_mask: Tensor) -> Tensor:
    student, teacher = _mean_attention(student, attention_mask), _mean_attention(teacher, attention_mask)
    student_log, teacher_log = student.clamp(min=LEAST_ATTENTION).log(), teacher.clamp(min=LEAST_ATTENTION).log()
    return _mean_over_tokens((teacher * (teacher_log - student_log)).sum(-1), attention_mask)


def _mean_attention(probabilities: Tensor, attention_mask: Tensor) -> Tensor:
    """`[batch, heads, query, key]` -> `[batch, query, key]`; rows sum to 1 again, as they do not under dropout."""
    mean = probabilities.float().mean(1) * attention_mask[:, None, :]
    return mean / mean.sum(-1, keepdim=True).clamp(min=LEAST_ATTENTION)


def _mean_over_tokens(values: Tensor, attention_mask: Tensor) -> Tensor:
    """`[batch, sequence]` -> `[batch]`."""
    return (values * attention_mask).sum(-1) / attention_mask.sum(-1)


def check_teacher(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuse a teacher that reads other token ids than the student, or whose logits mean something else.

    Raises:
        ConfigError: it has another vocabulary, other classes, or the same classes in another order.
    """
    ours, theirs = student.config, teacher.config
    vocabulary = input_vocabulary(student) or ours.vocab_size
    if theirs.vocab_size != vocabulary:
        raise ConfigError(
            f"the teacher's vocabulary has {theirs.vocab_size} tokens and the student's {vocabulary}; "
            "name a teacher with the student's tokenizer in `distillation.teacher`"
        )
    if theirs.num_labels != ours.num_labels:
        raise ConfigError(
            f"the teacher has {theirs.num_labels} classes and the student {ours.num_labels}; "
            "name a teacher of the same task in `distillation.teacher`"
        )
    labels, expected = _label_names(teacher), _label_names(student)
    if labels != expected and sorted(labels) == sorted(expected):
        raise ConfigError(f"the teacher's classes are {', '.join(labels)} and the student's {', '.join(expected)}; give both one order")


def _label_names(model: PreTrainedModel) -> list[str]:
    return [str(name).lower() for _, name in sorted(model.config.id2label.items())]


class Teacher:
    """A frozen model and what a student is to learn of it, in one training.

    Attributes:
        asks: what the forward of both is asked for beside logits.
    """

    def __init__(self, model: PreTrainedModel, config: DistillationConfig, task: Task, *, output_ids: Tensor | None = None) -> None:
        """Take the model, which is put into evaluation mode.

        `output_ids` are the teacher's id of each token that the student writes, int64 `[kept]`, where these are fewer.

        Raises:
            ConfigError: attention is to be learnt from an encoder-decoder.
        """
        if config.attention and model.config.is_encoder_decoder:
            raise ConfigError(
                "`distillation.attention` compares the one map that a layer of an encoder has, and a decoder's has two; leave it out, or "
                "use `hidden`"
            )
        self.model, self.config, self.task, self._output_ids = model.eval(), config, task, output_ids
        wanted = {"output_hidden_states": config.hidden > 0, "output_attentions": config.attention > 0}
        self.asks = {name: True for name, asked in wanted.items() if asked}
        self._inputs = frozenset(inspect.signature(model.forward).parameters)

    @contextmanager
    def teaches(self, student: PreTrainedModel, *, seed: int) -> Iterator[None]:
        """Within it, the student's hidden states have the teacher's width.

        Where widths differ, a linear map is trained with the student and kept in its checkpoints; it goes when the training ends.
        """
        width = self.model.config.hidden_size
        with ExitStack() as undo:
            for logger in {logging.getLogger(type(model).__module__) for model in (student, self.model)}:
                logger.addFilter(_is_no_fallback)
                undo.callback(logger.removeFilter, _is_no_fallback)
            if self.config.hidden and width != student.config.hidden_size:
                undo.callback(_attach_projection(student, width, seed=seed))
            yield

    def answered(self, features: Sequence[Feature], collate: Callable[[Sequence[Feature]], Batch], *, batch_size: int) -> list[Feature]:
        """The rows with this teacher's logits beside them, float32 `[classes, outputs]` or `[sequence, outputs]` under `TEACHER_LOGITS`.

        The batches depend on nothing but the rows, so that whoever asks again gets the same bits; several processes share them out.
        """
        order = sorted(range(len(features)), key=lambda row: -len(features[row]["input_ids"]))
        batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        found: list[tuple[int, Tensor]] = []
        for rows in tqdm(batches[process_index() :: process_count()], desc="teacher", unit="batch", disable=not is_main()):
            batch = inputs_of(collate([features[row] for row in rows]), self.task)
            outputs = self.task.logits(self._outputs({name: ids.to(self.model.device) for name, ids in batch.items()}))
            logits = torch.stack(outputs, dim=-1).float().cpu()
            lengths = [len(features[row]["input_ids"]) if _over_positions(outputs) else logits.shape[1] for row in rows]
            found += [(row, each[:length].clone()) for row, each, length in zip(rows, logits, lengths, strict=True)]
        answers: dict[int, Tensor] = dict(gather_object(found))
        return [{**feature, TEACHER_LOGITS: answers[row]} for row, feature in enumerate(features)]

    def blended(self, losses: Tensor, student: ModelOutput, batch: Batch) -> Tensor:
        """The losses that the student has from its labels, blended with those that it has from the teacher; `[batch]` both."""
        rows = inputs_of(batch, self.task)
        mask = rows["attention_mask"]
        if TEACHER_LOGITS in batch:
            return self._blended(losses, student, batch[TEACHER_LOGITS].unbind(-1), mask)
        if "decoder_input_ids" in rows:
            return self._blended_by_token(losses, student, rows, batch["labels"])
        teacher = self._outputs(rows)
        losses = self._blended(losses, student, self.task.logits(teacher), mask)
        if self.config.hidden:  # the first states are the embeddings'
            states = student.hidden_states[1:], teacher.hidden_states[1:]
            losses = losses + self.config.hidden * hidden_losses(*states, attention_mask=mask)
        if self.config.attention:
            losses = losses + self.config.attention * attention_losses(student.attentions, teacher.attentions, attention_mask=mask)
        return losses

    def _blended_by_token(self, losses: Tensor, student: ModelOutput, rows: Batch, labels: Tensor) -> Tensor:
        """The same of an encoder-decoder; states of both of its stacks are matched."""
        teacher, ours = self._outputs(self._as_read(rows)), self.task.logits(student)[0]
        theirs = self.task.logits(teacher)[0]
        if self._output_ids is not None:
            theirs = theirs[..., self._output_ids.to(theirs.device)]
        soft = token_losses(ours, theirs, temperature=self.config.temperature, labels=labels)
        losses = (1 - self.config.weight) * losses + self.config.weight * soft
        if self.config.hidden:
            valid = labels != IGNORED
            read = hidden_losses(
                student.encoder_hidden_states[1:], teacher.encoder_hidden_states[1:], attention_mask=rows["attention_mask"]
            )
            written = hidden_losses(student.decoder_hidden_states[1:], teacher.decoder_hidden_states[1:], attention_mask=valid)
            losses = losses + self.config.hidden * (read + written)
        return losses

    def _as_read(self, rows: Batch) -> Batch:
        """The rows in the teacher's token ids: a student of a reduced output vocabulary has others."""
        if self._output_ids is None:
            return rows
        return {**rows, "decoder_input_ids": self._output_ids.to(rows["decoder_input_ids"].device)[rows["decoder_input_ids"]]}

    def _blended(self, losses: Tensor, student: ModelOutput, teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        over_positions = mask if _over_positions(teacher) else None
        logits = self.task.logits(student)
        soft = distillation_losses(logits, teacher, temperature=self.config.temperature, attention_mask=over_positions)
        return (1 - self.config.weight) * losses + self.config.weight * soft

    @torch.no_grad()
    def _outputs(self, rows: Batch) -> ModelOutput:
        return self.model(**{name: tensor for name, tensor in rows.items() if name in self._inputs}, **self.asks)


def _over_positions(logits: Sequence[Tensor]) -> bool:
    """Whether a task's logits are over positions: of starts and of ends, and not of classes."""
    return len(logits) > 1


def _attach_projection(student: PreTrainedModel, width: int, *, seed: int) -> Callable[[], None]:
    """Have the student give hidden states of this width; returns what undoes it.

    The map is applied in the forward, so that processes share its gradient as they share the student's.
    """
    projection = nn.Linear(student.config.hidden_size, width, bias=False, device="meta")
    weight = nn.init.orthogonal_(torch.empty(projection.weight.shape), generator=torch.Generator().manual_seed(seed))
    projection.weight = nn.Parameter(weight.to(student.device, student.dtype))
    student.add_module(PROJECTION, projection)
    hook = student.register_forward_hook(_project)

    def detach() -> None:
        hook.remove()
        delattr(student, PROJECTION)

    return detach


def _project(student: nn.Module, _: object, outputs: ModelOutput) -> ModelOutput:
    if outputs.hidden_states is not None:
        projection = student.get_submodule(PROJECTION)
        outputs.hidden_states = tuple(projection(states) for states in outputs.hidden_states)
    return outputs


def _is_no_fallback(record: logging.LogRecord) -> bool:
    """Asked for attention probabilities, a model loaded with `sdpa` computes them as `eager` does, and warns that it does."""
    return "Falling back to the manual attention implementation" not in record.getMessage()
