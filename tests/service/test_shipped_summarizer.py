"""The summarizer that ships: each variant gives its golden logits, and what it writes does not depend on who is decoded beside it."""

from pathlib import Path

import pytest

from service.generation import GenerationSettings
from service.generation.engine import generate_each
from service.model import GeneratingModel
from service.tasks.summarize import SummarizeRequest

MODELS = Path(__file__).parents[2] / "models/summarize"
TEXTS = (
    "The bakery in Mill Lane opens an hour earlier from Monday. Its owner, Rosa Lind, said on Friday that commuters had asked for it. "
    "Two bakers were taken on for the early shift. Prices stay as they are until spring.",
    "The footbridge over the river Aller is closed for repairs. Engineers found rust in its bearings. Walkers can cross at the lock.",
    "A school in the harbour district has won the county's chess cup for the fifth time.",
)


@pytest.fixture(scope="module", params=["dense", "compact", "compact-int8"])
def model(request: pytest.FixtureRequest) -> GeneratingModel:
    """A variant, which was loaded: its golden logits are those of this machine."""
    return GeneratingModel.load(MODELS / request.param)


def test_texts_are_summarized_together_as_alone(model: GeneratingModel):
    """Greedily, and by the model's own settings."""
    for settings in ({"num_beams": 1, "max_new_tokens": 24}, {"max_new_tokens": 24}):
        requests = [SummarizeRequest(text=text, settings=settings) for text in TEXTS]
        together = model.predict(requests)
        assert all(response.summary for response in together)
        assert together == [model.predict_one(request) for request in requests]


def test_beams_beside_a_greedy_request_change_nothing(model: GeneratingModel):
    """What is generated greedily, token by token, is the same beside requests of beams."""
    sources = [model.rows(SummarizeRequest(text=text))[0].input_ids.tolist() for text in TEXTS]
    greedy, beams = GenerationSettings(max_new_tokens=24), GenerationSettings(max_new_tokens=24, num_beams=4)
    alone = [generate_each(model.generator, [(source, greedy)])[0].tokens for source in sources]
    mixed = [(source, way) for source in sources for way in (greedy, beams)]
    assert [each.tokens for each in generate_each(model.generator, mixed)[::2]] == alone
