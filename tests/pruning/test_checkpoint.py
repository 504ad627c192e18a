"""What is saved is what is loaded, and what cannot be loaded says why."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, BertForMaskedLM, BertTokenizerFast

from pruning.checkpoint import load, load_tokenizer, save
from pruning.checkpoint_manifest import MANIFEST_NAME
from pruning.checkpoint_weights import EMBEDDINGS_NAME, ENCODER_NAME
from pruning.compaction import compact
from pruning.errors import CheckpointError, StorageError
from pruning.structure import density, shapes
from tests.pruning.helpers import ModelFactory, kill_randomly, outputs_of, random_batch, tiny_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A compact BERT for questions, saved."""
    masked = tiny_model()
    kill_randomly(np.random.default_rng(0), masked)
    save(compact(masked), None, tmp_path / "saved")
    return tmp_path / "saved"


def _edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def _edit_weights(path: Path, edit: Callable[[dict], None]) -> None:
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loaded_equals_saved(tmp_path: Path, family: str, task: str, seed: int):
    """A compact model, layers dropped, comes back with the same class, shapes, weights and outputs."""
    masked = tiny_model(family, task, seed=seed)
    kill_randomly(np.random.default_rng(seed), masked)
    small = compact(masked, drop_layers=[seed])
    save(small, None, tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert type(loaded) is type(small)
    assert shapes(loaded) == shapes(small)
    assert density(loaded) == density(small)
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())
    batch = random_batch(family)
    assert torch.equal(outputs_of(loaded, batch), outputs_of(small, batch))


def test_half_precision_is_the_rounding_of_each_weight(tmp_path: Path, family: str):
    """Saved in float16, a model comes back in float32 with exactly its weights rounded to float16."""
    model = tiny_model(family)
    save(model, None, tmp_path / "saved", dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / ENCODER_NAME).values()} == {torch.float16}
    loaded = load(tmp_path / "saved").state_dict()
    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float())


def test_same_embeddings_give_the_same_file(tmp_path: Path):
    """A dense and a compact model, of different tasks, with the same frozen tables have a byte-identical shard."""
    question, sentiment = tiny_model(seed=1), tiny_model(task="text-classification", seed=2)
    sentiment.bert.embeddings.load_state_dict(question.bert.embeddings.state_dict())
    sentiment.bert.embeddings.LayerNorm.bias.data.add_(1)
    kill_randomly(np.random.default_rng(0), question)
    save(compact(question), None, tmp_path / "question", dtype=torch.float16)
    save(sentiment, None, tmp_path / "sentiment", dtype=torch.float16)
    hashes = {hashlib.sha256((tmp_path / name / EMBEDDINGS_NAME).read_bytes()).hexdigest() for name in ("question", "sentiment")}
    assert len(hashes) == 1


def test_shards_share_the_weights_out(saved: Path):
    """Tables are in one shard, everything else in the other, nothing in both."""
    embeddings, encoder = load_file(saved / EMBEDDINGS_NAME), load_file(saved / ENCODER_NAME)
    assert sorted(name.split(".")[-2] for name in embeddings) == ["position_embeddings", "token_type_embeddings", "word_embeddings"]
    assert embeddings.keys() | encoder.keys() == load(saved).state_dict().keys()
    assert not embeddings.keys() & encoder.keys()


def test_dense_checkpoint_is_readable_by_transformers(tmp_path: Path, family: str):
    """While nothing is removed, `from_pretrained` alone reads the folder."""
    model = tiny_model(family)
    save(model, None, tmp_path / "saved")
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())


def test_tied_weights_are_saved_once_and_tied_again(tmp_path: Path):
    """An output layer tied to the word table is stored with the table, and tied after loading."""
    model = BertForMaskedLM(tiny_model().config)
    save(model, None, tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())


