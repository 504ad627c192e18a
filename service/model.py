"""An artifact, ready to answer: manifest, tokenizer, session and task behind one method, `predict`.

`Model` is an encoder; `GeneratingModel` is an encoder with a decoder. `load_model` loads whichever an artifact is.

Loading refuses what cannot be trusted, in the order in which it is cheapest to find out: the manifest, the sizes and hashes of the
files, what the graph refers to, and last the golden inputs, whose outputs this machine must reproduce.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from service.artifact import (
    DECODER_GRAPH_NAME,
    ENCODER_GRAPH_NAME,
    GenerationInfo,
    Golden,
    Manifest,
    read_manifest,
    read_output_ids,
    verify_files,
)
from service.errors import ArtifactError, GoldenError, RequestError
from service.generation import CachedSession, DecoderSession, EncoderDecoder, GenerationSettings, SpecialTokens, generate_each
from service.generation import golden as generation_golden
from service.runtime import DEFAULT_OPTIONS, RuntimeOptions, open_session
from service.runtime.base import Array, Session
from service.runtime.graph import check_graph
from service.runtime.onnx import OnnxSession
from service.tasks import generating_task_named, task_named
from service.tasks.base import GeneratingTask, Request, Response, Round, Task, Writer
from service.tasks.summarize import generation_of, merged_settings
from service.tokenization import Row, TextTokenizer, padded

GRAPH_NAME = "model.onnx"
TOKENIZER_NAME = "tokenizer.json"
BF16 = " bf16"
BF16_TOLERANCE = 0.02
"""Of the largest golden output, where a runtime multiplies an fp32 graph in bf16: it has 8 bits of mantissa, as int8 has, and moved the
logits of the models that ship by up to a hundredth of that."""
KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


class Model:
    """One artifact, loaded. Nothing in it changes, so threads may share it.

    Attributes:
        manifest: what the artifact says about itself.
        task: what it does.
        session: the graph; for benchmarks.
    """

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer, session: Session) -> None:
        """Put the parts together; `ArtifactError` when they do not fit."""
        self.manifest = manifest
        self.task: Task[Any, Any] = task_named(manifest.task)
        self.session = session
        self._tokenizer = tokenizer
        _check_signature(manifest, self.task, session)

    @classmethod
    def load(cls, folder: Path, *, options: RuntimeOptions = DEFAULT_OPTIONS, threads: int | None = None) -> "Model":
        """Load an artifact's folder, `<name>/<variant>/`.

        Args:
            folder: holds `manifest.json`.
            options: the runtime that loads it; whichever it is, it must reproduce the golden outputs.
            threads: threads inside one call, instead of those of the options; with 1, callers' own threads share the machine.

        Raises:
            ArtifactError: the artifact cannot be trusted, or the runtime refuses it.
            RuntimeUnavailableError: the runtime is not installed, or it has not that device.
        """
        options = options if threads is None else replace(options, threads=threads)
        manifest = _trusted_manifest(folder, GRAPH_NAME)
        session = open_session(folder / GRAPH_NAME, options)
        model = cls(manifest, TextTokenizer.from_file(folder / TOKENIZER_NAME), session)
        check_golden(session, manifest.golden, folder)
        return model

    def predict(self, requests: Sequence[Request]) -> list[Response]:
        """One response for each request, in order. Rows run one per call, so neighbours never change an answer."""
        return [self.predict_one(request) for request in requests]

    def predict_one(self, request: Request) -> Response:
        """The response to one request."""
        rows = self.rows(request)
        return self.respond(request, rows, self.run_rows(rows))

    @property
    def batches(self) -> bool:
        """Whether rows may share a call: not where activations are quantized on the fly, as one scale is then taken for all of them."""
        return self.manifest.precision != "int8"

    @property
    def pads(self) -> bool:
        """Whether rows that share a call may be of different lengths.

        Attention of a padded row is another operator, whose fp32 sums differ in their last digits; 8-bit codes may then fall the other
        way, which moved logits by up to 0.01.
        """
        return self.manifest.precision not in ("int8", "int8-static")

    def rows(self, request: Request) -> list[Row]:
        """The rows of tokens that a request takes."""
        _require_type(request, self.task, self.manifest)
        return self.task.preprocess(request, self._tokenizer, self.manifest)

    def run_rows(self, rows: Sequence[Row]) -> list[dict[str, Array]]:
        """Outputs of the graph for each row, [1, …] each, one row per call."""
        return [self.session.run(row.feed()) for row in rows]

    def run_batch(self, rows: Sequence[Row]) -> list[dict[str, Array]]:
        """Outputs of the graph for each row, [1, …] each, all rows in one call."""
        if len(rows) == 1:
            return self.run_rows(rows)
        outputs = self.session.run(padded(rows))
        return [{name: self._own(values[index : index + 1], row) for name, values in outputs.items()} for index, row in enumerate(rows)]

    def respond(self, request: Request, rows: Sequence[Row], outputs: Sequence[Mapping[str, Array]]) -> Response:
        """The response to a request, from the outputs of all of its rows."""
        response: Response = self.task.postprocess(request, rows, outputs, self.manifest)
        return response

    def _own(self, values: Array, row: Row) -> Array:
        return values[:, : len(row)] if self.task.per_token else values


class GeneratingModel:
    """One artifact that generates, loaded. Nothing in it changes, so threads may share it.

    Attributes:
        manifest: what the artifact says about itself.
        task: what it does.
        generator: its two graphs, for an engine of `service.generation`.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: TextTokenizer,
        encoder: Session,
        decoder: CachedSession,
        output_ids: Sequence[int] | None = None,
    ) -> None:
        """Put the parts together; `ArtifactError` when they do not fit.

        Args:
            manifest: what the artifact says about itself.
            tokenizer: of its texts.
            encoder: session of `encoder.onnx`.
            decoder: session of `decoder.onnx`.
            output_ids: the tokenizer's id of each output id; None where they are the same.
        """
        info = generation_of(manifest)
        self.manifest = manifest
        self.task: GeneratingTask[Any, Any] = generating_task_named(manifest.task)
        self.generator = EncoderDecoder(encoder, decoder, _special_tokens(info), max(info.source_length, info.target_length))
        self._tokenizer = tokenizer
        self._output_ids = None if output_ids is None else np.array(output_ids, dtype=np.int64)
        _check_defaults(manifest, info)

    @classmethod
    def load(cls, folder: Path, *, options: RuntimeOptions = DEFAULT_OPTIONS, threads: int | None = None) -> "GeneratingModel":
        """Load an artifact's folder, as `Model.load` does; its graphs run in ONNX Runtime on the CPU, whatever the options say."""
        manifest = _trusted_manifest(folder, ENCODER_GRAPH_NAME, DECODER_GRAPH_NAME)
        generation_of(manifest)
        threads = options.threads if threads is None else threads
        encoder = OnnxSession(folder / ENCODER_GRAPH_NAME, threads=threads, spinning=options.spinning)
        decoder = DecoderSession(folder / DECODER_GRAPH_NAME, threads=threads, spinning=options.spinning)
        output_ids = read_output_ids(folder, manifest)
        _check_ids(folder, manifest, decoder.vocabulary, output_ids)
        model = cls(manifest, TextTokenizer.from_file(folder / TOKENIZER_NAME), encoder, decoder, output_ids)
        generation_golden.check_golden(encoder, decoder, manifest.golden, folder)
        return model

    @property
    def session(self) -> Session:
        """The encoder's graph."""
        return self.generator.encoder

    def predict(self, requests: Sequence[Request]) -> list[Response]:
        """One response for each request, in order. They are decoded together, which changes no answer."""
        rounds: list[list[Round]] = [[] for _ in requests]
        responses: dict[int, Response] = {}
        sources = {index: self.rows(request) for index, request in enumerate(requests)}
        while sources:
            asked = [(index, row) for index, rows in sources.items() for row in rows]
            generated = iter(
                generate_each(self.generator, [(row.input_ids.tolist(), self.settings(requests[index])) for index, row in asked])
            )
            for index, rows in sources.items():
                rounds[index].append(Round(rows, [next(generated) for _ in rows]))
            outcomes = {index: self.respond(requests[index], rounds[index]) for index in sources}
            responses |= {index: outcome for index, outcome in outcomes.items() if isinstance(outcome, Response)}
            sources = {index: outcome for index, outcome in outcomes.items() if not isinstance(outcome, Response)}
        return [responses[index] for index in range(len(requests))]

    def predict_one(self, request: Request) -> Response:
        """The response to one request."""
        return self.predict([request])[0]

    def rows(self, request: Request) -> list[Row]:
        """The sources that a request takes at first; what it asks of decoding is checked before anything is tokenized."""
        _require_type(request, self.task, self.manifest)
        self.settings(request)
        return self.task.preprocess(request, self._tokenizer, self.manifest)

    def settings(self, request: Request) -> GenerationSettings:
        """How a request is decoded."""
        return self.task.settings(request, self.manifest)

    def respond(self, request: Request, rounds: Sequence[Round]) -> Response | list[Row]:
        """The response to a request, from what came of all of its sources, or more sources."""
        writer = self.writer(request)
        texts = [writer.whole(self.token_ids(generated.tokens)) for generated in rounds[-1].generated]
        outcome: Response | list[Row] = self.task.postprocess(request, rounds, texts, self._tokenizer, self.manifest)
        return outcome

    def writer(self, request: Request) -> Writer:
        """What writes the text of this request's answer."""
        return self.task.writer(request, self._tokenizer, self.manifest)

    def token_ids(self, generated: Sequence[int]) -> list[int]:
        """The tokenizer's ids of output ids."""
        ids: list[int] = list(generated) if self._output_ids is None else self._output_ids[list(generated)].tolist()
        return ids

    def is_special(self, token: int) -> bool:
        """Whether a token, by the tokenizer's id, has no text of its own."""
        return self._tokenizer.is_special(token)


