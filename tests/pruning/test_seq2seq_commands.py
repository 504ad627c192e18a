"""`export` and `quantize` take an encoder-decoder like any other model, and the service generates from what they leave."""

import json

import pytest
import yaml

from pruning import checkpoint
from pruning.cli import main
from service.artifact import read_manifest
from service.model import GeneratingModel
from service.tasks.summarize import SummarizeRequest
from tests.pruning.helpers import tiny_bart

DOCUMENTS = ["the good, the bad and a list of others", "a bad day. the good is in the rest of it", "it is a list"]


@pytest.fixture
def recipe(tmp_path) -> str:
    """Path of a recipe over three documents."""
    rows = [json.dumps({"document": document, "summary": document[:9]}) for document in DOCUMENTS]
    (tmp_path / "documents.jsonl").write_text("\n".join(rows))
    source = [{"path": str(tmp_path / "documents.jsonl"), "licence": "CC0"}]
    fields = {
        "name": "tiny",
        "task": "summarization",
        "model": str(tmp_path / "model"),
        "max_length": 30,
        "target_length": 9,
        "data": {"train": source, "validation": source},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    return str(tmp_path / "recipe.yaml")


def test_export_and_quantize(invoke, recipe, tiny_tokenizer, tmp_path):
    """A checkpoint becomes an artifact and that a quantized one; both answer."""
    checkpoint.save(tiny_bart(seed=3), tiny_tokenizer, tmp_path / "model")
    for arguments in (
        ["export", f"{tmp_path}/model", "--recipe", recipe, "-o", f"{tmp_path}/tiny/dense"],
        ["quantize", f"{tmp_path}/tiny/dense", "-o", f"{tmp_path}/tiny/dense-int8"],
    ):
        result = invoke(main, ["--quiet", *arguments])
        assert result.exit_code == 0, result.output
    for variant in ("dense", "dense-int8"):
        manifest = read_manifest(tmp_path / "tiny" / variant)
        assert (manifest.variant, manifest.generation.target_length, manifest.generation.restore_case) == (variant, 9, True)
        model = GeneratingModel.load(tmp_path / "tiny" / variant)
        assert len(model.predict([SummarizeRequest(text=document) for document in DOCUMENTS])) == len(DOCUMENTS)