def test_loaded_model_is_ready_to_evaluate_or_train(saved: Path):
    """Every module is in evaluation mode and every parameter takes gradients."""
    loaded = load(saved)
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_loading_draws_no_random_numbers(saved: Path):
    """The state of the random generator is not touched, so that a resumed run draws what it would have drawn."""
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_and_attention_can_be_chosen(tmp_path: Path, family: str, task: str):
    """`dropout=0` silences every dropout of the model, so that training mode computes what evaluation mode does."""
    save(tiny_model(family, task), None, tmp_path / "saved")
    batch = random_batch(family)
    for attention in ("eager", "sdpa"):
        model = load(tmp_path / "saved", dropout=0.0, attention_dropout=0.0, attn_implementation=attention)
        assert model.config._attn_implementation == attention
        expected = outputs_of(model, batch)
        torch.testing.assert_close(outputs_of(model.train(), batch), expected)


def test_dropout_of_attention_is_a_choice_of_its_own(tmp_path: Path, family: str, task: str):
    """Attention's rate and the hidden states' are set apart; what is left out stays as the checkpoint has it."""
    save(tiny_model(family, task), None, tmp_path / "saved")
    before = load(tmp_path / "saved").config.to_dict()
    after = load(tmp_path / "saved", dropout=0.25).config.to_dict()
    rates = {field: rate for field, rate in after.items() if field.endswith(("dropout", "dropout_prob"))}
    assert {rate for field, rate in rates.items() if not field.startswith("attention")} == {0.25}
    assert all(rate == before[field] for field, rate in rates.items() if field.startswith("attention"))


def test_config_field_that_does_not_exist_is_refused(saved: Path):
    """A misspelt override is an error, not a silent no-op."""
    with pytest.raises(CheckpointError, match="a bert config has no field 'hidden_dropuot_prob'"):
        load(saved, hidden_dropuot_prob=0.0)


def test_checkpoint_of_another_task_is_refused(saved: Path):
    """A question answering checkpoint is not loaded as a classifier."""
    with pytest.raises(CheckpointError, match="holds a BertForQuestionAnswering, where a BertForSequenceClassification is needed"):
        load(saved, auto_class=AutoModelForSequenceClassification)


def test_existing_checkpoint_survives_a_failed_save(saved: Path):
    """A model that cannot be saved, here because a weight overflows float16, leaves the earlier checkpoint whole."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = tiny_model()
    model.qa_outputs.bias.data[0] = 1e6
    with pytest.raises(CheckpointError, match=r"not finite as float16: qa_outputs.bias$"):
        save(model, None, saved, dtype=torch.float16)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert list(saved.parent.iterdir()) == [saved]


def test_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path):
    """A folder under a file cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save(tiny_model(), None, tmp_path / "file" / "saved")


