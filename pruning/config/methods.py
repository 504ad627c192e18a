"""The methods of fine-pruning: a section for each, known by its name; `MethodConfig` is any of them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pruning.config.base import Section


class MagnitudeConfig(Section):
    """Keep the largest weights (Han et al., 2015, arXiv:1506.02626)."""

    name: Literal["magnitude"] = Field("magnitude", description="The method.")
    scope: Literal["local", "global"] = Field("local", description="Rank within each matrix, or over all of them.")


class MovementConfig(Section):
    """Keep what does not move towards zero, *hard* (Sanh et al., 2020, arXiv:2005.07683)."""

    name: Literal["movement"] = Field("movement", description="The method.")
    scope: Literal["local", "global"] = Field("local", description="Rank within each matrix, or over all of them.")


class SoftMovementConfig(Section):
    """Keep what a penalty does not push below a threshold (Sanh et al., 2020, arXiv:2005.07683)."""

    name: Literal["soft_movement"] = Field("soft_movement", description="The method.")
    threshold: float = Field(
        0.1, gt=0, lt=0.5, description="What the sigmoid of a score has to exceed, at the end of the ramp; with a target, about that much."
    )
    penalty: float = Field(10.0, gt=0, description="Weight of the penalty; where it begins, if there is a target to steer for.")


class L0Config(Section):
    """Keep the gates that are likely to be open (Louizos et al., 2018, arXiv:1712.01312)."""

    name: Literal["l0"] = Field("l0", description="The method.")
    initial: float = Field(2.197, description="Scores at first: log odds; 2.197 is a probability of 0.9.")
    penalty: float = Field(
        10.0, gt=0, description="Weight of the penalty, from the first step on; where it begins, if there is a target to steer for."
    )
    seed: int = Field(0, ge=0, description="Seed of the gates' noise.")


def _section(given: object) -> object:
    """A method with its own defaults may be given by its name alone."""
    return {"name": given} if isinstance(given, str) else given


MethodConfig = Annotated[
    MagnitudeConfig | MovementConfig | SoftMovementConfig | L0Config, Field(discriminator="name"), BeforeValidator(_section)
]
