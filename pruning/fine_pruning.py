"""Fine-pruning: training and pruning at once (Sanh et al., 2020, arXiv:2005.07683; Lagunas et al., 2021, arXiv:2109.04838).

The Trainer trains; before each of its steps the schedule opens and closes gates, and now and then what is left is read and steered towards
the target. When the ramp ends the masks are frozen and the weights settle; in the end what was masked is baked in.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pruning.config import FinePruneConfig
from pruning.errors import NothingPrunedError
from pruning.masking import Kind, Masks, attach
from pruning.methods import method_of
from pruning.schedule import Schedule, penalty_at, threshold_at
from pruning.steering import FARTHEST, Reading, follow_level, solve_level, steered, wanted_at
from pruning.structure import Structure
from pruning.targets import Left, check_reachable, left_by_density
from pruning.tasks.base import Batch, Feature, Task
from pruning.training import TaskTrainer, TrainingResult, steps_of, train

STATE_NAME = "pruning.json"
READINGS = 200
NEAR = 0.005
HIGHEST_THRESHOLD = 1 - 1e-9


@dataclass(frozen=True)
class FinePruning:
    """What fine-pruning to one target did.

    Attributes:
        training: what it took.
        left: share that stays, of what the target counts.
        density: share of the layers' linear weights that stay, those without a mask included.
        trace: readings along the way.
    """

    training: TrainingResult
    left: float
    density: float
    trace: tuple[Reading, ...]


def fine_prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    features: Sequence[Feature],
    config: FinePruneConfig,
    *,
    left: Left,
    target: float | None,
    folder: Path,
    seed: int,
    teacher: PreTrainedModel | None = None,
    validation: Sequence[Feature] = (),
    protected: Structure | None = None,
    finished: Callable[[Masks], None] = lambda _: None,
    events: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> FinePruning:
    """Train and prune `model` in place: afterwards what was pruned is zero, and nothing else tells that it was masked.

    A rerun with the same arguments resumes from the last whole checkpoint in `folder`, and ends where the uninterrupted run would have.

    Args:
        model: dense, or compact already.
        tokenizer: pads the batches.
        task: gives the loss.
        features: training rows.
        config: method, granularity and hyper-parameters.
        left: reads the share of the model that stays; see `pruning.targets`.
        target: what that share is to be; None leaves the method to its own penalty.
        folder: where checkpoints go.
        seed: of the order of the rows and of dropout.
        teacher: distilled from if `config.train.distillation` is set.
        validation: rows whose loss is logged after each epoch.
        protected: heads and neurons that may not be pruned; None for none.
        finished: called with the masks before they are baked in.
        events: folder for what TensorBoard shows; None for no events.
        callbacks: of the caller's, beside those that every training has.

    Raises:
        DataError: no training rows.
        UnreachableTargetError: more is left than is asked for even if every gate closes.
        NothingPrunedError: every gate is open in the end.
    """
    steps = steps_of(config.train, len(features))
    schedule = Schedule(steps, warmup=int(config.warmup * steps), cooldown=int(config.cooldown * steps))
    density = left_by_density(model)
    masks = attach(model, config.granularity, method_of(config.method), protected=protected)
    goal = config.density if target is None else target
    if goal is not None and protected is None:  # what is protected met the target once, as nearly as its groups let it
        check_reachable(masks, left, goal)
    pruner = Pruner(masks, schedule, left, goal, penalty_weights(config))
    training = train(
        model,
        tokenizer,
        task,
        features,
        config.train,
        folder=folder,
        seed=seed,
        teacher=teacher,
        validation=validation,
        events=events,
        callbacks=callbacks,
        trainer_class=PruningTrainer,
        pruner=pruner,
        score_learning_rate=config.score_learning_rate,
    )
    if not pruner.frozen:
        pruner.settle(steps)
    found = FinePruning(training, left(masks), density(masks), tuple(pruner.trace))
    if masks.closed() == 0:
        raise NothingPrunedError(_why_nothing(config.method.name, steps, goal, pruner.penalty_weight))
    finished(masks)
    masks.bake()
    return found


def _why_nothing(method: str, steps: int, goal: float | None, penalty: float) -> str:
    """One line on a run that ended with every gate open."""
    if goal is None:
        cause = f"a penalty of {penalty:g} pushed no gate below the threshold"
        remedy = "train longer, or raise the penalty or `score_learning_rate`"
    else:
        cause = f"groups are so large that with one less the model is farther from the {100 * goal:.3g} % that is to be left"
        remedy = "ask for less to be left, or choose a finer `granularity`"
    return f"{method} pruned nothing in {steps} steps: {cause}; {remedy}"


def penalty_weights(config: FinePruneConfig) -> dict[Kind, float]:
    """Weight of the penalty by kind of block, relative to the method's."""
    attention, feed_forward, decoder = config.attention_penalty, config.feed_forward_penalty, config.decoder_penalty
    return {
        "attention": attention,
        "feed_forward": feed_forward,
        "decoder_attention": attention * decoder,
        "decoder_feed_forward": feed_forward * decoder,
    }