AnyModel = Model | GeneratingModel


def load_model(folder: Path, *, options: RuntimeOptions = DEFAULT_OPTIONS, threads: int | None = None) -> AnyModel:
    """Load an artifact's folder, whatever its task is; see `Model.load`."""
    kind = Model if read_manifest(folder).generation is None else GeneratingModel
    return kind.load(folder, options=options, threads=threads)


def check_golden(session: Session, golden: Golden, folder: Path) -> None:
    """Run the golden inputs row by row and compare with the recorded outputs; `GoldenError` beyond the tolerance."""
    counts = {len(values) for values in golden.inputs.values()} | {len(values) for values in golden.outputs.values()}
    if len(counts) != 1 or counts == {0} or set(golden.inputs) != set(session.inputs) or set(golden.outputs) != set(session.outputs):
        raise GoldenError(f"{folder}: the golden inputs and outputs do not match the graph's; export the artifact again")
    difference = max(_golden_difference(session, golden, row) for row in range(counts.pop()))
    tolerance = golden.tolerance
    if session.runtime.endswith(BF16):
        tolerance = max(tolerance, BF16_TOLERANCE * max(abs(value) for rows in golden.outputs.values() for row in rows for value in row))
    if not difference <= tolerance:
        raise GoldenError(
            f"{folder}: golden outputs differ by up to {difference:.3g} on this machine, tolerance {tolerance:.3g}; "
            f"export or quantize the artifact for this machine, or choose another variant"
        )


