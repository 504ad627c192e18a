"""What is wrong with a recipe whatever its training will bring: found before anything is trained, and not hours later."""

from transformers import PreTrainedModel

from pruning.config import Granularity, MagnitudeConfig, TrainConfig
from pruning.distillation import check_teacher
from pruning.masking import attach
from pruning.methods import method_of
from pruning.run import Run
from pruning.stages.models import initial_model, shrunk_model, teacher_model
from pruning.targets import check_reachable, goal_of, left_by, left_by_density

WHOLE_GROUPS = Granularity(attention="head", feed_forward="neuron")
"""What pruning with no training removes."""


def check_recipe(current: Run) -> None:
    """Try teachers, granularity and targets on the model that the run starts from.

    Raises:
        ConfigError: a teacher is not there or does not fit the model, or groups do not divide its weights.
        UnreachableTargetError: a target that is not reached even with every gate closed.
        NothingPrunedError: a target that the model reaches as it is.
    """
    trainings = _trainings(current)
    teachers = {each.distillation.teacher: each for each in trainings if each.distillation and each.distillation.teacher != "dense"}
    for settings in teachers.values():
        teacher = teacher_model(current, settings, own=None)
        assert teacher is not None
        check_teacher(_first_model(current), teacher)
    _check_targets(current)


def _check_targets(current: Run) -> None:
    config = current.config
    settings = config.fine_prune
    granularity = WHOLE_GROUPS if settings is None else settings.granularity
    method = method_of(MagnitudeConfig() if settings is None else settings.method)
    density = None if settings is None else settings.density
    for target in config.targets or ((None,) if settings else ()):
        model = shrunk_model(current, _first_model(current))
        left = left_by_density(model) if target is None else left_by(target, model, current.task.name, outputs=config.outputs)
        goal = density if target is None else goal_of(target)
        masks = attach(model, granularity, method)
        if goal is not None:
            check_reachable(masks, left, goal)


def _first_model(current: Run) -> PreTrainedModel:
    """The model before any training; where none of the run's trains it, it has its head already."""
    config = current.config
    pretrained = config.fine_prune is not None and config.fine_prune.start == "pretrained"
    return initial_model(current, next(iter(_trainings(current)), None) if config.train or pretrained else None)


def _trainings(current: Run) -> list[TrainConfig]:
    """All trainings of a run, in their order."""
    config = current.config
    fine_pruning = None if config.fine_prune is None else config.fine_prune.train
    return [each for each in (*config.train, fine_pruning, config.recover) if each is not None]