@dataclass
class Pruner:
    """Opens and closes gates as a training goes on. What it knows beside the masks fits into a checkpoint.

    Attributes:
        masks: of the model that is trained.
        schedule: of the training.
        left: reads the share that is to reach `goal`.
        goal: see `left`; None for a method that is left to its own penalty.
        kinds: weight of the penalty by kind of block.
        penalty_weight: as steered so far.
        level: of the method, now.
        slope: what a level that is the share to keep changes by at each step until the next reading.
        ahead: by how much too much will be left, as it looked at the last reading; None before the first.
        frozen: whether the ramp is over.
        trace: readings so far.
    """

    masks: Masks
    schedule: Schedule
    left: Left
    goal: float | None
    kinds: Mapping[Kind, float]
    penalty_weight: float = field(init=False)
    level: float = field(init=False)
    slope: float = 0.0
    ahead: float | None = None
    frozen: bool = False
    trace: list[Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.penalty_weight = self.masks.method.first_penalty
        self.level = 1.0 if self._keeps_best else 0.0
        self._interval = max(1, self.schedule.steps // READINGS)
        self._step = 0

    def before(self, step: int) -> None:
        """What comes before an optimizer step."""
        self._step = step
        if self.frozen:
            return
        if self.schedule.cools(step):
            self.settle(step)
        elif self._keeps_best:
            self._follow(step)
        else:
            self._steer(step)

    def penalty(self) -> Tensor | None:
        """What the loss of this step grows by; None for nothing."""
        if self.frozen or self._keeps_best:
            return None
        has_threshold = self.masks.method.last_level > 0
        grows = has_threshold or self.goal is not None  # with neither, as L0 in the papers, the weight is what it is from the first step
        weight = penalty_at(self.schedule, self._step, weight=self.penalty_weight) if grows else self.penalty_weight
        return weight * self.masks.penalty(self.kinds)

    def settle(self, step: int) -> None:
        """The end of the ramp: meet the goal, and freeze."""
        if self.goal is None:
            self.level = self.masks.method.last_level
        else:
            self.level = self._level_for(self.goal, step)
        left = self._closed(self.level, step)
        self.masks.freeze()
        self.frozen = True
        self._note(step, left, left if self.goal is None else self.goal)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; the masks are in the model's own."""
        return {
            "penalty_weight": self.penalty_weight,
            "level": self.level,
            "slope": self.slope,
            "ahead": self.ahead,
            "frozen": self.frozen,
            "trace": [asdict(reading) for reading in self.trace],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint, after the model."""
        self.penalty_weight, self.ahead = state["penalty_weight"], state["ahead"]
        self.level, self.slope = state["level"], state["slope"]
        self.trace = [Reading(**reading) for reading in state["trace"]]
        if state["frozen"]:
            self.masks.freeze()
            self.frozen = True

    @property
    def _keeps_best(self) -> bool:
        return self.masks.method.steers == "level"

    def _follow(self, step: int) -> None:
        """Bring a method that keeps the best towards the level at which what is left is what should be, a little at each step.

        Gates that close many at a time undo each other: a sum of small steps that each would lower the loss is a large one that raises it.
        """
        assert self.goal is not None
        reads = step % self._interval == 0
        wanted = wanted_at(self.schedule.progress(step), self.goal)
        if reads:
            heading = 1.0 if wanted >= 1.0 else self._level_for(wanted, step)
            self.slope = (heading - self.level) / self._interval
        self.level += self.slope
        if self.level < 1.0:
            self._close(self.level, step)
        if reads:
            self._note(step, self._left(), wanted)

    def _steer(self, step: int) -> None:
        """Now and then look for the threshold that leaves what should be left, and steer the penalty so that it is the schedule's.

        At the schedule's threshold too much would be left until the end: a penalty comes late, and scores hover above a threshold where the
        task pulls as hard as it does. All of that would then go at once when the masks freeze, and the weights would not recover from it.
        """
        scheduled = threshold_at(self.schedule, step, end=self.masks.method.last_level)
        first, reads = self.ahead is None, step % self._interval == 0 and step > self.schedule.warmup
        if first:
            self.level = scheduled
        wanted = None
        if reads and self.goal is not None:
            progress = self.schedule.progress(step)
            wanted = wanted_at(progress, self.goal)
            self._weigh(self._closed(scheduled, step) - wanted, progress)
            self.level = self._level_for(wanted, step) if first else self._level_followed(wanted, step)
        self._close(self.level, step)
        if reads:
            left = self._left()
            self._note(step, left, left if wanted is None else wanted)

    def _weigh(self, error: float, progress: float) -> None:
        """Change the penalty's weight by how much more is left than should be; gates on their way count while there is time to arrive."""
        ahead = error - (1.0 - progress) * self.masks.pending()
        grown = 0.0 if self.ahead is None else ahead - self.ahead
        weight, first = steered(self.penalty_weight, (error + ahead) / 2, grown), self.masks.method.first_penalty
        self.penalty_weight, self.ahead = min(first * FARTHEST, max(first / FARTHEST, weight)), ahead

    @property
    def _range(self) -> tuple[float, float]:
        return (0.0, 1.0) if self._keeps_best else (self.masks.method.lowest_level, HIGHEST_THRESHOLD)

    def _level_for(self, wanted: float, step: int) -> float:
        """The level at which a share is left; for a density of methods that keep the best it is the density itself."""
        if self._keeps_best and abs(self._closed(wanted, step) - wanted) <= NEAR * wanted:
            return wanted
        low, high = self._range
        return solve_level(lambda level: self._closed(level, step), wanted, low=low, high=high)

    def _level_followed(self, wanted: float, step: int) -> float:
        """As above, for a threshold that is near where it was."""
        low, high = self._range
        return follow_level(lambda level: self._closed(level, step), wanted, self.level, low=low, high=high)

    def _close(self, level: float, step: int) -> None:
        """Open and close gates for a level."""
        self.masks.close(level, step=step)
        self.masks.close_idle_values()

    def _closed(self, level: float, step: int) -> float:
        """What is left at a level, whose gates are open and closed afterwards."""
        self._close(level, step)
        return self._left()

    def _left(self) -> float:
        with self.masks.at_rest():
            return self.left(self.masks)

    def _note(self, step: int, left: float, wanted: float) -> None:
        self.trace.append(Reading(step, left, wanted, self.level, self.penalty_weight))


class PruningTrainer(TaskTrainer):
    """The task's Trainer with masks on the model: the penalty in the loss, a learning rate for the scores, and their state kept."""

    def __init__(self, *, pruner: Pruner, score_learning_rate: float, **options: Any) -> None:  # noqa: ANN401 - the Trainer's own
        """Take a pruner beside the Trainer's options."""
        super().__init__(**options)
        self.pruner, self.score_learning_rate = pruner, score_learning_rate
        self.add_callback(_BeforeSteps(pruner))

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Any]:
        """The task's loss and the method's penalty."""
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        penalty = self.pruner.penalty() if model.training else None
        if penalty is None:
            return found
        return (found[0] + penalty, found[1]) if isinstance(found, tuple) else found + penalty

    def create_optimizer(self) -> Optimizer:
        """The Trainer's own for the weights, and a group for the scores: without decay, with a learning rate of its own."""
        scores = self.pruner.masks.scores
        learn = [each.requires_grad for each in scores]  # not in the cool-down; a resumed run needs the group all the same
        for each in scores:
            each.requires_grad_(False)
        optimizer: Optimizer = super().create_optimizer()
        for each, learns in zip(scores, learn, strict=True):
            each.requires_grad_(learns)
        if scores:
            optimizer.add_param_group({"params": scores, "lr": self.score_learning_rate, "weight_decay": 0.0})
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The latest reading stands beside the loss."""
        if "loss" in logs and self.pruner.trace:
            logs.update({name: value for name, value in asdict(self.pruner.trace[-1]).items() if name != "step"})
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        """Only weights whose masks are final compete: those before lost less, and would win."""
        return self.pruner.frozen and bool(super()._determine_best_metric(metrics, trial))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        (folder / STATE_NAME).write_text(json.dumps(self.pruner.state()), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.pruner.restore(json.loads((Path(resume_from_checkpoint) / STATE_NAME).read_text(encoding="utf-8")))


class _BeforeSteps(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    def __init__(self, pruner: Pruner) -> None:
        self._pruner = pruner

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._pruner.before(state.global_step)
