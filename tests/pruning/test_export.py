"""The exported graph computes what torch does, and an artifact is whole, loadable, or absent."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast, PreTrainedModel

from pruning import checkpoint, export, onnx_graph
from pruning.checkpoint_weights import EMBEDDINGS_NAME, ENCODER_NAME
from pruning.compaction import compact
from pruning.errors import ParityError, StorageError
from pruning.families import family_of
from pruning.structure import shapes
from service.artifact import Metric, read_manifest
from service.model import GRAPH_NAME, Model
from service.tasks.classify import ClassifyRequest
from tests.pruning.helpers import FAMILY_NAMES, LONGEST, TASK_NAMES, kill_randomly, random_batch, tiny_model

OUTPUTS = {"question-answering": ("start_logits", "end_logits"), "text-classification": ("logits",)}


def pruned(family: str, task: str, seed: int) -> PreTrainedModel:
    """A compact model from which random heads, neurons and blocks were taken."""
    model = tiny_model(family, task, seed=seed)
    kill_randomly(np.random.default_rng(seed), model)
    return compact(model)


def arrays(family: str, **options: int) -> dict[str, np.ndarray]:
    """Random inputs with padding, as arrays."""
    return {name: tensor.numpy() for name, tensor in random_batch(family, **options).items()}


def spec_of(model: PreTrainedModel, task: str, **changes: object) -> export.ArtifactSpec:
    """A specification that fits a tiny model."""
    facts = {
        "name": "tiny",
        "variant": "compact",
        "task": task,
        "family": model.config.model_type,
        "labels": ("bad", "good") if task == "text-classification" else (),
        "max_length": 32,
        "stride": 8,
        "macs_sequence_length": 32,
        "density": 0.5,
        "golden": (arrays(model.config.model_type, rows=1, length=9), arrays(model.config.model_type, rows=2, length=5, seed=1)),
    }
    return export.ArtifactSpec(**facts | changes)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FAMILY_NAMES), st.sampled_from(TASK_NAMES), st.integers(0, 2**16))
def test_graph_equals_torch(family: str, task: str, seed: int):
    """Whatever heads, neurons and blocks are gone, the graph gives torch's outputs at several batch sizes and lengths."""
    model = pruned(family, task, seed)
    proto = export.to_onnx(model, task)
    inputs = export.random_inputs(model, onnx_graph.input_names(proto), max_length=LONGEST, seed=seed)
    assert export.check_parity(proto, model, [*inputs, arrays(family, seed=seed)]) < 1e-4


def test_everything_can_be_gone(family: str, task: str):
    """A model with no block left in any layer still takes all inputs and gives torch's outputs."""
    model = tiny_model(family, task)
    for layer in family_of(model).layers(model):
        layer.attention.value.weight.data.zero_()
        layer.feed_forward.up.weight.data.zero_()
    empty = compact(model)
    proto = export.to_onnx(empty, task)
    assert "attention_mask" in onnx_graph.input_names(proto)
    assert export.check_parity(proto, empty, [arrays(family)]) < 1e-4


def test_layers_can_be_dropped(family: str):
    """A model without its middle layer exports like any other."""
    model = compact(tiny_model(family), drop_layers=[1])
    assert export.check_parity(export.to_onnx(model, "question-answering"), model, [arrays(family)]) < 1e-4


def test_signature(family: str, task: str):
    """Inputs are int64 with dynamic batch and length, token types where the family has them; outputs come in the promised order."""
    proto = export.to_onnx(tiny_model(family, task), task)
    expected = ("input_ids", "attention_mask", "token_type_ids") if family == "bert" else ("input_ids", "attention_mask")
    assert onnx_graph.input_names(proto) == expected
    assert onnx_graph.output_names(proto) == OUTPUTS[task]
    for value in proto.graph.input:
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert all(dimension.dim_param for dimension in value.type.tensor_type.shape.dim)


def test_export_leaves_the_model_as_it_was():
    """A model in training mode is in training mode afterwards, with the same weights."""
    model = tiny_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export.to_onnx(model, "question-answering")
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_no_shape_arithmetic_is_left_in_the_layers(family: str):
    """The shapes that depend on the model alone are constants: no layer computes one at run time."""
    proto = export.to_onnx(tiny_model(family), "question-answering")
    inside = [node.op_type for node in proto.graph.node if "layer" in node.name]
    assert not {"Shape", "Slice", "Concat", "Gather", "Unsqueeze", "Expand"} & set(inside)


def test_weights_carry_the_names_of_their_modules(family: str, task: str):
    """Every linear's weight has in the graph the name that it has in torch's state."""
    model = tiny_model(family, task)
    proto = export.to_onnx(model, task)
    assert onnx_graph.weight_matmuls(proto)
    assert set(onnx_graph.weight_matmuls(proto)) <= set(model.state_dict())


def test_parity_refuses_another_model():
    """A graph that is not the model's is refused with the output that differs."""
    proto = export.to_onnx(tiny_model(seed=1), "question-answering")
    with pytest.raises(ParityError, match="start_logits of the exported graph differs from torch"):
        export.check_parity(proto, tiny_model(seed=2), [arrays("bert")])


