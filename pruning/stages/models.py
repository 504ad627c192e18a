"""The models that stages start from, and the ones that they learn from."""

from typing import Any

from transformers import AutoModel, PreTrainedModel

from pruning import checkpoint
from pruning.config import RunConfig, TrainConfig, chosen
from pruning.errors import ConfigError
from pruning.run import Run
from pruning.shrinking import shrunk
from pruning.warm_start import encoder_decoder
from service.artifact import GENERATING_TASKS


def initial_model(current: Run, settings: TrainConfig | None) -> PreTrainedModel:
    """The model that the run starts from; where it is to be trained, with `settings`, its head may be new.

    Raises:
        ConfigError: rows are to be longer than the model has positions for.
    """
    model = _warm_started(current, settings) or checkpoint.load(
        current.config.model,
        auto_class=current.task.auto_class,
        new_head=settings is not None,
        labels=current.config.labels or None,
        attn_implementation="sdpa",
        **(_dropout(settings) if settings else {}),
    )
    _check_positions(model, current.config)
    if current.config.generation is not None:
        model.generation_config.update(**chosen(current.config.generation))
    return model


def trainable_model(current: Run, stage: str, settings: TrainConfig) -> PreTrainedModel:
    """The model that a stage left, with the dropout of a training."""
    return current.load(stage, attn_implementation="sdpa", **_dropout(settings))


def teacher_model(current: Run, settings: TrainConfig, *, own: str | None) -> PreTrainedModel | None:
    """The model that a training distils from, None where it does not; `own` is the stage that holds the run's dense model.

    Raises:
        ConfigError: the teacher is the run's dense model, and there is none yet.
    """
    if settings.distillation is None:
        return None
    if settings.distillation.teacher != "dense":
        return checkpoint.load(settings.distillation.teacher, auto_class=current.task.auto_class, attn_implementation="sdpa")
    if own is None:
        raise ConfigError("train.distillation.teacher is `dense`, which is what is being trained; name a folder or a hub model")
    return current.load(own, attn_implementation="sdpa")


def shrunk_model(current: Run, model: PreTrainedModel) -> PreTrainedModel:
    """The model that is pruned: without the layers that go whole."""
    asked = current.config.shrink
    return model if asked is None else shrunk(model, encoder_layers=asked.encoder_layers, decoder_layers=asked.decoder_layers)


def _check_positions(model: PreTrainedModel, config: RunConfig) -> None:
    padding = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)  # RoBERTa counts positions from behind it
    longest = model.config.max_position_embeddings - (0 if padding is None else padding + 1)
    for name, asked in (("max_length", config.max_length), ("target_length", config.target_length)):
        if asked > longest and (name == "max_length" or config.task in GENERATING_TASKS):
            raise ConfigError(f"`{name}` is {asked}, and {config.model} has positions for {longest} tokens; ask for at most {longest}")


def _warm_started(current: Run, settings: TrainConfig | None) -> PreTrainedModel | None:
    """The encoder-decoder that is made of the run's encoder; None where the model is one already."""
    warm_start = current.config.warm_start
    if warm_start is None:
        return None
    encoder = checkpoint.load(current.config.model, auto_class=AutoModel)
    rates = _dropout(settings) if settings else {}
    return encoder_decoder(encoder, current.tokenizer, decoder_layers=warm_start.decoder_layers, **rates)


def _dropout(settings: TrainConfig) -> dict[str, Any]:
    """What `checkpoint.load` takes; all stages of a training have the first one's."""
    return {"dropout": settings.dropout, "attention_dropout": settings.attention_dropout}
