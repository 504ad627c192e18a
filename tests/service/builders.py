"""Small real parts: tokenizers, ONNX graphs and whole artifacts, made in milliseconds."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from service.artifact import Golden, Manifest, hash_files, write_manifest
from service.runtime.onnx import OnnxSession

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("ada", "wrote", "it", "in", "who", "the", "café", "日", "本", "🙂", ".", "?")


def bert_tokenizer() -> Tokenizer:
    """WordPiece over letters and a few words, `[CLS] a [SEP] b [SEP]`, with token types."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    """Byte-level BPE without merges: one token per byte, `<s> a </s></s> b </s>`, without token types."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


def onnx_model(
    nodes: list[onnx.NodeProto], tables: dict[str, np.ndarray], inputs: tuple[str, ...], outputs: dict[str, list]
) -> onnx.ModelProto:
    """A model over int64 [batch, sequence] inputs."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(table, name) for name, table in tables.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def qa_model(
    vocabulary: int, inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"), seed: int = 0
) -> onnx.ModelProto:
    """Start and end logits are looked up by token."""
    random = np.random.default_rng(seed)
    tables = {name: random.normal(size=vocabulary).astype(np.float32) for name in ("starts", "ends")}
    nodes = [
        helper.make_node("Gather", ["starts", "input_ids"], ["start_logits"]),
        helper.make_node("Gather", ["ends", "input_ids"], ["end_logits"]),
    ]
    return onnx_model(nodes, tables, inputs, {name: ["batch", "sequence"] for name in ("start_logits", "end_logits")})


def classify_model(
    vocabulary: int, labels: int, inputs: tuple[str, ...] = ("input_ids", "attention_mask"), seed: int = 0
) -> onnx.ModelProto:
    """Logits are the mean over tokens of a looked-up vector, times a matrix."""
    random = np.random.default_rng(seed)
    tables = {"embeddings": random.normal(size=(vocabulary, 8)), "head": random.normal(size=(8, labels))}
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("ReduceMean", ["embedded"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"]),
    ]
    return onnx_model(nodes, {name: table.astype(np.float32) for name, table in tables.items()}, inputs, {"logits": ["batch", labels]})


def manifest_for(task: str, **changes: object) -> Manifest:
    """A complete manifest for a tiny model; fields may be changed."""
    counts = {"encoder": 10, "embeddings": 20, "total": 30}
    fields: dict[str, object] = {
        "schema_version": "1.0",
        "name": "tiny",
        "variant": "dense",
        "task": task,
        "family": "bert",
        "precision": "fp32",
        "opset": 17,
        "labels": ("negative", "neutral", "positive") if task == "text-classification" else (),
        "max_length": 24,
        "stride": 4,
        "layers": [{"heads": 2, "intermediate": 8}],
        "head_size": 4,
        "hidden_size": 8,
        "parameters": counts,
        "macs": {**counts, "sequence_length": 8},
        "density": 1.0,
        "files": {},
        "golden": {"inputs": {"input_ids": [[1]]}, "outputs": {"logits": [[0.0]]}, "tolerance": 1e-4},
        "recipe": "",
        "producer": "secateur 0.1.0",
    }
    return Manifest.model_validate({**fields, **changes})


def golden_for(model: bytes, tolerance: float = 1e-4) -> Golden:
    """Golden inputs of two rows, with the outputs that this machine gives."""
    session = OnnxSession(model)
    inputs = {name: [[2, 5, 6, 3], [2, 7, 8, 3]] if name == "input_ids" else [[1] * 4] * 2 for name in session.inputs}
    rows = [session.run({name: np.array([values[row]], dtype=np.int64) for name, values in inputs.items()}) for row in range(2)]
    return Golden(inputs=inputs, outputs={name: [row[name][0].tolist() for row in rows] for name in session.outputs}, tolerance=tolerance)


def write_artifact(folder: Path, task: str, model: onnx.ModelProto, tokenizer: Tokenizer, **changes: object) -> Path:
    """A whole artifact; `changes` are fields of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    tokenizer.save(str(folder / "tokenizer.json"))
    golden = golden_for(model.SerializeToString())
    write_manifest(manifest_for(task, **{"files": hash_files(folder), "golden": golden, **changes}), folder)
    return folder
