"""The graphs of an encoder-decoder in 8 bits: the encoder as every encoder, the decoder with a scale per row.

A table has one set of codes for all that reads it, embeddings of encoder and decoder and the language-model head: they are the head's,
whose scale per output is the table's scale per row.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from pruning import onnx_graph
from pruning.attention_node import separate_attention
from pruning.dynamic_quantization import head_table, quantize_dynamic, quantize_rows, table_heads
from pruning.quantizers import SHORTEST_TABLE_ROWS, Table, quantize_symmetric, store_table
from pruning.seq2seq_export import Seq2SeqGraphs
from pruning.shared_weights import embed
from service.artifact import DECODER_GRAPH_NAME, ENCODER_GRAPH_NAME


def load_graphs(folder: Path) -> Seq2SeqGraphs:
    """The graphs of a `dense` or `compact` artifact with fp32 weights inside, as `seq2seq_export.to_onnx` gave them."""
    return Seq2SeqGraphs(*(embed(separate_attention(onnx.load(folder / name))) for name in (ENCODER_GRAPH_NAME, DECODER_GRAPH_NAME)))


def quantize_graphs(graphs: Seq2SeqGraphs) -> Seq2SeqGraphs:
    """Both graphs in 8 bits; those given are left as they are."""
    weights = onnx_graph.initializers(graphs.decoder)
    tables = {name: head_table(numpy_helper.to_array(weights[name])) for name in table_heads(graphs.decoder)}
    encoder = quantize_dynamic(graphs.encoder, tables)
    _quantize_sliced_tables(encoder)
    return Seq2SeqGraphs(encoder=encoder, decoder=quantize_rows(graphs.decoder, tables))


def _quantize_sliced_tables(model: onnx.ModelProto) -> None:
    """Store tables whose first rows are read, those of positions, in 8 bits; the runtime widens them when it loads the graph."""
    widened: list[onnx.NodeProto] = []
    for name, tensor in onnx_graph.initializers(model).items():
        sliced = {node.op_type for node in onnx_graph.consumers(model, name)} == {"Slice"}
        if sliced and len(tensor.dims) == 2 and tensor.dims[0] >= SHORTEST_TABLE_ROWS:
            codes, scales = store_table(model, name, Table(*quantize_symmetric(numpy_helper.to_array(tensor), axis=1)))
            widened += [
                onnx.helper.make_node("Cast", [codes], [f"{name}.floats"], f"{name}/Cast", to=TensorProto.FLOAT),
                onnx.helper.make_node("Mul", [f"{name}.floats", scales], [f"{name}.widened"], f"{name}/Mul"),
            ]
            onnx_graph.replace_input(model, name, f"{name}.widened")
    onnx_graph.insert_in_front(model, widened)
    onnx_graph.remove_unused(model)