def _golden_difference(session: Session, golden: Golden, row: int) -> float:
    """Largest absolute difference of one row's outputs; infinity when shapes differ, NaN when an output is."""
    inputs: Mapping[str, Array] = {name: np.array([values[row]], dtype=np.int64) for name, values in golden.inputs.items()}
    outputs = session.run(inputs)
    differences = []
    for name, values in golden.outputs.items():
        expected, found = np.array([values[row]], dtype=np.float64), np.asarray(outputs[name], dtype=np.float64)
        differences.append(np.inf if expected.shape != found.shape else np.abs(expected - found).max(initial=0.0))
    return float(np.max(differences))


def _check_signature(manifest: Manifest, task: Task[Any, Any], session: Session) -> None:
    missing = [name for name in task.outputs if name not in session.outputs]
    unknown = sorted(set(session.inputs) - KNOWN_INPUTS)
    if missing or unknown:
        raise ArtifactError(
            f"{manifest.name}/{manifest.variant}: the graph takes {', '.join(session.inputs)} and gives {', '.join(session.outputs)}; "
            f"{task.name} gives {', '.join(task.outputs)} from {', '.join(sorted(KNOWN_INPUTS))}: export it again"
        )


def _special_tokens(info: GenerationInfo) -> SpecialTokens:
    return SpecialTokens(start=info.start, end=info.end, forced_first=info.forced_first, forced_last=info.forced_last, padding=info.padding)


def _check_ids(folder: Path, manifest: Manifest, vocabulary: int, output_ids: Sequence[int] | None) -> None:
    """Refuse special tokens that the decoder does not have, and a list of output ids of another length than its own."""
    info = generation_of(manifest)
    special = [token for token in (info.start, *info.end, info.forced_first, info.forced_last) if token is not None]
    if max(special) >= vocabulary:
        raise ArtifactError(f"{folder}: a special token is {max(special)}, but the decoder has {vocabulary} tokens; export it again")
    if output_ids is not None and len(output_ids) != vocabulary:
        raise ArtifactError(
            f"{folder}: {info.output_ids} lists {len(output_ids)} tokens, but the decoder has {vocabulary}; export it again"
        )


def _check_defaults(manifest: Manifest, info: GenerationInfo) -> None:
    try:
        merged_settings({}, info.settings, most=info.target_length)
    except RequestError as error:
        raise ArtifactError(
            f"{manifest.name}/{manifest.variant}: its settings of generation cannot be used ({error}); export it again"
        ) from error


def _require_type(request: Request, task: Task[Any, Any] | GeneratingTask[Any, Any], manifest: Manifest) -> None:
    if not isinstance(request, task.request_type):
        expected = task.request_type.__name__
        raise RequestError(f"{manifest.name} does {task.name}: got {type(request).__name__}, expected {expected}")


def _trusted_manifest(folder: Path, *graphs: str) -> Manifest:
    """The manifest, after the files were checked against it and the graphs for what they refer to."""
    manifest = read_manifest(folder)
    for name in (*graphs, TOKENIZER_NAME):
        _require_listed(name, folder, manifest)
    verify_files(folder, manifest)
    for graph in graphs:
        for name in sorted(check_graph(folder / graph).external):
            _require_listed(name, folder, manifest)
    return manifest


def _require_listed(name: str, folder: Path, manifest: Manifest) -> None:
    if name not in manifest.files:
        raise ArtifactError(f"{folder}: {name} is not among the manifest's files, so it cannot be trusted; export the artifact again")