def test_artifact_equals_torch(family: str, task: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """The graph over fp16 shards computes what the checkpoint beside it does in torch."""
    model = pruned(family, task, seed=len(family) + len(task))
    export.export_artifact(model, tiny_tokenizer, tmp_path / "compact", spec=spec_of(model, task))
    loaded = checkpoint.load(tmp_path / "compact")
    assert export.check_parity(tmp_path / "compact" / GRAPH_NAME, loaded, [arrays(family, seed=7)]) < 1e-4


def test_service_loads_the_artifact(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """The service accepts files, graph and golden outputs, and answers."""
    model = pruned("bert", "text-classification", seed=3)
    export.export_artifact(model, tiny_tokenizer, tmp_path / "compact", spec=spec_of(model, "text-classification"))
    served = Model.load(tmp_path / "compact")
    (response,) = served.predict([ClassifyRequest(text="the good")])
    with torch.inference_mode():
        logits = checkpoint.load(tmp_path / "compact")(**tiny_tokenizer("the good", return_tensors="pt")).logits[0]
    best = max(response.labels, key=lambda label: label.score)
    assert best.label == ("bad", "good")[int(logits.argmax())]
    assert best.score == pytest.approx(float(logits.softmax(-1).max()), abs=1e-3)


def test_manifest_states_the_model(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Shapes, hashes and what the specification says are in the manifest, and the one returned is the one on disk."""
    model = pruned("bert", "question-answering", seed=5)
    manifest = export.export_artifact(model, tiny_tokenizer, tmp_path / "compact", spec=spec_of(model, "question-answering", recipe="a: 1"))
    assert manifest == read_manifest(tmp_path / "compact")
    assert manifest.layers == shapes(model)
    assert manifest.recipe == "a: 1"
    assert set(manifest.files) == {path.name for path in (tmp_path / "compact").iterdir()} - {"manifest.json"}


def test_large_weights_are_stored_once(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """The graph holds no large fp32 weight: each is a range of bytes of a shard."""
    model = tiny_model(hidden=64)
    export.export_artifact(model, tiny_tokenizer, tmp_path / "dense", spec=spec_of(model, "question-answering", variant="dense"))
    proto = onnx.load(tmp_path / "dense" / GRAPH_NAME, load_external_data=False)
    inside = {t.name: np.prod(t.dims, dtype=int) for t in proto.graph.initializer if not t.external_data}
    outside = {entry.value for t in proto.graph.initializer for entry in t.external_data if entry.key == "location"}
    assert max(inside.values()) < 256
    assert outside == {EMBEDDINGS_NAME, ENCODER_NAME}


def test_runtime_folds_the_casts(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """After loading, no node widens or transposes a weight at run time: every fp16 tensor is gone."""
    model = tiny_model()
    export.export_artifact(model, tiny_tokenizer, tmp_path / "dense", spec=spec_of(model, "question-answering", variant="dense"))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(tmp_path / "dense" / GRAPH_NAME, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in optimized.graph.initializer)
    assert set(onnx_graph.weight_matmuls(optimized)) >= {name for name in model.state_dict() if name.endswith("dense.weight")}


def test_graph_comes_back_whole(family: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Folding the shards back into the graph gives the exported graph, byte for byte."""
    model = pruned(family, "question-answering", seed=1)
    export.export_artifact(model, tiny_tokenizer, tmp_path / "compact", spec=spec_of(model, "question-answering"))
    again = export.to_onnx(checkpoint.load(tmp_path / "compact"), "question-answering")
    assert export.load_fp32(tmp_path / "compact").graph.SerializeToString() == again.graph.SerializeToString()


def test_models_with_the_same_embeddings_share_their_shard(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """The embeddings' file of the dense and of the compact model is the same, byte for byte."""
    dense = tiny_model()
    small = tiny_model()
    kill_randomly(np.random.default_rng(0), small)
    for variant, model in (("dense", dense), ("compact", compact(small))):
        export.export_artifact(model, tiny_tokenizer, tmp_path / variant, spec=spec_of(model, "question-answering", variant=variant))
    one, other = ((tmp_path / variant / EMBEDDINGS_NAME).read_bytes() for variant in ("dense", "compact"))
    assert one == other


def test_failed_parity_writes_nothing(tiny_tokenizer: BertTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """When the graph is not the model's, no file is left and the artifact that was there stays."""
    model = tiny_model()
    spec = spec_of(model, "question-answering", variant="dense")
    kept = export.export_artifact(model, tiny_tokenizer, tmp_path / "dense", spec=spec)
    wrong = export.to_onnx(tiny_model(seed=9), "question-answering")
    monkeypatch.setattr(export, "to_onnx", lambda *_: wrong)
    with pytest.raises(ParityError):
        export.export_artifact(model, tiny_tokenizer, tmp_path / "dense", spec=spec)
    assert read_manifest(tmp_path / "dense") == kept
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["dense"]


def test_full_disk_leaves_nothing(tiny_tokenizer: BertTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An error of the file system in the middle is one error of ours, and no half-written folder is left."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", refuse)
    model = tiny_model()
    with pytest.raises(StorageError, match="No space left on device"):
        export.export_artifact(model, tiny_tokenizer, tmp_path / "dense", spec=spec_of(model, "question-answering", variant="dense"))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_measurements_are_added_later(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """What is given replaces the old value in the manifest; everything else stays and the artifact still loads."""
    model = tiny_model(task="text-classification")
    before = export.export_artifact(model, tiny_tokenizer, tmp_path / "dense", spec=spec_of(model, "text-classification", variant="dense"))
    metric = Metric(name="accuracy", value=90.0, low=88.0, high=92.0, examples=100, dataset="sst2", split="validation")
    export.update_manifest(tmp_path / "dense", metrics=[metric])
    export.update_manifest(tmp_path / "dense", null_threshold=0.5)
    assert Model.load(tmp_path / "dense").manifest == before.model_copy(update={"metrics": (metric,), "null_threshold": 0.5})
