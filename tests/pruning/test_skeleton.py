"""Cutting an exported encoder into blocks, and chaining them again."""

import numpy as np
import pytest
import torch

from pruning import onnx_graph
from pruning.errors import UnsupportedModelError
from pruning.export import to_onnx
from pruning.quantization import quantize_dynamic
from pruning.skeleton import Block, blocks_of, cut_blocks, random_model
from pruning.structure import shapes
from service.artifact import LayerShape
from service.runtime.onnx import OnnxSession
from tests.pruning.helpers import VOCABULARY, tiny_model

QUESTIONS = "question-answering"
SOURCE = tuple(LayerShape(heads=heads, intermediate=neurons) for heads, neurons in ((4, 64), (0, 16), (3, 0), (1, 32)))
OTHER = tuple(LayerShape(heads=heads, intermediate=neurons) for heads, neurons in ((3, 16), (4, 0), (0, 64)))

TASKS = {"bert": QUESTIONS, "roberta": "text-classification", "distilbert": QUESTIONS}
PRECISIONS = {"fp32": lambda proto: proto, "int8": quantize_dynamic}


@pytest.fixture(params=PRECISIONS)
def precision(request):
    """What makes an fp32 graph one of each precision."""
    return PRECISIONS[request.param]


@pytest.fixture(scope="module")
def library():
    """Blocks of a tiny BERT in fp32."""
    return cut_blocks(to_onnx(random_model(tiny_model(), SOURCE), QUESTIONS), SOURCE)


def row():
    """One padded row and one that is not, int64 `[2, 9]`."""
    tokens = np.random.default_rng(0).integers(5, VOCABULARY, size=(2, 9))
    mask = np.ones_like(tokens)
    mask[1, 6:] = 0
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}


def test_a_random_model_has_the_shapes_asked_for(family):
    """Every layer of the skeleton has the heads and neurons that were asked for."""
    assert shapes(random_model(tiny_model(family), SOURCE)) == SOURCE


def test_a_random_model_leaves_the_callers_random_numbers_alone():
    """Building a skeleton in the middle of a run does not change what the run draws next."""
    model = tiny_model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random_model(model, SOURCE)
    assert torch.equal(torch.rand(3), expected)


def test_chaining_the_blocks_in_their_order_gives_the_model_back(family, precision):
    """What was cut and chained again computes what the export does, mask included."""
    task = TASKS[family]
    model = tiny_model(family, task)
    exported = precision(to_onnx(random_model(model, SOURCE), task))
    chained = cut_blocks(exported, SOURCE).chain(blocks_of(SOURCE))
    expected = OnnxSession(exported.SerializeToString()).run(row())
    for name, value in OnnxSession(chained.SerializeToString()).run(row()).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_a_chain_has_the_operators_that_an_export_of_its_shape_has(family, precision):
    """What is timed is what serves: the same nodes as in the export of a model of that shape."""
    task = TASKS[family]
    model = tiny_model(family, task)
    chained = cut_blocks(precision(to_onnx(random_model(model, SOURCE), task)), SOURCE).chain(blocks_of(OTHER))
    exported = precision(to_onnx(random_model(model, OTHER), task))
    assert onnx_graph.operator_counts(chained) == onnx_graph.operator_counts(exported)


def test_a_block_chained_twice_has_its_weights_twice(library):
    """Copies of a block read weights of their own, so that the cache holds no more of them than in a real model."""
    block = Block("feed_forward", 64)
    once, twice = (sum(len(t.raw_data) for t in library.chain([block] * n).graph.initializer) for n in (1, 2))
    assert twice - once >= 2 * 32 * 64 * 4


def test_an_empty_chain_is_embeddings_and_head(library):
    """No block at all gives a graph that runs and holds no attention."""
    empty = library.chain([])
    assert onnx_graph.operator_counts(empty)["Softmax"] == 0
    assert OnnxSession(empty.SerializeToString()).run(row())["start_logits"].shape == (2, 9)


def test_a_block_that_was_not_exported_is_not_there(library):
    """A size that the export had not cannot be chained."""
    with pytest.raises(KeyError):
        library.chain([Block("attention", 2)])


def test_a_graph_with_other_norms_is_refused(library):
    """A graph whose norms do not stand behind each block is refused, not cut somewhere."""
    with pytest.raises(UnsupportedModelError, match="layer normalisations"):
        cut_blocks(library.source, SOURCE[:2])