class TestBroken:
    """A folder that is not what it says it is gives one clear line."""

    def _refused(self, folder: Path, message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)

    @pytest.mark.parametrize("name", [EMBEDDINGS_NAME, ENCODER_NAME])
    def test_truncated_shard(self, saved: Path, name: str):
        """A shard cut short is refused."""
        content = (saved / name).read_bytes()
        (saved / name).write_bytes(content[: len(content) // 2])
        self._refused(saved, "cannot be loaded")

    def test_corrupt_header(self, saved: Path):
        """A shard that starts with something else is refused."""
        (saved / ENCODER_NAME).write_bytes(b"\xff" * 100)
        self._refused(saved, "cannot be loaded")

    def test_missing_shard(self, saved: Path):
        """A shard that is not there is refused."""
        (saved / EMBEDDINGS_NAME).unlink()
        self._refused(saved, EMBEDDINGS_NAME)

    def test_missing_config(self, saved: Path):
        """A folder without config.json is refused."""
        (saved / "config.json").unlink()
        self._refused(saved, r"config\.json")

    def test_missing_weight(self, saved: Path):
        """A weight that the shapes promise and no shard holds is named."""
        _edit_weights(saved / ENCODER_NAME, lambda weights: weights.pop("qa_outputs.weight"))
        self._refused(saved, "weights are missing: qa_outputs.weight$")

    def test_unknown_weight(self, saved: Path):
        """A weight that the model has no place for is named."""
        _edit_weights(saved / ENCODER_NAME, lambda weights: weights.update(extra=torch.zeros(1)))
        self._refused(saved, "weights that the model does not have: extra$")

    def test_weight_in_both_shards(self, saved: Path):
        """A weight that is stored twice is named."""
        _edit_weights(saved / EMBEDDINGS_NAME, lambda weights: weights.update({"qa_outputs.bias": torch.zeros(2)}))
        self._refused(saved, "in both shards: qa_outputs.bias$")

    def test_weight_of_another_shape(self, saved: Path):
        """A weight whose shape is not the promised one is named."""
        _edit_weights(saved / ENCODER_NAME, lambda weights: weights.update({"qa_outputs.bias": torch.zeros(3)}))
        self._refused(saved, "weights of another shape: qa_outputs.bias$")

    def test_manifest_of_other_shapes(self, saved: Path):
        """Shapes that are not those of the weights are refused."""
        _edit_json(saved / MANIFEST_NAME, lambda content: content["layers"][0].update(heads=2, intermediate=5))
        self._refused(saved, "weights ")

    def test_manifest_beyond_the_config(self, saved: Path):
        """More heads than the config allows are refused."""
        _edit_json(saved / MANIFEST_NAME, lambda content: content["layers"][1].update(heads=9))
        self._refused(saved, "layer 1 has 9 heads .* allows 4 and 37")

    def test_manifest_and_config_disagree(self, saved: Path):
        """A config of another number of layers is refused."""
        _edit_json(saved / "config.json", lambda content: content.update(num_hidden_layers=5))
        self._refused(saved, r"number of layers is 5 in config\.json and 3 in checkpoint\.json")

    def test_manifest_of_a_newer_format(self, saved: Path):
        """A newer format is refused as such, whatever else it holds."""
        _edit_json(saved / MANIFEST_NAME, lambda content: content.update(format_version=2, novelty=True))
        self._refused(saved, "written in format 2, this version of Secateur reads format 1")

    def test_manifest_with_an_unknown_field(self, saved: Path):
        """A field that the format does not have is named."""
        _edit_json(saved / MANIFEST_NAME, lambda content: content.update(novelty=True))
        self._refused(saved, "novelty: Extra inputs are not permitted")

    def test_manifest_that_is_not_json(self, saved: Path):
        """A manifest cut short is refused."""
        (saved / MANIFEST_NAME).write_text('{"format_version": 1,')
        self._refused(saved, MANIFEST_NAME)

    @pytest.mark.parametrize("name", ["Trainer", "NoSuchModel"])
    def test_manifest_names_no_model(self, saved: Path, name: str):
        """Only a model class of transformers is built."""
        _edit_json(saved / MANIFEST_NAME, lambda content: content.update(architecture=name))
        self._refused(saved, f"no model class '{name}'")


@pytest.mark.usefixtures("offline")
class TestPlain:
    """Folders and names that Secateur did not write."""

    def test_plain_folder(self, tmp_path: Path, family: str, task: str):
        """A folder of `save_pretrained` gives the same model, its class from the config or from the task."""
        model = tiny_model(family, task)
        model.save_pretrained(tmp_path / "plain")
        auto_class = {"question-answering": AutoModelForQuestionAnswering, "text-classification": AutoModelForSequenceClassification}[task]
        for loaded in (load(tmp_path / "plain"), load(str(tmp_path / "plain"), auto_class=auto_class)):
            assert type(loaded) is type(model)
            assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())

    def test_encoder_without_head_needs_leave(self, tmp_path: Path, family: str):
        """A missing head is refused where a fine-tuned model is needed, and starts fresh where training will follow."""
        encoder = tiny_model(family).base_model
        encoder.save_pretrained(tmp_path / "plain")
        with pytest.raises(CheckpointError, match=r"not fine-tuned as a .*ForQuestionAnswering: no weights for qa_outputs"):
            load(tmp_path / "plain", auto_class=AutoModelForQuestionAnswering)
        fresh = load(tmp_path / "plain", auto_class=AutoModelForQuestionAnswering, new_head=True)
        assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in fresh.base_model.state_dict().items())

    def test_missing_encoder_weight_is_refused(self, tmp_path: Path):
        """A hole in the encoder is never filled with random weights."""
        model = tiny_model()
        model.save_pretrained(tmp_path / "plain")
        _edit_weights_plain(tmp_path / "plain" / "model.safetensors", "bert.encoder.layer.1.output.dense.weight")
        with pytest.raises(CheckpointError, match=r"weights of the encoder are missing: bert.encoder.layer.1.output.dense.weight"):
            load(tmp_path / "plain", new_head=True)

    def test_labels_name_the_classes(self, tmp_path: Path):
        """Labels go into the config and size a new head."""
        tiny_model().base_model.save_pretrained(tmp_path / "plain")
        model = load(tmp_path / "plain", auto_class=AutoModelForSequenceClassification, new_head=True, labels=["no", "yes", "maybe"])
        assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
        assert model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
        assert model.classifier.out_features == model.config.num_labels == 3

    def test_labels_that_do_not_match_the_head_are_refused(self, tmp_path: Path):
        """Three labels do not fit a fine-tuned head of two, plain or saved by us."""
        model = tiny_model(task="text-classification")
        model.save_pretrained(tmp_path / "plain")
        save(model, None, tmp_path / "own")
        for folder in ("plain", "own"):
            with pytest.raises(CheckpointError, match="3 were given") as caught:
                load(tmp_path / folder, labels=["no", "yes", "maybe"])
            assert "\n" not in str(caught.value)

    def test_pickled_weights_are_refused(self, tmp_path: Path):
        """A folder that holds its weights in a pickle is not read."""
        model = tiny_model()
        model.config.save_pretrained(tmp_path / "pickled")
        torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="safetensors"):
            load(tmp_path / "pickled", auto_class=AutoModelForQuestionAnswering)

    def test_truncated_plain_weights_are_refused(self, tmp_path: Path):
        """A plain folder with its weights cut short is one line."""
        tiny_model().save_pretrained(tmp_path / "plain")
        path = tmp_path / "plain" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match="plain: cannot be loaded"):
            load(tmp_path / "plain", auto_class=AutoModelForQuestionAnswering)

    @pytest.mark.parametrize("source", ["no-such-folder/at-all", "nowhere"])
    def test_unknown_name_is_one_line(self, source: str):
        """A name that is neither a folder nor to be found on the hub is one line, for the tokenizer too."""
        for read in (load, load_tokenizer):
            with pytest.raises(CheckpointError, match=f"^{source}: cannot be loaded") as caught:
                read(source)
            assert "\n" not in str(caught.value)


