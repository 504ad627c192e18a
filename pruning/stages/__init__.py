"""The stages that make a run's models and artifacts; `pruning/pipeline.py` puts them in order, and `Stages` keeps what each left."""

from pruning.stages.store import StageRecord, Stages

__all__ = ["StageRecord", "Stages"]
