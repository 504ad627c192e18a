"""An encoder-decoder that is saved comes back as it was, whatever was removed from it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BartForConditionalGeneration

from pruning.checkpoint import load, save
from pruning.checkpoint_manifest import MANIFEST_NAME
from pruning.checkpoint_weights import EMBEDDINGS_NAME, ENCODER_NAME
from pruning.compaction import compact
from pruning.errors import CheckpointError
from pruning.structure import density, shapes
from tests.pruning.helpers import bart_batch, kill_randomly, random_batch, tiny_bart, tiny_model


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models have the same weights under the same names, to the bit."""
    state, other_state = one.state_dict(), other.state_dict()
    return state.keys() == other_state.keys() and all(torch.equal(tensor, other_state[name]) for name, tensor in state.items())


@pytest.mark.parametrize("seed", range(3))
def test_loaded_equals_saved(tmp_path: Path, seed: int):
    """A compact model, layers of both sides dropped, comes back with its shapes, its weights and its tokens."""
    masked = tiny_bart(seed=seed)
    kill_randomly(np.random.default_rng(seed), masked)
    small = compact(masked, drop_layers=[seed % 2, 4, 5])
    save(small, None, tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert type(loaded) is BartForConditionalGeneration
    assert shapes(loaded) == shapes(small)
    assert density(loaded) == density(small)
    assert same_weights(loaded, small)
    with torch.no_grad():
        assert torch.equal(loaded(**bart_batch()).logits, small(**bart_batch()).logits)
    inputs = random_batch("roberta")
    assert torch.equal(loaded.generate(**inputs, num_beams=4, max_new_tokens=6), small.generate(**inputs, num_beams=4, max_new_tokens=6))


def test_the_shared_table_is_stored_once_and_tied_again(tmp_path: Path):
    """One table serves both inputs and the head, in the file and after loading; the biases of the logits come along."""
    model = tiny_bart()
    save(model, None, tmp_path / "saved")
    embeddings, rest = load_file(tmp_path / "saved" / EMBEDDINGS_NAME), load_file(tmp_path / "saved" / ENCODER_NAME)
    assert sorted(embeddings) == ["model.decoder.embed_positions.weight", "model.encoder.embed_positions.weight", "model.shared.weight"]
    assert torch.equal(rest["final_logits_bias"], model.final_logits_bias)
    loaded = load(tmp_path / "saved")
    tables = (loaded.model.shared, loaded.model.encoder.embed_tokens, loaded.model.decoder.embed_tokens, loaded.lm_head)
    assert len({id(table.weight) for table in tables}) == 1


def test_manifest_lists_encoder_and_decoder(tmp_path: Path):
    """Encoder layers first, then self-attention and the rest of each decoder layer."""
    save(tiny_bart(encoder_layers=1, decoder_layers=1), None, tmp_path / "saved")
    content = json.loads((tmp_path / "saved" / MANIFEST_NAME).read_text())
    assert content["layers"] == [{"heads": 4, "intermediate": 37}, {"heads": 4, "intermediate": 0}, {"heads": 4, "intermediate": 29}]
    assert (content["dense_layers"], content["dense_decoder_layers"]) == (1, 1)


def test_manifest_of_an_encoder_is_what_it_was(tmp_path: Path):
    """What only a decoder has is not written for an encoder, and not needed to read one."""
    save(tiny_model(), None, tmp_path / "saved")
    content = json.loads((tmp_path / "saved" / MANIFEST_NAME).read_text())
    assert set(content) == {"format_version", "model_type", "architecture", "layers", "head_size", "dense_layers"}
    assert not (tmp_path / "saved" / "generation_config.json").exists()


def test_settings_of_generation_come_along(tmp_path: Path):
    """Also those that an old config holds in the wrong place."""
    model = tiny_bart()
    model.config.num_beams = 3
    model.generation_config.num_beams, model.generation_config.length_penalty = 3, 0.5
    save(model, None, tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert (loaded.generation_config.num_beams, loaded.generation_config.length_penalty) == (3, 0.5)
    assert loaded.generation_config.decoder_start_token_id == model.config.decoder_start_token_id


def test_plain_folder_loads_and_a_dense_checkpoint_is_one(tmp_path: Path):
    """`save_pretrained` is read by `load`, and `save` by `from_pretrained` while nothing is removed."""
    model = tiny_bart()
    model.save_pretrained(tmp_path / "plain")
    assert same_weights(load(tmp_path / "plain"), model)
    save(model, None, tmp_path / "saved")
    assert same_weights(BartForConditionalGeneration.from_pretrained(tmp_path / "saved"), model)


@pytest.mark.parametrize("name", [ENCODER_NAME, EMBEDDINGS_NAME])
def test_weights_of_another_model_are_refused(tmp_path: Path, name: str):
    """Strictly: a file of a model of other shapes is not taken."""
    save(tiny_bart(), None, tmp_path / "saved")
    save(tiny_bart(hidden=16), None, tmp_path / "other")
    (tmp_path / "saved" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(CheckpointError, match="another shape"):
        load(tmp_path / "saved")


def test_config_with_another_number_of_decoder_layers_is_refused(tmp_path: Path):
    """The config and the manifest have to agree about the decoder too."""
    save(tiny_bart(), None, tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder_layers": 2}))
    with pytest.raises(CheckpointError, match=r"number of layers is 6 in config\.json and 8 in"):
        load(tmp_path / "saved")
