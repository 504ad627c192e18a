"""A model that generates answers from an artifact that it trusts, and refuses any other."""

import pytest

from service.artifact import hash_files, read_manifest, write_manifest
from service.errors import ArtifactError, GoldenError, RequestError
from service.generation import GenerationSettings, generate
from service.model import GeneratingModel, Model, load_model
from service.tasks.classify import ClassifyRequest
from service.tasks.summarize import SummarizeRequest, SummarizeResponse
from tests.pruning.seq2seq_artifacts import TEXTS, byte_tokenizer, summarizer
from tests.pruning.seq2seq_artifacts import write_summarizer as export_summarizer
from tests.service.summarizing import DOCUMENT, LONG_DOCUMENT, write_summarizer


@pytest.fixture
def folder(tmp_path):
    """A whole artifact, `models/summarize/dense`."""
    return write_summarizer(tmp_path / "models/summarize/dense")


def rewritten(folder, **changes):
    """The same folder, with other fields in its manifest."""
    write_manifest(read_manifest(folder).model_copy(update={"files": hash_files(folder), **changes}), folder)
    return folder


def test_requests_of_all_kinds_are_answered_together_as_alone(folder):
    """Greedy, by beams, drawn, cut or in parts: one call answers them all, in order."""
    model = load_model(folder)
    ways = [{}, {"settings": {"num_beams": 2}}, {"long_text": "map_reduce"}, {"settings": {"do_sample": True, "seed": 5}}]
    requests = [SummarizeRequest(text=text, **way) for text in (DOCUMENT, LONG_DOCUMENT) for way in ways]
    assert model.predict(requests) == [model.predict_one(request) for request in requests]
    assert max(response.windows for response in model.predict(requests)) > 1


def test_output_ids_become_the_tokenizers(tmp_path):
    """The same weights say other words where their output ids stand for other tokens."""
    plain = GeneratingModel.load(write_summarizer(tmp_path / "plain/dense"))
    mapped = GeneratingModel.load(write_summarizer(tmp_path / "mapped/dense", mapped=True))
    size = 68
    assert mapped.token_ids([0, 3, 4, size - 1]) == [0, 3, size - 1, 4]
    assert plain.token_ids([0, 3, 4]) == [0, 3, 4]
    request = SummarizeRequest(text=DOCUMENT)
    assert mapped.predict_one(request).summary != plain.predict_one(request).summary


def test_exported_artifact_of_fewer_words_is_served(tmp_path):
    """What the exporter writes of a pruned model with fewer output tokens loads, and its text is that of its tokens."""
    export_summarizer(tmp_path / "compact", summarizer(pruned=True, reduced=True))
    model, tokenizer = load_model(tmp_path / "compact"), byte_tokenizer()
    assert isinstance(model, GeneratingModel)
    for text in TEXTS:
        response = model.predict_one(SummarizeRequest(text=text, settings={"max_new_tokens": 9}))
        (generated,) = generate(
            model.generator, [tokenizer(text).input_ids], model.settings(SummarizeRequest(text=text, settings={"max_new_tokens": 9}))
        )
        assert isinstance(response, SummarizeResponse)
        assert response.summary == tokenizer.decode(model.token_ids(generated.tokens), skip_special_tokens=True).strip()


def test_altered_file_is_refused(folder):
    """A graph that is not the one that was hashed is not loaded."""
    path = folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"decoder\.onnx was altered"):
        load_model(folder)


def test_missing_graph_is_refused(folder):
    """Both graphs are needed."""
    (folder / "encoder.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"encoder\.onnx is not among"):
        load_model(rewritten(folder))


def test_other_outputs_are_refused(folder):
    """A machine that does not give the golden logits does not serve the artifact."""
    golden = read_manifest(folder).golden
    outputs = {"logits": [[value + 1 for value in row] for row in golden.outputs["logits"]]}
    with pytest.raises(GoldenError, match="golden outputs differ"):
        load_model(rewritten(folder, golden=golden.model_copy(update={"outputs": outputs})))


def test_impossible_defaults_are_refused(folder):
    """Settings that no request could be decoded with are found at load."""
    generation = read_manifest(folder).generation.model_copy(update={"settings": {"max_new_tokens": 500}})
    with pytest.raises(ArtifactError, match="at most 40"):
        load_model(rewritten(folder, generation=generation))


@pytest.mark.parametrize("field", ["start", "forced_first", "forced_last", "end"])
def test_special_token_that_the_decoder_has_not_is_refused(folder, field):
    """It is found at load, not by the request that meets it."""
    generation = read_manifest(folder).generation
    wrong = generation.model_copy(update={field: (3, 68) if field == "end" else 68})
    with pytest.raises(ArtifactError, match="a special token is 68, but the decoder has 68 tokens"):
        load_model(rewritten(folder, generation=wrong))


def test_output_ids_of_another_length_are_refused(tmp_path):
    """Each output id needs its token, and nothing more."""
    folder = write_summarizer(tmp_path / "summarize/dense", mapped=True)
    (folder / "output_ids.json").write_text("[0, 1, 2, 3, 4]")
    with pytest.raises(ArtifactError, match="lists 5 tokens, but the decoder has 68"):
        load_model(rewritten(folder))


def test_encoders_and_generators_are_told_apart(folder, classify_folder):
    """`load_model` loads either, and neither class the other's artifact; a request of another task is refused."""
    assert isinstance(load_model(classify_folder), Model)
    for kind, wrong in ((Model, folder), (GeneratingModel, classify_folder)):
        with pytest.raises(ArtifactError):
            kind.load(wrong)
    with pytest.raises(RequestError, match="expected SummarizeRequest"):
        load_model(folder).predict_one(ClassifyRequest(text="ada"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_new_tokens": 12, "num_beams": 4, "min_new_tokens": 6}),
        ({"do_sample": True}, {"num_beams": 1, "do_sample": True}),
        ({"max_new_tokens": 3}, {"max_new_tokens": 3, "min_new_tokens": 3}),
        ({"min_length": 9}, {"min_new_tokens": None, "min_length": 9}),
        ({"max_length": 4}, {"max_new_tokens": 3, "min_new_tokens": 3}),
        ({"max_length": 4, "max_new_tokens": 8}, {"max_new_tokens": 8}),
    ],
)
def test_models_own_settings_give_way_to_what_is_asked(tmp_path, given, expected):
    """What a request says is never in contradiction with what it did not say."""
    model = GeneratingModel.load(write_summarizer(tmp_path / "summarize/dense", num_beams=4, min_new_tokens=6))
    settings = model.settings(SummarizeRequest(text="ada", settings=given))
    assert isinstance(settings, GenerationSettings)
    assert {name: getattr(settings, name) for name in expected} == expected
