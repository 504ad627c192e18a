"""An artifact of an encoder-decoder is one set of weights under two graphs that generate what torch does."""

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from pruning import checkpoint
from pruning.checkpoint_weights import ENCODER_NAME
from pruning.errors import CheckpointError, ConfigError, ParityError
from pruning.seq2seq_artifact import check_tokens, default_settings, generation_info, sessions
from pruning.seq2seq_export import to_onnx
from pruning.seq2seq_quantization import load_graphs
from pruning.vocabulary import OUTPUT_IDS
from service.artifact import (
    DECODER_GRAPH_NAME,
    ENCODER_GRAPH_NAME,
    OUTPUT_IDS_NAME,
    DecoderLayerShape,
    read_manifest,
    read_output_ids,
    verify_files,
)
from service.errors import GoldenError
from service.generation.golden import check_golden
from tests.pruning.helpers import tiny_tokenizer
from tests.pruning.seq2seq_artifacts import KEPT_TOKENS, byte_tokenizer, summarizer, write_summarizer


@pytest.fixture(scope="module", params=["dense", "pruned", "reduced"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """An artifact, and the model that it was made from."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind) / "compact"
    model = summarizer(seed=3, pruned=kind != "dense", reduced=kind == "reduced")
    write_summarizer(folder, model)
    return folder, model


def external(folder: Path, graph: str) -> dict[str, tuple[str, str]]:
    """File and offset of each tensor that a graph keeps outside."""
    proto = onnx.load(folder / graph, load_external_data=False)
    places = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in proto.graph.initializer}
    return {name: (place["location"], place["offset"]) for name, place in places.items() if place}


def test_artifact_is_whole(written):
    """What was written verifies, and says how the model generates and what is left of it."""
    folder, _ = written
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    check_golden(*sessions(folder), manifest.golden, folder)
    info = manifest.generation
    assert (info.start, info.end, info.forced_last, info.padding) == (2, (2,), 2, 1)
    assert (info.source_length, info.target_length, info.settings["max_new_tokens"]) == (40, 12, 12)
    assert (len(manifest.layers), len(info.decoder_layers), manifest.macs.target_length) == (2, 2, 12)
    assert not info.restore_case


def test_checkpoint_is_the_model(written):
    """The artifact's checkpoint loads, with the weights rounded to fp16."""
    folder, model = written
    loaded = checkpoint.load(folder)
    expected = {name: tensor.half().float() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in expected.items())


def test_graphs_read_the_checkpoints_bytes(written):
    """No large weight is in a graph or stored twice: encoder, decoder and head read one table, the whole of it or some rows."""
    folder, model = written
    encoder, decoder = external(folder, ENCODER_GRAPH_NAME), external(folder, DECODER_GRAPH_NAME)
    table = "model.shared.weight.fp16"
    assert table in encoder
    reduced = {"model.decoder.embed_tokens.weight.fp16"} if hasattr(model, OUTPUT_IDS) else set()
    assert {decoder[name] for name in reduced or {table}} == {encoder[table]}
    assert all(decoder[name] == encoder[name] for name in encoder.keys() & decoder.keys())
    assert len({*encoder.values(), *decoder.values()}) == len((encoder.keys() | decoder.keys()) - reduced)
    inside = sum((folder / name).stat().st_size for name in (ENCODER_GRAPH_NAME, DECODER_GRAPH_NAME))
    assert inside < 80_000


def test_runtime_widens_and_gathers_nothing_at_run_time(written, tmp_path):
    """After loading, no weight is in 16 bits any more, nor the whole of a table of which some rows are read."""
    folder, model = written
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    ort.InferenceSession(folder / DECODER_GRAPH_NAME, options, providers=["CPUExecutionProvider"])
    tensors = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in tensors)
    assert {tensor.dims[0] for tensor in tensors if "embed_tokens" in tensor.name or "shared" in tensor.name} == {model.config.vocab_size}


def test_graphs_come_back_whole(written):
    """Folding the shards back into the graphs gives what was exported, byte for byte."""
    folder, _ = written
    found, expected = load_graphs(folder), to_onnx(checkpoint.load(folder))
    assert found.encoder.graph.SerializeToString() == expected.encoder.graph.SerializeToString()
    assert found.decoder.graph.SerializeToString() == expected.decoder.graph.SerializeToString()


def test_rows_that_were_trained_apart_are_stored(tmp_path):
    """A reduced table that is no longer part of the whole one has a place of its own."""
    model = summarizer(seed=3, reduced=True)
    with torch.no_grad():
        model.get_decoder().get_input_embeddings().weight[5] += 1
    write_summarizer(tmp_path / "compact", model)
    decoder = external(tmp_path / "compact", DECODER_GRAPH_NAME)
    assert (
        decoder["model.decoder.embed_tokens.weight.fp16"] != external(tmp_path / "compact", ENCODER_GRAPH_NAME)["model.shared.weight.fp16"]
    )
    loaded = checkpoint.load(tmp_path / "compact").get_decoder().get_input_embeddings().weight
    assert torch.equal(loaded, model.get_decoder().get_input_embeddings().weight.half().float())


def test_rows_that_are_not_there_are_one_line(tmp_path):
    """Output ids beyond the table are refused when a checkpoint is loaded."""
    write_summarizer(tmp_path / "compact", summarizer(seed=3, reduced=True))
    shard = tmp_path / "compact" / ENCODER_NAME
    weights = load_file(shard)
    weights[OUTPUT_IDS][0] = 10_000
    save_file(weights, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="output_ids names rows that a table of"):
        checkpoint.load(tmp_path / "compact")


def test_output_ids_are_those_of_the_model(written):
    """The file of output ids is there where the vocabulary is reduced, and nowhere else."""
    folder, model = written
    ids = read_output_ids(folder, read_manifest(folder))
    if hasattr(model, OUTPUT_IDS):
        assert ids == tuple(getattr(model, OUTPUT_IDS).tolist())
        assert len(ids) == KEPT_TOKENS
    else:
        assert ids is None
        assert not (folder / OUTPUT_IDS_NAME).exists()


def test_other_weights_fail_the_golden_check_and_the_tokens(written):
    """Logits and tokens of another model are told apart from those of this one."""
    folder, model = written
    manifest = read_manifest(folder)
    values = [[value + 1 for value in row] for row in manifest.golden.outputs["logits"]]
    with pytest.raises(GoldenError, match="differ by up to"):
        check_golden(*sessions(folder), manifest.golden.model_copy(update={"outputs": {"logits": values}}), folder)
    model.final_logits_bias += torch.linspace(0, 50, model.config.vocab_size)
    with pytest.raises(ParityError, match="other tokens than torch"):
        check_tokens(sessions(folder), model, manifest.generation, [manifest.golden.inputs["input_ids"][0]])


@pytest.mark.parametrize(
    ("part", "changed"),
    [("inputs", {}), ("inputs", {"input_ids": []}), ("outputs", {"logits": []}), ("outputs", {"logits": [[1.0], [1.0, 2.0]]})],
)
def test_golden_that_does_not_fit_is_one_line(written, part, changed):
    """Golden inputs without their outputs, of other shapes or none at all, are refused."""
    folder, _ = written
    manifest = read_manifest(folder)
    golden = manifest.golden.model_copy(update={part: {**getattr(manifest.golden, part), **changed} if changed else {}})
    with pytest.raises(GoldenError, match="do not match the graphs'") as caught:
        check_golden(*sessions(folder), golden, folder)
    assert "\n" not in str(caught.value)


def test_removed_blocks_are_stated(written):
    """The manifest lists each decoder layer with both of its attentions."""
    folder, model = written
    manifest = read_manifest(folder)
    first = model.model.decoder.layers[0]
    heads = [getattr(getattr(first, name), "num_heads", 0) for name in ("self_attn", "encoder_attn")]
    neurons = getattr(first.fc1, "out_features", 0)
    assert manifest.generation.decoder_layers[0] == DecoderLayerShape(heads=heads[0], cross_heads=heads[1], intermediate=neurons)


@pytest.mark.parametrize("changes", [{"target_length": 0}, {"target_length": 41}, {"max_length": 41}])
def test_lengths_without_positions_are_refused(tmp_path, changes):
    """A length that the model has no positions for is refused, and nothing is written."""
    with pytest.raises(ConfigError, match="positions for 1 to 40"):
        write_summarizer(tmp_path / "compact", summarizer(), **changes)
    assert not list(tmp_path.iterdir())


def test_failed_parity_leaves_nothing(tmp_path, monkeypatch):
    """When the tokens are not those of torch, nothing of the folder is left."""
    monkeypatch.setattr("pruning.seq2seq_artifact.first_tokens", lambda *_, beams, **__: [2] * beams)
    with pytest.raises(ParityError):
        write_summarizer(tmp_path / "compact", summarizer())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"max_new_tokens": 60, "num_beams": 1}),
        (
            {"max_length": 31, "min_length": 11, "num_beams": 4, "length_penalty": 2.0},
            {"max_new_tokens": 30, "min_length": 11, "num_beams": 4},
        ),
        ({"max_new_tokens": 99, "min_new_tokens": 70}, {"max_new_tokens": 60, "min_new_tokens": 60}),
    ],
)
def test_settings_are_those_of_the_generation_config(config, expected):
    """Limits count new tokens, and none is above the model's; what transformers sets by itself is not the model's."""
    settings = default_settings(GenerationConfig(**config), 60)
    assert expected.items() <= settings.model_dump().items()