def _edit_weights_plain(path: Path, name: str) -> None:
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})


def test_tokenizer_comes_back(tmp_path: Path, tiny_tokenizer: BertTokenizerFast):
    """The tokenizer that was saved with a model splits a text in the same way."""
    save(tiny_model(), tiny_tokenizer, tmp_path / "saved")
    assert "\n" not in (tmp_path / "saved" / "tokenizer.json").read_text().strip(), "without the indentation, which is a third of the file"
    text = "The good, the bad? c3"
    assert load_tokenizer(tmp_path / "saved")(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]


def test_corrupt_tokenizer_is_one_line(tmp_path: Path, tiny_tokenizer: BertTokenizerFast):
    """A tokenizer file cut short is refused in one line."""
    save(tiny_model(), tiny_tokenizer, tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").write_text('{"version":')
    with pytest.raises(CheckpointError, match="saved: cannot be loaded"):
        load_tokenizer(tmp_path / "saved")


def test_saving_leaves_the_model_alone(tmp_path: Path, tiny_model: ModelFactory):
    """Rounding happens to the copy that is written: weights and config of the model stay."""
    model = tiny_model()
    weights, config = {name: tensor.clone() for name, tensor in model.state_dict().items()}, model.config.to_dict()
    save(model, None, tmp_path / "saved", dtype=torch.float16)
    assert model.config.to_dict() == config
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