@pytest.mark.parametrize("config", [{"num_beams": 4, "do_sample": True}, {"repetition_penalty": 1000.0}])
def test_settings_that_cannot_be_served_are_refused(config):
    """A generation config that the service's settings do not cover is one clear line."""
    with pytest.raises(ConfigError, match="generation config") as caught:
        default_settings(GenerationConfig(**config), 60)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bad_words_ids", [[5]]),
        ("suppress_tokens", [5, 6]),
        ("encoder_no_repeat_ngram_size", 3),
        ("num_beam_groups", 2),
        ("diversity_penalty", 0.5),
        ("renormalize_logits", True),
        ("min_p", 0.1),
    ],
)
def test_setting_that_the_service_does_not_know_is_refused(field: str, value: object):
    """What would be generated otherwise than transformers does is not exported in silence."""
    with pytest.raises(ConfigError, match=f"sets {field}, which the service cannot do"):
        default_settings(GenerationConfig(**{"num_beams": 4, field: value}), 60)


def test_settings_that_published_checkpoints_have_are_taken():
    """transformers' own defaults, one by one, and what generation configs of BART for summaries set."""
    usual = {
        "early_stopping": True,
        "length_penalty": 2.0,
        "max_length": 142,
        "min_length": 56,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
    }
    special = {"bos_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
    found = default_settings(GenerationConfig.from_dict({**GenerationConfig().to_dict(), **usual, **special, "pad_token_id": 1}), 1024)
    assert found.model_dump().items() >= ({**usual, "max_new_tokens": 141}.items() - {("max_length", 142)})


def test_case_is_to_be_restored_where_the_tokenizer_has_none():
    """A tokenizer that lowers its text says so in the manifest."""
    model = summarizer()
    cased, lowered = (
        generation_info(model, tokenizer, source_length=40, target_length=9) for tokenizer in (byte_tokenizer(), tiny_tokenizer())
    )
    assert (cased.restore_case, lowered.restore_case) == (False, True)
